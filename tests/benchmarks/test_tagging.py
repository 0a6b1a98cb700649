"""benchmarks/tagging.py, resampling.py and sweep.py run at a tiny size; ratios are those of what was timed."""

import os

import pytest

from benchmarks import resampling, sweep, tagging


def test_songs_are_tagged_by_whole_commands_in_one_order(monkeypatch):
    tag, one_song = tagging.tag, tagging.Command(seconds=1.5, peak_mb=200.0)
    # Two starts less: the commands with one song took as long as this.
    monkeypatch.setattr(tagging, "tag", lambda *words: tag(*words) if words[2].is_dir() else (one_song, ""))
    found = tagging.main(["--tiny"])
    one, many = found["rows"]
    assert (one["command"], many["command"]) == ("1 process", f"{os.cpu_count()} processes")
    floor = sum(found["floor"].values())
    for row, processes in ((one, 1), (many, os.cpu_count())):
        assert row["seconds a song"] == pytest.approx((row["all songs"] - 1.5) / (found["songs"] - 1))
        assert row["of the floor"] == pytest.approx(row["seconds a song"] / (floor / processes))
        assert row["peak MB, all songs"] > 100


def test_better_resamplers_change_less():
    rows = {row["quality"]: row for row in resampling.main(["--tiny"])}
    for features in ("AST", "spectrogram CNN"):
        changes = [rows[quality][features]["rms"] for quality in ("LQ", "MQ", "HQ", "VHQ")]
        assert changes == sorted(changes, reverse=True) and changes[-1] == 0 < changes[-2]
    assert rows["VHQ"]["seconds"] > 0 and rows["16 bits"]["seconds"] is None


def test_a_sweep_is_compared_with_its_parts():
    rows = sweep.main(["--tiny"])
    assert [(row["kind"], row["corruptions"]) for row in rows] == [("white_noise", 5), ("mp3", 5), ("quieter", 5)]
    for row in rows:
        assert row["floor"] == pytest.approx(row["corruption"] + row["model"])
        assert row["of the floor"] == pytest.approx(row["seconds"] / row["floor"])
        assert row["of the ideal"] == pytest.approx(row["of the floor"] * os.cpu_count())
