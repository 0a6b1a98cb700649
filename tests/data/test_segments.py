"""Which names are taken for pieces of one song, and which are not."""

import pytest
from clip_tables import make_clips, sides

from hf_utils.data.gtzan import track_facts
from hf_utils.data.leaks import check_leaks
from hf_utils.data.segments import find_songs
from hf_utils.data.splits import assign_splits, read_protocol, select_split
from hf_utils.errors import UserError

TITLES = ("so_what", "Blue in Green", "naima", "étude")


def cut(form: str, songs=TITLES, pieces=range(4)) -> dict[str, str]:
    """Return {piece: song} for a form of names such as "{song}_part{k}"."""
    return {form.format(song=song, k=k, end=k + 30): song for song in songs for k in pieces}


def find(names, genre="jazz", **options) -> dict[str, str]:
    return find_songs(list(names), [genre] * len(names), **options)


def groups(songs: dict[str, str]) -> set[frozenset[str]]:
    return {frozenset(name for name in songs if songs[name] == song) for song in songs.values()}


@pytest.mark.parametrize(
    "pieces",
    [
        cut("{song}.{k}", [f"jazz.{i:05d}" for i in range(3)], range(10)),  # Kaggle's GTZAN in pieces of 3 s
        cut("{song}_{k:02d}", [f"jazz.{i:05d}" for i in range(3)], (0, 3, 17)),
        cut("{song}_{k}", [f"jazz_{i:05d}" for i in range(2)]),
        cut("{song}-{k:03d}", ["000002", "114587"], range(1, 4)),  # FMA
        cut("{song}_{k:02d}", [f"Jazz{i}" for i in range(2)], range(1, 4)),
        cut("{song}.{k}", [f"jazz-{i}" for i in range(2)]),
        cut("{song}_{k}", ["song7", "song12"], range(1, 4)),
        cut("{song}-{k}", ["my track 3", "my track 4"]),
        cut("{song}_part{k}"),
        cut("{song}_part_{k:02d}", TITLES[:2], (1, 5)),
        cut("{song} - Part {k}", TITLES, range(1, 4)),
        cut("{song}-seg{k:02d}"),
        cut("{song}.segment.{k}"),
        cut("{song}_CHUNK{k:04d}"),
        cut("{song} (chunk {k})"),
        cut("{song} [clip #{k}]"),
        cut("{song}_slice-{k}"),
        cut("{song}_part{k}of4"),
        cut("{song}_{k}of4"),
        cut("{song} {k} of 4"),
        cut("{song} ({k} of 4)"),
        cut("seg{k:02d}-{song}"),
        cut("part_{k}_{song}"),
        cut("{song}_{k}s", TITLES, (0, 30, 60)),
        cut("{song}-{k}sec", TITLES, (10, 20)),
        cut("{song}_{k}_{end}", TITLES, (0, 30, 60, 90)),
        cut("{song}_{k}-{end}", TITLES, (0, 15, 30)),  # half of each piece is in the next
        cut("{song}_{k}.0_{end}.0", TITLES, (0, 30)),
        cut("{song}_{k}s-{end}s", TITLES, (0, 30)),
        cut("{song}_{k}", TITLES, range(10)),  # "zero"
        cut("{song}-{k:03d}", TITLES, range(2)),
        cut("jazz/{song}/{k}"),
        cut("jazz/{song}/part{k}", TITLES, range(1, 4)),
        cut("jazz/{song}_part{k}"),
        cut("{song}_part{k}", ["so_what"]) | {"naima": "naima"},
    ],
)
def test_pieces_of_a_song_are_found(pieces):
    expected = {group for group in groups(pieces) if len(group) > 1}
    found = find(pieces)
    assert groups(found) == expected
    assert find(list(pieces)[::-1]) == found


