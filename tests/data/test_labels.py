"""Labels mean what the source says: which column they are, lists of names that differ, names that are no variants."""

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from hf_utils.data import sources
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.genre_spellings import choose_spellings, fold_genre
from hf_utils.errors import UserError

TEXT = datasets.Value("string")
GENRES = ["jazz", "rock", "soul"]
RECORDS = ["Blue Note", "Sub Pop", "Motown"]


def labels_of(folder, **options):
    clips = load_clips(str(folder), **options)
    names = genre_names(clips)
    return {clip["track_id"]: names[clip["label"]] for clip in clips}


def write_table(tmp_path, columns, count=6):
    """A CSV of `count` clips: every column gives its values in turn."""
    rows = [",".join(["path", *columns])]
    for n in range(count):
        (tmp_path / f"{n}.wav").write_bytes(b"x")
        rows.append(",".join([f"{n}.wav", *(values[n % len(values)] for values in columns.values())]))
    path = tmp_path / "clips.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"genre": GENRES, "label": GENRES}, "genre"),
        ({"label": GENRES, "genres": ["Jazz", "ROCK", "s-o ul"]}, "label"),
        ({"genre": GENRES, "label": ["0", "1", "2"]}, "genre"),
        ({"label": ["2", "0", "1"], "genres": GENRES}, "genres"),
        ({"Label": GENRES}, "Label"),
        ({"Genre": GENRES, "artist": ["Bo"]}, "Genre"),
        ({"label": GENRES, "genres": [*GENRES, "", "", ""]}, "label"),
    ],
)
def test_label_columns_that_agree(tmp_path, columns, chosen):
    names = list(dict.fromkeys(columns[chosen]))
    assert labels_of(write_table(tmp_path, columns)) == {str(n): names[n % 3] for n in range(6)}


@pytest.mark.parametrize(
    "columns",
    [
        {"artist": ["Bo"], "label": RECORDS, "genres": GENRES},
        {"label": RECORDS[:2], "genre": GENRES},
        {"genre": GENRES, "genres": ["jazz", "rock", "blues"]},
        {"label": RECORDS, "style": GENRES},
        {"label": RECORDS, "genre_top": GENRES},
        {"label": ["7", "8", "8"], "class": GENRES},
        {"genre": GENRES, "Genre": GENRES[::-1]},
        {"genre": GENRES, "label": ["0", "1", "1"]},
        {"genre": GENRES, "label": ["0", "1", "2", "0", "1", "3"]},
        {"genre": ["jazz"] * 5 + ["rock"], "label": ["jazz"] * 6},
    ],
)
def test_label_columns_that_differ_are_asked_back(tmp_path, columns):
    path = write_table(tmp_path, columns)
    first, second = [name for name in columns if name != "artist"]
    with pytest.raises(UserError) as refused:
        load_clips(str(path))
    message = str(refused.value)
    assert all(f"--label_column_name {name}" in message and repr(name) in message for name in (first, second))
    for name in (first, second):
        values = columns[name]
        assert labels_of(path, label_column=name) == {str(n): values[n % len(values)] for n in range(6)}
    # What is made from it has the column of the genre, and is read without a question.
    load_clips(str(path), label_column=second).save_to_disk(tmp_path / "made")
    assert labels_of(tmp_path / "made") == labels_of(path, label_column=second)


def test_several_genres_in_one_field_are_refused(tmp_path):
    for values in (["['jazz' 'rock']"], ["[21]", "[45]"], ["{1}", "jazz"]):
        with pytest.raises(UserError, match="'genres' holds lists, such as .*--label_column_name"):
            load_clips(str(write_table(tmp_path, {"genres": values})))


@pytest.mark.parametrize("values", [["pop|rock", "jazz"], ["pop; rock"], ["pop", "rock", "Pop/Rock"]])
def test_several_genres_joined_in_one_field_are_refused(values, tmp_path):
    with pytest.raises(UserError, match="several genres in one field, such as .*--label_column_name"):
        load_clips(str(write_table(tmp_path, {"genre": values})))


def test_names_of_one_genre_may_have_slashes_and_plus_signs(tmp_path):
    values = ["Hip-Hop/Rap", "R&B/Soul", "Soul", "c+w", "drum + bass"]
    assert set(labels_of(write_table(tmp_path, {"genre": values})).values()) == set(values)


def test_a_list_of_genres_beside_a_label_is_asked_back(tmp_path):
    table = table_of(RECORDS, RECORDS).rename_column("genre", "label").add_column("genres", [["jazz"]] * 3)
    table.save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match="'genres' holds several values per clip.*--label_column_name label"):
        load_clips(str(tmp_path / "set"))
    assert labels_of(tmp_path / "set", label_column="label") == dict(zip("012", RECORDS, strict=True))


