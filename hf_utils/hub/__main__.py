"""`python -m hf_utils.hub`."""

import sys

from hf_utils.hub.repository import main

sys.exit(main())
