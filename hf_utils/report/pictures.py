"""Pictures of the report, as PNG bytes. Names come from outside: they are shortened, and `$` is no mathematics."""

from collections.abc import Sequence

import numpy as np

from hf_utils.report.findings import confusion_matrix, genre_recalls
from hf_utils.report.run_folders import Table
from hf_utils.report.scores import BETTER, NO_DIFFERENCE, WORSE, Comparison
from hf_utils.report.sweeps import Condition, Sweep
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
# More rows than that are drawn below the curves.
_MOST_ROWS_BESIDE = 14


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


def draw_sweep(sweep: Sweep, model: str, reference: str) -> bytes:
    """Return accuracy of a model's arms under corruptions: curves over the noise, and a row per other corruption.

    Bands and bars are 95 % intervals over test tracks of the mean over seeds.
    """
    arms = [arm for arm in sweep.table.arms(reference) if (model, arm) in sweep.table.cells]
    rows = [*sweep.others, *filter(None, [sweep.overall])]
    panels = [draw for draw, shown in ((_draw_noise, sweep.noises), (_draw_others, rows)) if shown]
    height = 1.4 + len(rows) * (0.1 + 0.11 * len(arms))
    if len(rows) > _MOST_ROWS_BESIDE:
        heights = [4.2, height] if sweep.noises else [height]
        figure, grid = _figure(_WIDTH_INCHES, sum(heights), len(panels), height_ratios=heights)
    else:
        figure, grid = _figure(4.7 * len(panels), max(4.2 if sweep.noises else 2.0, height), columns=len(panels))
    for axes, draw in zip(grid.flat, panels, strict=True):
        draw(axes, sweep, model, arms)
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(shorten(model), parse_math=False, fontsize=11)
    return encode_png(figure)


def _draw_noise(axes, sweep: Sweep, model: str, arms: Sequence[str]) -> None:
    conditions = [sweep.clean, *sweep.noises]
    for index, arm in enumerate(arms):
        lows, means, highs = np.transpose([_interval(sweep, model, arm, condition) for condition in conditions])
        style = _arm_style(index)
        axes.plot(
            range(len(conditions)),
            means,
            marker=style["marker"],
            markersize=5,
            color=style["color"],
            label=shorten(arm),
        )
        axes.fill_between(range(len(conditions)), lows, highs, color=style["color"], alpha=0.13, linewidth=0)
    axes.set_xticks(range(len(conditions)), ["clean", *(f"{condition.snr_db:g}" for condition in sweep.noises)])
    kind = shorten(show_corruption(sweep.noises[0].corruptions[0].kind))
    axes.set_xlabel(f"{kind}: music to noise (SNR), dB", parse_math=False)
    axes.set(ylabel="accuracy, %", ylim=(0, 100))
    axes.grid(alpha=0.3)


def _draw_others(axes, sweep: Sweep, model: str, arms: Sequence[str]) -> None:
    rows = [*sweep.others, *filter(None, [sweep.overall])]
    for index, arm in enumerate(arms):
        shift = 0.22 * (index - (len(arms) - 1) / 2) * min(1, 3 / len(arms))
        style = _arm_style(index)
        for row, condition in enumerate(rows):
            low, mean, high = _interval(sweep, model, arm, condition)
            axes.plot([low, high], [row + shift] * 2, color=style["color"], linewidth=1.2, alpha=0.6)
            label = shorten(arm) if row == 0 else None
            axes.plot(mean, row + shift, style["marker"], color=style["color"], markersize=5, label=label)
    axes.set_yticks(range(len(rows)), [shorten(condition.name, 28) for condition in rows], parse_math=False)
    axes.set(xlabel="accuracy, %", xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)


def _interval(sweep: Sweep, model: str, arm: str, condition: Condition) -> tuple[float, float, float]:
    score = sweep.accuracy[model, arm, condition]
    return 100 * score.low, 100 * score.mean, 100 * score.high


def _arm_style(index: int) -> dict[str, str]:
    return {"color": f"C{index % 10}", "marker": "os^Dv"[index % 5]}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **layout):
    from matplotlib.figure import Figure  # here, so that importing this module costs nothing

    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    grid = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, grid
