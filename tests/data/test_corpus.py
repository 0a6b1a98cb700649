"""What a run's data options mean, and what weights that know some of the music rule out."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_tone

from hf_utils.arguments.data import DataArguments
from hf_utils.audio import hash_samples
from hf_utils.data.corpus import check_headers, check_sources, decode_corpus, load_split_clips, parse_eval_datasets
from hf_utils.data.splits import read_protocol
from hf_utils.errors import UserError


def make_arguments(folder, **options) -> DataArguments:
    return DataArguments(dataset_name=str(folder), split_protocol="stratified", num_proc=1, **options)


def test_evaluation_sets_are_named():
    assert parse_eval_datasets(["live=data/live", "c=me/gtzan-c"]) == {"live": "data/live", "c": "me/gtzan-c"}
    assert parse_eval_datasets(None) == {}


@pytest.mark.parametrize("items", [["data/live"], ["=x"], ["a="], ["test=x"], ["a=x", "a=y"], ["../a=x"]])
def test_a_misspelt_evaluation_set_is_refused(items):
    with pytest.raises(UserError, match="eval_datasets"):
        parse_eval_datasets(items)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_datasets": ["real", "FOLDER:0.5"]}, "the same clips"),
        ({"train_datasets": ["real:2"]}, "real:2"),
        ({"eval_datasets": ["nothing"]}, "name=path"),
        ({"train_filter": "classifier_score > 0.2"}, "only the real ones"),
    ],
)
def test_a_mistake_in_the_sources_is_found_before_anything_is_read(tmp_path, options, words):
    """The folder does not even exist."""
    folder = tmp_path / "missing"
    if "train_datasets" in options:
        options["train_datasets"] = [item.replace("FOLDER", str(folder)) for item in options["train_datasets"]]
    with pytest.raises(UserError, match=words):
        check_sources(make_arguments(folder, **options))


def test_a_made_dataset_that_is_not_there_names_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="train_datasets: data/gtzan-awgn10 is not there.*augment_dataset.py .*awgn"):
        check_sources(make_arguments("x", train_datasets=["real", "data/gtzan-awgn10"]))
    with pytest.raises(UserError, match="data/gtzan-musicgen is not there.*generate_music.py configs/generate/"):
        check_sources(make_arguments("x", train_datasets=["data/gtzan-musicgen:0.5"]))
    check_sources(make_arguments("x", train_datasets=["real", "me/noisy"]))  # perhaps on the Hub
    (tmp_path / "me").mkdir()
    with pytest.raises(UserError, match="eval_datasets: me/noisy is not there.*--output_dir"):
        check_sources(make_arguments("x", eval_datasets=["n=me/noisy"]))


def test_files_that_cannot_be_opened_are_listed_with_all_other_bad_ones(genre_folder):
    args, files = make_arguments(genre_folder), sorted(genre_folder.rglob("*.wav"))
    check_headers(load_split_clips(args), {}, args, train=True)
    soundfile.write(files[1], np.zeros(16000), 16000)
    check_headers(load_split_clips(args), {}, args, train=True)  # its header is good: found when it is decoded
    files[0].write_bytes(b"no audio at all")
    with pytest.raises(UserError, match="2 of 12 audio files cannot be used") as caught:
        check_headers(load_split_clips(args), {}, args, train=True)
    assert str(files[0]) in str(caught.value) and "silent" in str(caught.value)
    with pytest.raises(UserError, match="cannot be used"):
        check_headers(load_split_clips(args), {"more": load_split_clips(args)}, args, train=False)


def test_training_and_evaluation_see_the_splits_and_the_named_sets(genre_folder, tmp_path):
    args = make_arguments(genre_folder, eval_datasets=[f"again={genre_folder / 'nowhere'}"])
    clips = load_split_clips(args)
    with pytest.raises(UserError, match="nowhere"):
        decode_corpus(clips, args, 16000, train=True, seed=0)
    args = make_arguments(genre_folder, train_datasets=["real:0.5"])
    corpus = decode_corpus(load_split_clips(args), args, 16000, train=True, seed=0)
    assert list(corpus.evaluations) == ["validation", "test"] and corpus.genres == ["blues", "hiphop", "rock"]
    whole = sum(split == "train" for split in load_split_clips(args)["split"])
    assert len(corpus.train) == whole // 2 == corpus.facts["splits"]["train"]["tracks"]
    assert decode_corpus(load_split_clips(args), args, 16000, train=False, seed=0).train is None


def test_bad_files_are_left_out_before_the_split_is_drawn(tmp_path):
    """So every genre has its test track, and the split is that of a folder without the bad files."""
    for genre, hz in (("blues", 220), ("rock", 440)):
        for number in range(12):
            write_tone(tmp_path / "genres" / genre / f"{genre}.{number:05d}.wav", hz + number, 1, seed=number)
    args = make_arguments(tmp_path / "genres", on_bad_audio="skip", waveform_cache_dir=str(tmp_path / "cache"))
    whole = load_split_clips(args)
    tests = [clip["track_id"] for clip in whole if clip["split"] == "test"]
    files = [tmp_path / "genres" / name.split(".")[0] / f"{name}.wav" for name in tests]
    for file in files:
        soundfile.write(file, np.zeros(16000), 16000)
    without = load_split_clips(args)
    assert len(without) == len(whole) - len(tests) and not set(tests) & set(without["track_id"])
    assert {c["label"] for c in without if c["split"] == "test"} == {0, 1}
    for file in files:
        file.unlink()
    assert without["track_id"] == load_split_clips(args)["track_id"]
    assert without["split"] == load_split_clips(args)["split"]


def test_clips_that_the_filter_drops_are_counted(genre_folder, tmp_path):
    for index in range(6):
        write_tone(tmp_path / "made" / ("blues", "rock")[index % 2] / f"made-{index}.wav", 300 + index, 1, seed=index)
    made = str(tmp_path / "made")
    args = make_arguments(genre_folder, train_datasets=["real", made], train_filter="track_id.str.endswith('1')")
    corpus = decode_corpus(load_split_clips(args), args, 16000, train=True, seed=0)
    counts = corpus.facts["train_mix"]["sources"][made]
    assert (counts["clips"], counts["of"], counts["filtered_out"], counts["bad_audio"]) == (1, 6, 5, 0)


def test_a_split_is_drawn_after_bad_files_are_left_out(genre_folder, tmp_path, caplog):
    """With the bad file among them, the only test track of its genre could be that one."""
    for seed in range(6):
        args = make_arguments(
            genre_folder, on_bad_audio="skip", split_seed=seed, waveform_cache_dir=str(tmp_path / "c")
        )
        for name in ("test", "validation"):
            whole = load_split_clips(make_arguments(genre_folder, split_seed=seed))
            [bad] = [clip for clip in whole if clip["split"] == name and clip["label"] == 0]
            path = Path(bad["audio"]["path"])
            content = path.read_bytes()
            path.write_bytes(b"no audio")
            clips = load_split_clips(args)
            path.write_bytes(content)
            assert len(clips) == 11 and bad["track_id"] not in clips["track_id"]
            sides = [(clip["label"], clip["split"]) for clip in clips]
            assert all(sides.count((label, side)) == 1 for label in range(3) for side in ("validation", "test"))
            assert f"  {path}: undecodable" in caplog.text and "1 of 12 audio files" in caplog.text


def test_a_genre_whose_files_are_all_bad_is_named(genre_folder, tmp_path):
    for path in (genre_folder / "rock").iterdir():
        path.write_bytes(b"no audio")
    args = make_arguments(genre_folder, on_bad_audio="skip", waveform_cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="no training track of rock"):
        load_split_clips(args)
    for genre in ("blues", "hiphop"):
        for path in (genre_folder / genre).iterdir():
            path.write_bytes(b"no audio")
    with pytest.raises(UserError, match="(?s)12 of 12 audio files cannot be used.*No clip is left") as refused:
        load_split_clips(args)
    assert str(genre_folder / "rock" / "rock.00000.wav") in str(refused.value)


# --- weights that know some of the music


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Three genres of ten pieces of noise, of half a second."""
    return write_music(tmp_path_factory.mktemp("music") / "genres")


