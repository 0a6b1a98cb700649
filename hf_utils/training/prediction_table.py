"""`predictions.csv`: what was found of the user's files, how sure it is, and what is left open. K genres."""

import csv
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_utils.errors import UserError
from hf_utils.files import write_csv

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.csv"

# What stands for a genre where the model is not sure enough; `hf_utils.tags` passes over it.
UNKNOWN = "unknown"

_COLUMNS = ["file", "prediction", "confidence", "margin", "calibrated"]


def format_row(probabilities: np.ndarray, genres: Sequence[str]) -> list[str]:
    """Return the likeliest genre, and the probabilities (K,)."""
    return [genres[probabilities.argmax()], *(f"{p:.6f}" for p in probabilities)]


def check_unknown(unknown_below: float | None, genres: Sequence[str]) -> None:
    """Raise UserError where "unknown" would not only mean what `--unknown_below` makes of it."""
    clashing = [genre for genre in genres if genre.casefold() == UNKNOWN]
    if unknown_below is not None and clashing:
        raise UserError(
            f"unknown_below is given, but a genre of the model is called {clashing[0]!r}: the table could not tell it "
            "from what the model is not sure of. Leave the option out: the column confidence has what it asks for"
        )


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """The table of one model, or of several together.

    Its columns: file; prediction, the likeliest genre, or `unknown` where that is less probable than `unknown_below`;
    confidence, the probability of the likeliest genre; margin, how much more that is than the next one's; calibrated,
    `yes` where the probabilities are by a temperature that was fitted; and the probability of every genre.
    """

    genres: Sequence[str]
    is_calibrated: bool
    unknown_below: float | None = None

    def write(self, path: Path, rows: Mapping[str, Sequence[str]]) -> None:
        """Write the rows of `format_row`, by file."""
        table = [[name, *self.judge(row), *row[1:]] for name, row in rows.items()]
        write_csv(path, [*_COLUMNS, *self.genres], table)
        if self.unknown_below is not None:
            num_unknown = sum(row[1] == UNKNOWN for row in table)
            text = "%d of %d files are unknown: no genre has a probability of %g"
            logger.info(text, num_unknown, len(table), self.unknown_below)

    def judge(self, row: Sequence[str]) -> list[str]:
        """Return prediction, confidence, margin and calibrated of a row of `format_row`."""
        genre, *probabilities = row
        first, second = sorted((0.0, *map(float, probabilities)))[:-3:-1]
        is_unknown = self.unknown_below is not None and first < self.unknown_below
        calibrated = "yes" if self.is_calibrated else "no"
        return [UNKNOWN if is_unknown else genre, f"{first:.6f}", f"{first - second:.6f}", calibrated]


def read_probabilities(path: Path) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Return the genres of a table, and {file: {genre: probability}}."""
    first = len(_COLUMNS)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    genres = header[first:]
    return genres, {row[0]: dict(zip(genres, map(float, row[first:]), strict=True)) for row in rows}