def test_audio_columns_that_differ_are_asked_back(tmp_path):
    path = write_table(tmp_path, {"label": GENRES, "file": ["a.wav"]})
    with pytest.raises(UserError, match="several audio columns: file, path.*--audio_column_name"):
        load_clips(str(path))
    assert len(load_clips(str(path), audio_column="path")) == 6


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("origin", ["Germany", "France"], ["France", "real, noisy, synthetic", "rename"]),
        ("origin", ["real", "US"], ["US", "rename"]),
        ("origin", ["Real"], ["Real"]),
        ("parent_id", ["album 1", "album 2"], ["album 1", "origin", "rename"]),
        ("parent_id", ["", "12"], ["12", "rename"]),
        ("split", ["A", "B"], ["A, B", "train, validation, test", "rename"]),
        ("split", ["train", "test", "unused"], ["unused"]),
        ("track_id", ["1", "2", "3"], ["track_id", "more than once", "rename"]),
    ],
)
def test_columns_of_our_names_that_mean_something_else_are_asked_back(tmp_path, column, values, words):
    with pytest.raises(UserError) as refused:
        load_clips(str(write_table(tmp_path, {"label": GENRES, column: values})))
    assert all(word in str(refused.value) for word in ["clips.csv", *words]), refused.value


def test_columns_of_our_names_that_mean_what_we_mean(tmp_path):
    columns = {"label": GENRES, "origin": ["real", "", "noisy"], "parent_id": ["", "0", "far-away"]}
    clips = load_clips(str(write_table(tmp_path, columns)))
    assert clips["origin"][:3] == ["real", "real", "noisy"] and clips["parent_id"][:3] == [None, "0", "far-away"]


def test_a_column_of_our_names_may_be_the_genre(tmp_path):
    path = write_table(tmp_path, {"origin": ["Cuba", "Mali"], "track": ["x"]})
    assert labels_of(path, label_column="origin") == {str(n): ["Cuba", "Mali"][n % 2] for n in range(6)}
    assert set(load_clips(str(path), label_column="origin")["origin"]) == {"real"}


def table_of(names, texts, start=0, kind=datasets.ClassLabel):
    """A table of clips with bytes, whose labels are `texts`, numbered by the list `names`."""
    features = {"audio": {"bytes": datasets.Value("binary"), "path": TEXT}}
    features["genre"] = datasets.ClassLabel(names=names) if kind is datasets.ClassLabel else datasets.Value(kind)
    rows = [
        {"audio": {"bytes": b"x", "path": f"{start + n}.wav"}, "genre": names.index(text) if kind == "int64" else text}
        for n, text in enumerate(texts)
    ]
    return datasets.Dataset.from_list(rows, datasets.Features(features))


def write_parts(folder, layout, parts):
    """Write {split: table} as Parquet splits, as shards of one split, or as a saved dataset."""
    folder.mkdir()
    if layout == "saved":
        datasets.DatasetDict(parts).save_to_disk(folder)
    for n, (split, table) in enumerate(parts.items()):
        if layout == "splits":
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
        elif layout == "shards":
            table.to_parquet(folder / f"train-{n:05d}-of-{len(parts):05d}.parquet")
    return folder


LAYOUTS = pytest.mark.parametrize("layout", ["splits", "shards", "saved"])


@LAYOUTS
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["jazz", "rock", "soul"], ["rock", "jazz", "soul"]),
        (["jazz", "rock", "soul"], ["blues", "jazz", "rock", "soul"]),
        (["jazz", "rock", "soul"], ["soul", "rock", "jazz", "x"]),
        (["soul", "jazz", "rock"], ["jazz", "soul", "rock"]),
    ],
)
def test_lists_of_labels_that_differ_are_read_by_name(tmp_path, layout, one, other, caplog):
    parts = {"train": table_of(one, GENRES), "test": table_of(other, GENRES[::-1], start=3)}
    expected = {str(n): genre for n, genre in enumerate([*GENRES, *GENRES[::-1]])}
    folder = write_parts(tmp_path / "set", layout, parts)
    assert labels_of(folder) == expected
    assert (
        "'genre' is read by name" in caplog.text and ", ".join(one) in caplog.text and ", ".join(other) in caplog.text
    )
    splits = dict(zip(load_clips(str(folder))["track_id"], load_clips(str(folder))["split"], strict=True))
    assert [splits[str(n)] for n in range(6)] == ([None] * 6 if layout == "shards" else ["train"] * 3 + ["test"] * 3)


@LAYOUTS
def test_a_list_of_labels_beside_text_is_read_by_name(tmp_path, layout):
    parts = {"train": table_of(GENRES[::-1], GENRES), "test": table_of(GENRES, GENRES, start=3, kind="string")}
    assert labels_of(write_parts(tmp_path / "set", layout, parts)) == {str(n): GENRES[n % 3] for n in range(6)}


@LAYOUTS
def test_numbers_without_names_beside_a_list_are_refused(tmp_path, layout):
    parts = {"train": table_of(GENRES, GENRES), "test": table_of(GENRES[::-1], GENRES, start=3, kind="int64")}
    with pytest.raises(UserError) as refused:
        load_clips(str(write_parts(tmp_path / "set", layout, parts)))
    assert all(words in str(refused.value) for words in ("'genre'", "train: jazz, rock, soul", ": no names, int64"))


