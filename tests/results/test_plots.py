"""Pictures of results: every count in its cell, every name inside the picture, no display."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_utils.results.plots import (
    confusion_figure,
    count_confusions,
    decode_png,
    draw_confusion,
    encode_png,
    shorten,
)

ROOT = Path(__file__).resolve().parents[2]

HOSTILE = ["$\\frac{$", "<script>alert(1)</script>", "line\nbreak", "a" * 80, "ok"]


def make_set(labels, predictions, name="test"):
    return SimpleNamespace(name=name, labels=np.array(labels), predictions=np.array(predictions))


def test_confusion_counts_and_colours():
    figure = confusion_figure(make_set([0, 0, 0, 1], [0, 0, 1, 1]), ["blues", "rock"], note="demo")
    axes = figure.axes[0]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "2", (1, 0): "1", (1, 1): "1"}  # (column, row): rows are the true genres
    assert (axes.get_ylabel(), axes.get_title()) == ("true genre", "test: 4 tracks (demo)")


@pytest.mark.parametrize("genres", [["a", "b"], HOSTILE, [f"genre number {i:03d}" for i in range(32)]])
def test_everything_is_inside_the_picture(genres):
    labels = np.arange(len(genres))
    figure = confusion_figure(make_set(labels, labels[::-1], "$x_{"), genres)
    picture = encode_png(figure)
    array = decode_png(picture)
    assert array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.min() < 50
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
    assert picture.startswith(b"\x89PNG")


DRAW = """
import sys
from types import SimpleNamespace
import numpy
from hf_utils.results.plots import confusion_figure, decode_png, encode_png
evaluated = SimpleNamespace(name="test", labels=numpy.array([0, 1]), predictions=numpy.array([0, 1]))
print(decode_png(encode_png(confusion_figure(evaluated, ["a", "b"]))).shape[2], "matplotlib.pyplot" in sys.modules)
"""


def test_no_display_and_no_global_state():
    # In another process, since matplotlib reads the variable when it is imported; the backend asks for a display.
    environment = {**os.environ, "MPLBACKEND": "TkAgg", "DISPLAY": ":none"}
    command = [sys.executable, "-c", DRAW]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["3", "False"], done.stderr


def test_a_share_is_drawn_where_models_are_compared():
    figure = Figure()
    axes = figure.add_subplot()
    draw_confusion(axes, np.array([[2, 1], [0, 4]]), ["blues", "rock"], in_percent=True)
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "67", (1, 0): "33", (1, 1): "100"}


def test_confusions_of_several_models_are_counted_together():
    counts = count_confusions(np.array([0, 0, 1]), np.array([[0, 1, 1], [0, 0, 0]]), 2)
    assert counts.tolist() == [[3, 1], [1, 1]]


def test_names_fit_an_axis():
    assert [shorten(name) for name in HOSTILE[2:]] == ["line break", "a" * 17 + "…", "ok"]