@pytest.mark.parametrize(
    "names",
    [
        [f"jazz-{k}" for k in range(10)],
        [f"jazz_{k:03d}" for k in range(10)],
        [f"Jazz ({k})" for k in range(1, 10)],  # Windows names many files at once so
        [f"jazz clip {k}" for k in range(10)],
        [f"track{k}" for k in range(10)],
        [f"Track {k:02d}" for k in range(1, 10)],
        [f"clip_{k}" for k in range(10)],
        [f"my_set_clip_{k}" for k in range(10)],
        [f"{k}" for k in range(10)],
        [f"{k:02d} - title {chr(97 + k)}" for k in range(10)],
        [f"{k:02d}. Title" for k in range(1, 10)],
        [f"{disc}-{k:02d} Title {chr(97 + k)}" for disc in (1, 2) for k in range(1, 10)],
        [f"{disc}-{k:02d}" for disc in (1, 2) for k in range(1, 10)],
        [f"CD{disc}_{k:02d}" for disc in (1, 2) for k in range(1, 10)],
        [f"Vol. {volume}-{k:02d}" for volume in (1, 2) for k in range(1, 10)],
        [f"{artist}_{k:02d}" for artist in ("miles", "coltrane", "monk") for k in range(1, 10)],
        [f"{artist} - {k:02d}" for artist in ("miles", "coltrane", "monk") for k in range(1, 10)],
        [f"jazz/{album}/{k:02d}" for album in ("kind of blue", "giant steps", "x") for k in range(1, 6)],
        [f"{year}-{k:02d}" for year in (1959, 1960) for k in range(1, 13)],
        [f"live {year}" for year in range(1959, 1969)],
        [f"row-{k:06d}" for k in range(10)],
        [f"musicgen-{k:06d}" for k in range(10)],
        ["Impart1", "Impart2", "other"],
        ["part1", "part2", "other"],
        ["so_what_part1", "naima_part2", "other"],  # one piece each
        ["Mambo No. 5", "99", "7 rings", "1979", "Song 2"],
        ["title", "title-1"],
        [],
    ],
)
def test_tracks_of_an_album_or_a_genre_are_no_pieces(names):
    assert find(names) == {}


def test_tracks_of_gtzan_are_no_pieces():
    facts = track_facts()
    assert find_songs(list(facts), [row["genre"] for row in facts.values()], certain=False) == {}
    assert find([name for name in facts if name.startswith("blues")], genre="slow music") == {}


def test_a_name_that_genres_share_is_no_song():
    names = [f"session_part{k}" for k in range(8)]
    assert find_songs(names, ["jazz", "rock"] * 4) == {}
    names = [f"{genre}/{song}_part{k}" for genre in ("jazz", "rock") for song in "xy" for k in (1, 2)]
    assert set(find_songs(names, ["jazz"] * 4 + ["rock"] * 4).values()) == {"jazz/x", "jazz/y", "rock/x", "rock/y"}


@pytest.mark.parametrize(
    "form, songs", [("{song} ({k})", TITLES), ("{song} {k}", TITLES), ("CD1_{k}", ("",)), ("{song}-{k}", ("1", "2"))]
)
def test_always_takes_any_number_at_the_end(form, songs):
    pieces = cut(form, songs, range(1, 5)) | {"other": "other"}
    assert find(pieces) == {}
    assert groups(find(pieces, certain=False)) == groups(pieces) - {frozenset(["other"])}
    assert find([f"jazz-{k}" for k in range(10)], certain=False) == {}


# --- splits


def make_pieces(form: str, songs_per_genre=10, pieces=6, genres=("jazz", "rock"), **columns):
    rows = [
        (form.format(genre=genre, i=i, k=k), genre)
        for genre in genres
        for i in range(songs_per_genre)
        for k in range(pieces)
    ]
    return make_clips([name for name, _ in rows], [genre for _, genre in rows], **columns)


def parted(clips, song_of) -> int:
    """Return the number of songs with pieces in several splits."""
    found = {}
    for name, side in sides(clips).items():
        found.setdefault(song_of(name), set()).add(side)
    return sum(len(sides_of_song) > 1 for sides_of_song in found.values())


