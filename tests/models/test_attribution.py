"""Gradient x input: completeness of a linear model by hand, and of every family against a numeric derivative."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch

from hf_utils.errors import UserError
from hf_utils.models.attribution import explain_window, gradient_times_input
from hf_utils.models.families import window_samples_for
from hf_utils.models.features import WindowCollator

GENRES = ["blues", "jazz", "rock"]
SMALL = {"n_fft": 512, "hop_length": 256, "num_mel_bins": 32}


class Linear(torch.nn.Module):
    """Logits of a weighted sum of all features, and a bias."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights, self.bias = torch.nn.Parameter(torch.tensor(weights)), torch.nn.Parameter(torch.tensor(bias))

    def forward(self, input_values):
        return SimpleNamespace(logits=input_values.flatten(1) @ self.weights + self.bias)


def test_a_linear_model_by_hand():
    """Features 3, -1, 0, 2; weights of two genres; the second feature has weight in neither, the third is 0."""
    model = Linear([[2.0, 0.5], [0.0, 0.0], [7.0, -7.0], [-1.0, 1.0]], [0.25, -0.5])
    features = torch.tensor([[[3.0, -1.0], [0.0, 2.0]]])
    shares, margin = gradient_times_input(model, {"input_values": features}, 0, 1)
    assert shares.tolist() == [[[3 * (2 - 0.5), 0.0], [0.0, 2 * (-1 - 1)]]]
    assert margin == pytest.approx((6 - 2 + 0.25) - (1.5 + 2 - 0.5))
    assert shares.sum().item() == pytest.approx(margin - (0.25 + 0.5))  # completeness, without the biases
    turned, _ = gradient_times_input(model, {"input_values": features}, 1, 0)
    assert torch.equal(turned, -shares)
    assert model.weights.grad is None and not features.requires_grad  # nothing is left behind


@pytest.mark.parametrize("family", ["ast", "convnext", "musicnn", "hubert"])
def test_shares_add_up_to_the_slope_of_the_margin(family, tmp_path_factory):
    """If all features grow by a factor, the margin changes by their shares: in float64, by central differences."""
    folder = tiny_models.saved(family, tmp_path_factory)
    model, extractor = tiny_models.load(folder, GENRES, spectrogram=SMALL if family == "convnext" else None)
    if family == "convnext":
        extractor.mean, extractor.std = -30.0, 20.0
    model.double().eval()
    samples = window_samples_for(model.config, extractor, 1.0)
    window = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    found = explain_window(model, extractor, window, 2, 0)
    features = WindowCollator(extractor)([{"samples": window, "label": 0}])["input_values"].double()

    def margin(factor):
        with torch.no_grad():
            logits = model(input_values=factor * features).logits[0]
        return (logits[2] - logits[0]).item()

    step = 1e-6
    assert found.shares.sum() == pytest.approx((margin(1 + step) - margin(1 - step)) / (2 * step), rel=1e-3, abs=1e-7)
    assert found.margin == pytest.approx(margin(1)) and np.abs(found.shares).max() > 0
    sizes = {"ast": (32, 100), "musicnn": (24, None), "convnext": (32, None), "hubert": (samples,)}[family]
    shape = found.features.shape
    assert found.shares.shape == shape and len(shape) == len(sizes)
    assert all(expected in (None, size) for expected, size in zip(sizes, shape, strict=True))


def test_low_frequencies_come_first_and_time_runs_on(tmp_path_factory):
    """A low tone that begins in the middle of the window."""
    model, extractor = tiny_models.load(tiny_models.saved("ast", tmp_path_factory), GENRES)
    times = np.arange(window_samples_for(model.config, extractor, None)) / extractor.sampling_rate
    window = (0.3 * np.sin(2 * np.pi * 200 * times) * (times > 0.5)).astype(np.float32)
    loud = explain_window(model, extractor, window, 1, 0).features
    assert loud[:16, 60:].mean() > loud[16:, 60:].mean() and loud[:, 60:].mean() > loud[:, :40].mean()


def test_what_no_gradient_reaches_is_refused(tmp_path_factory):
    model, extractor = tiny_models.load(tiny_models.saved("muq", tmp_path_factory), GENRES)
    with pytest.raises(UserError, match="MuQ .*gradient"):
        explain_window(model, extractor, np.zeros(24000, np.float32), 0, 1)
