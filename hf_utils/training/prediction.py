"""Genres of the user's own files: any length, any readable format. T samples, W windows, K genres."""

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from hf_utils.audio import READABLE_SUFFIXES, AudioError, cut_window, load, window_starts
from hf_utils.data.audio_folders import list_files
from hf_utils.errors import UserError
from hf_utils.files import write_csv
from hf_utils.models.features import WindowCollator
from hf_utils.results.metrics import softmax

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.csv"
TIMELINE_FOLDER = "timeline"


def predict_files(
    model: torch.nn.Module,
    feature_extractor,
    path: str | os.PathLike,
    window_samples: int,
    hop_samples: int,
    output_dir: str | os.PathLike,
    *,
    batch_size: int,
    per_window: bool = False,
    device: str | torch.device = "cpu",
) -> tuple[int, list[tuple[str, str]]]:
    """Write the genre of a file, or of every music file in a folder and its subfolders, to `predictions.csv`.

    Its columns: file (relative to `path`), prediction, and a probability per genre, the mean over the file's windows.
    `per_window` also writes `timeline/<file>.csv`: start_seconds, end_seconds, prediction, and the probabilities.
    Probabilities have 6 decimals, times 3. One file is in memory at a time. Interrupted, the files done so far are
    written.

    Window and hop are at the feature extractor's sampling rate; a shorter clip is repeated to fill a window. Batches
    are of windows. Returns (number of files done, [(file, reason)] of those that could not be read, which are logged
    as well). Raises UserError if the path is missing or holds no music.
    """
    output_dir, path = Path(output_dir), Path(path).expanduser()
    files = find_audio(path)
    genres = [model.config.id2label[k] for k in range(model.config.num_labels)]
    model = model.to(device).eval()
    rows, failures = [], []
    try:
        for file in tqdm(files, desc="Predicting", unit="file", disable=None):
            name = _relative_name(file, path)
            try:
                samples = load(file, feature_extractor.sampling_rate)
                starts = window_starts(len(samples), window_samples, hop_samples)
                windows = (cut_window(samples, start, window_samples) for start in starts)
                probabilities = _predict_windows(model, feature_extractor, windows, batch_size)
            except AudioError as error:
                failures.append((name, str(error)))
                continue
            rows.append(_row([name], probabilities.mean(axis=0), genres))
            if per_window:
                spans = [(start, min(start + window_samples, len(samples))) for start in starts]
                times = np.array(spans) / feature_extractor.sampling_rate
                timeline = [
                    _row([f"{time:.3f}" for time in span], row, genres)
                    for span, row in zip(times, probabilities, strict=True)
                ]
                header = ["start_seconds", "end_seconds", "prediction", *genres]
                write_csv(output_dir / TIMELINE_FOLDER / f"{name}.csv", header, timeline)
    finally:
        write_csv(output_dir / PREDICTIONS_FILE, ["file", "prediction", *genres], rows)
    for name, reason in failures:
        logger.warning("Skipped %s: %s", name, reason)
    return len(rows), failures


def find_audio(path: str | os.PathLike) -> list[Path]:
    """Return `path` itself if it is a file, else the music files under it, in order. Raises UserError if none."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder: --predict_path takes either.")
    found, _ = list_files(path)
    if not found:
        raise UserError(f"{path} holds no music: expected files ending in {', '.join(sorted(READABLE_SUFFIXES))}.")
    return found


@torch.inference_mode()
def _predict_windows(model, feature_extractor, windows: Iterator[np.ndarray], batch_size: int) -> np.ndarray:
    """Return (W, K) probabilities; a batch of windows is in memory at a time."""
    collate, name = WindowCollator(feature_extractor), feature_extractor.model_input_names[0]
    logits = []
    while batch := [{"samples": window, "label": 0} for window in itertools.islice(windows, batch_size)]:
        features = collate(batch)[name].to(model.device, model.dtype)
        logits.append(model(**{name: features}).logits.float().cpu().numpy())
    logits = np.concatenate(logits)
    if not np.isfinite(logits).all():
        raise AudioError("the model's outputs are not finite")
    return softmax(logits)


def _relative_name(file: Path, path: Path) -> str:
    return file.name if file == path else file.relative_to(path).as_posix()


def _row(first: list, probabilities: np.ndarray, genres: list[str]) -> list:
    return [*first, genres[probabilities.argmax()], *(f"{p:.6f}" for p in probabilities)]
