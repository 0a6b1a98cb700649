"""Scores of synthetic clips: how well a clip fits its genre. `recipes.SCORES` has their columns.

B clips, W windows, K genres, D dimensions, T samples.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hf_utils.audio import cut_window, resample, window_starts
from hf_utils.data.clips import fold_genre
from hf_utils.errors import UserError
from hf_utils.generation.clap import ClapEmbedder
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import WindowCollator
from hf_utils.models.loading import load_classifier
from hf_utils.results.metrics import softmax

_WINDOWS_PER_PASS = 8


class ClapScorer:
    """Zero-shot genre by CLAP: cosines between a clip and one sentence per genre.

    Ten closed classes are better told apart by the largest cosine and its margin than by a threshold on a cosine.

    Raises:
        UserError: there is only one genre, so that nothing is told apart.
    """

    def __init__(self, embedder: ClapEmbedder, genres: Sequence[str], spoken: Sequence[str]):
        if len(genres) < 2:
            raise UserError(
                "clap_model scores a clip against the other genres of its dataset, and "
                f"{', '.join(genres)} is the only one. Leave clap_model out; score_with compares with all genres that "
                "a classifier knows."
            )
        self._embedder = embedder
        self._genres = list(genres)
        self._texts = embedder.embed_texts([f"This is {name} music." for name in spoken])

    def score(self, clips: Sequence[np.ndarray], sample_rate: int, labels: Sequence[int]) -> list[dict]:
        """Return per clip the genre of the largest cosine, the intended one's cosine, and its lead over the others."""
        cosines = self._embedder.embed(clips, sample_rate) @ self._texts.T
        scores = []
        for row, label in zip(cosines, labels, strict=True):
            best_other = np.delete(row, label).max()
            scores.append(
                {
                    "clap_genre": self._genres[int(row.argmax())],
                    "clap_margin": float(row[label] - best_other),
                    "clap_similarity": float(row[label]),
                }
            )
        return scores


class ClassifierScorer:
    """A genre classifier of this project: probabilities over whole clips, the mean over their windows.

    It must have been trained on the training split alone; else it would choose the clips by what validation and test
    sound like.
    """

    def __init__(self, folder: str, genres: Sequence[str], device: torch.device):
        if not Path(folder, "results.json").is_file():
            raise UserError(
                f"score_with is {folder}, expected the folder of a finished run of run_classification.py: only of its "
                "own runs is it known that they learn from the training split alone"
            )
        self._model, self._extractor = load_classifier(folder, None)
        self._model.to(device)
        seconds = getattr(self._model.config, "window_seconds", None)
        self._window_samples = window_samples_for(self._model.config, self._extractor, seconds)
        self._names = [self._model.config.id2label[k] for k in range(self._model.config.num_labels)]
        folded = [fold_genre(genre, self._names) for genre in genres]
        if None in folded:
            unknown = [genre for genre, name in zip(genres, folded, strict=True) if name is None]
            raise UserError(f"score_with: the classifier in {folder} knows no {', '.join(unknown)}: {self._names}")
        self._outputs = [self._names.index(name) for name in folded]
        self._genres = dict(zip(folded, genres, strict=True))

    def score(self, clips: Sequence[np.ndarray], sample_rate: int, labels: Sequence[int]) -> list[dict]:
        """Return per clip the classifier's genre and its probability of the intended one."""
        scores = []
        for samples, label in zip(clips, labels, strict=True):
            probabilities = softmax(self._logits(samples, sample_rate)).mean(axis=0)
            chosen = self._names[int(probabilities.argmax())]
            scores.append(
                {
                    "classifier_genre": self._genres.get(chosen, chosen),
                    "classifier_score": float(probabilities[self._outputs[label]]),
                }
            )
        return scores

    @torch.inference_mode()
    def _logits(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        return run_windows(self._model, self._extractor, samples, sample_rate, self._window_samples).cpu().numpy()


def run_windows(
    model, feature_extractor, samples: np.ndarray, sample_rate: int, window_samples: int, output: str = "logits"
) -> torch.Tensor:
    """Return an output of a model, such as logits (W, K), for windows that cover a clip (T,), half overlapping."""
    samples = resample(samples, sample_rate, feature_extractor.sampling_rate)
    starts = window_starts(samples.size, window_samples, max(window_samples // 2, 1))
    windows = [{"samples": cut_window(samples, start, window_samples), "label": 0} for start in starts]
    collate, name, outputs = WindowCollator(feature_extractor), feature_extractor.model_input_names[0], []
    for first in range(0, len(windows), _WINDOWS_PER_PASS):
        features = collate(windows[first : first + _WINDOWS_PER_PASS])[name]
        outputs.append(getattr(model(**{name: features.to(model.device, model.dtype)}), output).float())
    return torch.cat(outputs)
