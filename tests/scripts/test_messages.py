"""What a run says: each thing once, what is true, and no bars where nobody watches."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from tones import GENRE_TONES_HZ, write_tone
from transformers import PrinterCallback, ProgressCallback

import run_classification
from hf_utils.arguments.training import ClassificationTrainingArguments
from hf_utils.launch import setup_logging
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.loading import load_classifier
from hf_utils.training.progress import EpochLine, ProgressBars
from hf_utils.training.trainer import GenreTrainer

ROOT = Path(__file__).resolve().parents[2]
TINY = "--window_seconds 0.5 --dataloader_num_workers 0 --num_proc 1 --use_cpu --on_bad_audio skip".split()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(folder of a run in two stages on music with a bad file, what it wrote on both streams)."""
    folder = tmp_path_factory.mktemp("told")
    for index, (genre, hz) in enumerate(GENRE_TONES_HZ.items()):
        for track in range(10):
            write_tone(folder / "genres" / genre / f"{genre}-{track}.wav", hz + track, 1, seed=100 * index + track)
    for genre in ("rock", "blues"):  # wherever the split puts them
        (folder / "genres" / genre / f"broken-{genre}.wav").write_bytes(b"no music")
    options = {
        "model_name_or_path": str(tiny_models.save_ast(folder / "ast")),
        "dataset_name": str(folder / "genres"),
        "output_dir": str(folder / "run"),
        "disable_tqdm": True,
        "stages": [{"num_train_epochs": 1}, {"num_train_epochs": 1, "learning_rate": 1e-3}],
    }
    (folder / "options.yaml").write_text(json.dumps(options))
    command = [sys.executable, ROOT / "run_classification.py", folder / "options.yaml", *TINY]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_a_training_says_each_thing_once_and_draws_no_bars_into_a_file(told):
    text = told[1]
    assert "\r" not in text and "it/s" not in text
    assert text.count("broken-rock") == text.count("broken-blues") == 1
    assert text.count("epoch   1.0/1") == 2 and "{'" not in text
    assert text.count("parameters learn") == 2


def test_an_evaluation_does_not_speak_of_learning(told, tmp_path, caplog):
    run_classification.main(
        ["--model_name_or_path", str(told[0] / "run"), "--do_eval", "--output_dir", str(tmp_path), *TINY]
    )
    assert "parameters learn" not in caplog.text
    assert f"{told[0] / 'run'}: data, split, windows" in caplog.text


def test_tagging_speaks_of_windows_alone_and_names_a_bad_file_once(told, tmp_path, caplog, capfd):
    music = told[0] / "genres" / "rock"
    arguments = ["--model_name_or_path", str(told[0] / "run"), "--do_predict", "--predict_path", str(music)]
    assert run_classification.main([*arguments, "--output_dir", str(tmp_path), "--use_cpu"]) == 1
    assert f"{told[0] / 'run'}: windows" in caplog.text
    assert "split" not in caplog.text
    written = capfd.readouterr()
    assert "10 files tagged, 1 skipped" in written.out
    assert (caplog.text + written.out + written.err).count("broken-rock") == 1


def test_messages_of_libraries_come_once_and_in_our_format(caplog):
    setup_logging(is_main_process=True)
    for library in ("huggingface_hub", "transformers", "datasets"):
        assert logging.getLogger(library).handlers == []
        logging.getLogger(f"{library}.some.module").warning("Retrying in 1s")
    assert caplog.messages == ["Retrying in 1s"] * 3


@pytest.mark.parametrize(("terminal", "disable_tqdm"), [(True, False), (True, True), (False, False)])
def test_bars_are_for_terminals(told, tmp_path, monkeypatch, terminal, disable_tqdm):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    args = ClassificationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=disable_tqdm)
    model = load_classifier(Checkpoint(str(told[0] / "run")), None)[0]
    trainer = GenreTrainer(model=model, args=args, genres=list(GENRE_TONES_HZ), eval_dataset=[])
    shown = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ProgressCallback)]
    assert [type(callback) for callback in shown] == [ProgressBars] * (terminal and not disable_tqdm)
    kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
    assert EpochLine in kinds and PrinterCallback not in kinds


@pytest.mark.parametrize(
    ("script", "slow"),
    [
        (
            "run_classification",
            {"torch", "accelerate", "datasets", "pandas", "pyarrow", "sklearn", "scipy", "soundfile"}
            | {"optuna", "matplotlib", "torchaudio", "hf_utils.training.run"},
        ),
        ("augment_dataset", {"torch", "datasets", "pandas", "pyarrow", "audiomentations", "sklearn", "matplotlib"}),
        ("generate_music", {"torch", "datasets", "pandas", "pyarrow", "accelerate", "diffusers"}),
        ("hf_utils.report.report_files", {"scipy.stats", "matplotlib", "sklearn"}),
        ("hf_utils.hub.repository", {"torch", "datasets", "transformers"}),
    ],
)
def test_help_and_mistakes_in_options_do_not_wait_for_libraries_that_they_do_not_need(script, slow):
    code = f"""
import importlib, sys
main = importlib.import_module("{script}").main
for words in (["a", "b", "--output_dirr", "x"], ["--help"]):
    try:
        main(words)
    except (ValueError, SystemExit) as error:
        print(error)
print(*sys.modules, sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=100)
    modules = set(done.stdout.splitlines())
    assert "--output_dirr" in done.stdout + done.stderr and "--help" in done.stdout
    assert "argparse" in modules
    assert not slow & modules


def test_tagging_imports_nothing_of_training(told, tmp_path):
    """A song is tagged in the time that PyTorch and the model's own code take to import."""
    code = """
import run_classification, sys
assert run_classification.main(sys.argv[1:]) == 0
print(*sys.modules, sep="\\n")
"""
    song = told[0] / "genres/rock/rock-1.wav"
    words = ["--model_name_or_path", str(told[0] / "run"), "--do_predict", "--predict_path", str(song), "--use_cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--output_dir", str(tmp_path / "tags")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
    )
    modules = set(done.stdout.splitlines())
    assert "torch" in modules, done.stderr
    unused = {"transformers.trainer", "datasets", "evaluate", "sklearn", "matplotlib", "pandas", "pyarrow", "optuna"}
    assert not (unused | {"av", "timm", "torch.utils.tensorboard"}) & modules
