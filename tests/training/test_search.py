"""A search from its YAML file to best.yaml, on tiny models: what is drawn, what is judged, and what a restart does."""

import csv
import logging
import math
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import tiny_models

import run_classification
from hf_utils.arguments.options import collect_options
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.training.search import read_space
from hf_utils.training.search_trial import CLASSES, NO_BETTER, Outcome, ReportTrial, judge
from hf_utils.training.trainer import GenreTrainer

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = collect_options(CLASSES)
SPACE = """
learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
freeze: [none, backbone]
window_seconds: [0.4, 0.5]
num_mel_bins: {low: 16, high: 32, step: 16}
"""


@pytest.fixture
def music(tmp_path):
    """Three genres of ten tones, enough for a stratified split."""
    from tones import GENRE_TONES_HZ, write_tone

    for index, (genre, hz) in enumerate(GENRE_TONES_HZ.items()):
        for track in range(10):
            path = tmp_path / "music" / genre / f"{genre}-{track}.wav"
            write_tone(path, hz * (1 + 0.01 * track), 0.9, seed=100 * index + track)
    return tmp_path / "music"


@pytest.fixture
def start(music, tmp_path):
    """Return a function that runs the script with a search; its `command` returns the options of that."""
    model = tiny_models.save_resnet(tmp_path / "resnet")
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)

    def command(num_trials, *flags, output="search"):
        return (
            ["--model_name_or_path", str(model), "--dataset_name", str(music), "--output_dir", str(tmp_path / output)]
            + ["--n_fft", "512", "--hop_length", "128", "--num_train_epochs", "2", "--dataloader_num_workers", "0"]
            + ["--use_cpu", "--num_proc", "1", "--search", str(space), "--num_trials", str(num_trials), *flags]
        )

    def run(*given, **output):
        return run_classification.main(command(*given, **output))

    run.command = command
    return run


