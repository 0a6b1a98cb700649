"""What else a table shows: genres that are confused, tracks that are missed and their known faults, changes per genre.

N tracks, K genres, S seeds.
"""

import csv
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.arguments.run_options import differing_options
from hf_utils.data.gtzan import repetition_groups, track_facts
from hf_utils.disclosure import show_source, show_value
from hf_utils.report.run_folders import Replicate, Table
from hf_utils.results.plots import count_confusions

_PUBLISHED_PATH = Path(__file__).with_name("published_results.csv")
# In which runs of one cell may differ: a seed may be evaluated on more than the others.
_VARYING = frozenset({"seed", "fold", "corruptions", "eval_datasets"})
# What an arm is named by, where nobody named it.
_NAMING = frozenset({"train_datasets", "train_filter", "augmentation", "noise_folder"})


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """`count` of `total` predictions on tracks of `genre`, over all runs, were `chosen`."""

    genre: str
    chosen: str
    count: int
    total: int


@dataclasses.dataclass(frozen=True)
class MissedTrack:
    """A track that `missed` of `num_runs` runs got wrong, mostly as `chosen`; `known` says what is known of it."""

    track_id: str
    genre: str
    missed: int
    num_runs: int
    chosen: str
    known: str


def confusion_matrix(table: Table, replicates: Sequence[Replicate]) -> np.ndarray:
    """Return (K, K) counts over the replicates; rows are true genres."""
    chosen = np.array([replicate.probabilities.argmax(axis=1) for replicate in replicates])  # (S, N)
    return count_confusions(table.labels, chosen, len(table.genres))


def genre_recalls(table: Table, replicates: Sequence[Replicate]) -> np.ndarray:
    """Return (K,) shares of each genre's tracks that were recognised; NaN for a genre without a track."""
    counts = confusion_matrix(table, replicates)
    totals = counts.sum(axis=1)
    return np.divide(np.diag(counts), totals, out=np.full(len(totals), np.nan), where=totals > 0)


def confused_pairs(table: Table, limit: int) -> list[ConfusedPair]:
    """Return the pairs with the largest share of their genre, over all runs of the table."""
    counts = confusion_matrix(table, _all_replicates(table))
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    pairs = [
        ConfusedPair(table.genres[true], table.genres[chosen], int(counts[true, chosen]), int(totals[true]))
        for true, chosen in zip(*np.nonzero(counts), strict=True)
    ]
    return sorted(pairs, key=lambda pair: (-pair.count / pair.total, pair.genre, pair.chosen))[:limit]


def missed_tracks(table: Table, limit: int) -> list[MissedTrack]:
    """Return the tracks that most runs got wrong, most often missed first."""
    chosen = np.array([replicate.probabilities.argmax(axis=1) for replicate in _all_replicates(table)])  # (S, N)
    missed = (chosen != table.labels).sum(axis=0)
    found = []
    for index in np.lexsort((table.track_ids, -missed))[:limit]:
        if not missed[index]:
            break
        wrong = Counter(genre for genre in chosen[:, index].tolist() if genre != table.labels[index])
        name, genre = table.track_ids[index], table.genres[table.labels[index]]
        known = "" if table.demo else describe_track(name, genre)
        mostly = table.genres[wrong.most_common(1)[0][0]]
        found.append(MissedTrack(name, genre, int(missed[index]), len(chosen), mostly, known))
    return found


def describe_track(track_id: str, genre: str) -> str:
    """Return what is known of a track of GTZAN, faults first; "" for any other track."""
    facts = track_facts().get(track_id)
    if facts is None or facts["genre"] != genre:
        return ""
    known = []
    groups = repetition_groups()
    if track_id in groups:
        others = sorted(name for name, group in groups.items() if group == groups[track_id] and name != track_id)
        known.append(f"FAULT: the same recording as {', '.join(others)}")
    known.append(" – ".join(filter(None, (facts["artist"], facts["title"]))) or "artist and title unknown")
    return "; ".join(known)


