"""Numbers and names as people read them."""

import math

import pytest

from hf_utils.results.display import show_change, show_corruption, show_score


@pytest.mark.parametrize(
    ("value", "score", "change"),
    [
        (0.12345, "0.123", "+0.123"),
        (-0.5, "-0.500", "-0.500"),
        (-0.0001, "0.000", "0.000"),
        (0.0, "0.000", "0.000"),
        (1, "1.000", "+1.000"),
        (None, "n/a", "n/a"),
        (math.nan, "n/a", "n/a"),
    ],
)
def test_scores_and_their_changes(value, score, change):
    assert (show_score(value), show_change(value)) == (score, change)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("20_db", "20 dB"),
        ("minus_30_db", "-30 dB"),
        ("8_khz", "8 kHz"),
        ("2_percent", "2 %"),
        ("64_kbps", "64 kbit/s"),
        ("low_pass", "low pass"),
        ("rate_0.9", "rate 0.9"),
        ("studbook", "studbook"),
    ],
)
def test_names_of_corruptions_have_units(name, shown):
    assert show_corruption(name) == shown
