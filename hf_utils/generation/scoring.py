"""Scores as columns beside the clips of a dataset folder: a pass over its shards, after generation or at any time.

Every shard is scored as a whole, from the clips as they are on disk, so that it does not matter when, by how many
processes, or after how many kills. While only some shards have a score the folder has no card, and cannot be loaded.

CLAP embeddings of clips and sentences (Wu et al. 2023, arXiv 2211.06687). B clips, D dimensions, T samples.

Scores of synthetic clips: how well a clip fits its genre. `recipes.SCORE_COLUMNS` has their columns.

B clips, W windows, K genres, D dimensions, T samples.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

from hf_utils import audio
from hf_utils.audio import cut_window, resample
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.data.shards import Shards
from hf_utils.errors import UserError
from hf_utils.generation.plan import SCORE_COLUMNS, Recipe, clip_features
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import clip_windows, run_windows
from hf_utils.models.loading import load_classifier
from hf_utils.results.metrics import softmax

# The extractor itself would take one random window of a long clip, with a generator that nobody seeds.
NUM_WINDOWS = 3
_CLIPS_PER_PASS = 4


class ClapEmbedder:
    """Unit vectors of clips (mean over fixed windows) and of sentences."""

    def __init__(self, name: str, revision: str | None, device: torch.device):
        try:
            self._extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision)
            self._tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            self._model = ClapModel.from_pretrained(name, revision=revision, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot load the CLAP model {name!r}: {error}") from error
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

    It must have been trained on the training split alone; else it would choose the clips by what validation and test
    sound like.
    """

    def __init__(self, folder: str, genres: Sequence[str], device: torch.device):
        if not Path(folder, "results.json").is_file():
            raise UserError(
                f"score_with is {folder}, expected the folder of a finished run of run_classification.py: only of its "
                "own runs is it known that they learn from the training split alone"
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
            probabilities = softmax(run_windows(self._model, self._extractor, windows).numpy()).mean(axis=0)
            chosen = self._names[int(probabilities.argmax())]
            scores.append(
                {
                    "classifier_genre": self._genres.get(chosen, chosen),
                    "classifier_score": float(probabilities[self._outputs[label]]),
                }
            )
        return scores


logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """What gives the columns of one kind of score."""

    def score(self, clips: Sequence[np.ndarray], sample_rate: int, labels: Sequence[int]) -> list[dict]:
        """Return the columns of each of B clips (T,), whose intended genres are `labels`."""


def check_scores(shards: Shards, wanted: Mapping[str, str], *, overwrite: bool) -> None:
    """Raise UserError, with the difference, if the folder has scores of other models and they may not be replaced.

    Args:
        wanted: the model of each score that is asked for, by the columns that name them in `SCORE_COLUMNS`.
    """
    found = [_read_models(shards, index) for index in range(len(shards.paths))]
    differences = []
    for column, model in wanted.items():
        if others := sorted({models[column] for models in found if column in models} - {model}):
            differences.append(f"  {column}: {', '.join(others)} in the folder, {model} now")
    if differences and not overwrite:
        raise UserError(
            f"{shards.folder} has scores by other models; nothing was changed. The difference:\n"
            + "\n".join(differences)
            + "\nLeave the option out to keep them, or replace them by --overwrite_scores."
        )


def find_unscored(shards: Shards, wanted: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Return {shard: those of `wanted` that it lacks}; a shard that is not made yet lacks all."""
    lacking = {index: _find_lacking(shards, index, wanted) for index in range(len(shards.paths))}
    return {index: models for index, models in lacking.items() if models}


def add_scores(
    shards: Shards,
    recipe: Recipe,
    scorers: Mapping[str, Scorer],
    wanted: Mapping[str, str],
    *,
    part: int = 0,
    num_parts: int = 1,
    show_progress: bool,
) -> None:
    """Score every shard that lacks scores, those of one of `num_parts` processes first; all clips must be there.

    Args:
        scorers: by the columns that name their models in `SCORE_COLUMNS`; none for what no shard lacks.
        wanted: as in `check_scores`.
    """
    unscored = find_unscored(shards, wanted)
    if not unscored:
        return
    shards.reopen()
    own = [index for index in unscored if index % num_parts == part]
    # What others have not done by then, from the end: side by side with its owner everything would be done twice.
    others = [index for index in reversed(unscored) if index not in own]
    models = {model for lacking in unscored.values() for model in lacking.values()}
    total = sum(len(recipe.batch_indices(index)) for index in unscored)
    logger.info("%d of %d clips get scores by %s.", total, recipe.num_clips, ", ".join(sorted(models)))
    with tqdm(total=total, desc="Scoring", unit="clip", disable=None if show_progress else True) as bar:
        for index in own + others:
            _score_shard(shards, index, recipe, scorers, wanted)
            bar.update(len(recipe.batch_indices(index)))


def read_scores(shards: Shards) -> dict[str, str]:
    """Return the models whose scores all clips have, by column. Raises UserError if only some clips have them."""
    found = [_read_models(shards, index) for index in range(len(shards.paths))]
    scores = [set(models.items()) for models in found]
    if partial := set.union(*scores) - set.intersection(*scores):
        names = ", ".join(f"{column} {model}" for column, model in sorted(partial))
        raise UserError(
            f"{shards.folder}: scoring was stopped on the way, and only some clips have their scores ({names}). Give "
            "the options of that command again: it goes on where it stopped."
        )
    return found[0]


def _read_models(shards: Shards, index: int) -> dict[str, str]:
    """Return the model of each score that a shard has."""
    if not shards.paths[index].exists():
        return {}
    table = shards.read_shard(index, list(SCORE_COLUMNS))
    return {column: table[column][0].as_py() for column in table.column_names}


def _find_lacking(shards: Shards, index: int, wanted: Mapping[str, str]) -> dict[str, str]:
    models = _read_models(shards, index)
    return {column: model for column, model in wanted.items() if models.get(column) != model}


def _score_shard(
    shards: Shards, index: int, recipe: Recipe, scorers: Mapping[str, Scorer], wanted: Mapping[str, str]
) -> None:
    lacking = _find_lacking(shards, index, wanted)
    if not lacking:
        return  # scored by another process meanwhile
    rows = shards.read_shard(index).to_pylist()
    clips, labels = [audio.decode(row["audio"]["bytes"])[0] for row in rows], [row["label"] for row in rows]
    for column, model in lacking.items():
        scores = scorers[column].score(clips, recipe.sample_rate, labels)
        rows = [row | values | {column: model} for row, values in zip(rows, scores, strict=True)]
    shards.write(index, rows, clip_features(recipe.genres, _read_models(shards, index) | lacking))
