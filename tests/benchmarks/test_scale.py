"""benchmarks/scale.py runs at a tiny size: a first process that decodes, and a second one that does not."""

from benchmarks import scale


def test_every_part_of_a_run_is_timed():
    (row,) = scale.main(["--tiny"])
    assert row["tracks"] == 80
    assert min(row[part] for part in ("load", "decode", "epoch", "others")) > 0
    assert 0 < row["again"] < 60 and row["peak"] > 100