@pytest.mark.parametrize("form", ["{genre}_{i:04d}.{k}", "{genre}{i}_part{k}", "{genre} {i} [seg {k:02d}]"])
@pytest.mark.parametrize("protocol", ["stratified", "artist_folds"])
def test_a_song_is_in_one_split(form, protocol, caplog):
    clips = make_pieces(form)
    song_of = dict(zip(clips["track_id"], (number // 6 for number in range(120)), strict=True)).__getitem__
    split = assign_splits(clips, protocol, seed=0)
    assert parted(split, song_of) == 0
    assert {"train", "validation", "test"} == set(split["split"])
    assert "120 tracks are pieces of 20 songs" in caplog.text and "--group_segments never" in caplog.text
    check_leaks({name: select_split(split, name) for name in ("train", "validation", "test")})
    caplog.clear()
    apart = assign_splits(clips, protocol, seed=0, group_segments="never")
    assert parted(apart, song_of) > 10 and "pieces" not in caplog.text


def test_a_doubt_is_a_notice_that_says_what_to_do(caplog):
    clips = make_pieces("{genre}er{i} ({k})")
    assert parted(assign_splits(clips, "stratified", seed=0), lambda name: name.split(" ")[0]) > 10
    assert "120 tracks may be pieces of 20 songs" in caplog.text and "--group_segments always" in caplog.text
    caplog.clear()
    sure = assign_splits(clips, "stratified", seed=0, group_segments="always")
    assert parted(sure, lambda name: name.split(" ")[0]) == 0 and "may be" not in caplog.text


@pytest.mark.parametrize("form", ["{genre}-{i}-title-{k}a", "{genre}-{k}{i}", "{i:02d} - {genre} {k}x"])
def test_plain_names_bring_no_notice(form, caplog):
    assign_splits(make_pieces(form), "stratified", seed=0)
    assert not caplog.text


def test_pieces_of_gtzan_get_the_split_of_their_tracks():
    facts = track_facts()
    rows = [(f"{name}.{k}", row["genre"]) for name, row in facts.items() for k in range(2)]
    clips = assign_splits(make_clips([name for name, _ in rows], [genre for _, genre in rows]), "auto", seed=0)
    assert read_protocol(clips)["name"] == "filtered"
    assert all(side == (facts[name[:-2]]["filtered_split"] or None) for name, side in sides(clips).items())
    folds = assign_splits(clips, "artist_folds", seed=0, num_folds=5)
    assert parted(folds, lambda name: facts[name[:-2]]["artist"] or name[:-2]) == 0


def test_copies_of_pieces_go_with_their_song():
    clips = make_pieces("{genre}.{i:05d}.{k}")
    names = clips["track_id"][:]
    copies = clips.remove_columns(["track_id", "parent_id"]).add_column("parent_id", names)
    copies = assign_splits(copies.add_column("track_id", [f"{name}+noisy-0" for name in names]), "stratified", seed=0)
    assert parted(copies, lambda name: name.rsplit(".", 1)[0]) == 0


def test_given_splits_that_part_a_song_are_a_leak():
    """Kaggle's pieces, dealt out at random by somebody else."""
    clips = make_pieces("{genre}.{i:05d}.{k}", split=["train", "test", "validation"] * 40)
    clips = assign_splits(clips, "provided", seed=0)
    parts = {name: select_split(clips, name) for name in ("train", "validation", "test")}
    with pytest.raises(UserError, match="--group_segments never") as caught:
        check_leaks(parts)
    listed = [line for line in str(caught.value).split("\n") if line.startswith("  pieces of one song: ")]
    assert len(listed) == 20 and listed[0].split(": ")[1] == "jazz.00000.0 (train) and jazz.00000.2 (validation)"
    check_leaks(parts, group_segments="never")
