"""`python -m hf_utils.study`."""

import os
import signal
import sys

from hf_utils.study.study_run import interrupt, main

signal.signal(signal.SIGTERM, interrupt)  # the end of a batch job is an interruption, too
try:
    code = main()
    sys.stdout.flush()
except BrokenPipeError:  # whoever reads, such as `head`, has enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails, too
    code = 1
sys.exit(code)
