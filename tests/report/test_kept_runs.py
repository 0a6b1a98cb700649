"""A report from the tables of another report: the same page, or a message."""

import csv
import gzip

import numpy as np
import pytest
from made_runs import GENRES, TRACKS, write_run

from hf_utils.errors import UserError
from hf_utils.report.kept_runs import read_kept_runs, write_kept_runs
from hf_utils.report.report_files import main, write_report
from hf_utils.report.run_folders import read_runs

RUN_NAME = {"run_name": "ast/clean"}
NOISE, MP3 = ("white_noise", "0_db", 0.0), ("mp3", "16_kbps", None)


def write_arms(root):
    """Two arms under corruptions, one seed under more."""
    options = {"dataset_name": "/home/me/music", "max_steps": 30, "num_train_epochs": 3.0}
    data = {"splits": {name: {"origins": {"real": 20}} for name in ("train", "validation", "test")}}
    for arm, mix in (("clean", ["real"]), ("noisy", ["real", "/home/me/noisy:0.5"])):
        for seed in (1, 2):
            corrupted = {NOISE: 0.3, MP3: 0.5} if seed == 1 else {NOISE: 0.3}
            folder = root / f"{arm}-{seed}"
            made = {"corrupted": corrupted, "data": data, "train_datasets": mix}
            made["facts"] = {"corruption_error": {"mce": 0.8, "relative_mce": None}} if seed == 1 else {}
            write_run(folder, "ast", arm, seed, **made, **options)
    return root


def write_others(root):
    """Another order of genres, demo data, a run without a name that knew its tracks, and folds."""
    write_run(root / "cnn", "cnn", genres=GENRES[::-1], max_steps=40, training={"planned_steps": 40})
    unnamed = {"run_name": None, "model_name_or_path": "x/y", "train_datasets": ["real", "/home/me/noisy"]}
    write_run(root / "unnamed", demo=True, data={"seen_tracks": {"test": {"trained on": 3}}}, **unnamed)
    for fold in (0, 1):
        protocol = {"name": "artist_folds", "seed": 0, "num_folds": 2, "fold": fold}
        write_run(root / f"fold-{fold}", tracks=TRACKS[30 * fold : 30 * fold + 30], protocol=protocol, fold=fold)
    return root


def test_the_page_made_again_is_the_same(tmp_path):
    write_report([write_arms(tmp_path / "runs")], tmp_path / "one", num_resamples=20)
    write_report([tmp_path / "one" / "results.csv"], tmp_path / "two", num_resamples=20)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"report.html", "report.md", "results.csv", "results_tracks.csv.gz", "comparisons.csv"} < names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
        assert b"/home" not in (tmp_path / "one" / name).read_bytes()


def test_every_run_comes_back(tmp_path):
    runs, _ = read_runs([write_arms(tmp_path / "arms"), write_others(tmp_path / "others")])
    write_kept_runs(tmp_path, runs, "test")
    again = read_kept_runs(tmp_path / "results.csv", "test")
    assert len(again) == len(runs) == 8
    for run, copy in zip(runs, again, strict=True):
        same = "model arm seed protocol genres demo track_ids knew_tracks is_named benchmark real_tracks planned_steps"
        for name in [*same.split(), "mce", "relative_mce"]:
            assert getattr(run, name) == getattr(copy, name), name
        assert (run.labels == copy.labels).all()
        assert run.probabilities == pytest.approx(copy.probabilities, rel=1e-8)
        assert run.scores == pytest.approx(copy.scores, nan_ok=True)
        assert list(run.corrupted) == list(copy.corrupted)
        for key, test in run.corrupted.items():
            assert (test.chosen == copy.corrupted[key].chosen).all()
            assert test.scores == pytest.approx(copy.corrupted[key].scores)
    # What all runs agree on is not kept.
    assert again[0].config == {"train_datasets": "real", "dataset_name": "music", "max_steps": 30} | RUN_NAME
    assert again[2].config["train_datasets"] == "real, noisy:0.5"


def rewrite(path, change):
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows = change(header, rows)
    with open_text(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def set_first(column, value):
    def change(header, rows):
        rows[0][header.index(column)] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("results.csv", set_first("accuracy", "0.123"), "run 1.*accuracy|accuracy of .* 0.1230"),
        ("results.csv", set_first("seed", "one"), "run 1: cannot be read .*one"),
        ("results_tracks.csv.gz", set_first("label", "polka"), "run 1: cannot be read .*polka"),
        ("results_tracks.csv.gz", lambda header, rows: [row for row in rows if row[0] != "2"], "different runs"),
        ("results_tracks.csv.gz", lambda header, rows: rows[1:], "accuracy"),
        ("results.csv", set_first("kind", "mp3"), "run 1: cannot be read"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(file, change, message, tmp_path):
    labels = np.arange(60) % 3
    right = 0.7 * np.eye(3)[np.where(np.arange(60) > 0, labels, 1)] + 0.1
    for seed in (1, 2):
        write_run(tmp_path / "runs" / str(seed), seed=seed, labels=labels, probabilities=right)
    runs, _ = read_runs([tmp_path / "runs"])
    write_kept_runs(tmp_path, runs, "test")
    rewrite(tmp_path / file, change)
    with pytest.raises(UserError, match=message):
        read_kept_runs(tmp_path / "results.csv", "test")


def test_rows_may_be_in_any_order(tmp_path):
    runs, _ = read_runs([write_arms(tmp_path / "runs")])
    write_kept_runs(tmp_path, runs, "test")
    for name in ("results.csv", "results_tracks.csv.gz"):
        rewrite(tmp_path / name, lambda header, rows: rows[::-1])
    again = {run.folder: run for run in read_kept_runs(tmp_path / "results.csv", "test")}
    for number, run in enumerate(runs, start=1):
        copy = again[f"{tmp_path / 'results.csv'}, run {number}"]
        assert copy.track_ids == run.track_ids and (copy.labels == run.labels).all()
        assert copy.corrupted.keys() == run.corrupted.keys()


def test_other_files_and_sets_are_refused(tmp_path, capsys):
    runs, _ = read_runs([write_run(tmp_path / "run")])
    write_kept_runs(tmp_path, runs, "live")
    with pytest.raises(UserError, match="--set live"):
        read_kept_runs(tmp_path / "results.csv", "test")
    (tmp_path / "results_tracks.csv.gz").unlink()
    with pytest.raises(UserError, match="results_tracks.csv.gz"):
        read_kept_runs(tmp_path / "results.csv", "live")
    assert main([str(tmp_path / "run" / "predictions_test.csv"), "--output", str(tmp_path / "report")]) == 2
    assert "has no column" in capsys.readouterr().err
