"""`python -m hf_utils.study`."""

import signal

from hf_utils.launch import run_script
from hf_utils.study.study_run import interrupt, main

signal.signal(signal.SIGTERM, interrupt)  # the end of a batch job is an interruption, too
run_script(main)
