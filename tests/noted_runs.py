"""Runs of run_classification.py that note their training windows: in a test's process, or several in each of two.

    accelerate launch --config_file configs/accelerate/cpu_2.yaml tests/noted_runs.py runs.json

`runs.json` holds [[prefix of the notes, [words of the command line]], ...]. All runs of it share a start of processes.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import run_classification
from hf_utils.data.windows import TrainingWindows
from hf_utils.launch import run_script


def run_and_note(prefix: str, argv: Sequence[str]) -> None:
    """Run, and write epoch, track and first sample of each training window to `<prefix>-<rank of the process>`."""
    draw = TrainingWindows.draw
    with open(f"{prefix}-{os.environ.get('RANK', '0')}", "w") as notes:

        def draw_and_note(self, index):
            clip, start = draw(self, index)
            print(self.epoch, self.clips[clip]["track_id"], start, file=notes, flush=True)
            return clip, start

        with mock.patch.object(TrainingWindows, "draw", draw_and_note):
            assert run_classification.main(argv) == 0


def main() -> int:
    """Do all runs of the file that the command line names."""
    for prefix, argv in json.loads(Path(sys.argv[1]).read_text()):
        run_and_note(prefix, argv)
    return 0


if __name__ == "__main__":
    run_script(main)
