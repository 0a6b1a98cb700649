"""Pictures of results. Figures are made without pyplot: no display, no global state, nothing to close."""

import io
from collections.abc import Sequence

import numpy as np

MAX_GENRES_WITH_COUNTS = 30
_LONGEST_NAME = 18


def confusion_figure(evaluated, genres: Sequence[str], note: str = ""):
    """Return a matplotlib Figure of the confusion matrix of an `EvaluatedSet`; `note` ends its title.

    Rows are true genres, columns chosen ones (soft vote). Cells
    hold counts and are coloured by the share of their row, so that genres of different size compare.
    """
    from matplotlib.figure import Figure  # here, because importing this module shall cost nothing

    num_genres = len(genres)
    cells = evaluated.labels * num_genres + evaluated.predictions
    counts = np.bincount(cells, minlength=num_genres**2).reshape(num_genres, num_genres)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3.0 + 0.42 * num_genres, 18.0)
    figure = Figure(figsize=(side + 1.4, side), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true genre's tracks", fraction=0.046, pad=0.03)
    names = [shorten(genre) for genre in genres]
    axes.set_xticks(range(num_genres), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(num_genres), names, parse_math=False)
    axes.set(xlabel="chosen genre", ylabel="true genre")
    title = f"{shorten(evaluated.name)}: {len(evaluated.labels)} tracks"
    axes.set_title(f"{title} ({note})" if note else title, parse_math=False, fontsize=11)
    if num_genres <= MAX_GENRES_WITH_COUNTS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=9)
    return figure


def shorten(name: str) -> str:
    """Return `name` on one line and short enough for an axis."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def encode_png(figure) -> bytes:
    """Return the PNG file of a Figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def figure_to_array(figure) -> np.ndarray:
    """Return a Figure as (H, W, 3) uint8, what TensorBoard's `add_image(..., dataformats="HWC")` takes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
