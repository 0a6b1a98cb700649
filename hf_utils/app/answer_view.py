"""Answers as HTML: of each classifier the genres as bars, and over time. W windows, K genres."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hf_utils.app.asked_models import Answer, AskedModel
from hf_utils.cards.markup import load_template

# Of a tagger's many labels.
MOST_ROWS = 10
# A probability that is marked in the bar of what it became.
_LEAST_MARKED = 0.01


@dataclasses.dataclass(frozen=True)
class HeardSound:
    """What the page shows of a recording.

    Attributes:
        title: its name, or what was done to it.
        url: where the browser finds its sound.
        seconds: its length.
        facts, remarks: on the file.
    """

    title: str
    url: str
    seconds: float
    facts: str = ""
    remarks: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class _Cell:
    x: str
    width: str
    opacity: str
    title: str


@dataclasses.dataclass(frozen=True)
class _Row:
    genre: str
    percent: str
    share: str
    before_percent: str | None
    cells: list[_Cell]


def render_answers(
    sound: HeardSound, models: Sequence[AskedModel], answers: Sequence[Answer], before: Sequence[Answer] | None = None
) -> str:
    """Return the HTML of the answers of all classifiers; `before` are theirs without the noise."""
    earlier = before or [None] * len(answers)
    views = [_view(*each, sound.seconds) for each in zip(models, answers, earlier, strict=True)]
    ticks = [show_time(share * sound.seconds, sound.seconds) for share in (0, 0.5, 1)]
    return load_template("app_answers.html", autoescape=True).render(
        title=sound.title, url=sound.url, facts=sound.facts, remarks=sound.remarks, views=views, ticks=ticks
    )


def render_message(text: str, kind: str) -> str:
    """Return the HTML of a message: a `hint`, or a `refusal`."""
    return load_template("app_message.html", autoescape=True).render(text=text, kind=kind)


def _view(model: AskedModel, answer: Answer, before: Answer | None, seconds: float) -> dict:
    order = np.argsort(-answer.probabilities, kind="stable")[:MOST_ROWS]
    hidden = len(model.genres) - len(order)
    return {
        "name": model.name,
        "prediction": answer.prediction,
        "share": _describe_share(answer),
        "before": before and f"{before.prediction}, {_describe_share(before)}",
        "traits": "; ".join([*model.traits, *([f"{hidden} labels less likely"] if hidden else [])]),
        "rows": [_row(model.genres, k, answer, before, seconds) for k in order],
    }


def _describe_share(answer: Answer) -> str:
    """Return how probable the likeliest genre is, with its name where the answer is `unknown`."""
    share = show_share(answer.probabilities.max())
    return share if answer.prediction == answer.likeliest else f"likeliest: {answer.likeliest}, {share}"


def _row(genres: Sequence[str], k: int, answer: Answer, before: Answer | None, seconds: float) -> _Row:
    cells = []
    for (start, end), left, right, p in zip(
        answer.spans, *_find_borders(answer.spans, seconds), answer.windows[:, k], strict=True
    ):
        title = f"{genres[k]}, {show_time(start, seconds)} to {show_time(end, seconds)}: {show_share(p)}"
        cells.append(_Cell(*(f"{100 * x / seconds:.2f}" for x in (left, right - left)), f"{p:.3f}", title))
    p = answer.probabilities[k]
    was = 0.0 if before is None else before.probabilities[k]
    before_percent = f"{100 * was:.1f}" if was >= _LEAST_MARKED else None
    return _Row(genres[k], f"{100 * p:.1f}", show_share(p), before_percent, cells)


def _find_borders(spans: Sequence[tuple[float, float]], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where the part of each window begins and ends, (W,), in seconds: halfway between centres of windows."""
    centres = np.mean(spans, axis=1)
    between = (centres[1:] + centres[:-1]) / 2
    return np.r_[0.0, between], np.r_[between, seconds]


def show_share(p: float) -> str:
    """Return a probability in percent; one that is not 0 or 1 does not look so."""
    text = f"{100 * p:.0f}"
    if text == "0" and p > 0:
        return "< 1 %"
    return "> 99 %" if text == "100" and p < 1 else f"{text} %"


def show_time(seconds: float, whole: float) -> str:
    """Return minutes and seconds, such as 3:07; within a whole of less than 10 s with tenths."""
    if whole < 10:
        return f"0:{seconds:04.1f}"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
