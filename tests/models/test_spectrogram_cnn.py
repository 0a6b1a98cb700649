"""Spectrograms against hand computation, image weights without loss, and code that travels with the weights."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import transformers
from tiny_models import load, save_convnext, saved
from transformers import AutoModel, AutoModelForImageClassification

from hf_utils.arguments.model import ModelArguments
from hf_utils.errors import UserError
from hf_utils.models.families import needs_feature_stats, set_feature_stats, unnormalised
from hf_utils.models.spectrogram_cnn import SpectrogramCNNConfig, SpectrogramCNNFeatureExtractor
from hf_utils.models.spectrogram_cnn.feature_extraction_spectrogram_cnn import SETTINGS
from hf_utils.models.spectrogram_cnn.modeling_spectrogram_cnn import pool_spectrograms

GENRES = ["blues", "jazz", "rock"]
RATE = 22050


def make_noise(samples=RATE, count=None, seed=0):
    shape = samples if count is None else (count, samples)
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def make_tone(hz, samples=RATE):
    return np.sin(2 * np.pi * hz * np.arange(samples) / RATE).astype(np.float32)


def extract(extractor, samples):
    with unnormalised(extractor):
        return extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np").input_values


def log_spectrum(samples, centre, window_length, n_fft):
    """Return the log power spectrum around one sample by numpy: periodic Hann window of unit energy, centred."""
    window = np.zeros(n_fft)
    start = (n_fft - window_length) // 2
    window[start : start + window_length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window_length) / window_length)
    window /= np.sqrt((window**2).sum())
    part = samples[centre - n_fft // 2 :][:n_fft].astype(np.float64)
    return np.log(np.maximum(np.abs(np.fft.rfft(part * window)) ** 2, 1e-10))


@pytest.mark.parametrize(("kind", "lengths"), [("stft", [512]), ("multi_stft", [512, 256, 128])])
def test_stft_equals_numpy(kind, lengths):
    extractor = SpectrogramCNNFeatureExtractor(spectrogram=kind, n_fft=512, hop_length=200)
    samples = make_noise()
    features = extract(extractor, samples)
    assert features.shape == (1, len(lengths), 257, 1 + RATE // 200) and features.dtype == np.float32
    for channel, length in enumerate(lengths):
        expected = log_spectrum(samples, centre=20 * 200, window_length=length, n_fft=512)
        np.testing.assert_allclose(features[0, channel, :, 20], expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["mel", "stft", "multi_stft"])
def test_frames_without_centring_are_those_inside_the_waveform(kind):
    samples, settings = make_noise(), {"spectrogram": kind, "n_fft": 512, "hop_length": 128, "num_mel_bins": 20}
    centred = extract(SpectrogramCNNFeatureExtractor(**settings), samples)
    inside = extract(SpectrogramCNNFeatureExtractor(**settings, center=False), samples)
    assert inside.shape[3] == 1 + (samples.size - 512) // 128
    # A centred frame lies half a frame, two hops, earlier.
    np.testing.assert_allclose(inside, centred[..., 2 : 2 + inside.shape[3]], atol=1e-4)
    # Of the shortest waveform that is not repeated, as many as a backbone needs.
    extractor = SpectrogramCNNFeatureExtractor(**settings, center=False)
    assert extract(extractor, samples[: extractor.min_samples]).shape[3] == 32


def test_mel_bands_sum_the_spectrum():
    extractor = SpectrogramCNNFeatureExtractor(n_fft=1024, hop_length=256, num_mel_bins=20, max_frequency_hz=8000)
    samples = make_noise()
    # HTK mel scale, triangles of height one.
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 22) / 2595) - 1)
    hz = np.arange(513) * RATE / 1024
    power = np.exp(log_spectrum(samples, centre=15 * 256, window_length=1024, n_fft=1024))
    expected = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        triangle = np.maximum(0, np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)))
        expected.append(np.log(power @ triangle))
    features = extract(extractor, samples)
    assert features.shape[1:3] == (1, 20)
    np.testing.assert_allclose(features[0, 0, :, 15], expected, atol=1e-3)


def test_frequency_range_is_cut():
    extractor = SpectrogramCNNFeatureExtractor(
        spectrogram="stft", n_fft=2205, min_frequency_hz=1000, max_frequency_hz=2000
    )
    features = extract(extractor, make_tone(1500))
    # Bins are 10 Hz apart, both ends included.
    assert features.shape[2] == 101 and (features[0, 0, :, 10:-10].argmax(axis=0) == 50).all()


def test_silence_and_short_clips_are_finite():
    extractor = SpectrogramCNNFeatureExtractor()
    silence = extract(extractor, np.zeros(RATE, np.float32))
    np.testing.assert_allclose(silence, np.log(1e-10), rtol=1e-6)
    tone = make_tone(441, samples=600)
    short = extract(extractor, tone)
    assert short.shape == (1, 1, 128, 32)
    # Repeated, not padded: as loud in the last frame as in the first.
    assert short[0, 0, :, -3].max() == pytest.approx(short[0, 0, :, 2].max(), abs=0.5)


@pytest.mark.parametrize("kind", ["mel", "stft", "multi_stft"])
def test_the_level_of_a_window_does_not_matter(kind):
    """Samples of a tone with noise, nothing above 5 kHz, and the same 20 dB quieter; also rounded to 16 bits anew."""
    noise = np.convolve(make_noise(2 * RATE), np.sinc(np.arange(-40, 41) * 10 / 22.05) / 2.2, mode="same")
    loud = np.round(32768 * 0.3 * (make_tone(1000, 2 * RATE) + noise)) / 32768
    quiet, rounded = 0.1 * loud, np.round(32768 * 0.1 * loud) / 32768
    settings = {"spectrogram": kind, "n_fft": 512, "hop_length": 128, "num_mel_bins": 40, "center": False}
    absolute, level = (
        SpectrogramCNNFeatureExtractor(**settings, level_normalization=on, mean=-1.0, std=2.0) for on in (False, True)
    )

    def change(extractor, changed):
        before, after = (extractor(x, sampling_rate=RATE).input_values for x in (loud, changed))
        return np.abs(before - after)

    assert change(absolute, quiet).mean() > 1.5
    assert change(level, quiet).max() < 1e-3
    assert change(level, rounded).mean() < 0.05
    plain = extract(level, loud)
    assert plain.mean() == pytest.approx(0, abs=1e-4) and np.ptp(plain) <= np.log(1e8) + 1e-4
    np.testing.assert_allclose(level(loud, sampling_rate=RATE).input_values, (plain + 1) / 2, atol=1e-5)
    # Each window by itself, and silence is no exception.
    both = extract(level, np.stack([loud, np.zeros_like(loud)]))
    np.testing.assert_allclose(both[0], plain[0], atol=1e-5)
    np.testing.assert_allclose(both[1], 0, atol=1e-4)


def test_batches_equal_single_windows():
    extractor = SpectrogramCNNFeatureExtractor(mean=-8.0, std=2.5)
    windows = make_noise(count=3)
    batch = extractor(list(windows), sampling_rate=RATE, return_tensors="pt").input_values
    assert batch.shape == (3, 1, 128, 44) and batch.dtype == torch.float32
    for i, window in enumerate(windows):
        single = extractor(window, sampling_rate=RATE, return_tensors="np").input_values[0]
        np.testing.assert_allclose(batch[i], single, atol=1e-5)
        np.testing.assert_allclose(single, (extract(extractor, window)[0] + 8.0) / 2.5, atol=1e-5)
    np.testing.assert_array_equal(extractor(windows).input_values, batch)
    np.testing.assert_array_equal(
        extractor(windows[0].tolist()).input_values[0], extractor(windows[0]).input_values[0]
    )


def test_wrong_input_is_refused():
    extractor = SpectrogramCNNFeatureExtractor(mean=0.0, std=1.0)
    with pytest.raises(ValueError, match="16000 Hz, expected 22050"):
        extractor(make_noise(), sampling_rate=16000)
    with pytest.raises(ValueError, match="several lengths"):
        extractor([make_noise(1000), make_noise(999)], sampling_rate=RATE)
    for samples in (np.zeros(0), np.zeros((2, 2, 500))):
        with pytest.raises(ValueError, match="expected mono with samples"):
            extractor(samples, sampling_rate=RATE)
    with pytest.raises(ValueError, match="no mean and standard deviation"):
        SpectrogramCNNFeatureExtractor()(make_noise(), sampling_rate=RATE)
    for settings in ({"spectrogram": "cqt"}, {"max_frequency_hz": 12000}, {"min_frequency_hz": 11025}):
        with pytest.raises(ValueError, match="expected"):
            SpectrogramCNNFeatureExtractor(**settings)


def test_extractor_is_saved_as_plain_settings(tmp_path):
    extractor = SpectrogramCNNFeatureExtractor(spectrogram="multi_stft", n_fft=512, mean=-3.5, std=2.0)
    before = extractor(make_noise(), sampling_rate=RATE).input_values
    extractor.save_pretrained(tmp_path)
    text = (tmp_path / "preprocessor_config.json").read_text()
    assert len(text) < 1000
    assert json.loads(text)["auto_map"] == {
        "AutoFeatureExtractor": "feature_extraction_spectrogram_cnn.SpectrogramCNNFeatureExtractor"
    }
    again = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is SpectrogramCNNFeatureExtractor
    np.testing.assert_array_equal(again(make_noise(), sampling_rate=RATE).input_values, before)


@pytest.mark.parametrize("name", ["convnext", "resnet", "timm_resnet"])
@torch.no_grad()
def test_image_weights_load_without_loss(name, tmp_path_factory):
    folder = saved(name, tmp_path_factory)
    model, _ = load(folder)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    pooled = pool_spectrograms(model.backbone, images)
    classifier = AutoModelForImageClassification.from_pretrained(folder).eval()
    if name == "timm_resnet":
        # The model that timm itself makes of the file.
        config = json.loads((folder / "config.json").read_text())
        image_model = timm.create_model("resnet18", **config["model_args"]).eval()
        image_model.load_state_dict(timm.models.load_state_dict(str(folder / "model.safetensors")))
        expected, head = image_model(images), image_model.fc
    else:
        expected, head = classifier(images).logits, classifier.classifier
    torch.testing.assert_close(head(pooled), expected)
    own = AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in model.backbone.state_dict().items())
    assert len(own) == len(model.backbone.state_dict())


@torch.no_grad()
def test_one_channel_serves_for_three(tmp_path, tmp_path_factory):
    model, _ = load(saved("convnext", tmp_path_factory))
    single = torch.randn(2, 1, 128, 44, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(single).logits, model(single.repeat(1, 3, 1, 1)).logits)
    with pytest.raises(ValueError, match="2 channels, but the backbone reads 3"):
        model(single.repeat(1, 2, 1, 1))

    one_channel = save_convnext(tmp_path / "one", num_channels=1)
    assert load(one_channel)[0](single).logits.shape == (2, 3)
    with pytest.raises(UserError, match="3 channels, but the backbone reads 1"):
        load(one_channel, spectrogram={"spectrogram": "multi_stft"})


@pytest.mark.parametrize("name", ["convnext", "timm_resnet"])
@pytest.mark.parametrize("kind", ["mel", "stft", "multi_stft"])
def test_any_spectrogram_and_any_length(name, kind, tmp_path_factory):
    model, extractor = load(saved(name, tmp_path_factory), spectrogram={"spectrogram": kind, "n_fft": 1024})
    assert needs_feature_stats(extractor) and extractor.n_fft == 1024
    set_feature_stats(extractor, -8.0, 4.0)
    assert not needs_feature_stats(extractor)
    for samples in (512, 9000, 50001):
        inputs = extractor(make_noise(samples), sampling_rate=RATE, return_tensors="pt")
        assert model(**inputs).logits.shape == (1, 3)


def test_head_options(tmp_path, tmp_path_factory):
    folder = saved("convnext", tmp_path_factory)
    linear, _ = load(folder, head_dropout=0.25)
    assert [type(m).__name__ for m in linear.classifier] == ["Dropout", "Linear"]
    model, extractor = load(folder, head="mlp", head_hidden_size=7, head_dropout=0.4)
    assert [type(m).__name__ for m in model.classifier] == ["Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert model.classifier[1].out_features == 7 and model.classifier[3].p == 0.4 and linear.classifier[0].p == 0.25
    # Neither zeros nor the spread of the default: what `_init_weights` sets.
    assert 0.01 < model.classifier[1].weight.std() < 0.03 and (model.classifier[1].bias == 0).all()

    model.save_pretrained(tmp_path / "mlp")
    extractor.save_pretrained(tmp_path / "mlp")
    again, _ = load(tmp_path / "mlp")
    assert again.classifier[1].out_features == 7 and again.classifier[0].p == 0.4
    assert load(tmp_path / "mlp", head_dropout=0.2)[0].classifier[0].p == 0.2
    with pytest.raises(UserError, match="head_hidden_size is 9.*7"):
        load(tmp_path / "mlp", head="mlp", head_hidden_size=9)
    linear.save_pretrained(tmp_path / "linear")
    extractor.save_pretrained(tmp_path / "linear")
    with pytest.raises(UserError, match="--head mlp.*linear"):
        load(tmp_path / "linear", head="mlp")


def test_a_new_network_is_deaf_to_volume_and_an_older_one_stays_as_it_was(tmp_path, tmp_path_factory):
    model, extractor = load(saved("convnext", tmp_path_factory))
    set_feature_stats(extractor, 0.0, 3.0)
    loud = make_noise(RATE)

    def logits(extractor, samples):
        return model(**extractor(samples, sampling_rate=RATE, return_tensors="pt")).logits

    torch.testing.assert_close(logits(extractor, loud), logits(extractor, 0.1 * loud), atol=1e-4, rtol=0)

    # Checkpoints of before know nothing of the setting.
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    saved_as = tmp_path / "preprocessor_config.json"
    settings = json.loads(saved_as.read_text())
    assert settings.pop("level_normalization") is True
    saved_as.write_text(json.dumps(settings))
    _, older = load(tmp_path)
    assert not older.level_normalization
    assert (logits(older, loud) - logits(older, 0.1 * loud)).abs().max() > 1e-3


def test_other_spectrogram_drops_the_statistics_of_the_first(tmp_path, tmp_path_factory, caplog):
    model, extractor = load(saved("convnext", tmp_path_factory), spectrogram={"num_mel_bins": 64})
    set_feature_stats(extractor, -8.0, 4.0)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    _, same = load(tmp_path, spectrogram={"num_mel_bins": 64})
    assert (same.mean, same.std, same.num_mel_bins) == (-8.0, 4.0, 64)
    caplog.clear()
    _, other = load(tmp_path, spectrogram={"num_mel_bins": 96})
    assert needs_feature_stats(other) and other.num_mel_bins == 96 and "not known yet" in caplog.text


def test_impossible_spectrograms_are_explained(tmp_path_factory):
    folder = saved("convnext", tmp_path_factory)
    for settings, message in (
        ({"num_mel_bins": 128, "n_fft": 256}, "too many for n_fft 256"),
        ({"spectrogram": "stft", "num_mel_bins": 64}, "num_mel_bins is 64, but the spectrogram stft has none"),
        ({"max_frequency_hz": 20000}, "half the sampling rate"),
        ({"num_mel_bins": 3}, "take more bins"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, spectrogram=settings)


@pytest.mark.parametrize("name", ["convnext", "timm_resnet"])
def test_configuration_survives_json(name, tmp_path, tmp_path_factory):
    model, _ = load(saved(name, tmp_path_factory))
    model.config.save_pretrained(tmp_path)
    again = SpectrogramCNNConfig.from_pretrained(tmp_path)
    assert type(again.backbone_config) is type(model.config.backbone_config)
    assert again.to_dict() == model.config.to_dict()
    text = (tmp_path / "config.json").read_text()
    assert "tench" not in text and len(text) < 4000
    with pytest.raises(ValueError, match="expected linear or mlp"):
        SpectrogramCNNConfig(head="conv")


FRESH_PROCESS = """
import importlib.util, json, sys, warnings
import numpy as np
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
assert importlib.util.find_spec("hf_utils") is None
samples, folders = np.load(sys.argv[1]), sys.argv[2:]
scores = {}
for folder in folders:
    try:
        AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        assert "custom code" in str(error), error
    else:
        raise AssertionError("loaded without trust")
    # Not by the pipeline, which tries a second time what fails.
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    classify = pipeline("audio-classification", model=model, feature_extractor=extractor, top_k=None)
    scores[folder] = {s["label"]: s["score"] for s in classify(samples)}
