"""How synthetic clips differ from the real training clips, per genre: kernel distance, loudness and spectrum.

A distance means nothing without a scale, so beside each is that of two halves of the real clips, at the same sizes. It
is the unbiased kernel estimate between embeddings of any audio checkpoint; Fréchet distances are not here, since at a
hundred clips per genre their bias is larger than what they are to measure. N and M clips, W windows, T samples, D
dimensions of an embedding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import FEATURE_EXTRACTOR_MAPPING, AutoModel

from hf_utils import audio
from hf_utils.cards.markup import table
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.waveforms import read_samples
from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.files import write_atomically, write_csv
from hf_utils.generation.scorers import ClapEmbedder
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import clip_windows, run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.results.plots import encode_png, shorten
from hf_utils.seeding import derive_seed

Embedder = Callable[[np.ndarray, int], np.ndarray]

REPORT_FOLDER = "report"
NUM_DRAWS = 20
STATISTICS = ("rms_db", "centroid_hz", "flatness_db")
_FRAME, _HOP = 2048, 1024
_MIN_CLIPS = 4

_REAL, _SYNTHETIC = "#4477aa", "#ee6677"
_PANELS = {
    "mmd": "squared kernel distance (MMD)",
    "rms_db": "loudness (dBFS RMS)",
    "centroid_hz": "spectral centroid (Hz)",
    "flatness_db": "spectral flatness (dB)",
}


def write_quality_report(
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


def median_bandwidth(vectors: np.ndarray) -> float:
    """Return the median distance between two of (N, D) vectors: the usual width of the kernel."""
    squares = squared_distances(vectors, vectors)
    return float(np.sqrt(np.median(squares[np.triu_indices(len(vectors), 1)])))


def kernel_distance(first: np.ndarray, second: np.ndarray, bandwidth: float) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy of (N, D) and (M, D), Gaussian kernel.

    Its mean is 0 for two samples of one distribution, so it can be a little below 0. Gretton et al. 2012 (JMLR 13),
    lemma 6.

    Raises:
        ValueError: fewer than two vectors in a set.
    """
    num_first, num_second = len(first), len(second)
    if min(num_first, num_second) < 2:
        raise ValueError(f"expected two vectors or more in each set, found {num_first} and {num_second}")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-squared_distances(x, y) / (2 * bandwidth**2))

    # The diagonal, each vector with itself, is what makes the plain estimate biased.
    within_first = (kernel(first, first).sum() - num_first) / (num_first * (num_first - 1))
    within_second = (kernel(second, second).sum() - num_second) / (num_second * (num_second - 1))
    return float(within_first + within_second - 2 * kernel(first, second).mean())


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (N, M) squared Euclidean distances."""
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return np.maximum(squares, 0)


def check_embedder(name: str) -> None:
    """Raise UserError if `make_embedder` could not load this checkpoint, as far as it shows before loading."""
    checkpoint = Checkpoint(name)
    config = checkpoint.load_config()
    checkpoint.check_files()
    if type(getattr(config, "encoder_config", config)) not in FEATURE_EXTRACTOR_MAPPING:
        raise UserError(f"report: {name} is no audio model ({config.model_type})")


def make_embedder(name: str, device: torch.device) -> Embedder:
    """Return `embed(samples (T,), sample_rate) -> (D,)`, the mean over windows that cover the clip.

    Of a classifier it is what goes into its last layer; of a bare encoder, the mean of its last hidden states.

    Raises:
        UserError: the checkpoint cannot be read, or is no audio model.
    """
    checkpoint = Checkpoint(name)
    config = checkpoint.load_config()
    if config.model_type == "clap":
        clap = ClapEmbedder(name, None, device)
        return lambda samples, sample_rate: clap.embed([samples], sample_rate)[0]
    if any("Classification" in architecture for architecture in config.architectures or ()):
        model, extractor = load_classifier(checkpoint, None)
        run = _penultimate(model.to(device))
    else:
        model, _ = checkpoint.load_model(AutoModel, config)
        extractor = checkpoint.load_feature_extractor(config)
        run = _mean_state(model.to(device))
    if not hasattr(extractor, "sampling_rate"):
        raise UserError(f"report: {name} is no audio model ({config.model_type})")
    window_samples = window_samples_for(model.config, extractor, getattr(model.config, "window_seconds", None))

    def embed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
        return run(extractor, clip_windows(extractor, samples, sample_rate, window_samples)).mean(axis=0)

    return embed


def _penultimate(model: torch.nn.Module) -> Callable[..., np.ndarray]:
    """Return a function that gives what enters a classifier's last layer, (W, D)."""
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    heard = []
    last.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].float().cpu().numpy()))

    def run(extractor, windows: Sequence[np.ndarray]) -> np.ndarray:
        heard.clear()
        run_windows(model, extractor, windows)
        return np.concatenate(heard)

    return run


def _mean_state(model: torch.nn.Module) -> Callable[..., np.ndarray]:
    """Return a function that gives the mean over time of an encoder's last hidden states, (W, D)."""

    def run(extractor, windows: Sequence[np.ndarray]) -> np.ndarray:
        return run_windows(model, extractor, windows, output="last_hidden_state").mean(dim=1).numpy()

    return run


def report_figure(rows: Sequence[Mapping], name: str):
    """Return a matplotlib Figure with four panels: per genre real beside synthetic, from `synthesis_report` rows.

    Args:
        name: of the checkpoint whose embeddings were compared.
    """
    from matplotlib.figure import Figure  # here, so that importing this module costs nothing

    figure = Figure(figsize=(max(9.0, 1.1 * len(rows) + 3), 7.5), layout="constrained", dpi=120)
    places = np.arange(len(rows))
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for offset, kind, colour in ((-0.2, "real", _REAL), (0.2, "synthetic", _SYNTHETIC)):
            column = f"mmd_{kind}" if key == "mmd" else f"{key}_{kind}"
            label = (
                {"real": "real against real", "synthetic": "synthetic against real"}[kind] if key == "mmd" else kind
            )
            spread = [row[f"{column}_sd"] for row in rows] if key == "mmd" else None
            values = [row[column] for row in rows]
            if key.endswith("_db"):
                # 0 dB is the top of a scale without a bottom: a bar would show how little there is.
                axes.plot(places + offset, values, "o", color=colour, label=label)
            else:
                axes.bar(places + offset, values, 0.38, yerr=spread, color=colour, label=label, capsize=2)
        names = [shorten(row["genre"]) for row in rows]
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_title(title, fontsize=11)
        axes.axhline(0, color="black", linewidth=0.6) if key == "mmd" else axes.margins(y=0.1)
        axes.legend(fontsize=8)
    figure.suptitle(f"Synthetic against real training clips (embeddings: {shorten(name)})", parse_math=False)
    return figure


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _describe(name: str, text: str) -> str:
    return (
        "# Synthetic against real training clips\n\n"
        f"Embeddings: {name}. `mmd_synthetic` is the unbiased squared kernel distance (MMD) between `compared` "
        "synthetic and as many real clips, `mmd_real` that between two disjoint sets of as many real clips each: what "
        f"chance gives. Both are means over {NUM_DRAWS} draws, `_sd` is their spread; one Gaussian kernel per "
        "genre, as wide as the median distance. The loudness of synthetic clips was set by us.\n\n"
        f"{text}\n\n![Kernel distance, loudness and spectrum per genre](quality.png)\n"
    )
