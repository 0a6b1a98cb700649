"""benchmarks/training.py runs at a tiny size, and compares like with like."""

import pytest

from benchmarks import training
from benchmarks.common import TINY


def test_three_ways_are_timed_over_the_same_number_of_windows():
    (row,) = training.main(["--tiny", "--models", "convnext", "--evaluation", "epoch"])
    assert (row["windows"], row["evaluated windows"]) == (TINY.train_tracks, 3 * TINY.validation_tracks)
    seconds = row["seconds"]
    assert row["ours / floor"] == pytest.approx(seconds["ours"] / seconds["floor"])
    assert row["ordinary / ours"] == pytest.approx(seconds["ordinary"] / seconds["ours"])
    assert 0 <= row["waiting"] < seconds["ours"] and min(seconds.values()) > 0
