"""Mean corruption errors by hand, and which baseline a run is compared with."""

import json
import shutil
from types import SimpleNamespace

import datasets
import pytest

from hf_utils.errors import UserError
from hf_utils.training.corruption_error import Baseline, digest_tracks, find_baseline, read_baselines

ERRORS = {
    "noise": {"mild": {"definition": "n1", "error": 0.4}, "loud": {"definition": "n2", "error": 0.8}},
    "level": {"low": {"definition": "l1", "error": 0.32}},
}
TRACKS = datasets.Dataset.from_dict({"track_id": ["a", "b"], "sha256": ["11", "22"]})
CORRUPTIONS = [SimpleNamespace(benchmark="tiny 1")]


def baseline(**changes) -> Baseline:
    facts = {"name": "SVM", "data": "tones", "benchmark": "tiny 1", "tracks": digest_tracks(TRACKS)}
    return Baseline(**{**facts, "clean_error": 0.3, "errors": ERRORS, **changes})


def test_errors_by_hand():
    found = baseline().compare(0.1, {"n1": 0.3, "n2": 0.6, "l1": 0.16, "of my own": 1.0})
    # noise: (0.3 + 0.6) / (0.4 + 0.8); relative: (0.45 - 0.1) / (0.6 - 0.3). level: 0.16 / 0.32; it adds next to none.
    assert found["kinds"]["noise"] == pytest.approx({"ce": 0.75, "relative_ce": 7 / 6})
    assert found["kinds"]["level"] == {"ce": 0.5, "relative_ce": None}
    assert found["mce"] == pytest.approx((0.75 + 0.5) / 2) and found["relative_mce"] == pytest.approx(7 / 6)
    assert (found["baseline"], found["data"]) == ("SVM", "tones")


def test_the_baseline_itself_has_100_percent():
    own = {row["definition"]: row["error"] for kind in ERRORS.values() for row in kind.values()}
    found = baseline().compare(0.3, own)
    assert found["mce"] == pytest.approx(1) and found["relative_mce"] == pytest.approx(1)


def test_part_of_a_benchmark_has_no_mean_error():
    assert baseline().compare(0.1, {"n1": 0.3, "l1": 0.2}) is None
    assert baseline().compare(0.1, {"n1": 0.3, "other": 0.6, "l1": 0.2}) is None  # another definition of loud noise


def test_a_baseline_fits_one_benchmark_and_one_set_of_tracks(caplog):
    caplog.set_level("INFO")
    fitting = baseline()
    others = [baseline(benchmark="tiny 2"), baseline(tracks="0" * 16)]
    assert find_baseline([*others, fitting], CORRUPTIONS, TRACKS) is fitting
    assert find_baseline([fitting], CORRUPTIONS, TRACKS.select([1, 0])) is fitting  # in any order
    assert find_baseline([fitting], [SimpleNamespace(benchmark=None)], TRACKS) is None and not caplog.text
    for changed in ({"track_id": ["a", "c"]}, {"sha256": ["11", "23"]}):
        tracks = datasets.Dataset.from_dict({**TRACKS[:], **changed})
        assert find_baseline([fitting], CORRUPTIONS, tracks) is None
    assert "no baseline of tiny 1 for these test tracks" in caplog.text
    assert find_baseline(others, CORRUPTIONS, TRACKS) is None


def test_files_are_read_from_beside_the_corruptions(tmp_path):
    folder = tmp_path / "corruption_baselines"
    baseline().write(folder / "tones.json")
    assert read_baselines(str(tmp_path / "c.yaml")) == [baseline()]
    assert read_baselines(None) == read_baselines(str(tmp_path / "elsewhere" / "c.yaml")) == []
    good = json.loads((folder / "tones.json").read_text())
    for damaged in ("{", "[]", json.dumps({**good, "more": 1}), json.dumps({**good, "errors": {"noise": {"a": {}}}})):
        (folder / "more.json").write_text(damaged)
        with pytest.raises(UserError, match=r"more\.json is no table of benchmarks/corruption_baseline\.py"):
            read_baselines(str(tmp_path / "c.yaml"))
    shutil.rmtree(folder)
    assert read_baselines(str(tmp_path / "c.yaml")) == []
