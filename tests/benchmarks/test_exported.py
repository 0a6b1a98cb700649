"""benchmarks/exported.py runs at a tiny size; ratios are those of what was timed."""

import pytest

from benchmarks import exported


def test_a_file_is_timed_beside_its_model():
    (row,) = exported.main(["--tiny"])
    for way in ("fp32", "int8"):
        assert row.ratios[way] == pytest.approx(row.rates[way] / row.rates["PyTorch"])
    assert row.differences["fp32"] < 1e-3 and row.megabytes["int8"] < row.megabytes["fp32"]