print(json.dumps(scores))
"""


def test_saved_folders_load_in_a_fresh_process(tmp_path, tmp_path_factory):
    """Without this project: from any folder name, also from a checkpoint's subfolder, with a head on any encoder."""
    samples = make_noise(16000)
    np.save(tmp_path / "samples.npy", samples)
    expected = {}
    for name, head, folder in (
        ("convnext", "linear", "run-1.5 mit Umlaut ä/checkpoint-12"),
        ("timm_resnet", "mlp", "2.timm"),
        ("ast", "mlp", "ast"),
        ("wav2vec2", "mlp", "wav2vec2"),
        ("musicnn", None, "musicnn"),
        ("musicnn", "linear", "musicnn-linear"),
        ("hubert", "linear", "hubert"),
        ("muq", "linear", "muq"),
        ("clap", "linear", "clap"),
    ):
        reading = {"standardize_features": True, "head_pooling": "mean_max"} if head == "linear" else {}
        reading = {} if name in ("convnext", "ast") else reading
        seconds = None if name == "clap" else 1.0
        model, extractor = load(saved(name, tmp_path_factory), head=head, window_seconds=seconds, **reading)
        if needs_feature_stats(extractor):
            set_feature_stats(extractor, -8.0, 4.0)
        model.save_pretrained(tmp_path / folder)
        extractor.save_pretrained(tmp_path / folder)
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**inputs).logits.softmax(-1)[0].tolist()
        expected[str(tmp_path / folder)] = dict(zip(GENRES, probabilities, strict=True))
    # -I: neither the working directory nor PYTHONPATH leads to this project.
    command = [sys.executable, "-I", "-c", FRESH_PROCESS, str(tmp_path / "samples.npy"), *expected]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    for folder, probabilities in expected.items():
        assert scores[folder] == pytest.approx(probabilities, abs=1e-6)
    assert len({json.dumps(s) for s in scores.values()}) == len(scores)


