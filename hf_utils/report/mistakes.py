"""Missed tracks to listen to: the window in which a model erred most, and a picture of what decided there.

S samples, F frequency bands, T frames, W windows, K genres.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile

from hf_utils.audio import resample
from hf_utils.data.windows import EvaluationWindows
from hf_utils.errors import UserError
from hf_utils.files import file_stem
from hf_utils.models.attribution import Attribution, explain_window
from hf_utils.report.page import Picture, Player, Players, Text, percent
from hf_utils.results.plots import encode_png

_HOW_TO_READ = (
    "A player has the window in which the genre that the model chose led the true one by most, or its first 10 s: "
    "mono, at the model's sampling rate or 22 kHz. The picture has the same window as the model reads it, in grey. "
    "Red speaks for the chosen genre, blue for the true one, the more so the stronger the colour: gradient x input "
    "of the difference between their logits, summed over cells (Simonyan et al. 2013, arXiv 1312.6034; Shrikumar et "
    "al. 2016, arXiv 1605.01713). It is exact for a linear model. For others it says what small changes of this "
    "window would do: the further the sum of all cells is from the difference of the logits, the less it explains. "
    "Probabilities are those of the tables of predictions, without temperature."
)
_RIGHTS = (
    "The excerpts are parts of recordings, and lie in the folder audio beside this page. Somebody may hold the rights "
    "to them: without that folder the page can be passed on, and plays nothing."
)
# Longer windows are heard from their start.
_LONGEST_SECONDS = 10.0
_HIGHEST_RATE_HZ = 22_050
# Of Vorbis, from 0 for the best sound to 1 for the smallest file: 10 s take 60 kB at most.
_COMPRESSION = 0.7
# Cells of the picture: single bands and frames are too small to be seen.
_MOST_BANDS, _MOST_FRAMES = 24, 48
# Cells with larger shares than that percentage of all have the full colour.
_FULL_COLOUR_PERCENT = 98
_SIZE_INCHES, _DPI, _NUM_COLOURS = (4.2, 2.5), 150, 64
_CHOSEN_COLOUR, _TRUE_COLOUR = "#c0392b", "#1f5fbf"


@dataclasses.dataclass(frozen=True)
class TrackPart:
    """A part of a track: `samples` (S,) at `sample_rate` Hz, of which the first lies `start_seconds` into it.

    Of a short track, which a window repeats, only what is heard first counts: `num_own` samples.
    """

    samples: np.ndarray
    sample_rate: int
    start_seconds: float
    num_own: int

    @property
    def span(self) -> str:
        """From when to when, in words."""
        return f"{self.start_seconds:.1f} to {self.start_seconds + self.num_own / self.sample_rate:.1f} s"

    @property
    def heard(self) -> np.ndarray:
        """What a player has of it."""
        return self.samples[: min(self.num_own, round(_LONGEST_SECONDS * self.sample_rate))]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a model chose for a track, and the true genre: their names, and their places among its outputs."""

    chosen: str
    genre: str
    chosen_index: int
    genre_index: int

    def describe(self, probabilities: np.ndarray) -> str:
        """Return how sure the model is of both genres, by its probabilities (K,) of the track."""
        chosen, genre = (percent(probabilities[index], ".0f") for index in (self.chosen_index, self.genre_index))
        return f"{self.chosen} {chosen} %, {self.genre} {genre} %."

    def find_window(self, logits: np.ndarray) -> int:
        """Return the window in which the chosen genre leads the true one by most; `logits` (W, K)."""
        return int(np.argmax(logits[:, self.chosen_index] - logits[:, self.genre_index]))


def encode_excerpt(samples: np.ndarray, sample_rate: int) -> bytes:
    """Return mono `samples` (S,) as a small Ogg Vorbis file."""
    rate = min(sample_rate, _HIGHEST_RATE_HZ)
    samples, file = np.clip(resample(samples, sample_rate, rate), -1, 1), io.BytesIO()
    settings = {"format": "OGG", "subtype": "VORBIS", "compression_level": _COMPRESSION}
    with soundfile.SoundFile(file, "w", rate, 1, **settings) as sound:
        for start in range(0, len(samples), rate):  # libsndfile's encoder takes no long block
            sound.write(samples[start : start + rate])
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Listener:
    """A model with the tracks that it hears: `windows` covers them at the rate of its feature extractor.

    `prefix` begins the names of their files, where others may have tracks of these names.
    """

    model: Any
    feature_extractor: Any
    windows: EvaluationWindows
    prefix: str = ""

    def play(self, index: int, logits: np.ndarray, choice: Choice, lines: Sequence[str]) -> Player:
        """Return the track with that index, with the window that decided.

        Args:
            logits: (W, K) of the track's windows.
            lines: what is said of the track before what decided.
        """
        track, rate = self.windows.track_ids[index], self.feature_extractor.sampling_rate
        rows = np.flatnonzero(self.windows.track_index == index)
        row = int(rows[choice.find_window(logits)])
        samples, start = self.windows[row]["samples"], int(self.windows.start_samples[row])
        num_own = min(len(samples), self.windows.clips[index]["num_samples"] - start)
        part = TrackPart(samples, rate, start / rate, num_own)
        words, picture = self._explain(part, choice, track)
        heading = f"{track}: {choice.genre}, taken for {choice.chosen}"
        player = make_player(heading, track, part, [*lines, words], self.prefix)
        return dataclasses.replace(player, picture=picture)

    def _explain(self, part: TrackPart, choice: Choice, track: str) -> tuple[str, Picture | None]:
        """Return what decided in a window, in words and as a picture; the words say why where there is none."""
        indices = choice.chosen_index, choice.genre_index
        try:
            found = explain_window(self.model, self.feature_extractor, part.samples, *indices)
        except UserError as error:
            return f"No picture: {error}.", None
        words = (
            f"From {part.span} the logit of {choice.chosen} minus that of {choice.genre} is {found.margin:+.1f}; the "
            f"cells of the picture add up to {found.shares.sum():+.1f}."
        )
        seconds = len(part.samples) / part.sample_rate
        columns = sum_cells(found.shares.reshape(-1, found.shares.shape[-1]).sum(axis=0), _MOST_FRAMES)
        best, worst = (
            part.start_seconds + seconds * (at + 0.5) / len(columns) for at in (columns.argmax(), columns.argmin())
        )
        kind = "Waveform" if found.features.ndim == 1 else "Spectrogram"
        seen = (
            f"{kind} of {track}, {part.span}. Red, for {choice.chosen}, is strongest at {best:.1f} s; blue, for "
            f"{choice.genre}, at {worst:.1f} s."
        )
        file_name = f"mistake-{self.prefix}{file_stem(track)}.png"
        return words, Picture(seen, file_name, draw_attribution(found, part.start_seconds, seconds))


