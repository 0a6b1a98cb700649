"""A search from its YAML file to best.yaml, on tiny models: what is drawn, what is judged, and what a restart does."""

import csv
import importlib.util
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
import pytest
import safetensors.torch
import tiny_models
from tones import GENRE_TONES_HZ, write_tone

import run_classification
from hf_utils.arguments.options import collect_options, complete_classes
from hf_utils.arguments.run_arguments import RUN_CLASSES
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.training.search import read_space
from hf_utils.training.search_trial import NO_BETTER, Outcome, ReportTrial, judge
from hf_utils.training.trainer import GenreTrainer

ROOT = Path(__file__).resolve().parents[2]

OPTIONS = collect_options(complete_classes(RUN_CLASSES))
SPACE = """
learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
freeze: [none, backbone]
window_seconds: [0.4, 0.5]
num_mel_bins: {low: 16, high: 32, step: 16}
"""


@pytest.fixture
def music(tmp_path):
    """Three genres of ten tones, enough for a stratified split."""
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


def test_a_search_does_not_go_on_with_other_weights_or_music(start, music, tmp_path, monkeypatch):
    start(1)
    music.rename(tmp_path / "before")
    for genre, hz in GENRE_TONES_HZ.items():
        for track in range(10):
            write_tone(music / genre / f"{genre}-{track}.wav", hz * (1.5 + 0.01 * track), 0.9, seed=track)
    with pytest.raises(UserError, match="change in the training music .* and in the validation music: .*output_dir"):
        start(2)
    shutil.rmtree(music)
    (tmp_path / "before").rename(music)
    weights = tmp_path / "resnet" / "model.safetensors"
    safetensors.torch.save_file(
        {name: values + 1 for name, values in safetensors.torch.load_file(weights).items()}, weights, {"format": "pt"}
    )
    with pytest.raises(UserError, match="change in the weights in .*resnet: "):
        start(2)
    more = {"windows_per_step": 64, "model_name_or_path": "x"}  # as on a machine of several GPUs
    monkeypatch.setattr("hf_utils.training.search_trial.describe_options", lambda arguments: more)
    with pytest.raises(UserError, match="change in the windows of a step .1 x 8 on each device. and in the weights"):
        start(2)


def test_choices_that_contradict_each_other_are_passed_over(start, tmp_path, caplog):
    (tmp_path / "space.yaml").write_text("head_hidden_size: [16]\nhead: [linear, mlp]\n")
    with caplog.at_level(logging.INFO, logger="hf_utils"):
        start(4, "--num_mel_bins", "16", "--window_seconds", "0.5")
    rows = read_rows(tmp_path / "search")
    assert len(rows) == 4
    states = {row["head"]: row["state"] for row in rows}
    assert states == {"mlp": "complete", "linear": "pruned"}
    assert caplog.text.count("Split protocol") == 1, "the table of the split is printed for every trial"
    assert "only head: mlp uses it" in caplog.text


