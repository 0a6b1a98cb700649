"""Arms under corruptions: accuracy and calibration error, and every arm against the reference arm on the same tracks.

Runs are compared under the corruptions that all of them were tested under. Where some were tested under more, such as
those of one seed, they make a second sweep of their own. The comparisons of a sweep are two families, and Holm's
correction is for each: noise and the mean over kinds, which the report is about, and every other corruption.

B resamples of the tracks, N tracks, S seeds. Row 0 of resampled scores is the score itself.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hf_utils.report.corrupted_tests import CorruptionKey
from hf_utils.report.run_folders import Replicate, Table
from hf_utils.report.scores import Cell, Comparison, Score, compare_pairs, decide, find_pairs, summarise
from hf_utils.report.statistics import correct_holm
from hf_utils.results.display import OVERALL, show_corruption
from hf_utils.results.intervals import resample_tracks

# With more corruptions than that, nobody reads a row for each.
_MOST_SINGLE = 20


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the tracks are tested under: one corruption, the mean over the kinds of several, or none (clean tracks).

    `snr_db` is None where it is not one corruption by noise.
    """

    name: str
    corruptions: tuple[CorruptionKey, ...] = ()
    snr_db: float | None = None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs of a table that share corruptions, and how they fare under each.

    Attributes:
        table: with these runs only.
        clean: the condition of no corruption.
        noises: of the kind of noise with the most levels, from little noise to much.
        others: every other corruption, kind by kind; of more than 20 corruptions the means of the kinds.
        overall: the mean over kinds; None where there is one kind.
        accuracy: by (model, arm, condition).
        ece: the calibration error (S,) of each run, by (model, arm, condition).
        comparisons: of accuracy, by condition: of the clean tracks there is none, because the table has it.
    """

    table: Table
    clean: Condition
    noises: Sequence[Condition]
    others: Sequence[Condition]
    overall: Condition | None
    accuracy: Mapping[tuple[str, str, Condition], Score]
    ece: Mapping[tuple[str, str, Condition], np.ndarray]
    comparisons: Mapping[Condition, Sequence[Comparison]]

    @property
    def conditions(self) -> list[Condition]:
        """All of them: clean, noises, others, overall."""
        return [self.clean, *self.noises, *self.others, *filter(None, [self.overall])]

    @property
    def num_corruptions(self) -> int:
        """How many all of its runs were tested under."""
        return len({key for condition in self.conditions for key in condition.corruptions})

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return sorted({replicate.seed for replicate in self._replicates()})

    @property
    def benchmarks(self) -> list[str]:
        """Names and versions of the benchmarks that its corruptions are from; those of others have none."""
        return sorted({run.benchmark for replicate in self._replicates() for run in replicate.runs} - {""})

    def corruption_errors(self, cell: Cell) -> list[tuple[float, float | None]]:
        """Return mCE and relative mCE of each run of a cell; none unless all runs of the sweep have one benchmark.

        A cell of which a run lacks them has none, nor has one of folds, whose models have other test tracks each.
        """
        replicates = self.table.cells[cell]
        runs = [run for replicate in replicates for run in replicate.runs]
        is_whole = len(runs) == len(replicates) and all(run.mce is not None for run in runs)
        return [(run.mce, run.relative_mce) for run in runs] if is_whole and len(self.benchmarks) == 1 else []

    def _replicates(self) -> list[Replicate]:
        return [replicate for cell in self.table.cells.values() for replicate in cell]


def make_sweeps(table: Table, reference: str, *, num_resamples: int, seed: int = 0) -> list[Sweep]:
    """Return the sweep of all runs that were tested under corruptions, and that of those with more, if any have."""
    replicates = [replicate for cell in table.cells.values() for replicate in cell if replicate.corrupted]
    if not replicates:
        return []
    shared = _shared_corruptions(replicates)
    sweeps = [(table, shared)] if shared else []
    more = [replicate for replicate in replicates if len(replicate.corrupted) > len(shared)]
    if more and len(further := _shared_corruptions(more)) > len(shared):
        sweeps.append((table, further))
    num_tracks = len(table.track_ids)
    weights = np.vstack([np.ones(num_tracks), resample_tracks(num_tracks, num_resamples, seed)])
    return [_make_sweep(table, reference, corruptions, weights) for table, corruptions in sweeps]


def list_conflicts(table: Table) -> list[str]:
    """Return the names of corruptions that are not the same in all runs: their definition or a package differs."""
    keys = {key for cell in table.cells.values() for replicate in cell for key in replicate.corrupted}
    counts = Counter(key.name for key in keys)
    return sorted(name for name, count in counts.items() if count > 1)


def _shared_corruptions(replicates: Sequence[Replicate]) -> tuple[CorruptionKey, ...]:
    first, *rest = replicates
    return tuple(key for key in first.corrupted if all(key in replicate.corrupted for replicate in rest))


def _make_sweep(table: Table, reference: str, corruptions: tuple[CorruptionKey, ...], weights: np.ndarray) -> Sweep:
    cells = {
        cell: [replicate for replicate in replicates if set(corruptions) <= replicate.corrupted.keys()]
        for cell, replicates in table.cells.items()
    }
    table = dataclasses.replace(table, cells={cell: replicates for cell, replicates in cells.items() if replicates})
    levels = Counter(key.kind for key in corruptions if key.snr_db is not None)
    main_noise = max(levels, key=levels.get, default=None)
    of_noise = [key for key in corruptions if key.kind == main_noise and key.snr_db is not None]
    noises = [_condition([key]) for key in sorted(of_noise, key=lambda key: -key.snr_db)]
    kinds: dict[str, list[CorruptionKey]] = {}
    for key in corruptions:
        if key not in of_noise:
            kinds.setdefault(key.kind, []).append(key)
    if len(corruptions) > _MOST_SINGLE:
        others = [_condition(keys) for keys in kinds.values()]
    else:
        others = [_condition([key]) for keys in kinds.values() for key in keys]
    num_kinds = len({key.kind for key in corruptions})
    clean = Condition("no corruption")
    overall = Condition(OVERALL.replace("kinds", f"{num_kinds} kinds"), corruptions) if num_kinds > 1 else None
    averages = [overall] if overall else []
    accuracy, ece, resampled, answers = {}, {}, {}, {}
    for condition in [clean, *noises, *others, *averages]:
        answers[condition] = {cell: _answers(table, runs, condition) for cell, runs in table.cells.items()}
        resampled[condition] = {
            cell: values @ weights.T / weights.sum(axis=1) for cell, values in answers[condition].items()
        }
        for cell, runs in table.cells.items():
            accuracy[(*cell, condition)] = summarise(resampled[condition][cell])
            ece[(*cell, condition)] = _calibration_errors(table, runs, condition)
    comparisons = {}
    for family in ([*noises, *averages], others):
        comparisons |= _compare_family(table, reference, family, resampled, answers)
    return Sweep(table, clean, noises, others, overall, accuracy, ece, comparisons)


def _condition(keys: Sequence[CorruptionKey]) -> Condition:
    """Return the condition of one corruption, or of all severities of a kind."""
    first, *more = keys
    if more:
        return Condition(f"{show_corruption(first.kind)} (mean of {len(keys)})", tuple(keys))
    return Condition(show_corruption(first.name), (first,), first.snr_db)


def _compare_family(
    table: Table,
    reference: str,
    family: Sequence[Condition],
    resampled: Mapping[Condition, Mapping[Cell, np.ndarray]],
    answers: Mapping[Condition, Mapping[Cell, np.ndarray]],
) -> dict[Condition, list[Comparison]]:
    pairs = find_pairs(table, reference)
    num_tests = len(pairs) * len(family)
    found = [
        compare_pairs(pairs, resampled[condition], answers[condition], num_tests=num_tests) for condition in family
    ]
    corrected = iter(correct_holm([difference.p for differences in found for difference in differences]))
    comparisons = {}
    for condition, differences in zip(family, found, strict=True):
        comparisons[condition] = [
            Comparison(*pair.cell, difference, None, p := float(next(corrected)), decide(difference.mean, p))
            for pair, difference in zip(pairs, differences, strict=True)
        ]
    return comparisons


def _answers(table: Table, replicates: Sequence[Replicate], condition: Condition) -> np.ndarray:
    """Return (S, N): 1 where a replicate got the track right, else 0; over several corruptions the mean over kinds."""
    if not condition.corruptions:
        return np.array([replicate.probabilities.argmax(axis=1) == table.labels for replicate in replicates], float)
    right = {
        key: np.array([replicate.corrupted[key].chosen == table.labels for replicate in replicates], float)
        for key in condition.corruptions
    }
    return _mean_over_kinds(right)


def _calibration_errors(table: Table, replicates: Sequence[Replicate], condition: Condition) -> np.ndarray:
    """Return (S,); of pooled folds the mean over tracks, because each fold's model is judged by itself."""
    if condition.corruptions:
        errors = {
            key: np.array([replicate.corrupted[key].scores["ece"] for replicate in replicates])
            for key in condition.corruptions
        }
        return _mean_over_kinds(errors)
    return np.array([_calibration_error(table, replicate) for replicate in replicates])


def _calibration_error(table: Table, replicate: Replicate) -> float:
    from hf_utils.results.metrics import calibration_error  # here, because scikit-learn takes its time to import

    folds = [replicate.fold_index == fold for fold in np.unique(replicate.fold_index)]
    errors = [calibration_error(replicate.probabilities[rows], table.labels[rows]) for rows in folds]
    return float(np.average(errors, weights=[rows.sum() for rows in folds]))


def _mean_over_kinds(values: Mapping[CorruptionKey, np.ndarray]) -> np.ndarray:
    kinds: dict[str, list[np.ndarray]] = {}
    for key, value in values.items():
        kinds.setdefault(key.kind, []).append(value)
    return np.mean([np.mean(of_kind, axis=0) for of_kind in kinds.values()], axis=0)
