"""The split that travels with a checkpoint: evaluated, resumed and trained further by the script, on a tiny model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models

import augment_dataset
import run_classification
from hf_utils.data.split_record import RECORD_FILE, SplitRecord
from hf_utils.errors import UserError
from hf_utils.files import is_complete
from hf_utils.hub.published_files import select_published

OPTIONS = "--window_seconds 0.5 --dataloader_num_workers 0 --num_proc 1 --use_cpu --precision fp32".split()
TRAINING = "--num_train_epochs 1 --num_mel_bins 32 --n_fft 512 --hop_length 256".split()


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with music, a model, and a run of it on a split that is not the default one."""
    folder = tmp_path_factory.mktemp("work")
    for number, genre in enumerate(("jazz", "rock", "soul")):
        for track in range(10):
            path = folder / "G" / genre / f"{genre}-{track}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = 0.1 * np.random.default_rng(100 * number + track).standard_normal(10_000)
            soundfile.write(path, noise, 16_000)
    tiny_models.save_convnext(folder / "model")
    start(
        folder / "model", "--dataset_name", folder / "G", *TRAINING, "--split_seed", 3, "--output_dir", folder / "run"
    )
    return folder


def start(model, *options) -> None:
    run_classification.main([*map(str, ("--model_name_or_path", model, *OPTIONS, *options))])


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_every_checkpoint_of_a_run_says_what_it_knows(work):
    run = work / "run"
    record = SplitRecord.read(run / RECORD_FILE, "run")
    assert {name: len(tracks) for name, tracks in record.splits.items()} == {"train": 24, "validation": 3, "test": 3}
    assert record.protocol == read_results(run)["protocol"] and record.protocol["seed"] == 3
    assert read_results(run)["data"]["split_digests"] == record.summarize()
    (checkpoint,) = run.glob("checkpoint-*")
    assert SplitRecord.read(checkpoint / RECORD_FILE, "run") == record
    assert RECORD_FILE in select_published(run, "model")


@pytest.mark.parametrize("spelling", ["slash", "relative", "renamed copy"])
def test_the_same_music_is_evaluated_on_the_split_of_the_run(spelling, work, tmp_path, monkeypatch):
    name = work / "G"
    if spelling == "slash":
        name = f"{name}/"
    elif spelling == "relative":
        monkeypatch.chdir(work)
        name = "./G"
    else:
        name = tmp_path / "copy"
        for path in (work / "G").rglob("*.wav"):
            (name / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, name / path.parent.name / f"{path.stem[::-1]}.wav")
    start(work / "run", "--do_eval", "--dataset_name", name, "--output_dir", tmp_path / "eval")
    found, expected = read_results(tmp_path / "eval"), read_results(work / "run")
    assert found["protocol"] == expected["protocol"]
    for key, value in expected["evaluations"]["test"]["track"].items():
        assert found["evaluations"]["test"]["track"][key] == pytest.approx(value, nan_ok=True)


def test_a_checkpoint_in_the_middle_is_evaluated_like_its_run(work, tmp_path):
    (checkpoint,) = (work / "run").glob("checkpoint-*")
    start(checkpoint, "--do_eval", "--output_dir", tmp_path / "eval")
    assert read_results(tmp_path / "eval")["protocol"]["seed"] == 3
    with pytest.raises(UserError, match="split_seed"):
        start(checkpoint, "--do_eval", "--split_seed", 4, "--output_dir", tmp_path / "other")


def test_weights_are_not_trained_on_where_they_were_trained_on_test_tracks(work, tmp_path):
    shutil.copytree(work / "G", tmp_path / "copy")
    options = [*TRAINING, "--dataset_name", tmp_path / "copy", "--output_dir", tmp_path / "again"]
    with pytest.raises(UserError, match="test: trained on . of 3 tracks.*-.*\n.*--split_seed 3.*--allow_seen_tracks"):
        start(work / "run", *options)
    start(work / "run", *options, "--allow_seen_tracks", "true")
    assert read_results(tmp_path / "again")["data"]["seen_tracks"]["test"]["trained on"] > 0
    assert "allow_seen_tracks" in (tmp_path / "again" / "README.md").read_text()
    trained = SplitRecord.read(tmp_path / "again" / RECORD_FILE, "again").trained
    assert trained > SplitRecord.read(work / "run" / RECORD_FILE, "run").trained


@pytest.mark.parametrize(
    "options, words",
    [
        (["--split_seed", 4], "split_seed: 3 before, 4 now"),
        (["--split_seed", 3, "--genres", "rock", "jazz", "soul"], "genres: jazz, rock, soul before, rock, jazz, soul"),
        (["--split_seed", 3, "--train_datasets", "real:0.5"], "recordings to train on: 12 missing"),
        (
            ["--split_protocol", "artist_folds", "--num_folds", 5],
            "split_protocol: stratified before, artist_folds now",
        ),
    ],
)
def test_a_training_goes_on_only_with_its_data(options, words, work, tmp_path):
    run = shutil.copytree(work / "run", tmp_path / "run")
    with pytest.raises(UserError, match=rf"resume_from_checkpoint.*checkpoint-\d+.*\n.*{words}"):
        start(
            *(work / "model", "--dataset_name", work / "G", *TRAINING, "--output_dir", run),
            *("--resume_from_checkpoint", "auto", *options),
        )


@pytest.fixture(scope="module")
def staged(work, tmp_path_factory) -> Path:
    """A folder with a finished run in two stages; `resume` runs it again."""
    folder = tmp_path_factory.mktemp("staged")
    resume_stages(folder, work, {"learning_rate": 1e-3})
    return folder


