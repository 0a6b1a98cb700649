"""What a run's data options mean, before anything is decoded."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_tone

from hf_utils.arguments.data import DataArguments
from hf_utils.data.corpus import check_sources, decode_corpus, load_split_clips, parse_eval_datasets
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