def write_music(folder: Path, genres=("blues", "jazz", "rock"), tracks=range(10), seed=0) -> Path:
    for number, genre in enumerate(genres):
        for track in tracks:
            write_noise(folder / genre / f"{genre}-{track}.wav", 1000 * seed + 100 * number + track)
    return folder


def write_noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(8000)
    soundfile.write(path, np.round(samples * 32768) / 32768, 16000)


def decode(folder, past=None, train=False, **options):
    args = DataArguments(dataset_name=str(folder), num_proc=1, **options)
    clips = load_split_clips(args, past=None if train else past)
    return decode_corpus(clips, args, 16000, train=train, seed=0, past=past)


@pytest.fixture(scope="module")
def record(music):
    """That of weights trained on a split that is not the default one."""
    return dataclasses.replace(decode(music, train=True, split_seed=3).record, checkpoint="runs/x")


def sounds(clips) -> set[str]:
    return {digest[:16] for digest in clips["sha256"]}


def copy_renamed(music: Path, folder: Path) -> Path:
    for number, path in enumerate(sorted(music.rglob("*.wav"))):
        target = folder / path.parent.name / f"song {number * 7 % 30}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def copy_as_flac(music: Path, folder: Path) -> Path:
    for path in music.rglob("*.wav"):
        samples, rate = soundfile.read(path)
        target = folder / path.parent.name / f"{path.stem}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples, rate, subtype="PCM_16")
    return folder


