"""Every source of clips becomes the same table, and every mistake in one is named."""

import csv
import logging
import os
import shutil

import datasets
import pytest
import yaml
from datasets.exceptions import DatasetNotFoundError

from hf_utils.data.clips import CLIP_COLUMNS, genre_names, load_clips
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.shards import open_shards
from hf_utils.errors import UserError

GENRES = ["blues", "hiphop", "rock"]
TRACKS = [f"{genre}.{track:05d}" for genre in GENRES for track in range(4)]


def list_files(genre_folder):
    return sorted(genre_folder.rglob("*.wav"))


def make_rows(genre_folder):
    """Rows as Hub datasets have them: bytes embedded, the path only a name."""
    return [
        {"audio": {"bytes": path.read_bytes(), "path": path.name}, "genre": path.parent.name}
        for path in list_files(genre_folder)
    ]


HUB_FEATURES = datasets.Features(
    {
        "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "genre": datasets.ClassLabel(names=["rock", "blues", "hiphop"]),
    }
)


def make_hub_table(genre_folder):
    """A table like sanchit-gandhi/gtzan: decoding Audio feature, ClassLabel in an order of its own."""
    table = datasets.Dataset.from_list(make_rows(genre_folder), HUB_FEATURES)
    return table.cast_column("audio", datasets.Audio())


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def check_table(clips, names=GENRES, tracks=TRACKS):
    assert clips.column_names[:7] == [*CLIP_COLUMNS, "split"]
    assert clips.features["audio"] == datasets.Audio(decode=False)
    assert genre_names(clips) == names
    assert clips["track_id"][:] == tracks
    assert [names[label] for label in clips["label"]] == [track.split(".")[0] for track in tracks]
    assert set(clips["origin"]) == {"real"} and set(clips["parent_id"]) == {None}
    assert all(file["bytes"] or file["path"] for file in clips["audio"])


def test_folder_of_genre_folders(genre_folder):
    clips = load_clips(str(genre_folder))
    check_table(clips)
    assert set(clips["split"]) == {None}
    assert clips[5]["audio"] == {"bytes": None, "path": str(genre_folder / "hiphop" / "hiphop.00001.wav")}


def test_relative_and_home_paths(genre_folder, monkeypatch):
    monkeypatch.chdir(genre_folder.parent)
    monkeypatch.setenv("HOME", str(genre_folder.parent))
    expected = load_clips(str(genre_folder))["audio"][:]
    for source in ("genres", "./genres", "~/genres", "genres/"):
        assert load_clips(source)["audio"][:] == expected


def test_genre_folders_are_searched_deeply_and_other_files_counted(genre_folder, caplog):
    deep = genre_folder / "rock" / "album" / "cd 1"
    deep.mkdir(parents=True)
    shutil.copy(genre_folder / "rock" / "rock.00000.wav", deep / "Straße.WAV")
    for other in ("rock/cover.jpg", "rock/.hidden.wav", "blues/.cache/x.wav", "notes.txt", ".DS_Store", "empty/x.txt"):
        (genre_folder / other).parent.mkdir(exist_ok=True)
        (genre_folder / other).write_bytes(b"x")
    clips = load_clips(str(genre_folder))
    check_table(clips.filter(lambda name: "." in name, input_columns="track_id"))
    assert len(clips) == 13 and "Straße" in clips["track_id"] and genre_names(clips) == GENRES
    assert "3 files that are no audio are ignored: .jpg (1), .txt (2)" in caplog.text
    for other in ("notes.txt", "empty/x.txt"):
        (genre_folder / other).unlink()
    load_clips(str(genre_folder))
    assert "1 file that is no audio is ignored: .jpg (1)" in caplog.text
    assert "not taken as genres: empty" in caplog.text


def test_file_names_that_occur_twice_become_relative_paths(genre_folder):
    for genre in ("blues", "rock"):
        shutil.copy(genre_folder / genre / f"{genre}.00000.wav", genre_folder / genre / "intro.wav")
    ids = load_clips(str(genre_folder))["track_id"][:]
    assert {"blues/intro", "rock/intro"} <= set(ids) and set(TRACKS) <= set(ids)


def test_one_name_with_two_endings_is_refused(genre_folder):
    shutil.copy(genre_folder / "rock" / "rock.00000.wav", genre_folder / "rock" / "rock.00000.flac")
    with pytest.raises(UserError, match=r"occur more than once: rock/rock\.00000"):
        load_clips(str(genre_folder))


