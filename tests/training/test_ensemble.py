"""Ensembles of finished runs: the mean of what their members find by themselves, of any families."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from made_results import make_windows
from tones import GENRE_TONES_HZ, write_tone

import run_classification
from hf_utils.errors import UserError
from hf_utils.files import read_predictions
from hf_utils.report.run_folders import read_runs
from hf_utils.results.run_results import score_windows
from hf_utils.training.ensemble import average_sets, reorder_genres

OPTIONS = "--dataloader_num_workers 0 --num_proc 1 --use_cpu --precision fp32".split()
# Another rate, another family, another window.
MEMBERS = {"musicnn": "0.4", "hubert": "0.5"}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with music, and two runs on it."""
    folder = tmp_path_factory.mktemp("work")
    write_music(folder / "music", 10)
    write_music(folder / "new", 2)
    for name, seconds in MEMBERS.items():
        tiny_models.SAVERS[name](folder / "models" / name)
        options = "--num_train_epochs", 1, "--learning_rate", 0.01, "--window_seconds", seconds
        start(folder / "models" / name, *options, "--dataset_name", folder / "music", "--output_dir", folder / name)
    return folder


def write_music(folder: Path, num_tracks: int) -> None:
    for index, (genre, hz) in enumerate(GENRE_TONES_HZ.items()):
        for track in range(num_tracks):
            path = folder / genre / f"{genre}-{track}.wav"
            write_tone(path, hz * (1 + 0.02 * track), 1.2, seed=100 * index + track + len(folder.name))


def start(model, *options) -> int:
    return run_classification.main([*map(str, ("--model_name_or_path", model, *OPTIONS, *options))])


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def read_rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluated_ensemble_is_the_mean_of_its_members(work, tmp_path):
    output = tmp_path / "both"
    assert start(work / "musicnn", "--ensemble_with", work / "hubert", "--do_eval", "--output_dir", output) == 0
    results = read_results(output)
    for name in ("validation", "test"):
        together = read_predictions(output / f"predictions_{name}.csv")
        members = [read_predictions(work / member / f"predictions_{name}.csv") for member in MEMBERS]
        expected = np.mean([member.probabilities for member in members], axis=0)
        np.testing.assert_allclose(together.probabilities, expected, atol=1e-6)
        assert together.track_ids == members[0].track_ids
        scores = results["evaluations"][name]
        right = (expected.argmax(axis=1) == together.labels).mean()
        assert scores["track"]["accuracy"] == pytest.approx(right)
        assert scores["track_hard"]["accuracy"] is None and scores["window"]["accuracy"] is None
        windows = [read_results(work / member)["evaluations"][name]["num_windows"] for member in MEMBERS]
        assert scores["num_windows"] == sum(windows)
    assert [member["sample_rate"] for member in results["model"]["ensemble"]] == [8000, 16000]
    assert results["complete"] and results["protocol"] == read_results(work / "musicnn")["protocol"]
    # The music is that of the members' runs, of which this command names none; windows are each member's own.
    assert results["config"]["dataset_name"] == results["data"]["dataset"] == str(work / "music")
    assert results["config"]["window_seconds"] is None
    (run,), _ = read_runs([output])
    assert (run.model, run.arm) == ("musicnn + hubert", "evaluated only")


def test_each_member_has_its_own_temperature():
    # Logits of one track of one window: ln 3 by temperature 1/2 is ln 9, ln 4 by temperature 2 is ln 2.
    windows, genres = make_windows([0], 1), ["blues", "rock"]
    sets = [score_windows(np.log([odds]), windows, genres, "test") for odds in ([3, 1], [1, 4])]
    plain = sets[1]
    sets = [found.at_temperature(temperature, genres) for found, temperature in zip(sets, (0.5, 2.0), strict=True)]
    both = average_sets([reorder_genres(found, genres, genres[::-1]) for found in sets], genres[::-1])
    assert both.probabilities[0] == pytest.approx([(1 / 4 + 4 / 5) / 2, (3 / 4 + 1 / 5) / 2])
    assert both.calibrated[0] == pytest.approx([(1 / 10 + 2 / 3) / 2, (9 / 10 + 1 / 3) / 2])
    assert (both.scores["track"]["accuracy"], both.scores["track_calibrated"]["accuracy"]) == (0.0, 1.0)
    # Half calibrated is not calibrated.
    assert average_sets([sets[0], plain], genres).calibrated is None


def test_members_with_their_genres_in_another_order_are_put_in_one(work, tmp_path):
    options = "--num_train_epochs", 1, "--window_seconds", 0.4, "--dataset_name", work / "music"
    turned = tmp_path / "turned"
    start(work / "models/musicnn", *options, "--genres", "rock", "hiphop", "blues", "--output_dir", turned)
    output = tmp_path / "both"
    start(work / "hubert", "--ensemble_with", turned, "--do_eval", "--output_dir", output)
    together = read_predictions(output / "predictions_test.csv")
    members = [read_predictions(folder / "predictions_test.csv") for folder in (work / "hubert", turned)]
    for column, genre in enumerate(together.genres):
        own = [member.probabilities[:, member.genres.index(genre)] for member in members]
        np.testing.assert_allclose(together.probabilities[:, column], np.mean(own, axis=0), atol=1e-6)
    assert together.genres == members[0].genres != members[1].genres
    assert [together.genres[label] for label in together.labels] == ["blues", "hiphop", "rock"]