def list_as_csv(music: Path, folder: Path) -> Path:
    folder.mkdir()
    rows = [f"{path},{path.parent.name}" for path in sorted(music.rglob("*.wav"), reverse=True)]
    (folder / "tracks.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return folder / "tracks.csv"


SAME_MUSIC = {
    "slash": lambda music, folder: f"{music}/",
    "dots": lambda music, folder: f"{music}/../genres",
    "link": lambda music, folder: folder.symlink_to(music) or folder,
    "copy": lambda music, folder: shutil.copytree(music, folder),
    "renamed": copy_renamed,
    "flac": copy_as_flac,
    "csv": list_as_csv,
}


@pytest.mark.parametrize("spelling", SAME_MUSIC)
@pytest.mark.parametrize("named", [False, True])
def test_the_same_music_keeps_the_split_of_the_weights(spelling, named, music, record, tmp_path, caplog):
    other = write_music(tmp_path / "other", tracks=[0], seed=9)
    options = {"eval_datasets": [f"other={other}"]} if named else {}
    corpus = decode(SAME_MUSIC[spelling](music, tmp_path / "again"), record, **options)
    for name in ("validation", "test"):
        assert sounds(corpus.evaluations[name]) == record.splits[name].keys()
    assert read_protocol(corpus.clips) == record.protocol and corpus.facts["seen_tracks"] == {}
    assert "split is taken over (--split_protocol stratified --split_seed 3)" in caplog.text
    assert corpus.clips["split"][:].count("test") == 3


def test_the_split_that_was_asked_for_already_is_left_alone(music, record, caplog):
    corpus = decode(music, record, split_seed=3)
    assert sounds(corpus.evaluations["test"]) == record.splits["test"].keys() and not caplog.text


@pytest.mark.parametrize(
    "options", [{"split_seed": 5}, {"split_protocol": "artist_folds"}, {"split_protocol": "artist_folds", "fold": 2}]
)
def test_another_split_of_the_same_music_is_refused(options, music, record, tmp_path):
    copy = shutil.copytree(music, tmp_path / "copy")
    with pytest.raises(UserError, match="runs/x.*split_(seed|protocol).*--split_protocol stratified --split_seed 3"):
        decode(copy, record, **options)
    corpus = decode(copy, record, **options, allow_seen_tracks=True)
    assert corpus.facts["seen_tracks"]["test"]["trained on"] > 0


def test_of_a_larger_folder_only_the_known_tracks_are_evaluated(music, record, tmp_path, caplog):
    larger = write_music(shutil.copytree(music, tmp_path / "larger"), tracks=range(10, 15))
    corpus = decode(larger, record)
    assert sounds(corpus.evaluations["test"]) == record.splits["test"].keys()
    assert "15 tracks that it did not use are left out" in caplog.text


def test_of_a_part_of_the_music_what_is_there_is_evaluated(music, record, tmp_path, caplog):
    part, held_out = tmp_path / "part", record.splits["validation"].keys() | record.splits["test"].keys()
    digests = dict(zip(record_names(music), record_digests(music), strict=True))
    lost = min(name for name, digest in digests.items() if digest in record.splits["test"])
    for path in music.rglob("*.wav"):
        if digests[path.stem] in held_out and path.stem != lost:
            (part / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, part / path.parent.name)
    corpus = decode(part, record)
    assert len(corpus.evaluations["test"]) == 2 and "with 2 of its 3 test tracks" in caplog.text


def test_other_music_has_its_own_split(record, tmp_path, caplog):
    other = write_music(tmp_path / "other", seed=9)
    corpus = decode(other, record, split_seed=5)
    assert read_protocol(corpus.clips)["seed"] == 5 and not caplog.text


def test_weights_keep_their_genres(music, record, tmp_path):
    other = write_music(tmp_path / "other", genres=("rock", "jazz"), seed=9)
    assert decode(other, record).genres == ["blues", "jazz", "rock"]
    with pytest.raises(UserError, match="polka"):
        decode(write_music(tmp_path / "more", genres=("rock", "polka"), seed=8), record)
    with pytest.raises(UserError, match="genres is rock, jazz.*runs/x tells blues, jazz, rock apart"):
        decode(music, record, genres=["rock", "jazz"])
    assert decode(music, record, genres=["rock", "jazz", "blues"]).genres == ["rock", "jazz", "blues"]


# --- trained on, or trained further


def trained_names(music, record, count) -> list[str]:
    names = zip(record_names(music), record_digests(music), strict=True)
    return [name for name, digest in names if digest in record.trained][:count]


def record_names(music) -> list[str]:
    return [path.stem for path in sorted(music.rglob("*.wav"))]


def record_digests(music) -> list[str]:
    return [hash_samples(soundfile.read(path, dtype="float32")[0])[:16] for path in sorted(music.rglob("*.wav"))]


def test_a_set_with_trained_tracks_under_other_names_is_refused(music, record, tmp_path):
    live = write_music(tmp_path / "live", tracks=[0, 1], seed=9)
    name = trained_names(music, record, 1)[0]
    shutil.copy(music / name.split("-")[0] / f"{name}.wav", live / "rock" / "encore.wav")
    for data in (music, write_music(tmp_path / "other", seed=7)):
        with pytest.raises(UserError, match="live: trained on 1 of 7 tracks: encore"):
            decode(data, record, eval_datasets=[f"live={live}"])
        corpus = decode(data, record, eval_datasets=[f"live={live}"], allow_seen_tracks=True)
        assert corpus.facts["seen_tracks"] == {"live": {"trained on": 1}}


def test_a_set_with_the_names_of_trained_tracks_is_another_set(music, record, tmp_path):
    live = write_music(tmp_path / "live", seed=9)
    assert len(decode(music, record, eval_datasets=[f"live={live}"]).evaluations["live"]) == 30
    assert len(decode(music, eval_datasets=[f"live={live}"]).evaluations["live"]) == 30


@pytest.mark.parametrize("at_hand", [True, False])
def test_copies_of_tracks_that_are_not_at_hand_are_named(at_hand, music, record, tmp_path, caplog):
    """By sound, a copy of a training track is new to the weights."""
    other = write_music(tmp_path / "other", seed=7)
    lines = ["path,label,origin,parent_id"]
    for genre in ("rock", "rock"):
        path = tmp_path / f"copy-{len(lines)}.wav"
        write_noise(path, 90_000 + len(lines))
        lines.append(f"{path},{genre},noisy,{'rock-1' if at_hand else 'away-1'}")
    (tmp_path / "noisy.csv").write_text("\n".join(lines) + "\n")
    decode(other, record, eval_datasets=[f"noisy={tmp_path / 'noisy.csv'}"])
    assert ("noisy: 2 of 2 tracks are copies" in caplog.text) == (not at_hand)


def test_without_a_record_the_training_split_is_compared_by_sound(music, tmp_path):
    live = tmp_path / "live"
    corpus = decode(music, train=True)
    name = corpus.train["track_id"][0]
    (live / "rock").mkdir(parents=True)
    shutil.copy(music / name.split("-")[0] / f"{name}.wav", live / "rock" / "encore.wav")
    with pytest.raises(UserError, match=f"identical recording: {name} .train. and encore .live."):
        decode(music, eval_datasets=[f"live={live}"])


FOLDS = {"split_protocol": "artist_folds", "num_folds": 5}


@pytest.mark.parametrize("copied", [False, True])
def test_training_on_with_other_folds_is_refused(copied, music, tmp_path):
    first = dataclasses.replace(decode(music, train=True, **FOLDS).record, checkpoint="runs/fold0")
    data = copy_renamed(music, tmp_path / "copy") if copied else music
    with pytest.raises(UserError, match="runs/fold0 know tracks.*\n.*validation: trained on") as caught:
        decode(data, first, train=True, **FOLDS, fold=2)
    assert "test: trained on" in str(caught.value) and "--fold 0" in str(caught.value)
    with pytest.raises(UserError, match="test: selected on 6 of 6 tracks"):
        decode(music, first, train=True, **FOLDS, fold=1)
    corpus = decode(music, first, train=True, **FOLDS, fold=1, allow_seen_tracks=True)
    assert corpus.facts["seen_tracks"] == {"validation": {"trained on": 6}, "test": {"selected on": 6}}


def test_training_on_with_the_same_split_or_other_music_is_fine(music, record, tmp_path):
    again = decode(music, record, train=True, split_seed=3)
    assert again.record.trained == record.trained and again.facts["seen_tracks"] == {}
    other = decode(write_music(tmp_path / "other", seed=9), record, train=True)
    assert other.record.trained > record.trained and len(other.record.trained) == 48
    with pytest.raises(UserError, match="test: trained on"):
        decode(music, other.record, split_seed=5, eval_datasets=None, train=True)


def test_the_digests_of_the_splits_are_facts(music, record, tmp_path):
    copy = decode(copy_as_flac(music, tmp_path / "copy"), train=True, split_seed=3)
    assert copy.facts["split_digests"] == record.summarize()
    assert decode(music, train=True).facts["split_digests"] != record.summarize()
