"""MusiCNN against the original, layer by layer in NumPy and as published; its mel bands against librosa's formula."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tiny_models import load, saved

from hf_utils.errors import UserError
from hf_utils.models.musicnn import MusiCNNFeatureExtractor
from hf_utils.models.packaged.musicnn import convert_musicnn, read_constant

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("MUSICNN_REFERENCE", ROOT.parent / "shared/data/musicnn_reference.npz"))
MODELS = Path(os.environ.get("PACKAGED_MODELS", ROOT / "models"))
TAGS = [f"tag {i}" for i in range(50)]


def make_variables() -> dict[str, np.ndarray]:
    """Return random variables by the names and in the layout of the original's checkpoint."""
    generator = np.random.default_rng(0)
    kernels = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
    kernels += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    sizes = [1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200]
    variables = {"beta1_power": np.float32(0.9)}
    layers = [(f"conv2d_{i}", shape) for i, shape in enumerate(kernels)] + [
        ("dense_0", (1506, 200)),
        ("dense_1", (200, 50)),
    ]
    for name, shape in layers:
        name = name.removesuffix("_0")
        variables[f"{name}/kernel"] = generator.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        variables[f"{name}/kernel/Adam"] = np.zeros(shape)
        variables[f"{name}/bias"] = generator.normal(0, 0.1, shape[-1])
    for i, size in enumerate(sizes):
        name = f"batch_normalization_{i}".removesuffix("_0")
        for part in ("gamma", "beta", "moving_mean"):  # a negative gamma turns maxima into minima
            variables[f"{name}/{part}"] = generator.normal(0.3, 1, size)
        variables[f"{name}/moving_variance"] = generator.uniform(0.5, 2, size)
    return {name: value.astype(np.float32) for name, value in variables.items()}


class Original:
    """The published graph in NumPy, in its own layout: (frames, bands, channels)."""

    def __init__(self, variables):
        self.variables, self.counts = variables, {}

    def take(self, kind):
        number = self.counts.get(kind, 0)
        self.counts[kind] = number + 1
        scope = f"{kind}_{number}" if number else kind
        return lambda part: self.variables[f"{scope}/{part}"].astype(np.float64)

    def norm(self, x):
        take = self.take("batch_normalization")
        return take("gamma") * (x - take("moving_mean")) / np.sqrt(take("moving_variance") + 1e-3) + take("beta")

    def convolve(self, x):
        """As many frames come out as go in: TensorFlow puts the odd zero of an even filter behind."""
        take = self.take("conv2d")
        kernel = take("kernel")
        frames, bands = kernel.shape[:2]
        padded = np.pad(x[:, :, 0], (((frames - 1) // 2, frames // 2), (0, 0)))
        views = sliding_window_view(padded, (frames, bands))
        return self.norm(np.maximum(np.tensordot(views, kernel[:, :, 0], 2) + take("bias"), 0))

    def dense(self, x):
        take = self.take("dense")
        return x @ take("kernel") + take("bias")

    def __call__(self, log_mel):
        x = self.norm(log_mel[:, :, None])
        front = np.concatenate([self.convolve(x).max(axis=1) for _ in range(5)], axis=1)
        first = self.convolve(front[:, :, None])[:, 0]
        second = self.convolve(first[:, :, None])[:, 0] + first
        third = self.convolve(second[:, :, None])[:, 0] + second
        features = np.concatenate([front, first, second, third], axis=1)
        pooled = np.stack([features.max(axis=0), features.mean(axis=0)], axis=1).reshape(-1)
        return self.dense(self.norm(np.maximum(self.dense(self.norm(pooled)), 0)))


def test_the_converted_net_computes_what_the_original_does():
    variables = make_variables()
    log_mel = np.random.default_rng(1).gamma(1.5, 0.6, (30, 96))
    model = convert_musicnn(variables, TAGS)
    with torch.inference_mode():
        logits = model(torch.from_numpy(log_mel).float()[None]).logits[0]
    np.testing.assert_allclose(logits, Original(variables)(log_mel), atol=1e-3 * logits.abs().max().item())
    assert model.config.id2label[49] == "tag 49" and model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("conv2d_7/kernel"), "no variable conv2d_7/kernel"),
        (
            lambda v: v.update({"dense/kernel": np.zeros((1505, 200), np.float32)}),
            r"dense/kernel has shape \(1505, 200\)",
        ),
        (lambda v: v["batch_normalization/gamma"].fill(np.nan), "not finite"),
    ],
)
def test_another_checkpoint_is_refused(change, message):
    variables = make_variables()
    change(variables)
    with pytest.raises(UserError, match=message):
        convert_musicnn(variables, TAGS)


def test_tags_are_read_from_code_that_is_not_run():
    code = "raise SystemExit('ran')\nMTT_LABELS = ['no']\nMSD_LABELS = ['rock', \"it's\"]\n"
    assert read_constant(code, "MSD_LABELS") == ["rock", "it's"]


