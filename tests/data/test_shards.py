"""A dataset folder survives kills, mistakes and full disks, and `datasets` reads what comes out."""

import errno
import json
import os

import datasets
import pytest

from hf_utils.data.clips import load_clips
from hf_utils.data.shards import open_shards
from hf_utils.errors import UserError

FEATURES = datasets.Features(
    {
        "audio": datasets.Audio(decode=False),
        "label": datasets.ClassLabel(names=["blues", "rock"]),
        "track_id": datasets.Value("string"),
        "snr_db": datasets.Value("float32"),
    }
)
CONFIG = {"seed": 1, "transforms": [{"Gain": {"min_gain_db": -6.0}}], "versions": {"numpy": "2"}}


def make_rows(*track_ids):
    return [
        {"audio": {"bytes": b"fLaC" + t.encode(), "path": f"{t}.flac"}, "label": i % 2, "track_id": t, "snr_db": None}
        for i, t in enumerate(track_ids)
    ]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_finished_folder_loads_with_its_types_and_splits(tmp_path):
    shards = open_shards(tmp_path / "new" / "set", CONFIG, {"train": 2, "test": 1})
    assert shards.missing() == [0, 1, 2] and not shards.finished
    shards.write(0, make_rows("a", "b"), FEATURES)
    shards.write(2, iter(make_rows("d")), FEATURES)
    assert shards.missing() == [1]
    shards.write(1, make_rows("c"), FEATURES)
    assert shards.read(["track_id"])["track_id"].to_pylist() == ["a", "b", "c", "d"]
    shards.finish("# card\n")
    assert shards.finished
    loaded = datasets.load_dataset(str(shards.folder), cache_dir=str(tmp_path / "cache"))
    assert {name: split["track_id"] for name, split in loaded.items()} == {"train": ["a", "b", "c"], "test": ["d"]}
    assert loaded["train"].features["label"].names == ["blues", "rock"]
    train = loaded["train"].cast_column("audio", datasets.Audio(decode=False))
    assert train[1]["audio"] == {"bytes": b"fLaCb", "path": "b.flac"}


def test_other_configuration_is_refused_with_the_difference_and_nothing_changes(tmp_path):
    open_shards(tmp_path, CONFIG, {"train": 2}).write(0, make_rows("a"), FEATURES)
    before = contents(tmp_path)
    other = {**CONFIG, "seed": 7, "transforms": [{"Gain": {"min_gain_db": -3.0}}]}
    with pytest.raises(UserError, match="seed: 1 in the folder, 7 now") as caught:
        open_shards(tmp_path, other, {"train": 2})
    assert '-6.0}}] in the folder, [{"Gain": {"min_gain_db": -3.0}}] now' in str(caught.value)
    assert "versions" not in str(caught.value)
    with pytest.raises(UserError, match="shards.train: 2 in the folder, 3 now"):
        open_shards(tmp_path, CONFIG, {"train": 3})
    assert contents(tmp_path) == before
    assert open_shards(tmp_path, dict(reversed(CONFIG.items())), {"train": 2}).missing() == [1]


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="holds other files and no config.json"):
        open_shards(tmp_path, CONFIG, {"train": 1})
    assert list(contents(tmp_path)) == ["holiday.jpg"]


def test_machines_share_the_shards_without_overlap_whenever_they_start(tmp_path):
    shards = open_shards(tmp_path, CONFIG, {"train": 7})
    first = shards.missing(0, 3)
    shards.write(0, make_rows("a"), FEATURES)
    parts = [first, shards.missing(1, 3), shards.missing(2, 3)]
    assert sorted(sum(parts, [])) == list(range(7))
    assert shards.missing(0, 3) == [3, 6]


