"""How scores and the names of corruptions are written for people: the same on cards, pages, pictures and terminals."""

import math

# A score under several corruptions: of the severities of each kind the mean, and of those the mean.
OVERALL = "mean over kinds"
_UNITS = {"db": "dB", "khz": "kHz", "hz": "Hz", "percent": "%", "kbps": "kbit/s"}


def show_score(value: float | None) -> str:
    """Return a score with three decimals, n/a where it is undefined (None or NaN)."""
    if value is None or math.isnan(value):
        return "n/a"
    return f"{round(value, 3) + 0.0:.3f}"  # the sum turns -0.0 into 0.0


def show_change(value: float | None) -> str:
    """Return a difference of scores with its sign; 0.000 has none."""
    text = show_score(value)
    return text if text in ("n/a", "0.000") or text.startswith("-") else f"+{text}"


def show_corruption(name: str) -> str:
    """Return a kind or severity of a file of corruptions as people write it: minus_3_db is -3 dB, 2_percent is 2 %."""
    return " ".join(_UNITS.get(word, word) for word in name.split("_")).replace("minus ", "-")
