"""`python -m hf_utils.models.packaged`."""

import sys

from hf_utils.models.packaged.command import main

sys.exit(main())
