"""Scores repeat themselves and mean what their columns say; a classifier's are those that it gives elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_files import DAMAGES
from safetensors.torch import load_file, save_file
from tiny_clap import save_clap
from tiny_models import save_run
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hf_utils.audio import resample
from hf_utils.errors import UserError
from hf_utils.generation.plan import SCORE_COLUMNS
from hf_utils.generation.scorers import ClapEmbedder, ClapScorer, ClassifierScorer

CPU = torch.device("cpu")
GENRES = ["jazz", "hiphop", "rock"]
RATE = 16000


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return ClapEmbedder(save_clap(tmp_path_factory.mktemp("clap")), None, CPU)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"))


def noise(seed: int, seconds: float) -> np.ndarray:
    colour = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))
    return np.convolve(colour, np.hanning(3 + 8 * seed), "same").astype(np.float32)


def test_embeddings_of_long_clips_repeat_and_are_unit_vectors(embedder):
    clips = [noise(seed, 25) for seed in range(2)]
    first, second = embedder.embed(clips, RATE), embedder.embed(clips, RATE)
    assert np.array_equal(first, second)
    assert np.linalg.norm(first, axis=1) == pytest.approx([1, 1])
    assert embedder.embed(clips[1:], RATE) == pytest.approx(first[1:], abs=1e-5)


def test_three_windows_hear_the_whole_clip(embedder):
    """A change anywhere in the clip changes its embedding."""
    clip = noise(0, 30)
    changed = []
    for start in (0, 12, 29):
        other = clip.copy()
        other[start * RATE : (start + 1) * RATE] *= 20
        changed.append(other)
    vectors = embedder.embed([clip, *changed], RATE)
    assert all(np.abs(vectors[k] - vectors[0]).max() > 1e-6 for k in (1, 2, 3))


def test_clap_scores_are_cosines_with_one_sentence_per_genre(embedder):
    scorer = ClapScorer(embedder, GENRES, ["jazz", "hip hop", "rock"])
    clips, labels = [noise(seed, 3) for seed in range(3)], [0, 1, 2]
    texts = embedder.embed_texts(["This is jazz music.", "This is hip hop music.", "This is rock music."])
    cosines = embedder.embed(clips, RATE) @ texts.T
    for row, label, score in zip(cosines, labels, scorer.score(clips, RATE, labels), strict=True):
        assert set(score) == set(SCORE_COLUMNS["clap_model"])
        assert score["clap_similarity"] == pytest.approx(row[label])
        assert score["clap_genre"] == GENRES[row.argmax()]
        assert score["clap_margin"] == pytest.approx(row[label] - max(np.delete(row, label)))
        assert (score["clap_margin"] > 0) == (score["clap_genre"] == GENRES[label])


def test_classifier_scores_are_mean_probabilities_over_windows(run_folder):
    scorer = ClassifierScorer(str(run_folder), GENRES, CPU)
    clips = [noise(seed, 2) for seed in range(3)]
    scores = scorer.score(clips, RATE, [0, 1, 2])
    model = AutoModelForAudioClassification.from_pretrained(run_folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(run_folder)
    window = scorer._window_samples
    starts = [*range(0, 2 * RATE - window, window // 2), 2 * RATE - window]
    for clip, label, score in zip(clips, [3, 0, 1], scores, strict=True):
        windows = [resample(clip, RATE, RATE)[start : start + window] for start in starts]
        with torch.no_grad():
            logits = model(**extractor(windows, sampling_rate=RATE, return_tensors="pt")).logits
        probabilities = logits.softmax(-1).mean(0)
        assert set(score) == set(SCORE_COLUMNS["classifier_model"])
        assert score["classifier_score"] == pytest.approx(float(probabilities[label]), abs=1e-4)
        assert score["classifier_genre"] == ["hiphop", "rock", "blues", "jazz"][int(probabilities.argmax())]


def test_a_classifier_of_other_genres_or_origin_is_refused(run_folder, tmp_path):
    with pytest.raises(UserError, match="score_with.*metal"):
        ClassifierScorer(str(run_folder), ["jazz", "metal"], CPU)
    with pytest.raises(UserError, match="score_with.*run_classification.py"):
        ClassifierScorer(str(tmp_path), GENRES, CPU)


@pytest.mark.parametrize(("damage", "word"), [("pointer", "Git LFS"), ("half", "cut off"), ("lacking", "1 missing")])
def test_clap_scores_by_nothing_but_its_own_weights(damage, word, tmp_path):
    path = Path(save_clap(tmp_path / "clap")) / "model.safetensors"
    if damage == "lacking":
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        del tensors["text_projection.linear1.weight"]
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        DAMAGES[damage][0](path)
    with pytest.raises(UserError, match=f"clap.*{word}"):
        ClapEmbedder(str(tmp_path / "clap"), None, CPU)