@pytest.mark.parametrize("number", [3, 7, -2])
@pytest.mark.parametrize("layout", ["splits", "saved"])
def test_a_number_that_the_list_does_not_name_is_refused(tmp_path, layout, number):
    table = table_of(GENRES, GENRES)
    numbers = pyarrow.array([0, number, 2])
    wrong = table.data.table.set_column(1, table.data.table.schema.field("genre"), pyarrow.chunked_array([numbers]))
    folder = tmp_path / "set"
    if layout == "splits":
        folder.mkdir()
        pyarrow.parquet.write_table(wrong, folder / "train.parquet")
    else:
        datasets.Dataset(wrong).save_to_disk(folder)
    with pytest.raises(UserError) as refused:
        load_clips(str(folder))
    assert all(word in str(refused.value) for word in (str(folder), str(number))), refused.value


@LAYOUTS
def test_other_columns_may_differ_between_parts(tmp_path, layout):
    one = table_of(GENRES, GENRES).add_column("bpm", [1, 2, 3])
    other = table_of(GENRES[::-1], GENRES, start=3).add_column("bpm", [4.5, 5.0, 6.0]).add_column("key", ["C"] * 3)
    clips = load_clips(str(write_parts(tmp_path / "set", layout, {"train": one, "test": other})))
    facts = {clip["track_id"]: (clip["bpm"], clip["key"]) for clip in clips.remove_columns("audio")}
    assert [facts[str(n)] for n in range(6)] == [(1, None), (2, None), (3, None), (4.5, "C"), (5, "C"), (6, "C")]


@pytest.mark.parametrize("with_card", [False, True])
def test_lists_of_labels_of_a_hub_dataset(tmp_path, monkeypatch, with_card):
    """The Hub's files are stood in for by local ones of the same names; `datasets` itself finds them."""
    parts = {"train": table_of(GENRES, GENRES), "test": table_of(GENRES[::-1], GENRES, start=3)}
    if with_card:  # one list in all files, and another in the card, which `datasets` would take
        parts["train"] = table_of(GENRES[::-1], GENRES)
    folder = write_parts(tmp_path / "set", "splits", parts)
    card = {"dataset_info": {"features": table_of(GENRES, GENRES).features._to_yaml_list()}}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n" if with_card else "# Clips")
    load = datasets.load_dataset_builder

    def load_dataset_builder(name, *args, token=None, revision=None):
        assert name == "me/clips"
        return load(str(folder), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    assert labels_of("me/clips") == {str(n): GENRES[n % 3] for n in range(6)}


def test_a_hub_dataset_with_one_list_is_loaded_as_it_is(tmp_path, monkeypatch):
    folder = write_parts(tmp_path / "set", "splits", {"train": table_of(GENRES, GENRES)})
    builder = datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache"))
    assert sources._read_by_labels(builder, None) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("R&B", "RB"),
        ("Drum'n'Bass", "DrumNBass"),
        ("Drum & Bass", "Drum Bass"),
        ("lo.fi", "lofi"),
        ("Rock/Pop", "Rock Pop"),
        ("C++", "C"),
        ("Hip Hop!", "Hip Hop"),
        ("House²", "House2"),
        ("Chanson Française", "Chanson Francaise"),
        ("Müsik", "Musik"),
        ("Schlager (alt)", "Schlager alt"),
        ("J-Pop", "K-Pop"),
        ("рок", "рэп"),
        ("演歌", "演劇"),
        ("80s", "90s"),
        ("!!!", "???"),
        ("-", "_x"),
    ],
)
def test_different_genres_stay_different(tmp_path, one, other):
    assert choose_spellings([one, other]) == [one, other] and fold_genre(one, [other]) is None
    path = write_table(tmp_path, {"label": [one, other]})
    assert labels_of(path) == {str(n): [one, other][n % 2] for n in range(6)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hip-Hop", "hip hop"),
        ("Hip_Hop", "HIPHOP"),
        ("lo-fi", "LoFi"),
        ("R&B", "r & b"),
        ("Ça Ira", "ça-ira"),
        ("Mu\u0308sik", "M\u00fcsik"),
        ("РОК", "рок"),
        ("ΡΟΚΣ", "ροκς"),
        ("trip\u00a0hop", "Trip Hop"),
    ],
)
def test_variants_of_one_genre_are_joined(tmp_path, one, other, caplog):
    assert choose_spellings([one, other, other]) == [other] and fold_genre(one, [other]) == other
    path = write_table(tmp_path, {"label": [one, other, other]})
    assert set(labels_of(path).values()) == {other}
    assert f"Label {one!r} is read as genre {other!r} (2 clips)" in caplog.text


def test_variants_in_a_list_of_labels_are_joined_in_its_order(tmp_path):
    table_of(["soul", "Hip-Hop", "jazz", "hip hop"], ["jazz", "hip hop", "hip hop", "Hip-Hop", "soul"]).save_to_disk(
        tmp_path / "set"
    )
    assert genre_names(load_clips(str(tmp_path / "set"))) == ["soul", "hip hop", "jazz"]
