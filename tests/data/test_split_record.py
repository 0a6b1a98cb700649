"""What a checkpoint's record says of its music, on decoded clip tables without samples."""

import dataclasses
import hashlib
import json

import datasets
import pytest
from clip_tables import make_decoded

from hf_utils.data.split_record import RECORD_FILE, SplitRecord
from hf_utils.errors import UserError

PROTOCOL = {"name": "stratified", "seed": 3, "num_folds": None, "fold": None}


def sound(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def decoded(*names, sounds=None, **options) -> datasets.Dataset:
    """Tracks whose sound is that of `sounds`, by default their names."""
    return make_decoded(names, digests=[name and sound(name) for name in sounds or names], **options)


def make_record(train=("a", "b", "c", "d"), validation=("v", "w"), test=("s", "t"), mix=None, before=None, **changes):
    splits = {"train": decoded(*train), "validation": decoded(*validation), "test": decoded(*test)}
    mix = splits["train"] if mix is None else mix
    return SplitRecord.of_run(changes.get("protocol", PROTOCOL), splits, mix, before)


def test_a_record_is_read_as_it_was_written(tmp_path):
    before = make_record(["x"], ["y"], ["z"])
    record = make_record(before=before)
    record.write(tmp_path)
    again = SplitRecord.read(tmp_path / RECORD_FILE, "runs/x")
    assert again == record and again.checkpoint == "runs/x"
    assert record.trained == {sound(name)[:16] for name in "abcdx"} and len(record.selected) == 3
    assert record.splits["test"] == {sound("s")[:16]: "blues", sound("t")[:16]: "rock"}
    assert record.list_differences(again) == [] and record.summarize() == again.summarize()


def test_a_record_is_small_and_names_no_track(tmp_path):
    """1,000 tracks with two noisy copies of each of 800."""
    names = [f"my secret song {number}" for number in range(1000)]
    train, copies = names[:800], [f"{name}+{copy}" for name in names[:800] for copy in (0, 1)]
    mix = datasets.concatenate_datasets(
        [decoded(*train), decoded(*copies, parents=[name for name in train for _ in range(2)])]
    )
    make_record(train, names[800:900], names[900:], mix).write(tmp_path)
    text = (tmp_path / RECORD_FILE).read_text()
    assert len(text) < 100_000 and "secret" not in text
    assert json.loads(text)["protocol"] == PROTOCOL


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"format": 1}', '{"format": 1, "protocol": {}, "genres": [], "splits": {"train": 3}}', "\x00"],
)
def test_a_damaged_record_is_refused(content, tmp_path):
    (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(UserError, match=f"{RECORD_FILE} cannot be read"):
        SplitRecord.read(tmp_path / RECORD_FILE, "runs/x")


def test_a_record_of_a_later_version_is_refused(tmp_path):
    make_record().write(tmp_path)
    path = tmp_path / RECORD_FILE
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="format 2"):
        SplitRecord.read(path, "runs/x")


# --- whose music it is


@pytest.mark.parametrize(
    "clips, expected",
    [
        (decoded(*"abcdvwst"), ["train"] * 4 + ["validation"] * 2 + ["test"] * 2),
        (decoded(*"12345678", sounds="tsvwabcd"), ["test"] * 2 + ["validation"] * 2 + ["train"] * 4),  # renamed
        (decoded(*"vwst"), ["validation"] * 2 + ["test"] * 2),  # a part of it
        (decoded(*"avt"), ["train", "validation", "test"]),
        (decoded(*"vwstxyz"), ["validation"] * 2 + ["test"] * 2 + [None] * 3),  # more than the run used
        (decoded("a", "v", "t", "bad", sounds=["a", "v", "t", None]), ["train", "validation", "test", None]),
        (decoded(*"abcd"), None),  # nothing to evaluate
        (decoded(*"abvsxyz"), None),  # some of it, with other music
        (decoded(*"xyz"), None),
    ],
)
def test_tracks_keep_their_side_by_their_sound(clips, expected):
    assert make_record().assign(clips) == expected


@pytest.mark.parametrize(
    "sounds, splits, expected",
    [
        ("vwst", "vvtt", True),
        ("tswv", "ttvv", True),
        ("vws", "vvt", False),
        ("vwst", "vtvt", False),
        ("vwsta", "vvttt", False),
        ("vwstax", "vvttrr", True),
    ],
)
def test_held_out_tracks_are_recognised(sounds, splits, expected):
    sides = [{"r": "train", "v": "validation", "t": "test"}[split] for split in splits]
    clips = decoded(*map(str, range(len(sounds))), sounds=sounds, split=sides)
    assert make_record().holds_out(clips) == expected


# --- what they have seen