def resume_stages(folder: Path, work: Path, first: dict, *options) -> None:
    stages = [{**first, "max_steps": 1}, {"max_steps": 2}]
    config = folder / "stages.yaml"
    config.write_text(json.dumps({"stages": stages, "save_strategy": "no", "eval_strategy": "no"}))
    given = ["--dataset_name", work / "G", *TRAINING[2:], "--output_dir", folder / "run", *options]
    given += ["--model_name_or_path", work / "model", "--resume_from_checkpoint", "auto"]
    run_classification.main([str(config), *OPTIONS, *map(str, given)])


def test_a_finished_stage_is_passed_over_only_if_it_would_be_the_same(staged, work):
    results = staged / "run" / "stage-1" / "results.json"
    before = results.stat().st_mtime_ns
    resume_stages(staged, work, {"learning_rate": 1e-3})
    assert results.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"stage-1(.*\n)*.*learning_rate: 0.001 before, 0.01 now"):
        resume_stages(staged, work, {"learning_rate": 1e-2})
    with pytest.raises(UserError, match=r"stage-1(.*\n)*.*split_seed"):
        resume_stages(staged, work, {"learning_rate": 1e-3}, "--split_seed", 4)


def test_a_record_without_the_options_of_its_run_is_told_of(work, tmp_path, caplog):
    run = shutil.copytree(work / "run", tmp_path / "run")
    (run / "config.yaml").unlink()
    start(run, "--do_eval", "--dataset_name", work / "G", "--output_dir", tmp_path / "eval")
    assert "split.json, but no config.yaml" in caplog.text
    assert read_results(tmp_path / "eval")["protocol"]["seed"] == 3


def test_weights_trained_on_copies_know_the_tracks_that_these_were_made_from(work, tmp_path):
    """The copies are the whole dataset, and no clean track is near when they are trained on."""
    (tmp_path / "noise.yaml").write_text("transforms: [AddGaussianSNR: {min_snr_db: 10, max_snr_db: 10, p: 1.0}]")
    made = [tmp_path / "noise.yaml", "--dataset_name", work / "G", "--output_dir", tmp_path / "noisy"]
    augment_dataset.main([*map(str, made), "--splits", "train", "validation", "test", "--num_proc", "1"])
    run = ["--dataset_name", tmp_path / "noisy", *TRAINING, "--output_dir", tmp_path / "run"]
    start(work / "model", *run)
    trained = json.loads((tmp_path / "run" / RECORD_FILE).read_text())["trained"].split()
    assert len(trained) == 2 * 24  # the copies and their tracks
    with pytest.raises(UserError, match=r"clean: trained on 24 of 30 tracks(.*\n)*.*out of clean"):
        start(
            *(tmp_path / "run", "--do_eval", "--eval_datasets", f"clean={work / 'G'}"),
            *("--output_dir", tmp_path / "eval"),
        )


def test_clips_shorter_than_the_window_are_told_of(work, tmp_path, caplog):
    options = ["--dataset_name", work / "G", "--window_seconds", 0.7, "--max_steps", 1, *TRAINING[2:]]
    start(work / "model", *options, "--save_strategy", "no", "--eval_strategy", "no", "--output_dir", tmp_path / "run")
    assert "30 of 30 clips are shorter than the window of 0.7 s" in caplog.text


def test_a_finished_run_is_not_passed_over_where_another_evaluation_is_asked_for(staged, work, tmp_path):
    for seed, genre in enumerate(("jazz", "rock", "soul")):
        path = tmp_path / "more" / genre / f"new-{genre}.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * np.random.default_rng(900 + seed).standard_normal(10_000), 16_000)
    words = r"run is finished(.*\n)*.*eval_datasets: none before, more=.* now(.*\n)*.*do_eval"
    with pytest.raises(UserError, match=words):
        resume_stages(staged, work, {"learning_rate": 1e-3}, "--eval_datasets", f"more={tmp_path / 'more'}")
    corruptions = tmp_path / "corruptions.yaml"
    corruptions.write_text("kinds: {level: {low: [Gain: {min_gain_db: -10.0, max_gain_db: -10.0, p: 1.0}]}}")
    with pytest.raises(UserError, match=r"corruptions: none before, 1 \(level\) now"):
        resume_stages(staged, work, {"learning_rate": 1e-3}, "--corruptions", corruptions)


@pytest.mark.parametrize(
    "changes",
    [
        {"window_seconds": 0.25},
        {"split_seed": 3},
        {"split_protocol": "artist_folds"},
        {"dataset_name": "elsewhere"},
        {"genres": ["jazz", "rock"]},
        {"eval_datasets": ["more=elsewhere"]},
        {"on_bad_audio": "skip"},
    ],
)
def test_data_split_and_windows_belong_to_the_whole_run(changes, work, tmp_path):
    with pytest.raises(UserError, match=rf"stages\[0\] sets {next(iter(changes))}.*train_datasets"):
        resume_stages(tmp_path, work, changes)


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, False),
        ('{"complete": false}', False),
        ('{"complete": true}', True),
        ('{"scores": 1}', True),
        ("", None),
        ('{"complete":', None),
        ("[]", None),
        (b"\xff", None),
    ],
)
def test_results_say_whether_a_run_is_complete_unless_they_are_damaged(content, expected, tmp_path):
    if content is not None:
        (tmp_path / "results.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert is_complete(tmp_path) is expected