def describe_data(table: Table) -> str:
    """Return the names of the table's datasets, and the number of tracks of every split; "" if no run says it."""
    runs = [run for replicate in _all_replicates(table) for run in replicate.runs]
    names = sorted({show_source(run.dataset) for run in runs if run.dataset})
    sizes = []
    for split in ("train", "validation", "test"):
        counts = sorted({run.real_tracks[split] for run in runs if split in run.real_tracks})
        if counts:
            most = f" to {counts[-1]:,}" if len(counts) > 1 else ""  # folds differ by a few tracks
            sizes.append(f"{counts[0]:,}{most} {split}")
    return "; ".join(filter(None, [", ".join(names), sizes and f"real tracks: {', '.join(sizes)}"]))


def count_evaluations(table: Table) -> str:
    """Return how often the table's test tracks were evaluated for it: who looks often enough finds something."""
    runs = [run for replicate in _all_replicates(table) for run in replicate.runs]
    corrupted = sum(len(run.corrupted) for run in runs)
    under = f", and {corrupted:,} on corrupted copies of them" if corrupted else ""
    return (
        f"Use of these tracks, evaluations for this table: {len(runs):,} on the tracks as they are, one per run"
        f"{under}. Those for anything else, such as trials of recipes, are not counted here."
    )


def arm_settings(table: Table, reference: str) -> dict[str, list[str]]:
    """Return {arm: lines of the options in which it differs from the reference arm of the same model}."""
    settings: dict[str, list[str]] = {arm: [] for arm in table.arms(reference) if arm != reference}
    for (model, arm), cell in table.cells.items():
        if arm == reference or (model, reference) not in table.cells:
            continue
        base, own = table.cells[model, reference][0].runs[0].config, cell[0].runs[0].config
        for name, (before, after) in differing_options(base, own, ignored=_VARYING).items():
            line = f"{name}: {_show_option(after)} instead of {_show_option(before)}"
            if line not in settings[arm]:
                settings[arm].append(line)
    return settings


def _show_option(value: Any) -> str:
    return "none" if value is None else show_value(value)


def mixed_cells(table: Table) -> list[str]:
    """Return a warning for every cell whose runs differ in more than seed and fold."""
    warnings = []
    for (model, arm), cell in sorted(table.cells.items()):
        first, *rest = [run for replicate in cell for run in replicate.runs]
        names = {name for run in rest for name in differing_options(first.config, run.config, ignored=_VARYING)}
        if names:
            warnings.append(f"{model}, {arm}: the runs differ in {', '.join(sorted(names))}, not only in their seed")
    return warnings


def confounded_arms(table: Table, reference: str) -> list[str]:
    """Return a warning for every arm that is named by its training mix alone, but differs from the reference in more.

    Whoever names arms, as a study does, may choose any options for them.
    """
    warnings = []
    for (model, arm), cell in sorted(table.cells.items()):
        if arm == reference or (model, reference) not in table.cells:
            continue
        base, own = table.cells[model, reference][0].runs[0], cell[0].runs[0]
        if base.is_named or own.is_named:
            continue
        names = sorted(differing_options(base.config, own.config, ignored=_VARYING | _NAMING))
        if base.planned_steps != own.planned_steps and not {"max_steps", "num_train_epochs"}.intersection(names):
            names.append(f"the number of steps ({own.planned_steps} instead of {base.planned_steps})")
        if names:
            warnings.append(
                f"{model}, {arm}: its run differs from that of {reference} in more than what it was trained on: "
                f"{', '.join(names)}. The verdict is about all of this together."
            )
    return warnings


def published_results(table: Table) -> list[dict[str, str]]:
    """Return the rows of `published_results.csv` of the table's protocol and number of test tracks."""
    if table.demo:
        return []
    with open(_PUBLISHED_PATH, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        row for row in rows if (row["protocol"], row["test_tracks"]) == (table.protocol, str(len(table.track_ids)))
    ]


def _all_replicates(table: Table) -> list[Replicate]:
    return [replicate for cell in table.cells.values() for replicate in cell]
