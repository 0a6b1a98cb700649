"""Training mixes of decoded clip tables without samples."""

import datasets
import pytest
from clip_tables import make_decoded

from hf_utils.data.mixing import MIX_COLUMNS, mix_training, parse_mix
from hf_utils.errors import UserError


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
