"""What folders and metadata files give audio files: their genre and their split, or a message, never a wrong genre."""

import json
from pathlib import Path

import datasets
import pandas
import pytest

from hf_utils.data.audio_lists import list_files
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.errors import UserError


def write_files(folder, *names):
    """Files of audio that nothing here decodes."""
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def spread(pattern, **values):
    """Every combination of `{genre}`, `{split}` and so on in a pattern of names."""
    names = [pattern]
    for key, options in values.items():
        names = [name.replace(f"{{{key}}}", option) for name in names for option in options]
    return [f"{name}/{number}.wav" for name in names for number in "12"]


def describe(folder):
    """{path of a clip below the folder: (its genre, its split)}"""
    clips = load_clips(str(folder))
    names = genre_names(clips)
    return {
        Path(clip["audio"]["path"]).relative_to(folder).as_posix(): (names[clip["label"]], clip["split"])
        for clip in clips
    }


GENRES = ["jazz", "rock", "soul"]
USUAL = {"train": "train", "test": "test"}


@pytest.mark.parametrize(
    ("pattern", "splits"),
    [
        ("{split}/{genre}", USUAL),
        ("{split}/{genre}", {"Training": "train", "Evaluation": "test"}),
        ("{split}/{genre}", {"training": "train", "validation": "validation", "testing": "test"}),
        ("{split}/{genre}", {"train": "train", "valid": "validation", "eval": "test"}),
        ("{split}/{genre}", {"train": "train", "eval": "validation", "test": "test"}),
        ("{split}/{genre}", {"TRAIN": "train", "dev": "validation", "TEST": "test"}),
        ("{split}/{genre}", {"train_set": "train", "valset": "validation", "test-data": "test"}),
        ("{split}/{genre}", {"01_train": "train", "02_test": "test"}),
        ("{genre}/{split}", USUAL),
        ("{genre}/{split}", {"Train": "train", "val": "validation", "Test": "test"}),
        ("data/{split}/{genre}", USUAL),
        ("Data/{genre}/{split}", USUAL),
        ("{split}/audio/{genre}", USUAL),
        ("{split}/{genre}/album", USUAL),
        ("fold1/{split}/{genre}", USUAL),
    ],
)
def test_folders_of_splits(tmp_path, pattern, splits):
    write_files(tmp_path, *spread(pattern, split=splits, genre=GENRES))
    for name, (genre, split) in describe(tmp_path).items():
        assert genre in Path(name).parts and splits[next(part for part in Path(name).parts if part in splits)] == split
    assert len(describe(tmp_path)) == 2 * len(GENRES) * len(splits)


@pytest.mark.parametrize(
    "pattern",
    [
        "{genre}",
        "{genre}/{genre} album",
        "{genre}/cd1",
        "Data/genres_original/{genre}",
        "genres/{genre}",
        "GTZAN/Data/wav/{genre}",
        "fold1/{genre}",
        "audio/fold_3/{genre}",
        "{genre}/wav",
    ],
)
def test_folders_around_and_below_genres(tmp_path, pattern, caplog):
    write_files(tmp_path, *spread(pattern, genre=GENRES))
    assert {genre for genre, _ in describe(tmp_path).values()} == set(GENRES)
    assert all(genre in Path(name).parts for name, (genre, _) in describe(tmp_path).items())
    outer = pattern.split("{")[0].rstrip("/")
    assert bool(caplog.text) == bool(outer) and all(part in caplog.text for part in outer.split("/"))


@pytest.mark.parametrize(
    "folds", [["fold1", "fold2"], ["Fold_01", "Fold_02", "Fold_10"], ["foldA", "foldB"], ["1", "2"]]
)
def test_folds_are_neither_genres_nor_splits(tmp_path, folds, caplog):
    write_files(tmp_path, *spread("{fold}/{genre}", fold=folds, genre=GENRES))
    found = describe(tmp_path)
    assert set(found.values()) == {(genre, None) for genre in GENRES} and len(found) == 6 * len(folds)
    assert "folds" in caplog.text and folds[0] in caplog.text and "artist" in caplog.text


