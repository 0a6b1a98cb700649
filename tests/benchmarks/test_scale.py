"""benchmarks/scale.py runs at a tiny size: a first process that decodes, and a second one that does not."""

import queue

from benchmarks import scale
from hf_utils.training import experiment


def test_every_part_of_a_run_is_timed(monkeypatch):
    in_fresh_process = scale.in_fresh_process
    for name in ("load_split_clips", "decode_corpus"):  # which run_epoch replaces
        monkeypatch.setattr(experiment, name, getattr(experiment, name))

    def in_one_fresh_process(place, num_epochs):
        """A start less: the second one is this process."""
        if num_epochs:
            return in_fresh_process(place, num_epochs)
        results = queue.SimpleQueue()
        scale.run_epoch(place, num_epochs, results)
        return results.get()

    monkeypatch.setattr(scale, "in_fresh_process", in_one_fresh_process)
    (row,) = scale.main(["--tiny"])
    assert row["tracks"] == 80
    assert min(row[part] for part in ("load", "decode", "epoch", "others")) > 0
    assert 0 < row["again"] < 60 and row["peak"] > 100
