"""Training mixes and the leak check, on decoded clip tables without samples."""

import time

import datasets
import pytest

from hf_utils.data.leaks import check_leaks
from hf_utils.data.mixing import MIX_COLUMNS, mix_training, parse_mix
from hf_utils.errors import UserError

FEATURES = datasets.Features(
    {
        "label": datasets.ClassLabel(names=["blues", "rock"]),
        **{name: datasets.Value("string") for name in ("track_id", "origin", "parent_id", "sha256", "pcm_path")},
        **{name: datasets.Value("int64") for name in ("num_samples", "pcm_offset")},
    }
)


def make_decoded(track_ids, origin="real", parents=None, digests=None, labels=None, **provenance):
    count = len(track_ids)
    columns = {
        "label": labels or [number % 2 for number in range(count)],
        "track_id": list(track_ids),
        "origin": [origin] * count,
        "parent_id": parents or [None] * count,
        "sha256": digests or [f"{origin} {name}" for name in track_ids],
        "num_samples": [16000] * count,
        "pcm_path": ["a.pcm"] * count,
        "pcm_offset": [32000 * number for number in range(count)],
    }
    text = datasets.Value("string")
    features = datasets.Features({**FEATURES, **dict.fromkeys(provenance, text)})
    return datasets.Dataset.from_dict({**columns, **provenance}, features)


def tracks(*numbers):
    return [f"t{number}" for number in numbers]


# --- the option


def test_parsing_a_mix():
    assert parse_mix(["real", "data/x:0.5", "owner/name:1", "C:/music", "C:\\music:0.25"]) == [
        ("real", 1.0),
        ("data/x", 0.5),
        ("owner/name", 1.0),
        ("C:/music", 1.0),
        ("C:\\music", 0.25),
    ]


@pytest.mark.parametrize(
    "items, message",
    [
        (["real:0"], "'real:0' asks for 0 of real; expected above 0 and at most 1"),
        (["real", "x:1.5"], "asks for 1.5 of x"),
        (["x:-0.5"], "asks for -0.5"),
        (["x:nan"], "asks for nan"),
        (["x:half"], "'half' in 'x:half' is no number; write a fraction as :0.5"),
        (["x:"], "'' in 'x:' is no number"),
        ([":0.5"], "names no dataset"),
        ([""], "names no dataset"),
        (["real", "x", "x:0.5"], "names x more than once"),
        ([], "is empty"),
    ],
)
def test_mistakes_in_a_mix_are_named(items, message):
    with pytest.raises(UserError, match=message):
        parse_mix(items)


# --- the mix


def test_copies_of_other_tracks_are_left_out_and_counted():
    train = make_decoded(tracks(0, 1, 2, 3), artist=["x"] * 4)
    noisy = make_decoded(["n0", "n1", "n8", "n9"], "noisy", tracks(0, 1, 8, 9), snr_db=["10"] * 4)
    music = make_decoded(["m0", "m1"], "synthetic", prompt=["slow", "fast"])
    mix, report = mix_training(train, [("data/noisy", noisy, 1.0), ("data/music", music, 1.0)], seed=0)
    assert mix["track_id"][:] == [*tracks(0, 1, 2, 3), "n0", "n1", "m0", "m1"]
    assert mix.column_names == [*MIX_COLUMNS] and mix.features["label"] == train.features["label"]
    assert mix["pcm_offset"][:] == [0, 32000, 64000, 96000, 0, 32000, 0, 32000]
    assert report["origins"] == {"real": 4, "noisy": 2, "synthetic": 2}
    assert report["sources"] == {
        "real": {"clips": 4, "of": 4, "fraction": 1.0},
        "data/noisy": {"clips": 2, "of": 4, "fraction": 1.0, "other_splits": 0, "parent_not_in_train": 2},
        "data/music": {"clips": 2, "of": 2, "fraction": 1.0, "other_splits": 0, "parent_not_in_train": 0},
    }


def test_of_a_dataset_with_splits_only_train_is_used():
    extra = make_decoded(tracks(10, 11, 12, 13), split=["train", "test", "validation", None])
    mix, report = mix_training(make_decoded(tracks(0, 1)), [("x", extra, 1.0)], seed=0)
    assert mix["track_id"][:] == tracks(0, 1, 10) and report["sources"]["x"]["other_splits"] == 3
    unsplit = make_decoded(tracks(10, 11), split=[None, None])
    assert len(mix_training(make_decoded(tracks(0, 1)), [("x", unsplit, 1.0)], seed=0)[0]) == 4


def test_copies_are_allowed_without_their_originals():
    train = make_decoded(tracks(0, 1))
    noisy = make_decoded(["n0", "n1"], "noisy", tracks(0, 1))
    mix, report = mix_training(train, [("x", noisy, 1.0)], real_fraction=0, seed=0)
    assert mix["track_id"][:] == ["n0", "n1"] and "real" not in report["sources"]


def test_nothing_usable_is_refused():
    noisy = make_decoded(["n8", "n9"], "noisy", tracks(8, 9))
    with pytest.raises(
        UserError, match="no clip of data/x can be used: 0 of 2 are in other splits than train, 2 were"
    ):
        mix_training(make_decoded(tracks(0, 1)), [("data/x", noisy, 1.0)], seed=0)