def test_members_that_heard_other_tracks_of_the_same_names_are_refused(work, tmp_path):
    write_music(tmp_path / "other-music", 10)
    options = "--num_train_epochs", 1, "--window_seconds", 0.4, "--dataset_name", tmp_path / "other-music"
    start(work / "models/musicnn", *options, "--output_dir", tmp_path / "other")
    with pytest.raises(UserError, match="holds other tracks than that of .*hubert"):
        start(work / "hubert", "--ensemble_with", tmp_path / "other", "--do_eval", "--output_dir", tmp_path / "x")


def test_tagged_files_have_the_mean_of_the_probabilities_and_continue(work, tmp_path, capsys):
    output = tmp_path / "tagged"
    options = (
        "--ensemble_with",
        work / "hubert",
        "--do_predict",
        "--predict_path",
        work / "new",
        "--output_dir",
        output,
    )
    assert start(work / "musicnn", *options) == 0
    assert "6 files tagged" in capsys.readouterr().out
    content, rows = (output / "predictions.csv").read_bytes(), read_rows(output / "predictions.csv")
    members = [read_rows(output / "members" / name / "predictions.csv") for name in ("1-musicnn", "2-hubert")]
    for row, *own in zip(rows, *members, strict=True):
        genres = list(GENRE_TONES_HZ)
        mean = {genre: np.mean([float(member[genre]) for member in own]) for genre in genres}
        assert {genre: float(row[genre]) for genre in genres} == pytest.approx(mean, abs=1e-6)
        assert row["prediction"] == max(mean, key=mean.get) and row["file"] == own[0]["file"]
    origin = json.loads((output / "predictions_origin.json").read_text())
    assert all((output / model["journal"]).is_file() for model in origin["models"])
    assert [Path(model["name"]).name for model in origin["models"]] == ["musicnn", "hubert"]
    (output / "predictions.csv").unlink()
    assert start(work / "musicnn", *options) == 0
    assert (output / "predictions.csv").read_bytes() == content


def test_a_file_that_cannot_be_read_is_left_out_and_told(work, tmp_path, capsys):
    write_music(tmp_path / "more", 1)
    (tmp_path / "more" / "broken.wav").write_bytes(b"no music")
    options = "--do_predict", "--predict_path", tmp_path / "more", "--output_dir", tmp_path / "tagged"
    assert start(work / "musicnn", "--ensemble_with", work / "hubert", *options) == 1
    assert "3 files tagged, 1 skipped" in capsys.readouterr().out
    assert "broken.wav" not in [row["file"] for row in read_rows(tmp_path / "tagged" / "predictions.csv")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--do_train --dataset_name music", "do_train works with one checkpoint"),
        ("--do_eval --corruptions configs/corruptions.yaml", "corruptions works with one"),
        ("--do_predict --predict_path tests --per_window", "per_window works with one"),
        ("--do_eval --model_revision main", "model_revision works with one"),
        ("--do_eval --push_to_hub --hub_model_id me/x", "push_to_hub works with one"),
    ],
)
def test_what_only_one_model_can_do_is_refused(options, message, work, tmp_path):
    with pytest.raises(UserError, match=message):
        start(work / "musicnn", "--ensemble_with", work / "hubert", *options.split(), "--output_dir", tmp_path / "x")


def test_a_member_with_other_genres_or_another_split_is_refused(work, tmp_path):
    other = tiny_models.save_run(tmp_path / "ast")
    with pytest.raises(UserError, match="Hip-Hop.*expected the genres of .*musicnn: blues, hiphop, rock"):
        start(work / "musicnn", "--ensemble_with", other, "--do_eval", "--output_dir", tmp_path / "x")
    options = "--num_train_epochs", 1, "--window_seconds", 0.4, "--dataset_name", work / "music", "--split_seed", 5
    start(work / "models" / "musicnn", *options, "--output_dir", tmp_path / "split")
    with pytest.raises(UserError, match="holds other tracks than that of .*musicnn"):
        start(work / "musicnn", "--ensemble_with", tmp_path / "split", "--do_eval", "--output_dir", tmp_path / "y")


@pytest.mark.parametrize("spelling", ["musicnn", "hubert/../musicnn"])
def test_a_checkpoint_that_is_named_twice_is_refused(spelling, work, tmp_path):
    with pytest.raises(UserError, match="would count twice"):
        start(work / "musicnn", "--ensemble_with", work / spelling, "--do_eval", "--output_dir", tmp_path / "x")


def test_other_predictions_are_not_replaced_unasked(work, tmp_path):
    options = "--do_predict", "--predict_path", work / "new", "--output_dir", tmp_path / "tagged"
    one, two = [work / "musicnn"], [work / "musicnn", "--ensemble_with", work / "hubert"]
    shutil.copytree(work / "hubert", tmp_path / "hubert-2")
    three, other = [*two, tmp_path / "hubert-2"], [work / "musicnn", "--ensemble_with", tmp_path / "hubert-2"]
    table, contents = tmp_path / "tagged" / "predictions.csv", []
    for words in (one, two, three, other, one):
        if contents:
            with pytest.raises(UserError, match="--overwrite"):
                start(*words, *options)
            assert table.read_bytes() == contents[-1]
        start(*words, *options, "--overwrite")
        contents.append(table.read_bytes())
        start(*words, *options)
        assert table.read_bytes() == contents[-1]
    assert contents[0] == contents[-1] != contents[1]
    start(*two, *options, "--overwrite")
    assert table.read_bytes() == contents[1]
    tables = [path.parent.name for path in (tmp_path / "tagged").rglob("predictions.csv")]
    assert sorted(tables) == ["1-musicnn", "2-hubert", "tagged"]


def test_a_search_over_an_ensemble_is_refused(work, tmp_path):
    with pytest.raises(UserError, match="leave it or --search out"):
        start(work / "musicnn", "--ensemble_with", work / "hubert", "--search", "configs/search/optuna.yaml")