@pytest.mark.parametrize(
    "sets, expected",
    [
        ({"validation": decoded("v", "w"), "test": decoded("s", "t"), "live": decoded("v", "n")}, {}),
        ({"test": decoded("1", "2", sounds="ab")}, {"test": {"trained on": ["1", "2"]}}),
        ({"test": decoded("t", "v")}, {"test": {"selected on": ["v"]}}),
        ({"validation": decoded("a")}, {"validation": {"trained on": ["a"]}}),
        ({"live": decoded("n", "c")}, {"live": {"trained on": ["c"]}}),
        ({"test": decoded("old")}, {"test": {"trained on": ["old"]}}),
    ],
)
def test_seen_tracks_are_found(sets, expected):
    record = make_record(before=make_record(["old"], ["y"], ["z"]))
    assert record.find_seen(sets) == expected


def test_a_copy_that_is_trained_on_counts_as_its_track():
    copies = decoded("a+noise", "b+noise", origin="noisy", parents=["a", "b"])
    record = make_record(mix=copies)
    assert record.trained == {sound(name)[:16] for name in ("a+noise", "b+noise", "a", "b")}
    assert record.find_seen({"test": decoded("a", "c")}) == {"test": {"trained on": ["a"]}}


def test_seen_tracks_are_listed_with_what_to_do(caplog):
    record = dataclasses.replace(make_record(), checkpoint="runs/x")
    sets = {"test": decoded("t", "v", "one", sounds=["t", "v", "a"]), "live": decoded("b")}
    with pytest.raises(UserError) as caught:
        record.check_seen(sets, allow=False)
    message = str(caught.value)
    assert "runs/x" in message and "test: trained on 1 of 3 tracks: one" in message
    assert "test: selected on 1 of 3 tracks: v" in message and "live: trained on 1 of 1 tracks: b" in message
    assert "--split_protocol stratified --split_seed 3" in message and "--allow_seen_tracks" in message
    counts = {"test": {"selected on": 1, "trained on": 1}, "live": {"trained on": 1}}
    assert record.check_seen(sets, allow=True) == counts and "test: trained on 1 of 3 tracks: one" in caplog.text
    assert record.check_seen({"test": decoded("t")}, allow=False) == {}


# --- the same training, later


@pytest.mark.parametrize(
    "changes, lines",
    [
        ({}, []),
        ({"protocol": {**PROTOCOL, "seed": 4}}, ["split_seed: 3 before, 4 now"]),
        ({"train": ["a", "b", "c", "x"]}, ["train tracks: 1 missing, 1 new"]),
        ({"train": ["b", "a", "c", "d"]}, ["train tracks: 2 of another genre"]),
        ({"test": ["s"]}, ["test tracks: 1 missing"]),
        ({"mix": decoded("a", "b")}, ["recordings to train on: 2 missing"]),
        ({"mix": decoded(*"abcd", "n")}, ["recordings to train on: 1 new"]),
        (
            {"mix": decoded(*"bacd")},
            ["recordings to train on: in another order, that of train_datasets or of the files' names"],
        ),
    ],
)
def test_differences_are_told(changes, lines):
    assert make_record().list_differences(make_record(**changes)) == lines


def test_an_early_record_does_not_tell_the_order(tmp_path):
    record = make_record()
    record.write(tmp_path)
    written = json.loads((tmp_path / RECORD_FILE).read_text())
    assert written.pop("order") == record.order
    (tmp_path / RECORD_FILE).write_text(json.dumps(written))
    early = SplitRecord.read(tmp_path / RECORD_FILE, "runs/x")
    assert early.list_differences(make_record(mix=decoded(*"bacd"))) == []


def test_another_order_of_genres_is_a_difference():
    record = make_record()
    other = dataclasses.replace(record, genres=["rock", "blues"])
    assert record.list_differences(other) == ["genres: blues, rock before, rock, blues now"]


def test_a_copy_counts_as_its_track_though_that_is_not_at_hand():
    def copies(*names, parents):
        return decoded(*names, parents=list(parents), parent_digests=[sound(name) for name in parents], origin="noisy")

    splits = {
        "train": copies("n1", "n2", parents="ab"),
        "validation": copies("n3", parents="v"),
        "test": copies("n4", parents="s"),
    }
    record = SplitRecord.of_run(PROTOCOL, splits, splits["train"])
    clean = {"test": decoded("a", "v", "s"), "more": decoded("other", "b2", sounds=["other", "b"])}
    assert record.find_seen(clean) == {
        "test": {"trained on": ["a"], "selected on": ["v"]},
        "more": {"trained on": ["b2"]},
    }
    assert record.select_trained(clean["test"])["track_id"][:] == ["a"]
    # And the other way round: copies of tracks that weights were trained on.
    seen = make_record().find_seen({"noisy": copies("m1", "m2", parents="at")})
    assert seen == {"noisy": {"trained on": ["m1"]}}


def test_the_advice_fits_the_kind_of_set():
    record = make_record()
    with pytest.raises(UserError) as caught:
        record.check_seen({"live": decoded("a", "x")}, allow=False)
    assert "out of live" in str(caught.value) and "Keep to the split" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        record.check_seen({"test": decoded("a"), "live": decoded("b")}, allow=False)
    assert "out of live" in str(caught.value) and "--split_seed 3" in str(caught.value)
