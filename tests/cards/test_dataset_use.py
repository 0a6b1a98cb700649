"""The command that the card of a made dataset prints does what the card says, as it stands there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tiny_models import save_ast
from tiny_musicgen import save_tiny_musicgen

import augment_dataset
import generate_music
import run_classification

ROOT = Path(__file__).resolve().parents[2]
AWGN = "transforms:\n  - AddGaussianSNR: {min_snr_db: 10, max_snr_db: 10, p: 1.0}\n"
KINDS = """kinds:
  white_noise:
    20_db: [AddGaussianSNR: {min_snr_db: 20, max_snr_db: 20, p: 1.0}]
    0_db: [AddGaussianSNR: {min_snr_db: 0, max_snr_db: 0, p: 1.0}]
"""
# What makes a run small; all else is as printed.
LIGHT = "--use_cpu --dataloader_num_workers 0 --num_proc 1 --report_to none --waveform_cache_dir cache".split()
SHORT = "--model_name_or_path ast --window_seconds 0.5 --max_steps 1".split()
SHORT += "--eval_strategy no --save_strategy no --no_load_best_model_at_end".split()


@pytest.fixture
def project(genre_folder, tmp_path, monkeypatch):
    """A working folder with the project's configs, real clips in `genres` and a model in `ast`."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    save_ast(tmp_path / "ast")
    # What a card says instead of the place of somebody's clips.
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "genres").symlink_to(genre_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_on_real(project: Path) -> None:
    """Make `runs/ast`, the run that a command for testing speaks of."""
    options = ["configs/ast.yaml", "--dataset_name", "genres", "--split_protocol", "stratified"]
    assert run_classification.main([*options, *SHORT, *LIGHT]) == 0


def augment(project: Path, text: str, *options: str) -> Path:
    (project / "own.yaml").write_text(text)
    common = ["own.yaml", "--dataset_name", str(project / "genres"), "--output_dir", "data/own"]
    assert augment_dataset.main([*common, "--split_protocol", "stratified", *options]) == 0
    return project / "data" / "own"


def run_printed(folder: Path) -> tuple[list[str], dict]:
    """Run the command on the card of `folder`; return its words and its results."""
    (command,) = re.findall(r"```bash\n(.+)\n```", (folder / "README.md").read_text())
    words = shlex.split(command)
    script = words.index("run_classification.py")
    assert words[:script] in (["accelerate", "launch"], ["python"])
    words = words[script + 1 :]
    assert run_classification.main([*words, *([] if "--do_eval" in words else SHORT), *LIGHT]) == 0
    return words, json.loads(Path(words[words.index("--output_dir") + 1], "results.json").read_text())


@pytest.mark.parametrize(
    ("text", "options", "mix", "origins"),
    [
        (AWGN, [], ["real", "data/own"], {"real": 6, "noisy": 6}),
        (AWGN, ["--include_original"], ["data/own"], {"real": 6, "noisy": 6}),
        # Test copies in the same dataset are left out of training.
        (AWGN, ["--splits", "train", "test"], ["real", "data/own"], {"real": 6, "noisy": 6}),
        # Only one genre is topped up.
        (KINDS, ["--split_seed", "1", "--genres", "rock"], ["real", "data/own"], {"real": 6, "noisy": 4}),
    ],
)
def test_copies_of_training_clips_are_trained_on_and_no_clip_twice(project, text, options, mix, origins):
    words, results = run_printed(augment(project, text, *options))
    start = words.index("--train_datasets") + 1
    assert words[start : start + len(mix) + 1] == [*mix, "--output_dir"]
    report = results["data"]["train_mix"]
    assert report["origins"] == origins
    assert not any(source.get("parent_not_in_train") for source in report["sources"].values())


@pytest.mark.parametrize(
    ("text", "options", "tracks"),
    [
        (AWGN, ["--splits", "validation", "test"], 6),
        (KINDS, ["--splits", "test", "--include_original"], 9),
    ],
)
def test_copies_of_test_clips_are_tested_on(project, text, options, tracks):
    train_on_real(project)
    folder = augment(project, text, *options)
    words, results = run_printed(folder)
    assert "--train_datasets" not in words
    assert results["evaluations"]["copies"]["num_tracks"] == tracks
    card = (folder / "README.md").read_text()
    assert "one score over all its clips" in card and ("a score of each" in card) == (text == KINDS)


def test_generated_clips_of_one_genre_are_trained_on_beside_the_clips_that_they_continue(project):
    options = "--genres rock --clips_per_genre 4 --clip_seconds 1 --batch_size 2 --dtype fp32".split()
    options += "--continue_from genres --prompt_seconds 0.5 --split_protocol stratified --split_seed 3".split()
    options += ["--waveform_cache_dir", "cache", "--output_dir", "data/synthetic"]
    assert generate_music.main(["--model_name_or_path", save_tiny_musicgen(project / "tiny"), *options]) == 0
    words, results = run_printed(project / "data" / "synthetic")
    assert results["data"]["train_mix"]["origins"] == {"real": 6, "synthetic": 4}
    assert results["data"]["train_mix"]["sources"]["data/synthetic"]["parent_not_in_train"] == 0
    assert results["protocol"]["seed"] == 3 and results["genres"] == ["blues", "hiphop", "rock"]
