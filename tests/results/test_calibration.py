import math

import numpy as np
import pytest
import scipy.special
from made_results import make_windows

from hf_utils.results.calibration import apply_temperature, fit_temperature
from hf_utils.results.run_results import format_scores, score_windows


def test_the_temperature_of_tracks_of_one_window_by_hand():
    # All tracks have logits (2, 0), and three of four are of the first genre: its probability should be 3/4.
    logits, labels = np.tile([2.0, 0.0], (8, 1)), np.array([0, 0, 0, 1] * 2)
    temperature = fit_temperature(logits, np.arange(8), labels)
    assert temperature == pytest.approx(2 / math.log(3), rel=1e-3)
    assert apply_temperature(logits, np.arange(8), temperature)[:, 0] == pytest.approx(0.75, abs=1e-3)


def test_the_temperature_of_a_vote_is_that_of_a_search_without_cleverness():
    generator = np.random.default_rng(0)
    labels, index = np.arange(30) % 4, np.repeat(np.arange(30), 3)
    logits = 6 * generator.normal(size=(90, 4)) + 5 * np.eye(4)[labels[index]]
    losses = {}
    for tried in np.arange(0.5, 15, 0.01):
        probabilities = scipy.special.softmax(logits / tried, axis=1).reshape(30, 3, 4).mean(axis=1)
        losses[tried] = -np.log(probabilities[np.arange(30), labels]).mean()
    assert fit_temperature(logits, index, labels) == pytest.approx(min(losses, key=losses.get), abs=0.01)


@pytest.mark.parametrize("logits", [[[3.0, 0.0], [0.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 3.0], [3.0, 0.0]]])
def test_no_temperature_fits_where_all_are_right_or_nothing_is_known(logits):
    assert fit_temperature(np.array(logits), np.arange(2), np.array([0, 1])) is None


def test_a_temperature_changes_no_window_and_perhaps_a_vote():
    # Two windows are faintly for the first genre, one is strongly for the second.
    logits = np.array([[0.4, 0.0], [0.4, 0.0], [0.0, 4.0]])
    windows = make_windows([0], 3)
    plain = score_windows(logits, windows, ["blues", "rock"], "test")
    hot = plain.at_temperature(20.0, ["blues", "rock"])
    cold = plain.at_temperature(0.1, ["blues", "rock"])
    assert plain.predictions.tolist() == [1] and cold.calibrated.argmax() == 0 and hot.calibrated.argmax() == 1
    expected = scipy.special.softmax(logits / 0.1, axis=1).mean(axis=0)
    assert cold.calibrated[0] == pytest.approx(expected)
    assert (plain.scores["track"]["accuracy"], cold.scores["track_calibrated"]["accuracy"]) == (0.0, 1.0)
    assert cold.scores["track"] == plain.scores["track"] and cold.probabilities is plain.probabilities
    assert plain.at_temperature(None, ["blues", "rock"]) is plain


def test_a_second_line_has_the_calibrated_scores():
    windows, logits = make_windows([0, 1, 0, 1], 1), np.tile([2.0, 0.0], (4, 1))
    plain = score_windows(logits, windows, ["blues", "rock"], "test")
    table = format_scores([plain.at_temperature(1e6, ["blues", "rock"])]).splitlines()
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    # Half of the tracks are right, with a confidence of one half.
    assert table[3].split() == ["calibrated", "0.500", "0.333", "0.500", "0.693", "0.000"]
    assert float(table[2].split()[-2]) == pytest.approx(
        0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))), abs=1e-3
    )
