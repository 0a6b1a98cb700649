"""Pictures of the report, as PNG bytes. Names come from outside: they are shortened, and `$` is no mathematics."""

from collections.abc import Sequence

import numpy as np

from hf_utils.report.findings import confusion_matrix, genre_recalls
from hf_utils.report.run_folders import Table
from hf_utils.report.scores import BETTER, NO_DIFFERENCE, WORSE, Comparison, ScoredTable
from hf_utils.results.display import show_corruption
from hf_utils.results.plots import (
    MAX_GENRES_WITH_NUMBERS,
    draw_confusion,
    encode_png,
    name_genres,
    shorten,
    write_cells,
)

_COLOURS = {BETTER: "#1a7f37", WORSE: "#c0392b", NO_DIFFERENCE: "#57606a"}
_DPI = 100
_WIDTH_INCHES = 7.2


def draw_comparisons(comparisons: Sequence[Comparison], reference: str) -> bytes:
    """Return a forest plot: one row per comparison, its difference of accuracy with the 95 % interval."""
    figure, [[axes]] = _figure(_WIDTH_INCHES, 1.2 + 0.34 * len(comparisons))
    for row, comparison in enumerate(comparisons):
        low, mean, high = (
            100 * value for value in (comparison.accuracy.low, comparison.accuracy.mean, comparison.accuracy.high)
        )
        colour = _COLOURS[comparison.verdict]
        axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(mean, row, "o", color=colour, markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    names = [f"{shorten(comparison.model)}, {shorten(comparison.arm)}" for comparison in comparisons]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"accuracy against {shorten(reference)}, percentage points, 95 % interval", parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    return encode_png(figure)


def draw_confusions(table: Table, model: str, reference: str) -> bytes:
    """Return the confusion matrices of a model, one per arm, in percent of the true genre's tracks over all seeds."""
    arms = [arm for arm in table.arms(reference) if (model, arm) in table.cells]
    columns = 2 if len(arms) in (2, 4) else min(len(arms), 3)
    rows = -(-len(arms) // columns)
    side = max(3.7, 1.3 + 0.24 * len(table.genres))
    figure, grid = _figure(side * columns, (side + 0.2) * rows, rows, columns)
    for axes, arm in zip(grid.flat, arms, strict=False):
        counts = confusion_matrix(table, table.cells[model, arm])
        draw_confusion(axes, counts, table.genres, in_percent=True, font_size=7)
        axes.set_title(shorten(arm), parse_math=False)
    for axes in grid.flat[len(arms) :]:
        axes.remove()
    return encode_png(figure)


def draw_genre_changes(table: Table, reference: str) -> bytes | None:
    """Return the change of every genre's recall against the reference arm, in points; None without such an arm."""
    rows = [
        (model, arm)
        for model in table.models
        for arm in table.arms(reference)
        if arm != reference and {(model, arm), (model, reference)} <= table.cells.keys()
    ]
    if not rows:
        return None
    changes = np.array(
        [
            100 * (genre_recalls(table, table.cells[row]) - genre_recalls(table, table.cells[row[0], reference]))
            for row in rows
        ]
    )
    figure, [[axes]] = _figure(max(_WIDTH_INCHES, 2.4 + 0.62 * len(table.genres)), 1.6 + 0.36 * len(rows))
    limit = max(10.0, np.nanmax(np.abs(changes), initial=0))
    axes.imshow(changes, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    name_genres(axes.set_xticks, table.genres, rotation=45, ha="right", rotation_mode="anchor")
    labels = [f"{shorten(model)}, {shorten(arm)}" for model, arm in rows]
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    if len(table.genres) <= MAX_GENRES_WITH_NUMBERS:
        texts = [[f"{change:+.0f}" for change in row] for row in changes]
        shown = np.isfinite(changes) & (np.round(changes) != 0)
        write_cells(axes, texts, shown=shown, light=np.abs(changes) > 0.6 * limit, font_size=7)
    return encode_png(figure)


def draw_robustness(scored: ScoredTable) -> bytes | None:
    """Return accuracy over severity, a panel per kind of corruption and a line per cell; None if nothing is measured.

    A line is the mean over seeds, its band the lowest and highest seed.
    """
    kinds, lines = _collect_robustness(scored)
    if not kinds:
        return None
    columns = min(len(kinds), 2)
    rows = -(-len(kinds) // columns)
    figure, grid = _figure(4.2 * columns, 3.2 * rows + 0.5, rows, columns)
    for axes, (kind, rows_of_kind) in zip(grid.flat, kinds.items(), strict=False):
        severities = list(dict.fromkeys(row["severity"] for row in rows_of_kind))
        _draw_kind(axes, kind, any(row.get("snr_db") is not None for row in rows_of_kind), severities, lines)
    for axes in grid.flat[len(kinds) :]:
        axes.remove()
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {name: handle for pair in drawn for handle, name in zip(*pair, strict=True)}
    legend = figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return encode_png(figure)


def _draw_kind(axes, kind: str, by_snr: bool, severities: list, lines: dict) -> None:
    # Severities with names stand side by side, in the order in which they were measured.
    named = not by_snr and not all(isinstance(severity, (int, float)) for severity in severities)
    for index, (name, runs) in enumerate(lines.items()):
        points: dict[float, list[float]] = {}
        for row in (row for run in runs for row in run if row["kind"] == kind):
            x = row.get("snr_db") if by_snr else row["severity"]
            x = severities.index(x) if named else x
            if isinstance(x, (int, float)) and isinstance(row["accuracy"], (int, float)):
                points.setdefault(float(x), []).append(100 * row["accuracy"])
        if points:
            xs, ys = zip(*sorted(points.items()), strict=True)
            style = {"color": f"C{index % 10}", "linestyle": ("-", "--", ":")[index // 10 % 3]}
            axes.plot(xs, [np.mean(y) for y in ys], marker="o", markersize=3, label=name, **style)
            axes.fill_between(xs, [min(y) for y in ys], [max(y) for y in ys], color=style["color"], alpha=0.15)
    if named:
        names = [shorten(show_corruption(str(severity))) for severity in severities]
        axes.set_xticks(range(len(names)), names, parse_math=False)
    if by_snr:
        axes.invert_xaxis()  # from little noise to much
    axes.set_title(shorten(show_corruption(str(kind))), parse_math=False)
    axes.set(xlabel="signal to noise, dB" if by_snr else "severity", ylabel="accuracy, %")
    axes.grid(alpha=0.3)


def _collect_robustness(scored: ScoredTable) -> tuple[dict, dict]:
    """Return {kind: its rows}, and {name of a cell: one list of rows per run}."""
    table = scored.table
    lines, kinds = {}, {}
    for model in table.models:
        for arm in table.arms(scored.reference):
            cell = table.cells.get((model, arm), ())
            runs = [run.robustness for replicate in cell for run in replicate.runs if run.robustness]
            if runs:
                lines[f"{shorten(model)}, {shorten(arm)}"] = runs
            for row in (row for run in runs for row in run):
                kinds.setdefault(row["kind"], []).append(row)
    return kinds, lines


def _figure(width: float, height: float, rows: int = 1, columns: int = 1):
    from matplotlib.figure import Figure  # here, so that importing this module costs nothing

    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, grid
