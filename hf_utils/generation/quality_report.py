"""How synthetic clips differ from the real training clips, per genre: kernel distance, loudness and spectrum.

A distance means nothing alone: beside each stands that of two halves of the real clips, at the same sizes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from hf_utils import audio
from hf_utils.cards.markup import table
from hf_utils.data.clips import fold_genre, genre_names, load_clips
from hf_utils.data.waveforms import read_samples
from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.files import write_atomically, write_csv
from hf_utils.generation.kernel_distance import kernel_distance, median_bandwidth
from hf_utils.generation.pictures import report_figure
from hf_utils.models.embeddings import Embedder, make_embedder
from hf_utils.results.plots import encode_png
from hf_utils.seeding import derive_seed

REPORT_FOLDER = "report"
NUM_DRAWS = 20
STATISTICS = ("rms_db", "centroid_hz", "flatness_db")
_FRAME, _HOP = 2048, 1024
_MIN_CLIPS = 4


def write_report(
    folder: Path,
    genres: Sequence[str],
    real: datasets.Dataset,
    checkpoint: str,
    device: torch.device,
    *,
    sample_rate: int,
    seed: int,
) -> str:
    """Write report/quality.md, .csv and .png into a finished dataset folder; return the table.

    Args:
        real: decoded training clips at `sample_rate`; those of other genres are left out.
        checkpoint: whose embeddings are compared.
        seed: of the halves and subsets that are drawn.

    Raises:
        UserError: a genre has fewer than four real or two synthetic clips, or the checkpoint is no audio model.
    """
    embed = make_embedder(checkpoint, device)
    synthetic = load_clips(str(folder), genres=list(genres))
    labels = [fold_genre(name, genres) for name in genre_names(real)]
    keep = [row for row, label in enumerate(real["label"]) if labels[label] is not None]
    heard = ((genres.index(labels[row["label"]]), read_samples(row)) for row in (real[index] for index in keep))
    of_real = measure_clips(heard, len(keep), sample_rate, embed, "Real clips")
    made = ((row["label"], audio.load(row["audio"]["bytes"], sample_rate)) for row in synthetic)
    of_made = measure_clips(made, len(synthetic), sample_rate, embed, "Synthetic clips")
    rows = [compare_genre(genre, of_real[label], of_made[label], seed) for label, genre in enumerate(genres)]
    header = list(rows[0])
    name = show_source(checkpoint)
    text = table(header, [[_format(row[key]) for key in header] for row in rows])
    write_csv(folder / REPORT_FOLDER / "quality.csv", header, [[row[key] for key in header] for row in rows])
    write_atomically(folder / REPORT_FOLDER / "quality.md", _describe(name, text))
    write_atomically(folder / REPORT_FOLDER / "quality.png", encode_png(report_figure(rows, name)))
    return text


def measure_clips(
    clips: Iterable[tuple[int, np.ndarray]], total: int, sample_rate: int, embed: Embedder, title: str
) -> dict[int, dict[str, np.ndarray]]:
    """Return per label `embeddings` (N, D) and the `STATISTICS`, (N,) each; one clip is in memory at a time."""
    measured: dict[int, dict[str, list]] = {}
    for label, samples in tqdm(clips, total=total, desc=title, unit="clip"):
        values = {"embeddings": embed(samples, sample_rate).astype(np.float64), **describe_sound(samples, sample_rate)}
        for key, value in values.items():
            measured.setdefault(label, {}).setdefault(key, []).append(value)
    return {label: {key: np.stack(values) for key, values in lists.items()} for label, lists in measured.items()}


def describe_sound(samples: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Return loudness, spectral centroid and spectral flatness of a clip (T,), the latter two of its mean spectrum.

    Flatness is the geometric over the arithmetic mean of the power: 0 dB for white noise, far below for tones.
    """
    starts = range(0, max(samples.size - _FRAME, 0) + 1, _HOP)
    frames = np.stack([audio.cut_window(samples, start, _FRAME) for start in starts]) * np.hanning(_FRAME)
    power = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0) + 1e-20
    hz = np.fft.rfftfreq(_FRAME, 1 / sample_rate)
    return {
        "rms_db": audio.rms_db(samples),
        "centroid_hz": float((hz * power).sum() / power.sum()),
        "flatness_db": float(10 * (np.log10(power).mean() - np.log10(power.mean()))),
    }


def compare_genre(genre: str, real: dict | None, made: dict | None, seed: int) -> dict:
    """Return a row of the report: mean and spread over draws of equal size, and the means of the statistics.

    Raises:
        UserError: too few clips for a distance.
    """
    num_real, num_made = (len(each["embeddings"]) if each else 0 for each in (real, made))
    if num_real < _MIN_CLIPS or num_made < 2:
        raise UserError(
            f"report: {genre} has {num_real} real training clips and {num_made} synthetic ones; expected "
            f"{_MIN_CLIPS} and 2 or more for a distance"
        )
    first, second = real["embeddings"], made["embeddings"]
    size = min(num_real // 2, num_made)
    bandwidth = median_bandwidth(np.concatenate([first, second]))
    generator = np.random.default_rng(derive_seed(seed, "report", genre))
    distances = []
    for _ in range(NUM_DRAWS):
        order, chosen = generator.permutation(num_real), generator.permutation(num_made)[:size]
        half, other = first[order[:size]], first[order[size : 2 * size]]
        distances.append([kernel_distance(second[chosen], half, bandwidth), kernel_distance(other, half, bandwidth)])
    (to_made, to_real), (made_spread, real_spread) = np.mean(distances, axis=0), np.std(distances, axis=0)
    row = {"genre": genre, "real": num_real, "synthetic": num_made, "compared": size}
    row |= {"mmd_synthetic": float(to_made), "mmd_synthetic_sd": float(made_spread)}
    row |= {"mmd_real": float(to_real), "mmd_real_sd": float(real_spread)}
    for name in STATISTICS:
        row |= {f"{name}_real": float(real[name].mean()), f"{name}_synthetic": float(made[name].mean())}
    return row


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _describe(name: str, text: str) -> str:
    return (
        "# Synthetic against real training clips\n\n"
        f"Embeddings: {name}. `mmd_synthetic` is the unbiased squared kernel distance (MMD) between `compared` "
        "synthetic and as many real clips, `mmd_real` that between two disjoint sets of as many real clips each: what "
        f"chance alone gives. Both are means over {NUM_DRAWS} draws, `_sd` is their spread; one Gaussian kernel per "
        "genre, as wide as the median distance. The loudness of synthetic clips was set by us.\n\n"
        f"{text}\n\n![Kernel distance, loudness and spectrum per genre](quality.png)\n"
    )
