import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from made_results import evaluate, make_windows, write
from sklearn.metrics import roc_auc_score

from hf_utils.errors import UserError
from hf_utils.files import ROBUSTNESS_FILES, file_stem, read_predictions, write_atomically, write_predictions
from hf_utils.results.run_results import format_scores, is_near_chance, score_windows, versions, warn_near_chance

HOSTILE = ["a|b", "<script>", 'qu"ote, comma', "line\r\nbreak\rhere", "$\\frac$", "prediction"]


def test_tracks_by_soft_and_hard_vote_and_windows():
    # Two tracks of three windows: the first loses two windows narrowly and wins one clearly.
    probabilities = np.array([[0.4, 0.6], [0.4, 0.6], [0.99, 0.01], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]])
    evaluated = score_windows(np.log(probabilities), make_windows([0, 1], 3), ["blues", "rock"], "test")
    assert evaluated.probabilities == pytest.approx(np.array([[1.79 / 3, 1.21 / 3], [1 / 3, 2 / 3]]))
    assert evaluated.scores["track"]["accuracy"] == 1.0
    assert evaluated.scores["track_hard"]["accuracy"] == 0.5
    assert evaluated.scores["window"]["accuracy"] == 0.5
    assert evaluated.num_windows == 6 and evaluated.predictions.tolist() == [0, 1]


def test_every_window_and_every_track_is_counted_once():
    windows = make_windows([0, 1, 0], 2)
    with pytest.raises(ValueError, match=r"'test' .*6 windows.*\(7, 2\)"):
        score_windows(np.zeros((7, 2)), windows, ["a", "b"], "test")
    windows.track_ids[2] = windows.track_ids[0]
    with pytest.raises(ValueError, match="'test' .*2 tracks|'test' .*3 tracks"):
        score_windows(np.zeros((6, 2)), windows, ["a", "b"], "test")
    windows = make_windows([0, 1, 0], 2)
    windows.track_index[windows.track_index == 2] = 1
    with pytest.raises(ValueError, match="'test' .*2 tracks|'test' .*3 tracks"):
        score_windows(np.zeros((6, 2)), windows, ["a", "b"], "test")


def test_diverged_model_is_the_users_to_mend():
    with pytest.raises(UserError, match="'test' .*--learning_rate"):
        score_windows(np.full((2, 2), np.nan), make_windows([0, 1], 1), ["a", "b"], "test")


def test_one_warning_names_the_sets_that_chance_explains(caplog):
    genres, labels = list("abcdefghij"), np.arange(100) % 10
    good, one_genre = evaluate(genres, labels, "good"), evaluate(genres, np.zeros(5, int), "one", strength=99)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_near_chance([good, one_genre])
        assert caplog.messages == []
        warn_near_chance([evaluate(genres, labels, "bad", strength=0), good, evaluate(genres, labels, "worse", 0)])
    (message,) = caplog.messages
    assert "bad, worse" in message and "good" not in message and len(message) < 140


@pytest.mark.parametrize(
    ("num_genres", "num_tracks", "num_right", "is_told"),
    [
        # Of 4 tracks of 4 genres, all must be right (0.25 ** 4 = 0.4 %, 3 or more 5.1 %): too few to tell anything.
        (4, 4, 0, False),
        (4, 4, 2, False),
        # Of 10 tracks of 10 genres, 4 are enough: P(X >= 3) = 7.0 %, P(X >= 4) = 1.3 %.
        (10, 10, 3, True),
        (10, 10, 4, False),
    ],
)
def test_chance_is_told_of_only_where_the_set_is_large_enough(num_genres, num_tracks, num_right, is_told):
    genres, labels = [f"g{number}" for number in range(num_genres)], np.arange(num_tracks) % num_genres
    chosen = np.where(np.arange(num_tracks) < num_right, labels, (labels + 1) % num_genres)
    logits = np.repeat(5 * np.eye(num_genres)[chosen], 2, axis=0)
    assert is_near_chance(score_windows(logits, make_windows(labels, 2), genres, "test")) == is_told


def test_predictions_come_back_exactly_whatever_the_names(tmp_path):
    evaluated = evaluate(HOSTILE, np.arange(12) % 6)
    evaluated.track_ids[:3] = ["comma, name", 'quote " name', "line\nbreak"]
    table = (evaluated.track_ids, evaluated.labels, evaluated.probabilities, HOSTILE)
    write_predictions(tmp_path / "predictions_test.csv", *table)
    read = read_predictions(tmp_path / "predictions_test.csv")
    assert (read.track_ids, read.genres) == (evaluated.track_ids, HOSTILE)
    assert np.array_equal(read.labels, evaluated.labels)
    assert np.array_equal(read.probabilities, evaluated.probabilities)
    recomputed = roc_auc_score(read.labels, read.probabilities, multi_class="ovr")
    assert recomputed == pytest.approx(evaluated.scores["track"]["roc_auc"])