def test_folders_of_splits(genre_folder, tmp_path):
    for track, split in enumerate(["Train", "val", "test", "test"]):
        for genre in GENRES:
            target = tmp_path / "split" / split / genre / f"{genre}.{track:05d}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(genre_folder / genre / target.name, target)
    clips = load_clips(str(tmp_path / "split"))
    expected = {"00000": "train", "00001": "validation", "00002": "test", "00003": "test"}
    assert {track[-5:]: split for track, split in zip(clips["track_id"], clips["split"], strict=True)} == expected
    assert genre_names(clips) == GENRES and len(clips) == 12


def test_one_split_named_train_is_none(genre_folder, tmp_path):
    datasets.DatasetDict(train=make_hub_table(genre_folder)).save_to_disk(tmp_path / "saved")
    assert set(load_clips(str(tmp_path / "saved"))["split"]) == {None}
    datasets.DatasetDict(test=make_hub_table(genre_folder)).save_to_disk(tmp_path / "saved2")
    assert set(load_clips(str(tmp_path / "saved2"))["split"]) == {"test"}


def test_clips_in_no_split_stay_in_none(genre_folder, tmp_path):
    """A table of which a protocol left some clips out: they must not come back as training data."""
    splits = ["train"] * 8 + [None] * 4
    table = make_hub_table(genre_folder).add_column("split", splits, feature=datasets.Value("string"))
    assert load_table(table, tmp_path)["split"][:] == splits


def test_splits_of_unknown_use_are_refused(genre_folder, tmp_path):
    table = make_hub_table(genre_folder)
    parts = datasets.DatasetDict(live=table.select(range(6)), studio=table.select(range(6, 12)))
    parts.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="live, studio are none of train, validation, test"):
        load_clips(str(tmp_path / "saved"))


def test_csv_with_all_columns(genre_folder, tmp_path):
    rows = [
        {
            "path": str(path.relative_to(tmp_path)) if i % 2 else str(path),
            "label": path.parent.name,
            "track_id": f"id-{i}",
            "split": ["train", "dev", "test", ""][i % 4],
            "artist": "Bo, the Singer" if i else "",
        }
        for i, path in enumerate(list_files(genre_folder))
    ]
    clips = load_clips(str(write_csv(tmp_path / "clips.csv", rows)))
    assert clips["track_id"][:] == [f"id-{i}" for i in range(12)]
    assert clips["split"][:4] == ["train", "validation", "test", None]
    assert clips["artist"][:2] == [None, "Bo, the Singer"]
    assert [file["path"] for file in clips["audio"]] == [str(path) for path in list_files(genre_folder)]


def test_csv_with_two_columns_and_a_byte_order_mark(genre_folder, tmp_path):
    rows = [{"path": path.relative_to(tmp_path), "label": path.parent.name} for path in list_files(genre_folder)]
    path = write_csv(tmp_path / "clips.csv", rows)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    check_table(load_clips(str(path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "wave,label\na.wav,rock\n",
            "no audio column.*paths in a column named audio, file, path.*wave, label",
        ),
        ("path,mood\na.wav,calm\n", "no label column.*Expected genre, label, genres.*found path, mood"),
        ("path,label\na.wav,rock\nb.wav,rock\n", r"2 of 2 audio files are missing:\n.*a\.wav\n.*b\.wav"),
        ("path,label\na.wav,rock,extra\n", r"clips.csv.*commas.*row 2 \(3\)"),
        ("path,label\n", "holds no clips"),
        ("", "holds no clips"),
        ("path,label\nk.wav,\n", "1 of 1 clips have no label"),
        ("path,label\nk.wav,rock\nk.wav,rock\n", "more than once: k"),
    ],
)
def test_csv_mistakes_are_named(genre_folder, tmp_path, text, message):
    shutil.copy(list_files(genre_folder)[0], tmp_path / "k.wav")
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_clips(str(tmp_path / "clips.csv"))