def test_kaggle_copy_of_gtzan(tmp_path, caplog):
    """Genre folders one level down, beside pictures and tables of features."""
    write_files(tmp_path, *spread("Data/genres_original/{genre}", genre=GENRES), "Data/images_original/jazz/jazz1.png")
    (tmp_path / "Data" / "features_30_sec.csv").write_text("filename,length,label\njazz.00000.wav,3,jazz\n")
    datasets.Dataset.from_dict({"track": ["jazz.00000"], "mfcc": [0.5]}).to_parquet(tmp_path / "Data" / "mfcc.parquet")
    for folder in (tmp_path, tmp_path / "Data", tmp_path / "Data" / "genres_original"):
        assert {genre for genre, _ in describe(folder).values()} == set(GENRES)
    assert "genres_original" in caplog.text and ".csv (1), .parquet (1), .png (1)" in caplog.text


def test_leftovers_of_archives_are_no_music(tmp_path):
    write_files(
        tmp_path,
        *spread("{genre}", genre=GENRES),
        "__MACOSX/jazz/._1.wav", "__MACOSX/copy.wav", "jazz/._1.wav", ".ipynb_checkpoints/1-checkpoint.wav",
        "rock/.ipynb_checkpoints/1.wav", ".DS_Store", "jazz/.DS_Store", "soul/cover.jpg", "@eaDir/jazz/1.wav",
    )  # fmt: skip
    assert sorted(describe(tmp_path)) == sorted(spread("{genre}", genre=GENRES))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (spread("{split}", split=["train", "test"]), ["train", "metadata.csv", "path,label"]),
        (spread("{split}", split=["training", "evaluation"]), ["training", "metadata.csv"]),
        (spread("audio/{split}", split=["train", "test"]), ["audio/test", "metadata.csv"]),
        (spread("{fold}", fold=["fold1", "fold2"]), ["fold1", "metadata.csv"]),
        (spread("{fold}", fold=["000", "001", "155"]), ["000", "path,label"]),
        (spread("{name}", name=["train", "test", "jazz"]), ["train", "beside", "jazz"]),
        ([*spread("{split}/{genre}", split=USUAL, genre=GENRES), "extra/x.wav"], ["train", "extra"]),
        ([*spread("{split}/{genre}", split=USUAL, genre=GENRES), "train/x.wav"], ["train", "no folder of a genre"]),
        ([*spread("{genre}/{split}", split=USUAL, genre=GENRES), "blues/x.wav"], ["test, train", "blues"]),
        ([*spread("{genre}/{split}", split=USUAL, genre=GENRES), "jazz/x.wav"], ["test, train", "jazz"]),
        (["audio/1.wav", "audio/2.wav"], ["audio", "path,label"]),
        (["1.wav", "2.mp3"], ["2 audio files", "1.wav", "folder per genre"]),
        (spread("my music/{genre}", genre=GENRES), ["my music", "give", "jazz, rock, soul"]),
        (spread("{version}/{genre}", version=["clean", "noisy"], genre=GENRES), ["clean, noisy", "jazz, rock, soul"]),
        (spread("{version}/{genre}", version=["wav", "mp3"], genre=GENRES), ["mp3, wav", "jazz, rock, soul"]),
        ([*spread("genres_original/{genre}", genre=GENRES), "blues/1.wav"], ["genres_original", "jazz, rock, soul"]),
        ([*spread("{split}/{genre}", split=["train", "val", "test", "eval"], genre=GENRES)], ["eval", "test"]),
    ],
)
def test_unclear_folders_are_refused_with_what_to_do(tmp_path, names, words):
    write_files(tmp_path, *names)
    with pytest.raises(UserError) as refused:
        load_clips(str(tmp_path))
    assert all(word in str(refused.value) for word in words), refused.value


def test_tables_that_may_hold_the_labels_are_named(tmp_path):
    write_files(tmp_path, "audio/1.wav", "train.csv", "test.csv")
    with pytest.raises(UserError, match="give that file: .*test.csv, .*train.csv"):
        load_clips(str(tmp_path))


