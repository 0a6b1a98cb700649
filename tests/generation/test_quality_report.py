"""The kernel distance is unbiased, and the report tells other music from the same music."""

import csv

import datasets
import numpy as np
import pytest
import torch
from tiny_clap import save_clap
from tiny_models import load, save_ast, save_hubert
from transformers import HubertForSequenceClassification

from hf_utils import audio
from hf_utils.data.clips import load_clips
from hf_utils.data.waveforms import decode_clips
from hf_utils.errors import UserError
from hf_utils.generation.quality_report import (
    check_embedder,
    compare_genre,
    describe_sound,
    kernel_distance,
    make_embedder,
    median_bandwidth,
    squared_distances,
    write_quality_report,
)

CPU = torch.device("cpu")
RATE = 16000


def test_the_kernel_distance_equals_its_definition():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(4, 3)), generator.normal(1, 1, size=(5, 3))

    def kernel(x, y):
        return np.exp(-np.sum((x - y) ** 2) / (2 * 1.5**2))

    expected = np.mean([kernel(x, y) for i, x in enumerate(first) for j, y in enumerate(first) if i != j])
    expected += np.mean([kernel(x, y) for i, x in enumerate(second) for j, y in enumerate(second) if i != j])
    expected -= 2 * np.mean([kernel(x, y) for x in first for y in second])
    assert kernel_distance(first, second, 1.5) == pytest.approx(expected)
    with pytest.raises(ValueError, match="two vectors or more"):
        kernel_distance(first[:1], second, 1.5)


def test_the_kernel_distance_of_one_distribution_is_zero_on_average():
    """At 20 clips in 64 dimensions a biased estimate would be 0.05 or more."""
    generator = np.random.default_rng(0)
    same, shifted = [], []
    for _ in range(100):
        first, second = generator.normal(size=(2, 20, 64))
        same.append(kernel_distance(first, second, median_bandwidth(first)))
        shifted.append(kernel_distance(first, second + 0.5, median_bandwidth(first)))
    assert np.mean(same) == pytest.approx(0, abs=3 * np.std(same) / 10)
    assert np.mean(shifted) > 10 * np.std(same) / 10 and np.mean(shifted) > np.mean(same) + 0.02


def test_distances_and_bandwidth_by_hand():
    points = np.array([[0.0, 0], [3, 4], [6, 8]])
    assert squared_distances(points, points[:1]).ravel() == pytest.approx([0, 25, 100])
    assert median_bandwidth(points) == pytest.approx(5)


def test_sound_is_described_in_its_units():
    time = np.arange(RATE) / RATE
    tone = describe_sound(np.sin(2 * np.pi * 1000 * time).astype(np.float32), RATE)
    assert tone["rms_db"] == pytest.approx(-3.01, abs=0.01) and tone["centroid_hz"] == pytest.approx(1000, rel=0.01)
    white = describe_sound(np.random.default_rng(0).normal(0, 0.1, RATE * 20).astype(np.float32), RATE)
    assert white["flatness_db"] == pytest.approx(0, abs=0.3) and tone["flatness_db"] < -40
    assert white["centroid_hz"] == pytest.approx(RATE / 4, rel=0.02)


def measured(generator, num_clips, shift=0.0):
    values = {"embeddings": generator.normal(shift, 1, (num_clips, 32))}
    return values | {name: np.full(num_clips, shift) for name in ("rms_db", "centroid_hz", "flatness_db")}


def test_the_report_puts_chance_beside_every_distance():
    generator = np.random.default_rng(0)
    real = measured(generator, 40)
    same = compare_genre("jazz", real, measured(generator, 30), 0)
    other = compare_genre("jazz", real, measured(generator, 30, shift=1.0), 0)
    assert (same["real"], same["synthetic"], same["compared"]) == (40, 30, 20)
    assert same["mmd_real"] == pytest.approx(other["mmd_real"], abs=0.02) == pytest.approx(0, abs=0.02)
    assert same["mmd_synthetic"] < same["mmd_real"] + 0.03
    assert other["mmd_synthetic"] > other["mmd_real"] + 5 * other["mmd_real_sd"]
    assert compare_genre("jazz", real, measured(np.random.default_rng(3), 30), 0)["mmd_real_sd"] > 0
    with pytest.raises(UserError, match="report: jazz.*3 real.*0 synthetic"):
        compare_genre("jazz", measured(generator, 3), None, 0)


def save_bare_hubert(folder):
    """As the Hub has the pretrained ones: without a head."""
    HubertForSequenceClassification.from_pretrained(save_hubert(folder)).hubert.save_pretrained(folder)
    return folder


def save_with_mlp(folder):
    """As a run with --head mlp saves it."""
    model, extractor = load(save_hubert(folder / "base"), head="mlp", head_hidden_size=12)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("save", "size"),
    [(save_clap, 16), (save_ast, 16), (save_hubert, 8), (save_bare_hubert, 16), (save_with_mlp, 12)],
)
def test_any_audio_checkpoint_embeds_clips(save, size, tmp_path):
    check_embedder(str(save(tmp_path / "model")))
    embed = make_embedder(str(tmp_path / "model"), CPU)
    clips = [np.random.default_rng(seed).normal(0, 0.1, 2 * RATE).astype(np.float32) for seed in (0, 1)]
    vectors = [embed(clip, RATE) for clip in (*clips, clips[0])]
    assert vectors[0].shape == (size,) and np.isfinite(vectors[0]).all()
    assert np.array_equal(vectors[0], vectors[2]) and not np.allclose(vectors[0], vectors[1], atol=1e-6)


def test_a_report_is_written_into_the_dataset(genre_folder, tmp_path):
    """Real tones against the same tones (blues) and against noise (rock)."""
    real = decode_clips(load_clips(str(genre_folder)), RATE, cache_dir=tmp_path / "cache")
    folder, generator, rows = tmp_path / "synthetic", np.random.default_rng(0), []
    time = np.arange(RATE) / RATE
    for index in range(12):
        genre = ("blues", "hiphop", "rock")[index % 3]
        # The tones of the real clips, with as much noise, or noise alone.
        sound = 0.5 * np.sin(2 * np.pi * 220 * (1 + 0.02 * (index // 3)) * time) + generator.normal(0, 0.01, RATE)
        samples = (sound if genre == "blues" else generator.normal(0, 0.1, RATE)).astype(np.float32)
        file = {"bytes": audio.encode_flac(samples, RATE), "path": f"{index}.flac"}
        rows.append({"audio": file, "label": genre, "track_id": f"s-{index}", "origin": "synthetic", "parent_id": "x"})
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "train-00000-of-00001.parquet")
    options = {"sample_rate": RATE, "seed": 0}
    table = write_quality_report(
        folder, ["blues", "hiphop", "rock"], real, str(save_clap(tmp_path / "clap")), CPU, **options
    )
    assert {path.name for path in (folder / "report").iterdir()} == {"quality.csv", "quality.md", "quality.png"}
    assert table in (folder / "report" / "quality.md").read_text()
    with open(folder / "report" / "quality.csv", newline="") as file:
        by_genre = {row["genre"]: row for row in csv.DictReader(file)}
    distance = {genre: float(row["mmd_synthetic"]) for genre, row in by_genre.items()}
    assert distance["rock"] > 3 * abs(distance["blues"]) and distance["rock"] > 0.1
    assert float(by_genre["rock"]["flatness_db_synthetic"]) > float(by_genre["rock"]["flatness_db_real"]) + 10
    assert (folder / "report" / "quality.png").read_bytes().startswith(b"\x89PNG")
