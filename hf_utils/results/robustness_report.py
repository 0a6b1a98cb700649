"""What a run says of its model's robustness: rows for results.json and a CSV file, means, a picture, a page.

Every score of a corruption stands beside its change against the clean test tracks. B resamples, N tracks.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_utils.cards.markup import Markdown, code_block, escape, render_template
from hf_utils.cards.model_card import PROTOCOLS, robustness_part, show_corruption, show_number
from hf_utils.disclosure import show_command, show_source
from hf_utils.files import write_atomically, write_csv
from hf_utils.results.intervals import percentile_interval, resample_tracks
from hf_utils.results.plots import encode_png
from hf_utils.results.robustness_picture import robustness_figure
from hf_utils.results.run_results import EvaluatedSet, align_columns
from hf_utils.training.robustness import CorruptedSet

OVERALL = "mean over kinds"
PICTURE_FILE = "robustness.png"
_SCORES = ("accuracy", "roc_auc", "f1")
_NUM_RESAMPLES = 2000


class RobustnessReport:
    """The test tracks under corruptions, against the same tracks as they are.

    Attributes:
        clean: the row of the clean tracks: kind "clean", no severity, no change.
        rows: one per corruption: kind, severity, snr_db (None where there is none), accuracy with the middle 95 % of
            its bootstrap over tracks (accuracy_low, accuracy_high), roc_auc and f1 (macro), and their `_change`s.
        means: {kind: mean of its severities' scores and changes}, and under `OVERALL` the mean of those.
    """

    def __init__(self, evaluations: Sequence[EvaluatedSet], corrupted: Sequence[CorruptedSet], genres: Sequence[str]):
        (clean,) = (evaluated for evaluated in evaluations if evaluated.name == "test")
        self._clean, self._corrupted, self._genres = clean, corrupted, genres
        self._resamples = resample_tracks(len(clean.labels), _NUM_RESAMPLES, seed=0)
        self.clean = self._row("clean", None, None, clean)
        self.rows = [
            self._row(c.corruption.kind, c.corruption.severity, c.corruption.snr_db, c.evaluated) for c in corrupted
        ]

    def _row(self, kind: str, severity: str | None, snr_db: float | None, evaluated: EvaluatedSet) -> dict[str, Any]:
        scores, clean = evaluated.scores["track"], self._clean.scores["track"]
        right = (evaluated.predictions == evaluated.labels).astype(float)
        low, high = percentile_interval(self._resamples @ right / len(right))
        return {
            "kind": kind,
            "severity": severity,
            "snr_db": snr_db,
            "accuracy": scores["accuracy"],
            "accuracy_low": low,
            "accuracy_high": high,
            **{name: scores[name] for name in _SCORES[1:]},
            **{f"{name}_change": scores[name] - clean[name] for name in _SCORES},
        }

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """See the class."""
        names = [*_SCORES, *(f"{name}_change" for name in _SCORES)]
        kinds: dict[str, list[Mapping]] = {}
        for row in self.rows:
            kinds.setdefault(row["kind"], []).append(row)
        means = {kind: _mean(rows, names) for kind, rows in kinds.items()}
        return {**means, OVERALL: _mean(list(means.values()), names)}

    def format_table(self) -> str:
        """Return the table for the terminal."""
        header = ["test tracks", "accuracy", "95 %", "change", "ROC-AUC", "change", "F1"]
        lines = []
        for row in self._table():
            band = f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}" if "accuracy_low" in row else ""
            name = show_corruption(" ".join(filter(None, (row["kind"], row["severity"]))))
            changes = [f"{row[f'{score}_change']:+.3f}" for score in ("accuracy", "roc_auc")]
            accuracy, auc, f1 = (f"{row[score]:.3f}" for score in _SCORES)
            lines.append([name, accuracy, band, changes[0], auc, changes[1], f1])
        return align_columns([header, *lines])

    def describe(self) -> dict[str, Any]:
        """Return the part of a card, for `card_tables.robustness_part`: rows, picture, summary."""
        overall, clean = self.means[OVERALL], self.clean
        summary = (
            f"The {len(self._clean.labels)} test tracks under {len(self.rows)} corruptions of {len(self.means) - 1} "
            f"kinds, with the same noise for every model. Accuracy: {show_number(clean['accuracy'])} on the clean "
            f"tracks, {show_number(overall['accuracy'])} as the mean over kinds. ROC-AUC: "
            f"{show_number(clean['roc_auc'])} and {show_number(overall['roc_auc'])}. Low and high are the middle 95 % "
            "of a bootstrap over tracks; changes are against the clean tracks."
        )
        columns = ["kind", "severity", "accuracy", "accuracy_low", "accuracy_high", "accuracy_change", "roc_auc"]
        columns += ["roc_auc_change", "f1"]
        rows = [{name: row.get(name, "") for name in columns} for row in self._table()]
        rows = [{**row, **{name: show_corruption(str(row[name] or "")) for name in columns[:2]}} for row in rows]
        return {"summary": summary, "picture": PICTURE_FILE, "rows": rows}

    def _table(self) -> list[dict[str, Any]]:
        """Return the rows for people: the clean tracks, every corruption, the mean of every kind, and that of all."""
        rows = [self.clean]
        for kind, mean in self.means.items():
            of_kind = [row for row in self.rows if row["kind"] == kind]
            rows += of_kind
            if len(of_kind) != 1:
                rows.append({"kind": kind, "severity": "mean" if of_kind else None, **mean})
        return rows

    def write(self, output_dir: str | os.PathLike, results: Mapping, *, page: bool, command: str) -> None:
        """Write `robustness.csv`, `robustness_predictions.csv` (the genre of every track), and the picture.

        `page` asks for a `README.md`, too: for a folder that holds no checkpoint, only what was measured on one.
        """
        output_dir = Path(output_dir)
        write_csv(
            output_dir / "robustness.csv", list(self.clean), [list(row.values()) for row in (self.clean, *self.rows)]
        )
        predictions = [
            [name, track_id, self._genres[label], self._genres[chosen]]
            for name, evaluated in [
                ("clean", self._clean),
                *((c.corruption.name, c.evaluated) for c in self._corrupted),
            ]
            for track_id, label, chosen in zip(
                evaluated.track_ids, evaluated.labels, evaluated.predictions, strict=True
            )
        ]
        header = ["corruption", "track_id", "label", "prediction"]
        write_csv(output_dir / "robustness_predictions.csv", header, predictions)
        note = " (demo data, not a result)" if results["demo"] else ""
        model = results["model"]["name"] if page else str(output_dir)
        title = f"{show_source(model)}: {len(self._clean.labels)} test tracks{note}"
        write_atomically(output_dir / PICTURE_FILE, encode_png(robustness_figure(self.clean, self.rows, title)))
        if page:
            write_atomically(output_dir / "README.md", self._page(results, command))

    def _page(self, results: Mapping, command: str) -> str:
        protocol = results["protocol"]
        return render_template(
            "robustness.md",
            model=show_source(results["model"]["name"]),
            dataset=show_source(results["data"]["dataset"]),
            demo=results["demo"],
            robustness=robustness_part(self.describe()),
            protocol=protocol["name"],
            protocol_text=Markdown(
                PROTOCOLS[protocol["name"]].format_map({k: escape(v) for k, v in protocol.items()})
            ),
            command=code_block(show_command(command), "bash"),
        )


def _mean(rows: Sequence[Mapping], names: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in names}
