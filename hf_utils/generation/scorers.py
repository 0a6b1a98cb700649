"""How well a synthetic clip fits its genre, by CLAP or a classifier; `plan.SCORE_COLUMNS` has the columns.

CLAP is that of Wu et al. 2023 (arXiv 2211.06687). B clips, W windows, K genres, D dimensions, T samples.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

from hf_utils.audio import cut_window, resample
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.errors import UserError
from hf_utils.models.checkpoints import LOADING_ERRORS, Checkpoint
from hf_utils.models.families import probabilities_of, window_samples_for
from hf_utils.models.features import clip_windows, run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.models.weights import expect_filled

# The extractor itself would take one random window of a long clip, with a generator that nobody seeds.
NUM_WINDOWS = 3
_CLIPS_PER_PASS = 4


class ClapEmbedder:
    """Unit vectors of clips (mean over fixed windows) and of sentences."""

    def __init__(self, name: str, revision: str | None, device: torch.device):
        checkpoint = Checkpoint(name, revision)
        checkpoint.check_files()
        try:
            self._extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision)
            self._tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            model, info = ClapModel.from_pretrained(
                name, revision=revision, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
        except LOADING_ERRORS as error:
            checkpoint.check_files()
            raise UserError(f"Cannot load the CLAP model {name!r}: {error}") from error
        expect_filled(name, model, info)
        self._model = model.to(device).eval()
        # A fused model takes its four views; any other would fail on them.
        fused = self._model.config.audio_config.enable_fusion
        self._truncation = "fusion" if fused else "rand_trunc"

    @torch.inference_mode()
    def embed(self, clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """Return (B, D) float64 of clips of one length: three windows over each, one where it is no longer."""
        extractor, vectors = self._extractor, []
        window = extractor.nb_max_samples
        for first in range(0, len(clips), _CLIPS_PER_PASS):
            group = [
                resample(samples, sample_rate, extractor.sampling_rate) for samples in clips[first:][:_CLIPS_PER_PASS]
            ]
            windows = [
                cut_window(samples, start, window) for samples in group for start in _starts(samples.size, window)
            ]
            inputs = extractor(
                windows, sampling_rate=extractor.sampling_rate, truncation=self._truncation, return_tensors="pt"
            )
            outputs = self._model.get_audio_features(**inputs.to(self._model.device)).pooler_output
            vectors.append(
                _unit(outputs.double().cpu().numpy()).reshape(len(group), -1, outputs.shape[-1]).mean(axis=1)
            )
        return _unit(np.concatenate(vectors))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return (B, D) float64."""
        inputs = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._model.device)
        return _unit(self._model.get_text_features(**inputs).pooler_output.double().cpu().numpy())


def _starts(num_samples: int, window_samples: int) -> list[int]:
    if num_samples <= window_samples:
        return [0]
    return [round(k * (num_samples - window_samples) / (NUM_WINDOWS - 1)) for k in range(NUM_WINDOWS)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


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

    It must have been trained only on the training split; else it would choose the clips by what validation and test
    sound like.
    """

    def __init__(self, folder: str, genres: Sequence[str], device: torch.device):
        if not Path(folder, "results.json").is_file():
            raise UserError(
                f"score_with is {folder}, expected the folder of a finished run of run_classification.py: only of its "
                "own runs is it known that they learn only from the training split"
            )
        self._model, self._extractor = load_classifier(Checkpoint(folder), None)
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
            windows = clip_windows(self._extractor, samples, sample_rate, self._window_samples)
            logits = run_windows(self._model, self._extractor, windows)
            probabilities = probabilities_of(self._model.config, logits.numpy()).mean(axis=0)
            chosen = self._names[int(probabilities.argmax())]
            scores.append(
                {
                    "classifier_genre": self._genres.get(chosen, chosen),
                    "classifier_score": float(probabilities[self._outputs[label]]),
                }
            )
        return scores