def slaney_hz(mel):
    """Slaney's scale: 200/3 Hz a mel up to 1000 Hz, 27 mel for each factor of 6.4 above."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def log_mel(samples, n_fft=512, hop=256, num_bands=96, rate=16000):
    """Return (T, F) in float64: triangles of area 1 on Slaney's scale, power spectra under a periodic Hann window."""
    highest = 15 + 27 * np.log(rate / 2 / 1000) / np.log(6.4)
    edges = slaney_hz(np.linspace(0, highest, num_bands + 2))
    low, centre, high = (edges[i : num_bands + i, None] for i in range(3))
    hz = np.arange(n_fft // 2 + 1) * rate / n_fft
    triangles = (
        np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre))) * 2 / (high - low)
    )
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = sliding_window_view(samples.astype(np.float64), n_fft)[::hop]
    return np.log10(10000 * np.abs(np.fft.rfft(frames * window)) ** 2 @ triangles.T + 1)


@pytest.mark.parametrize("level", [1e-4, 0.1, 1.0])
def test_features_are_the_log_of_mel_power(level):
    """At full level, too, where the package's own half precision overflows."""
    samples = (level * np.sin(np.arange(48128) ** 1.5 / 50)).astype(np.float32)
    features = MusiCNNFeatureExtractor()(samples, sampling_rate=16000, return_tensors="np").input_values
    assert features.shape == (1, 187, 96) and features.dtype == np.float32
    np.testing.assert_allclose(features[0], log_mel(samples), atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(1000), 22050, "expected 16000 Hz"),
        ([np.zeros(1000), np.zeros(999)], 16000, "several lengths"),
        (np.zeros(0), 16000, "with samples"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(samples, rate, message):
    with pytest.raises(ValueError, match=message):
        MusiCNNFeatureExtractor()(samples, sampling_rate=rate)


def test_a_waveform_shorter_than_a_frame_is_repeated():
    extractor, short = MusiCNNFeatureExtractor(), np.random.default_rng(0).normal(0, 0.1, 100)
    features = extractor(short, sampling_rate=16000).input_values
    np.testing.assert_array_equal(features, extractor(np.tile(short, 6)[:512], sampling_rate=16000).input_values)


def test_windows_of_any_length_and_a_last_batch_of_one(tmp_path_factory):
    model, extractor = load(saved("musicnn", tmp_path_factory), window_seconds=None)
    for seconds in (0.1, 1.0, 7.3):
        noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * 8000)).astype(np.float32)
        inputs = extractor(noise, sampling_rate=8000, return_tensors="pt")
        assert model.eval()(**inputs).logits.shape == (1, 3)
        assert torch.isfinite(model.train()(**inputs).logits).all()


def test_a_new_output_layer_leaves_the_rest_and_the_head_options_change_its_dropout(tmp_path_factory):
    folder = saved("musicnn", tmp_path_factory)
    tagger, _ = load(folder, genres=None, window_seconds=None)
    assert tagger.config.num_labels == 4
    model, _ = load(folder, window_seconds=None, head_dropout=0.1)
    assert model.config.problem_type == "single_label_classification" and model.config.window_seconds == 1.0
    new = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, tagger.state_dict()[name])}
    assert new == {"classifier.6.weight", "classifier.6.bias"}
    assert [module.p for module in model.classifier if isinstance(module, torch.nn.Dropout)] == [0.1, 0.1]
    for size in (100, 512):
        with pytest.raises(UserError, match=f"head_hidden_size is {size}, but the checkpoint's 8"):
            load(folder, head_hidden_size=size)


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs MUSICNN_REFERENCE: inputs of the original")
def test_features_of_real_clips_are_those_that_the_original_reads(gtzan_mini):
    """librosa resamples by soxr's HQ, and puts half a frame of zeros before a clip; ours does not extend it."""
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        tracks, expected = arrays["tracks"].tolist(), arrays["log_mel"]
    for track, reference in zip(tracks, expected, strict=True):
        samples, rate = soundfile.read(gtzan_mini / track.split(".")[0] / f"{track}.flac", dtype="float32")
        samples = np.concatenate([np.zeros(256), soxr.resample(samples, rate, 16000, quality="HQ")])
        features = MusiCNNFeatureExtractor()(samples[: 512 + 186 * 256], sampling_rate=16000).input_values[0]
        np.testing.assert_allclose(features, reference, atol=1e-4)


@pytest.fixture(params=["musicnn_msd", "musicnn_mtt"])
def converted(request):
    """A converted net, and the outputs of the original graph for five real clips."""
    folder = MODELS / request.param
    if not folder.is_dir() or not REFERENCE.is_file():
        pytest.skip(
            f"needs {request.param}, made by `python -m hf_utils.models.packaged {request.param} --output_dir "
            f"models/{request.param}` (or a folder with it in PACKAGED_MODELS), and MUSICNN_REFERENCE"
        )
    data_set = request.param.removeprefix("musicnn_").upper()
    with np.load(REFERENCE, allow_pickle=False) as arrays:
        expected = {n.partition("/")[2]: arrays[n] for n in arrays if n.startswith(f"{data_set}_musicnn/")}
        return load(folder, genres=None, window_seconds=None), arrays["log_mel"], expected


def test_published_weights_give_the_published_outputs(converted):
    (model, _), inputs, expected = converted
    with torch.inference_mode():
        pooled = model.backbone(torch.from_numpy(inputs))
        penultimate = model.classifier[:5](pooled)
        logits = model.classifier[5:](penultimate)
    for name, found in (
        ("max_pool", pooled[:, 0::2]),
        ("mean_pool", pooled[:, 1::2]),
        ("penultimate", penultimate),
        ("logits", logits),
    ):
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)