def read_rows(folder) -> list[dict]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_ends_in_an_overlay_of_its_best_trial_and_goes_on_after_an_end(start, tmp_path, monkeypatch):
    evaluated = []
    loop = GenreTrainer.evaluation_loop

    def watched(self, dataloader, *args, **kwargs):
        evaluated.append(tuple(dataloader.dataset.track_ids))
        return loop(self, dataloader, *args, **kwargs)

    monkeypatch.setattr(GenreTrainer, "evaluation_loop", watched)
    start(1)
    first = read_rows(tmp_path / "search")
    folder = tmp_path / "search"
    # What a killed process leaves: a trial without an end.
    optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'search.db'}").ask()
    start(3)
    rows = [row for row in read_rows(folder) if row["state"] != "running"]
    assert rows[:1] == first and len(rows) == 3 and len({row["learning_rate"] for row in rows}) == 3
    assert len(set(evaluated)) == 1 and len(evaluated[0]) == 3, "only the validation tracks are ever scored"
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["score"]))
    overlay = read_config(folder / "best.yaml")
    assert overlay.keys() == {"learning_rate", "freeze", "window_seconds", "num_mel_bins"}
    assert overlay["learning_rate"] == float(best["learning_rate"]) and overlay["freeze"] == best["freeze"]
    assert (folder / "search_history.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(folder.glob("trial-*")) and not (folder / "results.json").exists()
    with pytest.raises(UserError, match="num_train_epochs was 2.0 and is 3.0"):
        start(5, "--num_train_epochs", "3")
    # Another folder, the same trials: draws depend on the seed and the trials before alone.
    start(1, output="again")
    drawn = [{key: row[key] for key in overlay} for row in read_rows(tmp_path / "again")]
    assert drawn == [{key: row[key] for key in overlay} for row in first]


def test_choices_that_contradict_each_other_are_passed_over(start, tmp_path, caplog):
    (tmp_path / "space.yaml").write_text("head_hidden_size: [512, 64]\nhead: [linear]\n")
    with caplog.at_level(logging.INFO, logger="hf_utils"):
        start(4, "--num_mel_bins", "16", "--window_seconds", "0.5")
    rows = read_rows(tmp_path / "search")
    assert len(rows) == 4
    states = {row["head_hidden_size"]: row["state"] for row in rows}
    assert states == {"512": "complete", "64": "pruned"}
    assert "only head: mlp uses it" in caplog.text


def test_what_leaves_nothing_to_compare_is_refused(start, tmp_path):
    with pytest.raises(UserError, match="needs do_train and an eval_strategy"):
        start(2, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    with pytest.raises(UserError, match="num_trials is 3, but no search"):
        run_classification.main(["--model_name_or_path", "x", "--num_trials", "3"])
    with pytest.raises(UserError, match="search_backend is ray, but no search"):
        run_classification.main(["--model_name_or_path", "x", "--search_backend", "ray"])
    with pytest.raises(UserError, match="expected a YAML file"):
        run_classification.main(["--model_name_or_path", "x", "--search", str(tmp_path / "none.yaml")])


def test_ray_that_is_not_installed_is_named_with_its_version(start, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'not installed: pip install "ray\[tune\]==\d'):
        start(2, "--search_backend", "ray")
    assert not (tmp_path / "search").exists()


def test_a_search_by_ray_goes_on_after_a_kill_and_shares_its_study_with_optuna(start, tmp_path):
    pytest.importorskip("ray", reason="Ray Tune is optional: not in requirements.txt")
    folder, log = tmp_path / "search", tmp_path / "log"
    # No 64 goes with a linear head.
    (tmp_path / "space.yaml").write_text("learning_rate: [3.0e-3, 1.0e-9]\nhead_hidden_size: [512, 64]\n")
    flags = ["--num_train_epochs", "12", "--metric_for_best_model", "loss", "--num_mel_bins", "16"]
    flags += ["--window_seconds", "0.5", "--search_backend", "ray", "--hub_token", "a-secret"]

    def script(num_trials):
        return [sys.executable, run_classification.__file__, *start.command(num_trials, *flags)]

    with log.open("w") as file:
        process = subprocess.Popen(script(3), stderr=file)
        wait_for(lambda: "Trial " in log.read_text(), process)
        process.kill()
        process.wait()
    states = [path.read_bytes() for path in (folder / "ray" / "trials").rglob("*") if path.is_file()]
    assert states and not any(b"a-secret" in state for state in states)
    subprocess.run(script(3), check=True)
    rows = read_rows(folder)
    assert len(rows) == 3 and not (folder / "ray" / "trials").exists()
    for row in rows:
        if row["head_hidden_size"] == "64":
            assert row["state"] == "pruned" and "only head: mlp uses it" in row["pruned_because"]
        else:
            assert row["state"] == "complete" or row["pruned_because"] == NO_BETTER
            assert float(row["score"]) > 0
    best = min((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["score"]))
    assert read_config(folder / "best.yaml")["learning_rate"] == float(best["learning_rate"])
    assert (folder / "search_history.png").read_bytes()[:4] == b"\x89PNG"
    # More trials, by either back end, go on top.
    start(4, *flags, "--search_backend", "optuna")
    subprocess.run(script(5), check=True)
    assert read_rows(folder)[:3] == rows and len(read_rows(folder)) == 5


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.5)


def report_trial(scores, stop_at=None):
    """Return the callback after evaluations with `scores`, and what it reported; it is told to stop at one of them."""
    from transformers import TrainerControl

    reports, control = [], TrainerControl()

    def report(scores):
        reports.append(scores)
        return len(scores) == stop_at

    watch = ReportTrial(report, "eval_score")
    for score in scores:
        assert not control.should_training_stop
        watch.on_evaluate(None, None, control, metrics={"eval_score": score})
    assert control.should_training_stop == watch.is_pruned == (stop_at is not None)
    return watch, reports


@pytest.mark.parametrize(("maximise", "best"), [(True, 0.5), (False, 0.1)])
def test_a_trial_reports_every_evaluation_and_is_worth_its_best(maximise, best):
    watch, reports = report_trial([0.2, 0.5, 0.1])
    assert reports == [[0.2], [0.2, 0.5], [0.2, 0.5, 0.1]]
    assert judge(watch, maximise=maximise) == Outcome(score=best)
    watch, _ = report_trial([0.2, 0.5], stop_at=2)
    assert judge(watch, maximise=maximise) == Outcome(pruned_because=NO_BETTER)


@pytest.mark.parametrize("maximise", [True, False])
def test_a_score_that_is_no_number_is_no_score(maximise):
    assert judge(report_trial([math.nan, 0.5])[0], maximise=maximise) == Outcome(score=0.5)
    for scores in ([], [math.nan]):
        outcome = judge(report_trial(scores)[0], maximise=maximise)
        assert outcome == Outcome(pruned_because="no evaluation gave it a score")


def test_the_space_names_every_mistake(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "learning_rat: [1.0e-3]\nseed: text\ngenres: [[blues, rock]]\nfreeze: [everything]\n"
        "learning_rate: {low: 1.0e-5}\nspectrogram: {low: 1, high: 2}\n"
    )
    with pytest.raises(UserError) as error:
        read_space(str(path), OPTIONS)
    message = str(error.value)
    for words in ("learning_rate", "seed is 'text'", "genres cannot be searched", "everything", "{low: ..., high:"):
        assert words in message
    path.write_text(
        "learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}\nn_fft: {low: 256, high: 1024, log: true}\n"
    )
    space = read_space(str(path), OPTIONS)
    assert space["learning_rate"] == optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)
    assert space["n_fft"] == optuna.distributions.IntDistribution(256, 1024, log=True)


def test_the_shipped_space_is_of_options():
    space = read_space(str(ROOT / "configs" / "search" / "optuna.yaml"), OPTIONS)
    assert space["learning_rate"].log and space["window_seconds"].choices == (5.0, 10.0)
