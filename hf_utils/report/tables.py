"""Runs to tables: who may be compared with whom.

Runs share a table only if they have the same protocol, split seed, tested folds, genres and test tracks. The runs of
all folds with one model, arm and seed are pooled into one: every track counts once, with the prediction of the run
that tested it. N tracks, K genres.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from hf_utils.report.runs import LeftOut, Run


@dataclasses.dataclass(frozen=True)
class Replicate:
    """One training seed of a cell: its run, or its runs of all folds; `fold_index` (N,) names the run of a track."""

    seed: int
    probabilities: np.ndarray
    fold_index: np.ndarray
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """Comparable runs. `cells` maps (model, arm) to replicates in the order of their seeds."""

    protocol: str
    split_seed: int | None
    num_folds: int | None
    folds: tuple[int, ...]
    genres: tuple[str, ...]
    demo: bool
    track_ids: tuple[str, ...]
    labels: np.ndarray
    cells: dict[tuple[str, str], list[Replicate]]

    @property
    def models(self) -> list[str]:
        """Names of models, sorted."""
        return sorted({model for model, _ in self.cells})

    def arms(self, reference: str) -> list[str]:
        """Names of arms, the reference first."""
        return sorted({arm for _, arm in self.cells}, key=lambda arm: (arm != reference, arm))


def make_tables(runs: Iterable[Run]) -> tuple[list[Table], list[LeftOut]]:
    """Return the tables, and the runs that are twice there: of those the first folder's is used."""
    replicates, left_out = {}, []
    for run in runs:
        fold = run.protocol.get("fold") if run.protocol["name"] == "artist_folds" else None
        group = (*_protocol_key(run), run.model, run.arm, run.seed)
        folds = replicates.setdefault(group, {})
        if fold in folds:
            left_out.append(
                LeftOut(run.folder, f"same model, arm, seed and fold as {folds[fold].folder}, which is used")
            )
        elif any(set(run.track_ids) & set(other.track_ids) for other in folds.values()):
            left_out.append(
                LeftOut(run.folder, "tests tracks that another fold tests, too: not the folds of one split")
            )
        else:
            folds[fold] = run
    tables = {}
    for (*protocol, model, arm, seed), folds in replicates.items():
        pooled, track_ids, labels = _pool_folds(seed, folds)
        tested = tuple(fold for fold in sorted(folds, key=str) if fold is not None)
        key = (*protocol, tested, track_ids, tuple(labels))
        table = tables.setdefault(key, Table(*protocol[:3], tested, *protocol[3:], track_ids, labels, {}))
        table.cells.setdefault((model, arm), []).append(pooled)
    for table in tables.values():
        for cell in table.cells.values():
            cell.sort(key=lambda replicate: replicate.seed)
    return sorted(tables.values(), key=lambda t: (t.demo, t.protocol, -len(t.track_ids), -len(t.cells))), left_out


def _protocol_key(run: Run) -> tuple:
    protocol = run.protocol
    return protocol["name"], protocol.get("seed"), protocol.get("num_folds"), run.genres, run.demo


def _pool_folds(seed: int, folds: dict[int | None, Run]) -> tuple[Replicate, tuple[str, ...], np.ndarray]:
    runs = list(folds.values())
    names = np.concatenate([run.track_ids for run in runs])
    order = np.argsort(names)
    fold_index = np.concatenate([np.full(len(run.track_ids), index) for index, run in enumerate(runs)])
    probabilities = np.concatenate([run.probabilities for run in runs])[order]
    labels = np.concatenate([run.labels for run in runs])[order]
    return Replicate(seed, probabilities, fold_index[order], tuple(runs)), tuple(names[order].tolist()), labels