def test_one_genre_is_read(tmp_path):
    """A dataset that is made for one genre."""
    assert set(describe(write_files(tmp_path, "jazz/1.wav", "jazz/album/2.wav")).values()) == {("jazz", None)}


def test_audio_beside_the_genre_folders_is_named(tmp_path, caplog):
    write_files(tmp_path, "jazz/1.wav", "rock/2.wav", "mix.wav")
    assert len(describe(tmp_path)) == 2 and "1 audio files in no genre folder are left out: mix.wav" in caplog.text


def test_links_to_genre_folders_are_followed_and_those_that_lead_back_are_not(tmp_path):
    music = write_files(tmp_path / "music", "1.wav")
    folder = write_files(tmp_path / "set", "soul/2.wav")
    (folder / "jazz").symlink_to(music)
    (folder / "soul" / "again").symlink_to(folder)
    (folder / "soul" / "above").symlink_to(tmp_path)
    assert describe(folder) == {"jazz/1.wav": ("jazz", None), "soul/2.wav": ("soul", None)}
    # Two folders that lead to each other: each is read below the other once.
    (music / "to soul").symlink_to(folder / "soul")
    (folder / "soul" / "to jazz").symlink_to(music)
    names = [file.relative_to(folder).as_posix() for file in list_files(folder)[0]]
    assert names == ["jazz/1.wav", "jazz/to soul/2.wav", "soul/2.wav", "soul/to jazz/1.wav"]


