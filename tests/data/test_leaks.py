"""The leak check, on decoded clip tables without samples."""

import time

import pytest
from clip_tables import make_decoded

from hf_utils.data.leaks import check_leaks
from hf_utils.errors import UserError


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
        (  # copies of tracks that have other names here
            dict(track_ids=["n"], parents=["a"], parent_digests=["d"]),
            dict(track_ids=["b"], digests=["d"]),
            "copy of the track: n (train) and b (test)",
        ),
        (
            dict(track_ids=["b"], digests=["d"]),
            dict(track_ids=["n"], parents=["a"], parent_digests=["d"]),
            "copy of the track: b (train) and n (test)",
        ),
        (
            dict(track_ids=["n"], parents=["a"], parent_digests=["d"]),
            dict(track_ids=["m"], parents=["b"], parent_digests=["d"]),
            "copies of one track: n (train) and m (test)",
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


@pytest.mark.parametrize("names", [["rock/01", "rock/02"], ["row-000003"], ["jazz.00012"], ["song"]])
@pytest.mark.parametrize("origin", ["real", "synthetic"])
def test_one_name_with_two_sounds_is_two_tracks(names, origin, caplog):
    live = make_decoded(names, origin, digests=[f"live {name}" for name in names])
    check_leaks({"train": make_decoded(names), "test": make_decoded(["e"]), "live": live})
    assert ("train and live" in caplog.text) == (names != ["row-000003"])


@pytest.mark.parametrize("digests", [["real rock/01"], [None]])
def test_one_name_with_one_sound_or_an_unknown_one_is_a_leak(digests):
    with pytest.raises(UserError, match="same track: rock/01 .train. and rock/01 .live."):
        check_leaks({"train": make_decoded(["rock/01"]), "live": make_decoded(["rock/01"], digests=digests)})


def test_a_noisy_copy_under_the_name_of_its_track_is_a_leak():
    """Whatever made the copies did not note their parents."""
    with pytest.raises(UserError, match="same track"):
        check_leaks({"train": make_decoded(["a"]), "live": make_decoded(["a"], "noisy")})


def make_jazz(names, origin="real", **columns):
    return make_decoded(names, origin, labels=[0] * len(names), **columns)


def pieces(*numbers, song="song_7"):
    return [f"{song}.{number}" for number in numbers]


def test_pieces_of_a_trained_song_are_a_leak_in_any_set():
    train = make_jazz([*pieces(0, 2, 4), "x", "y"])
    for sets in ({"test": make_jazz(pieces(1, 3))}, {"live": make_jazz(["song_7"])}):
        with pytest.raises(UserError, match="pieces of one song: song_7.0 .train. and song_7") as caught:
            check_leaks({"train": train, **sets})
        assert "--group_segments never" in str(caught.value)
        check_leaks({"train": train, **sets}, group_segments="never")
    copy = make_jazz(["song_7.1+noise"], "noisy", parents=["song_7.1"])
    with pytest.raises(UserError, match="pieces of one song"):
        check_leaks({"train": train, "live": copy})
    check_leaks({"train": train, "live": make_jazz(pieces(1, 3, song="song_8"))})


def test_pieces_of_one_name_with_two_sounds_are_of_two_songs():
    check_leaks({"train": make_jazz(pieces(0, 2, 4)), "live": make_jazz(pieces(0, 1, 2, 3), digests=list("abcd"))})


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
    assert time.perf_counter() - started < 10  # 0.2 s on an idle machine
    lines = str(caught.value).split("\n")
    assert len(lines) == 23 and lines[21] == "  and 30 more"
