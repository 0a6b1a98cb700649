"""`python -m hf_utils.report`."""

import sys

from hf_utils.report.command import main

sys.exit(main())
