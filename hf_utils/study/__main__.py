"""`python -m hf_utils.study`."""

import signal
import sys

from hf_utils.study.command import interrupt, main

signal.signal(signal.SIGTERM, interrupt)  # the end of a batch job is an interruption, too
sys.exit(main())