def show_players(heading: str, players: Sequence[Player]) -> list[Text | Players]:
    """Return players under a heading, with what must be known of their excerpts and pictures before."""
    rights = [Text(_RIGHTS, notice=True)] if any(player.ogg for player in players) else []
    reading = [Text(_HOW_TO_READ)] if any(player.picture is not None for player in players) else []
    return [*rights, *reading, Players(heading, players)]


def make_player(heading: str, track: str, part: TrackPart, lines: Sequence[str], prefix: str) -> Player:
    """Return the player of a part of a track, without a picture; `prefix` is as of `Listener`."""
    return Player(
        heading=heading,
        lines=lines,
        label=f"Excerpt of {track}, {part.span}",
        file_name=f"{prefix}{file_stem(track)}.ogg",
        ogg=encode_excerpt(part.heard, part.sample_rate),
    )


def draw_attribution(attribution: Attribution, start_seconds: float, seconds: float) -> bytes:
    """Return a PNG file of a window: what the model reads in grey, and what decided in red and blue."""
    from matplotlib.figure import Figure  # here, so that importing this module costs nothing

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained", dpi=_DPI)
    axes, span = figure.add_subplot(), (start_seconds, start_seconds + seconds)
    if attribution.features.ndim == 1:
        _draw_waveform(axes, attribution, span)
    else:
        _draw_spectrogram(axes, attribution, span)
    axes.set_xlabel("seconds of the track", fontsize=8)
    axes.tick_params(labelsize=8)
    return _shrink(encode_png(figure))


def _shrink(png: bytes) -> bytes:
    """Return a PNG file with few colours, which takes a third: ten of them are inside a page."""
    from PIL import Image  # of matplotlib

    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(_NUM_COLOURS, dither=Image.Dither.NONE).save(file, "PNG")
    return file.getvalue()


def _draw_spectrogram(axes, attribution: Attribution, span: tuple[float, float]) -> None:
    from matplotlib.colors import to_rgba_array

    place = {"extent": (*span, 0, len(attribution.features)), "origin": "lower", "aspect": "auto"}
    axes.imshow(attribution.features, cmap="gray_r", alpha=0.6, **place)
    shares = sum_cells(sum_cells(attribution.shares, _MOST_FRAMES).T, _MOST_BANDS).T
    colours = to_rgba_array([_CHOSEN_COLOUR, _TRUE_COLOUR])[(shares < 0).astype(int)]
    colours[..., 3] = _strength(shares)
    axes.imshow(colours, **place)
    axes.set_ylabel("frequency band", fontsize=8)


def _draw_waveform(axes, attribution: Attribution, span: tuple[float, float]) -> None:
    waveform, shares = attribution.features, sum_cells(attribution.shares, _MOST_FRAMES)
    edges = np.linspace(*span, len(shares) + 1)
    colours = [_TRUE_COLOUR if share < 0 else _CHOSEN_COLOUR for share in shares]
    heights = waveform / _above_zero(np.abs(waveform).max())
    axes.plot(np.linspace(*span, len(heights)), heights, color="0.75", linewidth=0.3)
    axes.bar(edges[:-1], np.sign(shares) * _strength(shares), np.diff(edges), align="edge", color=colours)
    axes.set(xlim=span, yticks=[])


def _strength(shares: np.ndarray) -> np.ndarray:
    """Return how strong the colours of shares are, from 0 to 1."""
    sizes = np.abs(shares)
    return np.minimum(sizes / _above_zero(np.percentile(sizes, _FULL_COLOUR_PERCENT)), 1)


def _above_zero(value: float) -> float:
    return max(float(value), np.finfo(np.float32).tiny)


def sum_cells(values: np.ndarray, most: int) -> np.ndarray:
    """Return `values` summed along their last axis into at most `most` cells of nearly equal size."""
    size = values.shape[-1]
    starts = np.linspace(0, size, min(most, size), endpoint=False).astype(int)
    return np.add.reduceat(values, starts, axis=-1)
