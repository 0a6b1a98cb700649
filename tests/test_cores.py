import os

import pytest

from hf_utils import cores


@pytest.mark.parametrize(
    ("allowed", "limit", "expected"),
    [(8, None, 8), (8, "max 100000", 8), (8, "250000 100000", 2), (2, "400000 100000", 2), (8, "50000 100000", 1)],
)
def test_cores_are_those_that_this_process_may_use(allowed, limit, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(limit + "\n")
    monkeypatch.setattr(cores, "_CPU_LIMIT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cores.count_cores() == expected