def test_what_leaves_nothing_to_compare_is_refused(start, tmp_path):
    with pytest.raises(UserError, match="needs do_train and an eval_strategy"):
        start(2, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    with pytest.raises(UserError, match="num_trials is 3, but no search"):
        run_classification.main(["--model_name_or_path", "x", "--num_trials", "3"])
    with pytest.raises(UserError, match="search_storage is given, but no search"):
        run_classification.main(["--model_name_or_path", "x", "--search_storage", "sqlite:///x.db"])
    with pytest.raises(UserError, match="expected a YAML file"):
        run_classification.main(["--model_name_or_path", "x", "--search", str(tmp_path / "none.yaml")])


def test_a_searched_option_that_does_nothing_in_any_trial_is_refused(start, tmp_path):
    (tmp_path / "space.yaml").write_text("layer_decay: [0.7, 0.8]\nlearning_rate: [1.0e-3, 1.0e-2]\n")
    with pytest.raises(UserError, match="layer_decay is searched, but freeze is backbone"):
        start(2, "--freeze", "backbone")
    assert not (tmp_path / "search").exists()


def run_at_once(start, num_trials: int, flags: list[str], folders: list[str]) -> list[str]:
    """Start the script once per folder, at the same time, and return the trials that ended, as they were logged."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, run_classification.__file__, *start.command(num_trials, *flags, output=folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for folder in folders
    ]
    trials = []
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        trials += re.findall(r" Trial (\d+): ", output)
    return trials


def check_shared(trials: list[str], folders: list[Path], num_trials: int) -> None:
    """Check that the processes made one search: each trial by one of them, and no two alike."""
    assert num_trials <= len(trials) <= num_trials + 1  # each may be in a trial when the last one ends
    assert sorted(trials) == [str(number) for number in range(len(trials))]
    rates = {row["learning_rate"] for folder in folders for row in read_rows(folder) if row["state"] != "running"}
    assert len(rates) == len(trials)
    assert all((folder / "best.yaml").is_file() for folder in folders)


def test_two_processes_share_one_search(start, tmp_path):
    (tmp_path / "space.yaml").write_text("learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n")
    flags = ["--num_mel_bins", "16", "--window_seconds", "0.5", "--num_train_epochs", "1"]
    trials = run_at_once(start, 4, flags, ["search", "search"])
    check_shared(trials, [tmp_path / "search"], 4)


def find_postgres() -> Path | None:
    """Return the folder with PostgreSQL's programs, which Debian does not put on the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    return installed[-1].parent if installed else on_path and Path(on_path).resolve().parent


NEEDS_PSYCOPG = pytest.mark.skipif(
    importlib.util.find_spec("psycopg") is None, reason="needs psycopg: pip install --requirement requirements.txt"
)


@pytest.fixture
def postgres():
    """The address of a private PostgreSQL server that listens on a Unix socket only."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    # PostgreSQL refuses to run as root; the folder must be short, since a socket's path may have 107 bytes.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user and subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if user:
            shutil.chown(folder, "postgres")

        def call(*words):
            subprocess.run([*user, *map(str, words)], check=True, capture_output=True, cwd=folder)

        data = Path(folder, "data")
        call(programs / "initdb", "--pgdata", data, "--username", "anna", "--auth", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        control = [programs / "pg_ctl", "--pgdata", data, "--wait", "--silent"]
        call(*control, "--log", data / "log", "--options", options, "start")
        try:
            Path(folder).chmod(0o755)
            yield f"postgresql://anna:{PASSWORD}@/postgres?host={folder}"
        finally:
            call(*control, "--mode", "immediate", "stop")


PASSWORD = "{not-to-be-seen}"


@NEEDS_PSYCOPG
def test_two_machines_share_one_search_on_postgresql(start, tmp_path, postgres):
    """As two machines do: each has its own folder, and only the server in common."""
    (tmp_path / "space.yaml").write_text("learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n")
    flags = ["--num_mel_bins", "16", "--window_seconds", "0.5", "--num_train_epochs", "1"]
    flags += ["--search_storage", postgres]
    trials = run_at_once(start, 4, flags, ["one/shared", "two/shared"])
    check_shared(trials, [tmp_path / "one" / "shared", tmp_path / "two" / "shared"], 4)
    # Another search has another name there.
    start(1, *flags, "--seed", "3", output="other")
    assert len(read_rows(tmp_path / "other")) == 1
    with pytest.raises(UserError, match="seed was 3 and is 4"):
        start(1, *flags, "--seed", "4", output="other")
    files = [path for name in ("one", "two", "other") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert files and not any(PASSWORD.encode() in path.read_bytes() for path in files)
    assert not list(tmp_path.rglob("search.db"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("my password", "no URL of a database"),
        ("postgresql://anna:pw@host:port/x", "no URL of a database"),
        ("nosuchbase://anna:pw@host/x", "SQLAlchemy knows no nosuchbase"),
        ("mysql+pymysql://anna:pw@host/x", "pip install 'pymysql'"),
        ("sqlite:////nowhere/at/all/search.db", "unable to open database file"),
        pytest.param("postgresql://anna:pw@/x?host=/nowhere&password=pw", "/nowhere", marks=NEEDS_PSYCOPG),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_before_the_work_without_its_password(
    start, tmp_path, monkeypatch, url, words
):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    monkeypatch.setattr("hf_utils.training.search._run_trials", lambda *arguments: pytest.fail("a trial was begun"))
    with pytest.raises(UserError) as error:
        start(2, "--search_storage", url)
    message = str(error.value)
    assert words in message and "search" in message
    assert "pw" not in message and "my password" not in message


def test_a_storage_in_a_file_is_refused(start, tmp_path):
    (tmp_path / "storage.yaml").write_text("search_storage: postgresql://anna:pw@host/x\n")
    with pytest.raises(UserError, match="storage.yaml is a secret in a file: use --search_storage") as error:
        run_classification.main([str(tmp_path / "storage.yaml"), "--model_name_or_path", "x"])
    assert "pw" not in str(error.value)


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


def test_the_line_of_a_trial_has_few_digits(caplog):
    with caplog.at_level(logging.INFO, logger="hf_utils"):
        Outcome(score=1 / 3).log(7, {"learning_rate": 0.0002901999646797988, "num_mel_bins": 64, "freeze": "none"})
    assert caplog.messages == ["Trial 7: 0.3333 on validation  (learning_rate 0.00029, num_mel_bins 64, freeze none)"]


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
