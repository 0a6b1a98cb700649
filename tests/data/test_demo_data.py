"""The synthesised demonstration data: repeatable, completed, distinguishable, and known as a demo."""

import shutil

import numpy as np
import pytest

from hf_utils.audio import load, rms_db
from hf_utils.data.clips import genre_names, load_clips
from hf_utils.data.demo_data import MARKER_NAME, SAMPLE_RATE, STYLES, is_demo, main, synthesise, write_demo_data

SMALL = {"genres": 3, "tracks_per_genre": 2, "seconds": 1.0, "seed": 0}


def read_all(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_a_dataset_and_a_demo(tmp_path):
    write_demo_data(tmp_path / "demo", **SMALL)
    clips = load_clips(str(tmp_path / "demo"))
    assert genre_names(clips) == list(STYLES)[:3] and len(clips) == 6
    assert clips[0]["track_id"] == "demo_ambient.00000"
    samples = load(clips[5]["audio"]["path"], SAMPLE_RATE)
    assert samples.shape == (SAMPLE_RATE,)
    assert is_demo(str(tmp_path / "demo")) and not is_demo(str(tmp_path)) and not is_demo("owner/name")
    assert "No number from it is a result" in (tmp_path / "demo" / MARKER_NAME).read_text()


def test_the_same_bytes_whatever_was_there_before(tmp_path):
    write_demo_data(tmp_path / "one", **SMALL)
    write_demo_data(tmp_path / "other", **SMALL)
    shutil.rmtree(tmp_path / "other" / "demo_ballad")
    kept = tmp_path / "other" / "demo_bells" / "demo_bells.00001.flac"
    kept_time = kept.stat().st_mtime_ns
    write_demo_data(tmp_path / "other", **SMALL)
    assert read_all(tmp_path / "one") == read_all(tmp_path / "other") and len(read_all(tmp_path / "one")) == 7
    assert kept.stat().st_mtime_ns == kept_time


def test_other_settings_and_other_folders_are_refused(tmp_path):
    write_demo_data(tmp_path / "demo", **SMALL)
    arguments = ["--genres", "3", "--tracks_per_genre", "2", "--seconds", "1", "--output_dir"]
    assert main([*arguments, str(tmp_path / "demo")]) == 0
    before = read_all(tmp_path)
    for extra, folder in (
        (["--seed", "1"], "demo"),
        ([], ""),
        (["--genres", "11"], "new"),
        (["--seconds", "0"], "new"),
    ):
        assert main([*arguments, str(tmp_path / folder), *extra]) == 2
    assert read_all(tmp_path) == before


def test_tracks_are_functions_of_seed_style_and_number():
    track = synthesise("demo_waltz", 1, 1.0, 0)
    assert np.array_equal(track, synthesise("demo_waltz", 1, 1.0, 0))
    for other in (("demo_waltz", 2, 1.0, 0), ("demo_waltz", 1, 1.0, 1), ("demo_march", 1, 1.0, 0)):
        assert not np.allclose(track, synthesise(*other))


@pytest.fixture(scope="module")
def loudness_and_bands():
    """Return levels (10, 6) in dBFS, and log energies in 24 bands (10, 6, 24) of six tracks of each style."""
    levels, bands = [], []
    edges = np.geomspace(40, SAMPLE_RATE / 2, 25)
    for style in STYLES:
        tracks = [synthesise(style, number, 4.0, 0) for number in range(6)]
        assert all(np.isfinite(t).all() and t.dtype == np.float32 and np.abs(t).max() <= 1 for t in tracks)
        levels.append([rms_db(track) for track in tracks])
        for track in tracks:
            power = np.abs(np.fft.rfft(track)) ** 2
            hz = np.fft.rfftfreq(track.size, 1 / SAMPLE_RATE)
            bands.append(np.log(np.histogram(hz, edges, weights=power)[0] / power.sum() + 1e-9))
    return np.array(levels), np.array(bands).reshape(len(STYLES), 6, 24)


def test_loudness_tells_nothing(loudness_and_bands):
    levels, _ = loudness_and_bands
    assert len(STYLES) == 10
    assert levels.min(axis=1).max() < levels.max(axis=1).min()  # all ranges overlap
    assert np.ptp(levels.mean(axis=1)) < 2 * levels.std()


def test_timbre_tells_styles_apart(loudness_and_bands):
    """Leave one out, nearest mean spectrum: far above chance, though it hears neither tempo nor rhythm."""
    _, bands = loudness_and_bands
    correct = 0
    for style in range(10):
        for track in range(6):
            means = bands.mean(axis=1)
            means[style] = np.delete(bands[style], track, axis=0).mean(axis=0)
            correct += np.linalg.norm(means - bands[style, track], axis=1).argmin() == style
    assert correct >= 0.6 * 60  # chance: 6