def write_metadata(path, rows):
    """Write rows as metadata.csv, .jsonl or .parquet, by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)


METADATA = ["metadata.csv", "metadata.jsonl", "metadata.parquet"]
CLIPS = {f"{split}/{n}.wav": (GENRES[n % 3], split) for split in ("train", "test") for n in range(6)}


@pytest.mark.parametrize("column", ["genre", "label", "Genre"])
@pytest.mark.parametrize("name", METADATA)
def test_metadata_beside_folders_of_splits(tmp_path, name, column):
    write_files(tmp_path, *CLIPS)
    write_metadata(tmp_path / name, [{"file_name": clip, column: genre} for clip, (genre, _) in CLIPS.items()])
    assert describe(tmp_path) == CLIPS


@pytest.mark.parametrize("name", METADATA)
def test_metadata_in_folders_of_splits(tmp_path, name):
    write_files(tmp_path, *CLIPS)
    for split in ("train", "test"):
        rows = [{"file_name": Path(c).name, "genre": g, "artist": "Bo"} for c, (g, s) in CLIPS.items() if s == split]
        write_metadata(tmp_path / split / name, rows)
    assert describe(tmp_path) == CLIPS
    assert set(load_clips(str(tmp_path))["artist"]) == {"Bo"}


def test_damaged_metadata_are_named(tmp_path):
    write_files(tmp_path, "train/1.wav", "train/metadata.parquet")
    with pytest.raises(UserError, match="metadata.parquet|Parquet files in"):
        load_clips(str(tmp_path))


def test_metadata_with_backslashes(tmp_path, caplog):
    write_files(tmp_path, *CLIPS)
    rows = [{"file_name": clip.replace("/", "\\"), "genre": genre} for clip, (genre, _) in CLIPS.items()]
    write_metadata(tmp_path / "metadata.csv", rows)
    assert describe(tmp_path) == CLIPS and "12 paths" in caplog.text and "backslashes" in caplog.text


def test_metadata_without_splits_or_with_their_own(tmp_path):
    write_files(tmp_path, *[f"clips/{n}.wav" for n in range(3)])
    rows = [{"file_name": f"clips/{n}.wav", "genre": genre} for n, genre in enumerate(GENRES)]
    write_metadata(tmp_path / "metadata.csv", rows)
    assert describe(tmp_path) == {f"clips/{n}.wav": (genre, None) for n, genre in enumerate(GENRES)}
    rows = [row | {"split": split} for row, split in zip(rows, ["train", "test", "val"], strict=True)]
    write_metadata(tmp_path / "metadata.csv", rows)
    assert [split for _, split in describe(tmp_path).values()] == ["train", "test", "validation"]


def test_metadata_with_a_list_of_labels_keep_it(tmp_path):
    write_files(tmp_path, *CLIPS)
    features = datasets.Features(
        {"file_name": datasets.Value("string"), "genre": datasets.ClassLabel(names=GENRES[::-1])}
    )
    rows = [{"file_name": clip, "genre": genre} for clip, (genre, _) in CLIPS.items()]
    datasets.Dataset.from_list(rows, features).to_parquet(tmp_path / "metadata.parquet")
    assert describe(tmp_path) == CLIPS and genre_names(load_clips(str(tmp_path))) == GENRES[::-1]


def test_metadata_without_a_genre_beside_genre_folders(tmp_path):
    write_files(tmp_path, "jazz/1.wav", "rock/2.wav")
    write_metadata(tmp_path / "metadata.csv", [{"file_name": n, "artist": "Bo"} for n in ("jazz/1.wav", "rock/2.wav")])
    assert describe(tmp_path) == {"jazz/1.wav": ("jazz", None), "rock/2.wav": ("rock", None)}
    assert set(load_clips(str(tmp_path))["artist"]) == {"Bo"}


def test_files_that_metadata_leave_out_are_named(tmp_path, caplog):
    write_files(tmp_path, "train/1.wav", "train/2.wav", "test/3.wav")
    write_metadata(tmp_path / "train" / "metadata.csv", [{"file_name": "1.wav", "genre": "jazz"}])
    assert describe(tmp_path) == {"train/1.wav": ("jazz", None)}
    assert "2 audio files are in no metadata and left out: test/3.wav, train/2.wav" in caplog.text


JAZZ = {"file_name": "train/1.wav", "genre": "jazz"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"file_name": "train/1.wav", "genre": "jazz"}, {"file_name": "no.wav", "genre": "jazz"}],
            ["train", "beside"],
        ),
        ([{"file_name": "train/9.wav", "genre": "jazz"}], ["missing", "train/9.wav"]),
        ([{"file_name": "train/1.wav", "style": "jazz"}], ["no label column", "style", "--label_column_name"]),
        ([{"file_name": "train/1.wav", "genre": None}], ["no label"]),
        (
            [{"file_name": None, "genre": "jazz"}, {"file_name": "train/1.wav", "genre": "jazz"}],
            ["metadata.csv", "row 1"],
        ),
        ([{"file_name": "train/1.wav", "genre": "jazz", "label": "Blue Note"}], ["genre", "label", "Blue Note"]),
        ([{"file": "train/1.wav", "genre": "jazz"}], ["train", "metadata.csv", "file_name"]),
    ],
)
def test_unclear_metadata_are_refused(tmp_path, rows, words):
    write_files(tmp_path, "train/1.wav", "test/2.wav")
    write_metadata(tmp_path / "metadata.csv", rows)
    with pytest.raises(UserError) as refused:
        load_clips(str(tmp_path))
    assert all(word in str(refused.value) for word in words), refused.value


def test_metadata_and_genre_folders_that_contradict_are_refused(tmp_path):
    write_files(tmp_path, "jazz/1.wav", "rock/2.wav", "rock/3.wav")
    rows = [("jazz/1.wav", "jazz"), ("rock/2.wav", "jazz"), ("rock/3.wav", "rock")]
    write_metadata(tmp_path / "metadata.csv", [{"file_name": name, "genre": genre} for name, genre in rows])
    with pytest.raises(UserError, match="rock/2.wav.*'jazz'.*rock"):
        load_clips(str(tmp_path))


def test_two_metadata_files_in_one_folder_are_refused(tmp_path):
    write_files(tmp_path, "train/1.wav")
    for name in METADATA[:2]:
        write_metadata(tmp_path / name, [{"file_name": "train/1.wav", "genre": "jazz"}])
    with pytest.raises(UserError, match="several metadata files: metadata.csv, metadata.jsonl"):
        load_clips(str(tmp_path))
