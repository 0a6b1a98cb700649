"""Kept features are those of the model's own feature extractor, whatever the order and the process of the visits."""

import random
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers

from hf_utils.data.windows import EvaluationWindows, TrainingWindows
from hf_utils.models import kept_features
from hf_utils.models.features import WindowCollator
from hf_utils.models.kept_features import find_frames, keep_features, start_step
from hf_utils.models.musicnn import MusiCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn import SpectrogramCNNFeatureExtractor

RATE = 8000
GB = 1 << 30
CPU = torch.device("cpu")
CNN = {"sampling_rate": RATE, "num_mel_bins": 24, "mean": -7.0, "std": 3.0, "center": False}
# Extractor and window in samples. Hops divide windows or do not.
SLICED = {
    "ast": (transformers.ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=24, max_length=100), 200 + 99 * 80),
    "mel": (SpectrogramCNNFeatureExtractor(n_fft=512, hop_length=128, **CNN), 8000),
    "hop over half a frame": (SpectrogramCNNFeatureExtractor(n_fft=400, hop_length=230, **CNN), 8001),
    "hop of a frame": (SpectrogramCNNFeatureExtractor(n_fft=512, hop_length=512, **CNN), 16500),
    "stft": (SpectrogramCNNFeatureExtractor(spectrogram="stft", n_fft=256, hop_length=100, **CNN), 4000),
    "level": (SpectrogramCNNFeatureExtractor(n_fft=512, hop_length=128, level_normalization=True, **CNN), 8000),
    "musicnn": (MusiCNNFeatureExtractor(sampling_rate=RATE, num_mel_bins=24), 512 + 30 * 256),
    "musicnn, window between frames": (MusiCNNFeatureExtractor(sampling_rate=RATE, num_mel_bins=24), 8001),
    "multi_stft": (SpectrogramCNNFeatureExtractor(spectrogram="multi_stft", n_fft=512, hop_length=60, **CNN), 5001),
}
WHOLE = {
    "hubert": (transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE), 4000),
    "whisper": (transformers.WhisperFeatureExtractor(sampling_rate=RATE, feature_size=20, chunk_length=1), RATE),
    "centred": (SpectrogramCNNFeatureExtractor(n_fft=512, hop_length=128, **CNN | {"center": True}), 8000),
}
ALL = SLICED | WHOLE


