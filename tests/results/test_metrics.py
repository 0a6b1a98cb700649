import logging

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hf_utils.results import metrics
from hf_utils.results.metrics import GenreMetrics, calibration_error, softmax, vote

GENRES = ["blues", "jazz", "rock"]


@pytest.fixture
def draw():
    """(60, 3) probabilities that lean towards the (60,) labels; every genre occurs."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    return softmax(rng.normal(size=(60, 3)) + 1.5 * np.eye(3)[labels]), labels


def test_scores_equal_scikit_learn(draw):
    probabilities, labels = draw
    scores = GenreMetrics(GENRES).compute(predictions=probabilities, references=labels)
    assert scores == GenreMetrics(GENRES).score(probabilities, labels)
    chosen = probabilities.argmax(axis=1)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, chosen),
        "precision": sklearn_metrics.precision_score(labels, chosen, average="macro"),
        "recall": sklearn_metrics.recall_score(labels, chosen, average="macro"),
        "f1": sklearn_metrics.f1_score(labels, chosen, average="macro"),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "log_loss": sklearn_metrics.log_loss(labels, probabilities),
        "f1_jazz": sklearn_metrics.f1_score(labels == 1, chosen == 1),
        "precision_jazz": sklearn_metrics.precision_score(labels == 1, chosen == 1),
        "recall_rock": sklearn_metrics.recall_score(labels == 2, chosen == 2),
        "roc_auc_blues": sklearn_metrics.roc_auc_score(labels == 0, probabilities[:, 0]),
        "support_blues": 20,
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert set(scores) == {*metrics.SCORE_NAMES, *(f"{s}_{g}" for s in metrics.GENRE_SCORE_NAMES for g in GENRES)}
    assert all(type(value) is float for value in scores.values())


def test_scores_by_hand():
    probabilities = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]
    scores = GenreMetrics(GENRES).compute(predictions=probabilities, references=[0, 1, 1, 2])
    assert scores["accuracy"] == 0.75
    # blues: 1 of 2 predictions right, found 1 of 1; jazz: 1 of 1, found 1 of 2; rock: perfect.
    assert scores["precision"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert scores["recall"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # jazz: its tracks have 0.3 and 0.8, the others 0.2 and 0.3: three pairs in order, one tied.
    assert scores["roc_auc_jazz"] == pytest.approx(3.5 / 4)
    assert scores["log_loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5]).mean())


def test_calibration_error_by_hand():
    # Confidences 0.55 and 0.57 share the bin (8/15, 9/15]: mean 0.56, accuracy 0.5. 0.95 is alone and right.
    probabilities = np.array([[0.55, 0.45], [0.43, 0.57], [0.95, 0.05]])
    assert calibration_error(probabilities, np.array([0, 0, 0])) == pytest.approx((2 * 0.06 + 0.05) / 3)
    # A bin's upper edge belongs to it, and full confidence to the last bin.
    assert calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])) == pytest.approx(0.5)


def test_calibration_error_equals_a_loop(draw):
    probabilities, labels = draw
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - correct[inside].mean())
    assert calibration_error(probabilities, labels) == pytest.approx(total / len(labels))


def test_absent_genre_gives_the_scores_of_the_others_and_one_notice(draw, caplog):
    probabilities, labels = draw
    seen = labels < 2
    metrics._notice_missing.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            scores = GenreMetrics(GENRES).compute(predictions=probabilities[seen], references=labels[seen])
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["No track of rock here"]
    assert np.isnan(scores["roc_auc_rock"]) and scores["support_rock"] == 0
    assert scores["roc_auc"] == pytest.approx((scores["roc_auc_blues"] + scores["roc_auc_jazz"]) / 2)
    chosen = probabilities[seen].argmax(axis=1)
    assert scores["recall"] == pytest.approx((scores["recall_blues"] + scores["recall_jazz"]) / 2)
    expected = sklearn_metrics.f1_score(labels[seen], chosen, labels=[0, 1], average="macro")
    assert scores["f1"] == pytest.approx(expected)


def test_one_genre_alone_has_no_roc_auc():
    scores = GenreMetrics(GENRES).compute(predictions=[[0.0, 1.0, 0.0], [0.3, 0.3, 0.4]], references=[1, 1])
    assert np.isnan(scores["roc_auc"]) and scores["accuracy"] == 0.5 and np.isfinite(scores["log_loss"])
    scores = GenreMetrics(GENRES).compute(predictions=[[1.0, 0.0, 0.0]], references=[2])
    assert scores["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[2.0, -1.0, 3.0]], [0], "softmax"),
        ([[np.nan, 0.5, 0.5]], [0], "finite"),
        ([[0.2, 0.3, 0.5]], [3], "3 genres.*3 to 3"),
        ([[0.2, 0.3, 0.5]], [-1], "3 genres.*-1 to -1"),
    ],
)
def test_refuses_what_cannot_be_scored(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        GenreMetrics(GENRES).compute(predictions=predictions, references=references)


def test_leaves_no_file_and_no_random_number_behind(tmp_path, monkeypatch, draw):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = np.random.get_state()[1].copy(), np.random.get_state()[2]
    first, second = GenreMetrics(GENRES), GenreMetrics(GENRES)
    first.add_batch(predictions=draw[0], references=draw[1])
    second.add_batch(predictions=draw[0][:30], references=draw[1][:30])
    assert first.compute()["support_blues"] == 20 and second.compute()["support_blues"] == 10
    assert list(tmp_path.iterdir()) == []
    after = np.random.get_state()
    assert (after[1] == before[0]).all() and after[2] == before[1]


def test_softmax_is_exact_for_large_and_half_precision_logits():
    assert softmax(np.array([[1e4, 1e4 - np.log(3), -1e4]])) == pytest.approx(np.array([[0.75, 0.25, 0.0]]))
    assert softmax(np.float16([[1, 2, 3]])).dtype == np.float64
    assert softmax(np.float16([[1, 2, 3]])).sum() == pytest.approx(1, abs=1e-15)


def test_votes_equal_loops():
    rng = np.random.default_rng(1)
    track_index = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 8, 40)))
    probabilities = softmax(rng.normal(size=(len(track_index), 4)))
    soft, hard = (vote(probabilities, track_index, how) for how in ("soft", "hard"))
    ties = 0
    for track in range(40):
        rows = [row for row, index in zip(probabilities, track_index, strict=True) if index == track]
        mean = sum(rows) / len(rows)
        wins = [sum(row.argmax() == genre for row in rows) for genre in range(4)]
        best = [genre for genre in range(4) if wins[genre] == max(wins)]
        ties += len(best) > 1
        assert soft[track] == pytest.approx(mean)
        assert hard[track] == pytest.approx(np.array(wins) / len(rows), abs=1e-8)
        assert hard[track].argmax() == max(best, key=lambda genre: mean[genre])  # noqa: B023
    assert ties > 3


def test_hard_tie_goes_to_the_larger_mean_and_may_differ_from_soft():
    probabilities = np.array([[0.5, 0.1, 0.4], [0.1, 0.5, 0.4], [0.0, 0.6, 0.4], [0.6, 0.0, 0.4]])
    assert vote(probabilities, np.zeros(4, int), "soft").argmax() == 2
    hard = vote(probabilities, np.zeros(4, int), "hard")
    assert hard == pytest.approx(np.array([[0.5, 0.5, 0.0]]), abs=1e-8)
    assert vote(np.array([[0.6, 0.4], [0.1, 0.9]]), np.zeros(2, int), "hard").argmax() == 1


def test_vote_refuses_a_track_without_windows():
    with pytest.raises(ValueError, match=r"\[1\]"):
        vote(np.full((2, 2), 0.5), np.array([0, 2]), "soft")
    with pytest.raises(ValueError, match="soft.*hard.*mean"):
        vote(np.full((1, 2), 0.5), np.array([0]), "mean")