def test_csv_in_another_encoding(tmp_path):
    (tmp_path / "clips.csv").write_bytes("path,label\nKönig.wav,rock\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        load_clips(str(tmp_path / "clips.csv"))


def test_saved_dataset_keeps_its_own_order_of_genres(genre_folder, tmp_path):
    make_hub_table(genre_folder).save_to_disk(tmp_path / "saved")
    check_table(load_clips(str(tmp_path / "saved")), ["rock", "blues", "hiphop"])
    with_order = load_clips(str(tmp_path / "saved"), genres=GENRES)
    check_table(with_order)


def test_saved_dataset_dict_has_its_splits(genre_folder, tmp_path):
    table = make_hub_table(genre_folder)
    parts = {"train": table.select(range(0, 12, 2)), "test": table.select(range(1, 12, 2))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    clips = load_clips(str(tmp_path / "saved"))
    assert clips["split"][:] == ["train"] * 6 + ["test"] * 6
    assert clips["track_id"][:] == TRACKS[0::2] + TRACKS[1::2]


def test_parquet_folder_of_the_hub(genre_folder, tmp_path):
    folder = tmp_path / "data [copy], 2" / "my-test-set"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# clips")
    table = make_hub_table(genre_folder)
    table.select(range(6)).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    table.select(range(6, 8)).to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    table.select(range(8, 12)).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    clips = load_clips(str(folder))
    assert sorted(clips["track_id"]) == TRACKS
    splits = dict(zip(clips["track_id"], clips["split"], strict=True))
    assert [splits[track] for track in TRACKS] == ["train"] * 8 + ["test"] * 4
    # A table whose audio lies in files on disk must still be joined, filtered and read.
    again = clips.select_columns("audio").select(range(3, 9))
    assert all(len(row["audio"]["bytes"]) > 1000 for row in again)


def test_parquet_without_hugging_face_types_and_with_configurations(genre_folder, tmp_path):
    table = datasets.Dataset.from_list(make_rows(genre_folder))
    for name in ("small", "large"):
        (tmp_path / "pq" / name).mkdir(parents=True)
        rows = table if name == "large" else table.select([0, 4, 8])
        rows.to_pandas().to_parquet(tmp_path / "pq" / name / "validation.parquet")
    clips = load_clips(str(tmp_path / "pq"), config_name="small")
    check_table(clips, tracks=TRACKS[::4])
    assert set(clips["split"]) == {"validation"}
    with pytest.raises(UserError, match="configuration 'medium'"):
        load_clips(str(tmp_path / "pq"), config_name="medium")


@pytest.mark.parametrize("data_files", ["small/*.parquet", [{"split": "validation", "path": "small/*.parquet"}], None])
def test_a_folder_with_several_configurations_is_not_read_as_one(data_files, genre_folder, tmp_path):
    table = datasets.Dataset.from_list(make_rows(genre_folder))
    for name, rows in (("small", [0, 4, 8]), ("large", range(12))):
        (tmp_path / name).mkdir()
        table.select(rows).to_parquet(tmp_path / name / "validation.parquet")
    files = {"data_files": data_files} if data_files else {"data_dir": "small"}
    configs = [{"config_name": "a few", **files}, {"config_name": "large"}]

    def write_card(configs):
        (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")

    write_card(configs)
    with pytest.raises(UserError, match="several configurations.*a few, large.*--dataset_config_name"):
        load_clips(str(tmp_path))
    assert sorted(load_clips(str(tmp_path), config_name="a few")["track_id"]) == TRACKS[::4]
    assert len(load_clips(str(tmp_path), config_name="large")) == 12
    write_card([configs[0] | {"default": True}, configs[1]])
    assert len(load_clips(str(tmp_path))) == 3


def test_damaged_parquet_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="Cannot read the Parquet files"):
        load_clips(str(tmp_path))


def test_shard_folders_keep_provenance_and_are_refused_unfinished(genre_folder, tmp_path):
    features = datasets.Features(
        {
            "audio": datasets.Audio(decode=False),
            "label": datasets.ClassLabel(names=["x", *GENRES]),
            **dict.fromkeys(("track_id", "origin", "parent_id"), datasets.Value("string")),
            "snr_db": datasets.Value("float64"),
        }
    )
    rows = [
        {
            "audio": row["audio"],
            "label": 1 + GENRES.index(row["genre"]),
            "track_id": f"{track}+awgn10-0",
            "origin": "noisy",
            "parent_id": track,
            "snr_db": 10.0,
        }
        for row, track in zip(make_rows(genre_folder), TRACKS, strict=True)
    ]
    shards = open_shards(tmp_path / "noisy", {"seed": 1}, {"train": 2})
    shards.write(0, rows[:6], features)
    shards.write(1, rows[6:], features)
    with pytest.raises(UserError, match="unfinished"):
        load_clips(str(tmp_path / "noisy"))
    shards.finish("# Noisy clips")
    clips = load_clips(str(tmp_path / "noisy"))
    assert clips["track_id"][:] == [f"{track}+awgn10-0" for track in TRACKS] and clips["parent_id"][:] == TRACKS
    assert set(clips["origin"]) == {"noisy"} and set(clips["snr_db"]) == {10.0}
    assert genre_names(clips) == ["x", *GENRES]
    assert genre_names(load_clips(str(tmp_path / "noisy"), genres=GENRES)) == GENRES
    shards.paths[1].unlink()
    with pytest.raises(UserError, match="unfinished.*1 of train"):
        load_clips(str(tmp_path / "noisy"))


def test_a_table_written_by_save_to_disk_comes_back_the_same(genre_folder, tmp_path):
    clips = load_clips(str(genre_folder))
    clips.save_to_disk(tmp_path / "again")
    again = load_clips(str(tmp_path / "again"))
    assert again.features == clips.features
    assert again.remove_columns("audio")[:] == clips.remove_columns("audio")[:]
    # `save_to_disk` embeds the files.
    assert [file["bytes"] for file in again["audio"]] == [path.read_bytes() for path in list_files(genre_folder)]


def load_table(table, tmp_path, **options):
    table.save_to_disk(tmp_path / "table")
    return load_clips(str(tmp_path / "table"), **options)


def test_columns_are_found_or_named(genre_folder, tmp_path):
    rows = [{"sound": row["audio"], "style": row["genre"], "n": 1} for row in make_rows(genre_folder)]
    table = datasets.Dataset.from_list(rows)
    with pytest.raises(UserError, match="no label column.*found sound, style, n"):
        load_table(table, tmp_path / "1")
    check_table(load_table(table, tmp_path / "2", label_column="style"))
    with pytest.raises(UserError, match="no audio column 'wave'; found sound, style, n"):
        load_table(table, tmp_path / "3", label_column="style", audio_column="wave")
    with pytest.raises(UserError, match="'n' must hold audio files"):
        load_table(table, tmp_path / "4", label_column="style", audio_column="n")
    with pytest.raises(UserError, match="'n' must be text or a ClassLabel"):
        load_table(table, tmp_path / "5", label_column="n")


def test_several_columns_of_a_kind_are_listed(genre_folder, tmp_path):
    table = make_hub_table(genre_folder).cast_column("audio", datasets.Audio(decode=False))
    twice = table.add_column("remix", table["audio"][:], feature=datasets.Audio(decode=False))
    with pytest.raises(UserError, match="several audio columns: audio, remix"):
        load_table(twice, tmp_path / "1")
    check_table(load_table(twice, tmp_path / "2", audio_column="remix"), ["rock", "blues", "hiphop"])
    moods = datasets.ClassLabel(names=["calm", "wild"])
    renamed = table.rename_column("genre", "style").add_column("mood", [0, 1] * 6, feature=moods)
    with pytest.raises(UserError, match="several label columns: style, mood"):
        load_table(renamed, tmp_path / "3")


def test_genre_as_text_is_preferred_to_label_as_numbers(genre_folder, tmp_path):
    rows = [{**row, "label": i, "embedding": [1.0, 2.0]} for i, row in enumerate(make_rows(genre_folder))]
    table = datasets.Dataset.from_list(rows)
    clips = load_table(table, tmp_path / "1")
    check_table(clips)
    assert clips.column_names == [*CLIP_COLUMNS, "split"]
    with pytest.raises(UserError, match="'label' must be text or a ClassLabel.*int64"):
        load_table(table.remove_columns("genre"), tmp_path / "2")


def test_track_names_come_from_the_file_column_or_the_row(genre_folder, tmp_path):
    rows = make_rows(genre_folder)
    for row, track in zip(rows, TRACKS, strict=True):
        row["audio"]["path"] = "audio.wav"
        row["file"] = f"/root/.cache/genres/{row['genre']}/{track}.wav"
    clips = load_table(datasets.Dataset.from_list(rows), tmp_path / "1")
    check_table(clips)
    assert "file" not in clips.column_names  # a path of somebody's machine
    clips = load_table(datasets.Dataset.from_list(rows).remove_columns("file"), tmp_path / "2")
    assert clips["track_id"][:] == [f"row-{row:06d}" for row in range(12)]


def test_spelling_variants_fold_with_one_notice_each(genre_folder, caplog):
    variants = ["hip-hop", "Hip Hop", "HIP_HOP"]
    for number, variant in enumerate(variants, start=1):
        (genre_folder / variant).mkdir()
        shutil.move(genre_folder / "hiphop" / f"hiphop.{number:05d}.wav", genre_folder / variant)
    with caplog.at_level(logging.WARNING):
        clips = load_clips(str(genre_folder), genres=GENRES)
    assert genre_names(clips) == GENRES and clips["label"][:].count(1) == 4
    for variant in variants:
        assert caplog.text.count(f"Label '{variant}' is read as genre 'hiphop'") == 1


def test_without_given_genres_the_most_frequent_spelling_wins(genre_folder):
    (genre_folder / "Hip-Hop").mkdir()
    for number in range(3):
        shutil.move(genre_folder / "hiphop" / f"hiphop.{number:05d}.wav", genre_folder / "Hip-Hop")
    assert genre_names(load_clips(str(genre_folder))) == ["Hip-Hop", "blues", "rock"]


def test_unknown_labels_are_listed(genre_folder):
    with pytest.raises(UserError, match=r"'blues' \(4 clips\), 'rock' \(4 clips\). Expected: hiphop, jazz"):
        load_clips(str(genre_folder), genres=["hiphop", "jazz"])


def test_fold_genre():
    genres = ["hiphop", "R&B", "hip-hop"]
    assert fold_genre("hip-hop", genres) == "hip-hop"  # identical first
    assert fold_genre("Hip Hop", genres) == "hiphop"
    assert fold_genre("r & b", genres) == "R&B"
    assert fold_genre("rap", genres) is None
    assert fold_genre("!!!", ["???"]) is None


@pytest.mark.parametrize("source", ["./none", "~/none", "/none/at/all", "a/b/c", "none.csv", "x/none.csv"])
def test_missing_paths_are_not_looked_for_on_the_hub(source, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset_builder", None)
    with pytest.raises(UserError, match=f"No such folder or file: {source}"):
        load_clips(source)


def test_an_existing_folder_wins_over_a_hub_id(genre_folder, monkeypatch):
    (genre_folder.parent / "marsyas").mkdir()
    genre_folder.rename(genre_folder.parent / "marsyas" / "gtzan")
    monkeypatch.chdir(genre_folder.parent)
    check_table(load_clips("marsyas/gtzan"))


def test_file_names_that_are_no_utf8_are_named(genre_folder):
    source = list_files(genre_folder)[0]
    shutil.copy(os.fsencode(source), os.fsencode(source.parent) + b"/K\xf6nig.wav")
    with pytest.raises(UserError, match=r"not valid UTF-8: .*K\\udcf6nig"):
        load_clips(str(genre_folder))


def test_empty_folders_and_strange_files_are_refused(tmp_path):
    (tmp_path / "rock").mkdir()
    (tmp_path / "song.mp3").write_bytes(b"x")
    with pytest.raises(UserError, match="song.mp3.*no folders of genres with audio"):
        load_clips(str(tmp_path))
    with pytest.raises(UserError, match="No clips in .*rock.*found 0 folders and 0 other files"):
        load_clips(str(tmp_path / "rock"))
    with pytest.raises(UserError, match="no CSV and no Parquet file"):
        load_clips(str(tmp_path / "song.mp3"))
    with pytest.raises(UserError, match="'main'.*is a local path"):
        load_clips(str(tmp_path), revision="main")


def test_the_script_dataset_is_refused_with_its_copy():
    with pytest.raises(UserError, match="marsyas/gtzan is a loading script.*sanchit-gandhi/gtzan"):
        load_clips("marsyas/gtzan")


def test_the_hub_offline_says_what_to_do():
    with pytest.raises(
        UserError, match="(?s)Cannot load 'sanchit-gandhi/gtzan'.*Check the network.*give their folder"
    ):
        load_clips("sanchit-gandhi/gtzan")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatasetNotFoundError("'a/b' is a gated dataset on the Hub."), "gated.*hf auth login"),
        (DatasetNotFoundError("'a/b' doesn't exist on the Hub"), "Check the name"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "Parquet copy"),
        (ValueError("Config name is missing. Pick one of: ['x', 'y']"), r"\['x', 'y'\]"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(monkeypatch, error, message):
    def load_dataset_builder(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_clips("a/b")


def test_the_hub_copy_loads_and_nothing_of_it_is_decoded(genre_folder, monkeypatch):
    """The Hub's answer is stood in for by a table of the same types; the call is checked."""
    calls = []

    class Builder:
        def download_and_prepare(self):
            calls.append("prepared")

        def as_dataset(self):
            return datasets.DatasetDict(train=make_hub_table(genre_folder))

    def load_dataset_builder(*args, **kwargs):
        calls.append((args, kwargs))
        return Builder()

    def decode_example(*args, **kwargs):
        raise AssertionError("decoded by datasets")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(datasets.Audio, "decode_example", decode_example)
    clips = load_clips("sanchit-gandhi/gtzan", config_name="all", revision="abc", token="t")
    check_table(clips, ["rock", "blues", "hiphop"])
    assert calls == [(("sanchit-gandhi/gtzan", "all"), {"revision": "abc", "token": "t"}), "prepared"]


def test_real_clips(gtzan_mini):
    clips = load_clips(str(gtzan_mini))
    assert len(clips) == 100 and len(genre_names(clips)) == 10 and genre_names(clips) == sorted(genre_names(clips))
    assert clips["track_id"][12] == "classical.00002"