def test_other_csv_files_are_refused(tmp_path):
    (tmp_path / "other.csv").write_text("path,label\nx.wav,blues\n")
    with pytest.raises(UserError, match=r"other\.csv.*track_id"):
        read_predictions(tmp_path / "other.csv")


def test_results_file_holds_the_contract(tmp_path):
    genres = ["blues", "jazz", "rock"]
    evaluations = [evaluate(genres, [0, 1, 2, 0]), evaluate(genres, [0, 0, 1, 0], name="my set/2")]
    rows, means = [{"accuracy": np.nan}], {"hum": {"accuracy": 0.5}}
    robustness = SimpleNamespace(
        rows=rows, means=means, benchmark="genre-c 1", corruption_error={"mce": 0.7}, sets={"hum": evaluations[:1]}
    )
    returned = write(tmp_path, evaluations, genres, robustness=robustness, pictures=True)
    text = (tmp_path / "results.json").read_text()
    results = json.loads(text, parse_constant=pytest.fail)
    assert results == returned and results["complete"] is True
    assert list(results) == sorted(results) and results["genres"] == genres
    assert "hf_secret" not in text and results["config"] == {"learning_rate": 1e-4}
    assert results["data"] == {"train": {"blues": 3}} and results["robustness"] == [{"accuracy": None}]
    assert results["robustness_means"] == means and results["robustness_benchmark"] == "genre-c 1"
    assert results["corruption_error"] == {"mce": 0.7}
    confidence = results["confidence"]
    assert list(confidence["sets"]) == ["my set/2", "test"] and list(confidence["corruptions"]) == ["hum"]
    assert confidence["sets"]["test"]["accuracy"]["1"] == evaluations[0].scores["track"]["accuracy"]
    assert not confidence["is_calibrated"] and confidence["thresholds"] == {}  # those are of validation
    test = results["evaluations"]["test"]
    assert (test["num_tracks"], test["num_windows"]) == (4, 12)
    assert test["track"] == evaluations[0].scores["track"]
    assert {"accuracy", "f1_jazz"} <= set(test["track_hard"]) & set(test["window"])
    other = results["evaluations"]["my set/2"]
    assert other["track"]["roc_auc_rock"] is None
    for entry in (test, other):
        assert len(read_predictions(tmp_path / entry["predictions"]).labels) == 4
        assert (tmp_path / entry["confusion"]).read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 5


def test_files_of_earlier_results_go_with_them_and_no_others(tmp_path):
    sets = [evaluate(["a", "b"], [0, 1, 1, 0], name=name) for name in ("test", "my old set")]
    robustness = SimpleNamespace(rows=[{}], means={}, benchmark=None, corruption_error=None, sets={})
    write(tmp_path, sets, ["a", "b"], robustness=robustness, pictures=True)
    for name in (*ROBUSTNESS_FILES, "confusion_of_mine.png", "predictions.csv"):
        (tmp_path / name).touch()
    write(tmp_path, sets, ["a", "b"], robustness=robustness, pictures=True)
    assert len(list(tmp_path.iterdir())) == 10
    write(tmp_path, sets[:1], ["a", "b"], pictures=True)
    own = {"results.json", "predictions_test.csv", "confusion_test.png", "confusion_of_mine.png", "predictions.csv"}
    assert {path.name for path in tmp_path.iterdir()} == own


def test_hostile_genres_and_sets_are_written(tmp_path):
    results = write(
        tmp_path, [evaluate(HOSTILE, np.arange(12) % 6, name="../$x^{")], HOSTILE, demo=True, pictures=True
    )
    entry = results["evaluations"]["../$x^{"]
    assert (tmp_path / entry["confusion"]).is_file() and not list(tmp_path.parent.glob("*.csv"))


def test_file_stems_are_safe_and_distinct():
    assert file_stem("test") == "test" and file_stem("noise-10dB.v2") == "noise-10dB.v2"
    names = ["a/b", "a_b", "a b", "..", ".", "", "ü", "a\nb", "x" * 300, "x" * 301]
    stems = [file_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    assert all(stem and set(stem) != {"."} and "/" not in stem and len(stem) < 100 for stem in stems)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_versions_name_packages_and_no_machine():
    found = versions()
    assert {"python", "torch", "transformers", "datasets", "soxr"} <= set(found)
    assert not any("/" in version for version in found.values())


def test_table_for_the_terminal():
    genres = ["blues", "rock"]
    table = format_scores([evaluate(genres, [0, 1, 0, 1]), evaluate(genres, [0, 1], name="other-genres")])
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 119
    assert lines[2].split()[:3] == ["test", "4", "12"] and lines[3].split()[:3] == ["other-genres", "2", "6"]
    assert all(len(line.split()) == 10 for line in lines[1:])
    undefined = evaluate(genres, [0, 1])
    undefined.scores["track_hard"]["accuracy"] = float("nan")  # of an ensemble
    assert format_scores([undefined]).splitlines()[2].split()[4] == "-"