def test_finish_refuses_missing_double_and_foreign_shards(tmp_path):
    shards = open_shards(tmp_path, CONFIG, {"train": 2})
    shards.write(0, make_rows("a", "b"), FEATURES)
    with pytest.raises(UserError, match="lacks 1 of 2 shards .train-00001-of-00002.parquet.: run the same command"):
        shards.finish("")
    shards.write(1, make_rows("c", "b"), FEATURES)
    with pytest.raises(UserError, match="track_ids more than once: b"):
        shards.finish("")
    shards.write(1, make_rows("c"), FEATURES)
    stranger = tmp_path / "data" / "train-00000-of-00001.parquet"
    stranger.write_bytes(b"")
    with pytest.raises(UserError, match="no part of this dataset"):
        shards.finish("")
    stranger.unlink()
    shards.paths[0].write_bytes(shards.paths[0].read_bytes()[:-10])
    with pytest.raises(UserError, match="train-00000-of-00002.parquet is damaged"):
        shards.finish("")
    assert not shards.finished


def test_failure_in_the_middle_of_a_shard_leaves_nothing_of_it(tmp_path):
    shards = open_shards(tmp_path, CONFIG, {"train": 1})

    def rows():
        yield from make_rows(*map(str, range(30)))  # more than one row group
        raise ValueError("unreadable clip")

    with pytest.raises(ValueError, match="unreadable clip"):
        shards.write(0, rows(), FEATURES)
    assert list(contents(tmp_path)) == ["config.json"] and shards.missing() == [0]


def test_leftovers_of_a_killed_run_are_swept(tmp_path):
    shards = open_shards(tmp_path, CONFIG, {"train": 1})
    leftover = tmp_path / "data" / ".aside-train-00000-of-00001.parquet-xyz"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    shards.write(0, make_rows("a"), FEATURES)
    shards.finish("# card\n")
    assert not leftover.exists()
    assert json.loads((tmp_path / "config.json").read_text()) == {**CONFIG, "shards": {"train": 1}}


def test_a_shard_that_another_process_made_meanwhile_may_be_swept_away(tmp_path):
    shards = open_shards(tmp_path, CONFIG, {"train": 1})
    shards.write(0, make_rows("a"), FEATURES)

    def rows():
        yield from make_rows("a")
        shards.finish("# card\n")  # sweeps what is being written

    shards.write(0, rows(), FEATURES)
    assert shards.read(["track_id"])["track_id"].to_pylist() == ["a"] and shards.finished


def test_a_shard_gives_the_columns_that_it_has_and_a_reopened_folder_cannot_be_loaded(tmp_path):
    shards = open_shards(tmp_path, CONFIG, {"train": 1})
    shards.write(0, make_rows("a", "b"), FEATURES)
    shards.finish("# card\n")
    assert shards.read_shard(0, ["label", "score"]).to_pydict() == {"label": [0, 1]}
    assert shards.read_shard(0).column_names == list(FEATURES)
    shards.reopen()
    with pytest.raises(UserError, match="unfinished"):
        load_clips(str(tmp_path))
    assert open_shards(tmp_path, CONFIG, {"train": 1}).missing() == []


def test_an_option_that_is_not_used_is_the_same_as_none(tmp_path):
    open_shards(tmp_path / "old", {**CONFIG, "noise": None}, {"train": 1})
    assert open_shards(tmp_path / "old", CONFIG, {"train": 1}).missing() == [0]
    with pytest.raises(UserError, match='noise: null in the folder, "x" now'):
        open_shards(tmp_path / "old", {**CONFIG, "noise": "x"}, {"train": 1})


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left on the disk.*kept"), (errno.EROFS, "choose another folder")],
)
def test_disk_trouble_is_said_and_finished_shards_are_kept(tmp_path, monkeypatch, number, message):
    shards = open_shards(tmp_path, CONFIG, {"train": 2})
    shards.write(0, make_rows("a"), FEATURES)
    before = contents(tmp_path)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=message):
        shards.write(1, make_rows("b"), FEATURES)
    assert contents(tmp_path) == before and shards.missing() == [1]


def test_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="choose another folder"):
        open_shards(tmp_path / "file" / "set", CONFIG, {"train": 1})