def test_fractions_are_drawn_per_genre_nested_and_by_track():
    names = tracks(*range(40))
    labels = [0] * 30 + [1] * 10
    train = make_decoded(names, labels=labels)

    def draw(fraction, seed=0, clips=train):
        mix, _ = mix_training(clips, [], real_fraction=fraction, seed=seed)
        return mix

    half = draw(0.5)
    assert [half["label"][:].count(label) for label in (0, 1)] == [15, 5]
    assert set(draw(0.2)["track_id"]) < set(half["track_id"])
    assert half["track_id"][:] == sorted(half["track_id"], key=names.index)  # in the order of the clips
    assert set(draw(0.5, clips=train.select(range(39, -1, -1)))["track_id"]) == set(half["track_id"])
    assert set(draw(0.5, seed=1)["track_id"]) != set(half["track_id"])
    assert [draw(0.01)["label"][:].count(label) for label in (0, 1)] == [1, 1]


def test_the_fraction_is_of_what_can_be_used():
    noisy = make_decoded([f"n{n}" for n in range(8)], "noisy", tracks(0, 0, 1, 1, 8, 8, 9, 9))
    _, report = mix_training(make_decoded(tracks(0, 1)), [("x", noisy, 0.5)], seed=0)
    assert report["sources"]["x"]["clips"] == 2 and report["sources"]["x"]["parent_not_in_train"] == 4


def test_labels_of_another_order_are_never_mixed():
    other = make_decoded(tracks(5, 6)).cast_column("label", datasets.ClassLabel(names=["rock", "blues"]))
    with pytest.raises(AssertionError, match="expected ClassLabel"):
        mix_training(make_decoded(tracks(0, 1)), [("x", other, 1.0)], seed=0)


# --- leaks


def test_separate_sides_pass():
    train = make_decoded(["t0", "t1", "n0"], parents=[None, None, "t0"])
    check_leaks({"train": train, "validation": make_decoded(["v0"]), "test": make_decoded(["e0", "e1"])})
    check_leaks({"validation": make_decoded(["v0"])})


@pytest.mark.parametrize(
    "train, test, line",
    [
        (dict(track_ids=["a"]), dict(track_ids=["a"], origin="noisy"), "same track: a (train) and a (test)"),
        (dict(track_ids=["a"]), dict(track_ids=["n"], parents=["a"]), "copy of the track: a (train) and n (test)"),
        (dict(track_ids=["n"], parents=["a"]), dict(track_ids=["a"]), "copy of the track: n (train) and a (test)"),
        (
            dict(track_ids=["n"], parents=["a"]),
            dict(track_ids=["m"], parents=["a"]),
            "copies of one track: n (train) and m (test)",
        ),
        (
            dict(track_ids=["jazz.00051"]),
            dict(track_ids=["jazz.00033"]),
            "known repetition: jazz.00051 (train) and jazz.00033 (test)",
        ),
        (
            dict(track_ids=["jazz.00051+awgn"], parents=["jazz.00051"]),
            dict(track_ids=["jazz.00033"]),
            "known repetition: jazz.00051+awgn (train) and jazz.00033 (test)",
        ),
        (
            dict(track_ids=["a"], digests=["d"]),
            dict(track_ids=["b"], digests=["d"]),
            "identical recording: a (train) and b (test)",
        ),
    ],
)
def test_each_kind_of_leak_is_named_with_its_pair(train, test, line):
    with pytest.raises(UserError) as caught:
        check_leaks({"train": make_decoded(**train), "validation": make_decoded(["v"]), "test": make_decoded(**test)})
    first, *pairs, remedy = str(caught.value).split("\n")
    assert first == "1 pair of clips is on two sides of the split:" and pairs == [f"  {line}"]
    assert remedy.startswith(f"For {line.split(':')[0]} (1): ")


def test_validation_against_test_and_both_against_train():
    a, b, c = make_decoded(["a"]), make_decoded(["b"]), make_decoded(["c"])
    for sets in ({"train": a, "validation": a, "test": b}, {"train": a, "validation": b, "test": b}):
        with pytest.raises(UserError, match="1 pair of clips"):
            check_leaks(sets)
    check_leaks({"train": a, "validation": b, "test": c})


def test_a_corrupted_copy_of_test_is_no_leak_and_one_of_train_is():
    sets = {"train": make_decoded(["t"]), "validation": make_decoded(["v"]), "test": make_decoded(["e"])}
    check_leaks({**sets, "noisy": make_decoded(["e+n", "v+n"], "noisy", ["e", "v"])})
    with pytest.raises(UserError, match=r"copy of the track: t \(train\) and t\+n \(noisy\)"):
        check_leaks({**sets, "noisy": make_decoded(["t+n"], "noisy", ["t"])})


def test_names_that_were_made_up_are_told_apart_by_their_sound():
    row = "row-000003"
    check_leaks({"train": make_decoded([row], digests=["x"]), "test": make_decoded([row], digests=["y"])})
    for digests in (["x"], [None]):
        with pytest.raises(UserError, match="same track"):
            check_leaks({"train": make_decoded([row], digests=["x"]), "test": make_decoded([row], digests=digests)})


def test_recordings_are_compared_only_where_both_are_decoded():
    undecoded = make_decoded(["a"], digests=["d"]).remove_columns("sha256")
    check_leaks({"train": undecoded, "test": make_decoded(["b"], digests=["d"])})
    check_leaks({"train": make_decoded(["a"], digests=[None]), "test": make_decoded(["b"], digests=[None])})


def test_many_pairs_are_counted_and_the_check_is_quick():
    names = [f"t{number:05d}" for number in range(10_000)]
    train, test = make_decoded(names[:9_000]), make_decoded(names[8_950:])
    started = time.perf_counter()
    with pytest.raises(UserError, match="^50 pairs of clips are on") as caught:
        check_leaks({"train": train, "test": test})
    assert time.perf_counter() - started < 2  # 0.05 s on an idle machine
    lines = str(caught.value).split("\n")
    assert len(lines) == 23 and lines[21] == "  and 30 more"
