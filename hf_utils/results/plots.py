"""Pictures of results. Figures are made without pyplot: no display, no global state, nothing to close. K genres."""

import io
from collections.abc import Sequence

import numpy as np

MAX_GENRES_WITH_NUMBERS = 30
_LONGEST_NAME = 18


def confusion_figure(evaluated, genres: Sequence[str], note: str = ""):
    """Return a matplotlib Figure of the confusion matrix of an `EvaluatedSet`, in counts; `note` ends its title."""
    from matplotlib.figure import Figure  # here, so that importing this module costs nothing

    side = min(3.0 + 0.42 * len(genres), 18.0)
    figure = Figure(figsize=(side + 1.4, side), layout="compressed", dpi=120)
    axes = figure.add_subplot()
    counts = count_confusions(evaluated.labels, evaluated.predictions, len(genres))
    image = draw_confusion(axes, counts, genres)
    figure.colorbar(image, ax=axes, label="share of the true genre's tracks", fraction=0.046, pad=0.03)
    axes.set(xlabel="chosen genre", ylabel="true genre")
    title = f"{shorten(evaluated.name)}: {len(evaluated.labels)} tracks"
    axes.set_title(f"{title} ({note})" if note else title, parse_math=False, fontsize=11)
    return figure


def count_confusions(labels: np.ndarray, chosen: np.ndarray, num_genres: int) -> np.ndarray:
    """Return (K, K) counts, rows the true genres; `labels` (N,), `chosen` (N,) or, of several models, (S, N)."""
    cells = (labels * num_genres + chosen).ravel()
    return np.bincount(cells, minlength=num_genres**2).reshape(num_genres, num_genres)


def draw_confusion(axes, counts: np.ndarray, genres: Sequence[str], *, in_percent: bool = False, font_size: int = 9):
    """Draw a confusion matrix of (K, K) counts into `axes`; return its matplotlib image.

    Cells are coloured by the share of their row, the true genre, so that genres of different size compare; they show
    the count or, `in_percent`, the share.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    name_genres(axes.set_xticks, genres, rotation=45, ha="right", rotation_mode="anchor")
    name_genres(axes.set_yticks, genres)
    if len(genres) <= MAX_GENRES_WITH_NUMBERS:
        texts = [[f"{100 * share:.0f}" for share in row] for row in shares] if in_percent else counts.astype(str)
        write_cells(axes, texts, shown=np.char.not_equal(texts, "0"), light=shares > 0.55, font_size=font_size)
    return image


def name_genres(set_ticks, names: Sequence[str], **style) -> None:
    """Write shortened names at the ticks of `set_ticks`, a method of axes; `$` in them is no mathematics."""
    set_ticks(range(len(names)), [shorten(name) for name in names], parse_math=False, **style)


def write_cells(axes, texts, *, shown: np.ndarray, light: np.ndarray, font_size: int) -> None:
    """Write a text into each cell of an image that is `shown`, in white where `light`; all (rows, columns)."""
    for row, column in zip(*np.nonzero(shown), strict=True):
        colour = "white" if light[row, column] else "black"
        axes.text(column, row, texts[row][column], ha="center", va="center", color=colour, fontsize=font_size)


def shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return `name` on one line and short enough for an axis: of at most `longest` characters."""
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= longest else name[: longest - 1] + "…"


def encode_png(figure) -> bytes:
    """Return the PNG file of a Figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def decode_png(picture: bytes) -> np.ndarray:
    """Return a PNG file as (H, W, 3) uint8, what TensorBoard's `add_image(..., dataformats="HWC")` takes."""
    from PIL import Image  # of matplotlib

    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
