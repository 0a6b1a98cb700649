"""`python -m hf_utils.report`."""

import sys

from hf_utils.report.report_files import main

sys.exit(main())
