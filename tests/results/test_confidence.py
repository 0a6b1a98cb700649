import math

import numpy as np
import pytest

from hf_utils.results.confidence import (
    Judged,
    accuracy_by_coverage,
    describe_confidence,
    find_threshold,
    keep_from,
    tell_thresholds,
)


def judged(confidence, is_right) -> Judged:
    return Judged(np.array(confidence, float), np.array(is_right, bool))


def test_accuracy_of_the_surest_tracks_by_hand():
    found = judged([0.6, 0.9, 0.7, 0.8], [1, 1, 1, 0])
    assert accuracy_by_coverage(found, (1.0, 0.75, 0.5, 0.25, 0.01)) == [3 / 4, 2 / 3, 1 / 2, 1, 1]


def test_equally_sure_tracks_are_kept_by_chance():
    assert accuracy_by_coverage(judged([0.5] * 10, [1, 0] * 5)) == pytest.approx([0.5] * 10)
    # The surest is wrong; of the other three, two of which are right, one or two are kept.
    assert accuracy_by_coverage(judged([0.9, 0.5, 0.5, 0.5], [0, 1, 1, 0]), (0.5, 0.75)) == pytest.approx(
        [(2 / 3) / 2, (4 / 3) / 3]
    )


def test_what_a_threshold_keeps_has_an_exact_interval():
    found = keep_from(judged([0.9] * 10 + [0.2] * 5, [1] * 10 + [0] * 5), 0.9)
    # All of ten: the lower end p has p ** 10 = 2.5 %.
    assert found == pytest.approx({"kept": 10, "tracks": 15, "precision": 1, "low": 0.025**0.1, "high": 1})
    nothing = keep_from(judged([0.5], [1]), 0.6)
    assert nothing["kept"] == 0 and all(math.isnan(nothing[key]) for key in ("precision", "low", "high"))


def test_the_lowest_threshold_that_is_right_often_enough():
    found = judged([0.95, 0.9, 0.812345, 0.7, 0.6], [1, 0, 1, 1, 0])
    assert find_threshold(found, 0.5) == 0.6 and find_threshold(found, 0.75) == 0.7
    assert find_threshold(found, 0.9) == 0.95
    assert find_threshold(judged([0.812345, 0.5], [1, 0]), 0.9) == 0.8123  # rounded down, so that it keeps the track
    assert find_threshold(judged([0.9, 0.8], [0, 1]), 0.9) is None


def test_sets_and_corruptions_are_judged_by_the_thresholds_of_validation():
    validation, test = judged([0.8, 0.6, 0.4], [1, 1, 0]), judged([0.7, 0.5], [1, 1])
    severities = [judged([0.9, 0.1], [1, 0]), judged([0.6, 0.2], [0, 0])]
    found = describe_confidence({"validation": validation, "test": test}, {"hum": severities}, is_calibrated=True)
    assert found["thresholds"] == {"0.9": 0.6, "0.95": 0.6} and found["is_calibrated"]
    assert (found["sets"]["test"]["kept"]["0.9"]["kept"], found["sets"]["test"]["tracks"]) == (1, 2)
    hum = found["corruptions"]["hum"]
    assert hum["kept"]["0.9"] == {"kept": 2, "tracks": 4, "precision": 0.5} and hum["accuracy"]["1"] == 0.25
    first, _ = tell_thresholds(found)
    assert first.startswith(
        "For 90 % right: --unknown_below 0.6 keeps 2 of 3 tracks of validation, 100 % of them right"
    )
    assert "(95 % interval 15.8 % to 100 %); 1 of 2 tracks of test, 100 % of them" in first  # 0.025 ** (1 / 2)


def test_it_is_told_where_no_threshold_is_high_enough():
    found = describe_confidence({"validation": judged([0.9, 0.8], [0, 1])}, {}, is_calibrated=False)
    assert found["thresholds"] == {"0.9": None, "0.95": None} and found["sets"]["validation"]["kept"] == {}
    assert tell_thresholds(found)[1] == "For 95 % right: no probability is high enough on the 2 tracks of validation."
