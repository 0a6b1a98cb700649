"""Mean corruption error (Hendrycks & Dietterich 2019): a model's errors under a benchmark, over those of a baseline.

    CE of a kind            the error, summed over severities, divided by that of the baseline
    relative CE of a kind   the same of what a kind adds to the error on the clean tracks
    mCE, relative mCE       means over kinds

Baselines are tables of errors in the folder `corruption_baselines` beside the file of corruptions;
`benchmarks/corruption_baseline.py` writes them. One fits the test tracks that it was measured on, and no others.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import datasets
import numpy as np

from hf_utils.augmentation.corruptions import Corruption
from hf_utils.data.split_record import summarize
from hf_utils.errors import UserError
from hf_utils.files import write_atomically

logger = logging.getLogger(__name__)

BASELINES_FOLDER = "corruption_baselines"

# The mean share of tracks that a kind must cost the baseline: a ratio to less is mostly chance.
_LEAST_ADDED_ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The errors of a baseline, each the share of test tracks that it gets wrong.

    Attributes:
        name: of the baseline, in words.
        data: the music and its split, in words.
        benchmark: name and version of the corruptions.
        tracks: a digest of the test tracks, by `digest_tracks`.
        clean_error: on the tracks as they are.
        errors: {kind: {severity: {"definition": of the `Corruption`, "error": under it}}}.
    """

    name: str
    data: str
    benchmark: str
    tracks: str
    clean_error: float
    errors: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the baseline in a JSON file. Raises UserError for anything else."""
        try:
            baseline = cls(**json.loads(path.read_text(encoding="utf-8")))
            # Every row, as whoever compares will read it.
            rows = [row for severities in baseline.errors.values() for row in severities.values()]
            baseline.compare(baseline.clean_error, {row["definition"]: row["error"] for row in rows})
            return baseline
        except (OSError, ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError) as error:
            raise UserError(
                f"{path} is no table of benchmarks/corruption_baseline.py ({error}): make it again, or remove it."
            ) from None

    def write(self, path: Path) -> None:
        """Write a JSON file, and its folder where that is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n")

    def compare(self, clean_error: float, errors: Mapping[str, float]) -> dict[str, Any] | None:
        """Return the mean corruption errors of a model, as ratios; None if not all corruptions were measured.

        Args:
            clean_error: of the model, on the tracks as they are.
            errors: {definition: the model's error}; of corruptions that the baseline lacks, too.

        Returns:
            `mce`, `relative_mce`, and per kind `ce` and `relative_ce`. What is relative to nothing is None: of kinds
            that cost the baseline next to nothing.
        """
        kinds = {}
        for kind, severities in self.errors.items():
            if not {row["definition"] for row in severities.values()} <= errors.keys():
                return None
            own = np.array([errors[row["definition"]] for row in severities.values()])
            others = np.array([row["error"] for row in severities.values()])
            added = float(others.mean()) - self.clean_error
            relative = (float(own.mean()) - clean_error) / added if added >= _LEAST_ADDED_ERROR else None
            kinds[kind] = {"ce": float(own.sum()) / float(others.sum()), "relative_ce": relative}
        relatives = [row["relative_ce"] for row in kinds.values() if row["relative_ce"] is not None]
        return {
            "baseline": self.name,
            "data": self.data,
            "mce": float(np.mean([row["ce"] for row in kinds.values()])),
            "relative_mce": float(np.mean(relatives)) if relatives else None,
            "kinds": kinds,
        }


def digest_tracks(tracks: datasets.Dataset) -> str:
    """Return a digest of names and samples of decoded tracks, in any order: what every corruption of them follows."""
    return summarize(map(" ".join, zip(tracks["track_id"], tracks["sha256"], strict=True)))


def read_baselines(corruptions_file: str | None) -> list[Baseline]:
    """Return the baselines beside a file of corruptions. Raises UserError for a file there that is none."""
    if corruptions_file is None:
        return []
    return [Baseline.read(path) for path in sorted(Path(corruptions_file).parent.glob(f"{BASELINES_FOLDER}/*.json"))]


def find_baseline(
    baselines: Sequence[Baseline], corruptions: Sequence[Corruption], tracks: datasets.Dataset
) -> Baseline | None:
    """Return the baseline that fits the corruptions and the decoded test tracks; say so if a benchmark has none."""
    benchmark = corruptions[0].benchmark if corruptions else None
    if benchmark is None:
        return None
    digest = digest_tracks(tracks)
    fitting = (baseline for baseline in baselines if (baseline.benchmark, baseline.tracks) == (benchmark, digest))
    found = next(fitting, None)
    if found is None:
        logger.info(
            "No mean corruption error: there is no baseline of %s for these test tracks. "
            "benchmarks/corruption_baseline.py makes one, for evaluations under all of it.",
            benchmark,
        )
    return found