@pytest.fixture
def make_clips(tmp_path):
    def make(window_samples: int) -> datasets.Dataset:
        """Return clips of noise: long, with a silent part, of one window, and shorter than a window."""
        lengths = [5 * window_samples + 77, 3 * window_samples, window_samples, window_samples // 3]
        noise = [np.random.default_rng(i).normal(0, 3000, length).astype("<i2") for i, length in enumerate(lengths)]
        noise[1][window_samples : 2 * window_samples] = 0
        path = tmp_path / "pcm"
        path.write_bytes(np.concatenate(noise).tobytes())
        table = {
            "track_id": [f"t{i}" for i in range(4)],
            "label": [0, 1, 0, 1],
            "num_samples": lengths,
            "pcm_path": [str(path)] * 4,
            "pcm_offset": (np.cumsum([0, *lengths[:-1]]) * 2).tolist(),
            "pcm_gain": [1.0, 2.0, 1.0, 1.0],
        }
        return datasets.Dataset.from_dict(table)

    return make


def collate(extractor, windows, indices) -> torch.Tensor:
    batch = WindowCollator(extractor)([windows[i] for i in indices])
    return batch[extractor.model_input_names[0]]


def draw(extractor, windows, epochs) -> list[torch.Tensor]:
    batches = []
    for epoch in epochs:
        windows.set_epoch(epoch)
        batches.append(collate(extractor, windows, range(len(windows))))
    return batches


@pytest.mark.parametrize("name", SLICED)
def test_training_windows_are_slices_equal_to_what_the_extractor_makes(name, make_clips):
    extractor, window_samples = SLICED[name]
    clips, step = make_clips(window_samples), start_step(extractor)
    kept = TrainingWindows(clips, window_samples, seed=1, start_step=step)
    plain = TrainingWindows(clips, window_samples, seed=1, start_step=step)
    assert keep_features([kept], extractor, GB, CPU) > 0
    for ours, expected in zip(draw(extractor, kept, range(20)), draw(extractor, plain, range(20)), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    starts = {plain.draw(0)[1] for epoch in range(300) if plain.set_epoch(epoch) is None}
    assert len(starts) > 100 and all(start % step == 0 for start in starts)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["evaluation", "grid"])
def test_windows_of_every_epoch_are_equal_to_what_the_extractor_makes(name, kind, make_clips):
    extractor, window_samples = ALL[name]
    clips = make_clips(window_samples)

    def make():
        if kind == "grid":
            return TrainingWindows(clips, window_samples, seed=1, grid=True)
        return EvaluationWindows(clips, window_samples, window_samples // 2)

    kept, plain = make(), make()
    assert keep_features([kept], extractor, GB, CPU) > 0
    for _ in range(2):
        ours, expected = (collate(extractor, windows, range(len(windows))) for windows in (kept, plain))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SLICED)
def test_features_do_not_depend_on_what_was_visited_before(name, make_clips):
    """To the last bit: else a resumed run, which begins with nothing kept, would end in other weights."""
    extractor, window_samples = SLICED[name]
    clips = make_clips(window_samples)
    batches = []
    for epochs in (list(range(12)), random.Random(0).sample(range(12), 12)):
        windows = TrainingWindows(clips, window_samples, seed=1, start_step=start_step(extractor))
        keep_features([windows], extractor, GB, CPU)
        batches.append(dict(zip(epochs, draw(extractor, windows, epochs), strict=True)))
    assert all(torch.equal(batches[0][epoch], batches[1][epoch]) for epoch in range(12))


@pytest.mark.parametrize("kind", ["tracks", "windows"])
def test_everything_is_computed_once_whatever_the_number_of_threads(kind, make_clips, monkeypatch):
    extractor, window_samples = SLICED["mel"]
    clips, found, threads = make_clips(window_samples), [], torch.get_num_threads()
    cls = {"tracks": kept_features.KeptTracks, "windows": kept_features.KeptWindows}[kind]
    for cores in (1, 3):
        monkeypatch.setattr(kept_features, "count_cores", lambda cores=cores: cores)
        calls, compute = [], cls._compute
        with monkeypatch.context() as patch:
            patch.setattr(cls, "_compute", lambda self, item: calls.append(item) or compute(self, item))  # noqa: B023
            windows = TrainingWindows(clips, window_samples, seed=1, start_step=128, grid=kind == "windows")
            keep_features([windows], extractor, GB, CPU)
            assert not calls, "computed before a window was asked for"
            found.append(draw(extractor, windows, range(8)))
        assert len(calls) == {"tracks": 4, "windows": 5 + 1 + 3 + 1 + 1}[kind]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert torch.get_num_threads() == threads


def test_long_tracks_are_computed_in_blocks(make_clips, monkeypatch):
    extractor, window_samples = SLICED["mel"]
    clips, found = make_clips(window_samples), []
    for block in (4096, 40):
        monkeypatch.setattr(kept_features, "_BLOCK_FRAMES", block)
        windows = TrainingWindows(clips, window_samples, seed=1, start_step=128)
        keep_features([windows], extractor, GB, CPU)
        found.append(draw(extractor, windows, range(4)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_waveforms_are_kept_for_a_gpu_and_equal_to_what_the_extractor_makes(do_normalize, make_clips, monkeypatch):
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=do_normalize)
    clips = make_clips(4000)
    plain, kept = (TrainingWindows(clips, 4000, seed=1, start_step=start_step(extractor)) for _ in range(2))
    assert keep_features([kept], extractor, GB, CPU) == 0
    # As on a GPU, but where this machine can see it.
    kept.features = kept_features.KeptTracks(find_frames(extractor), kept.clips, 4000, CPU)
    for ours, expected in zip(draw(extractor, kept, range(9)), draw(extractor, plain, range(9)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_features_are_kept_only_where_they_fit_and_stay_the_same(make_clips):
    extractor, window_samples = SLICED["ast"]
    clips = make_clips(window_samples)
    windows = EvaluationWindows(clips, window_samples, window_samples)
    num_bytes = 4 * len(windows) * 100 * 24
    assert keep_features([windows], extractor, num_bytes - 1, CPU) == 0 and "samples" in windows[0]
    assert keep_features([windows], extractor, num_bytes, CPU) == num_bytes and "features" in windows[0]
    changed = TrainingWindows(clips, window_samples, seed=1, transform=lambda samples, seed: -samples)
    assert keep_features([changed], extractor, GB, CPU) == 0 and "samples" in changed[0]


@pytest.mark.parametrize(("tenths", "places"), [(19, ["cuda", "cpu"]), (21, ["cuda", "cuda"]), (9, ["cpu", "cpu"])])
def test_features_of_all_sets_share_a_tenth_of_a_gpu(tenths, places, make_clips, monkeypatch):
    extractor, window_samples = SLICED["ast"]
    sets = [EvaluationWindows(make_clips(window_samples), window_samples, window_samples) for _ in places]
    num_bytes = 4 * len(sets[0]) * 100 * 24
    gpu = SimpleNamespace(total_memory=num_bytes * tenths)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    assert keep_features(sets, extractor, GB, torch.device("cuda")) == 2 * num_bytes
    assert [windows.features.device.type for windows in sets] == places
    assert keep_features(sets, extractor, 2 * num_bytes - 1, torch.device("cuda")) == num_bytes


class OtherExtractor(transformers.ASTFeatureExtractor):
    """As a checkpoint may bring it."""


def test_extractors_of_unknown_code_are_not_cut_into_frames(make_clips):
    short = SpectrogramCNNFeatureExtractor(n_fft=512, hop_length=128, **CNN)
    for extractor, window_samples in ((OtherExtractor(sampling_rate=RATE), 8000), *WHOLE.values(), (short, 1000)):
        windows = TrainingWindows(make_clips(window_samples), window_samples, seed=1)
        assert keep_features([windows], extractor, GB, CPU) == 0
    assert find_frames(OtherExtractor(sampling_rate=RATE)) is None and start_step(OtherExtractor()) == 1