def test_the_options_of_the_script_are_the_settings_of_the_extractor():
    """One option that the extractor does not know, or one that is forgotten, would be a wrong spectrogram."""
    given = {
        "spectrogram": "stft",
        "sampling_rate": 16000,
        "num_mel_bins": 64,
        "n_fft": 1024,
        "hop_length": 256,
        "min_frequency_hz": 20.0,
        "max_frequency_hz": 7000.0,
        "level_normalization": True,
    }
    assert ModelArguments(model_name_or_path="x").spectrogram_settings() == {}
    arguments = ModelArguments(model_name_or_path="x", **given)
    assert arguments.spectrogram_settings() == given and set(given) == set(SETTINGS) - {"center"}


@pytest.mark.parametrize("spectrogram", ["mel", "multi_stft"])
def test_a_large_batch_gives_what_its_windows_give_one_by_one(spectrogram):
    """It is computed in pieces: two windows, two, and one."""
    extractor = SpectrogramCNNFeatureExtractor(spectrogram=spectrogram, n_fft=512, hop_length=256, num_mel_bins=32)
    extractor.do_normalize = False
    waveforms = np.random.default_rng(0).standard_normal((5, 100_000)).astype(np.float32)
    batch = extractor(waveforms, sampling_rate=22050)["input_values"]
    singles = [extractor(waveform, sampling_rate=22050)["input_values"][0] for waveform in waveforms]
    assert batch.shape[0] == 5
    np.testing.assert_allclose(batch, np.stack(singles), atol=1e-5)
