"""New heads of audio encoders read what they are asked to, to the last layer, and come back as they were saved."""

import numpy as np
import pytest
import torch
from tiny_models import load, save_hubert, saved

from hf_utils.arguments.model import ModelArguments
from hf_utils.errors import UserError
from hf_utils.models.encoder_mlp.modeling_encoder_mlp import EncoderStandardization
from hf_utils.models.heads import find_standardization, fit_standardization

WAVEFORMS = ["hubert", "wav2vec2", "wavlm"]


def make_inputs(extractor):
    noise = np.random.default_rng(0).normal(0, 0.1, (3, extractor.sampling_rate)).astype(np.float32)
    return extractor(list(noise), sampling_rate=extractor.sampling_rate, return_tensors="pt")[
        extractor.model_input_names[0]
    ]


def read(model, inputs):
    """Return what the layers of the head above the pooling read."""
    heard = []
    hook = model.readout.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    return heard[0]


@pytest.mark.parametrize("name", ["ast", *WAVEFORMS])
def test_every_layer_is_pooled_over_time(name, tmp_path_factory):
    folder = saved(name, tmp_path_factory)
    model, extractor = load(folder, feature_layer="all", head_pooling="mean_max")
    inputs = make_inputs(extractor)
    with torch.no_grad():
        outputs = model.encoder(inputs, output_hidden_states=True)
    layers = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
    assert len(layers) == 4
    expected = torch.stack([torch.cat([x.mean(1), x.max(1).values], -1) for x in layers], 1)
    features = read(model, inputs)
    assert features.shape == (3, 4, 32)
    torch.testing.assert_close(features, expected)
    with torch.no_grad():
        model.readout[0].weights.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]).log())
        torch.testing.assert_close(
            model.readout(features), (features[:, 1:] * torch.tensor([[1], [2], [3]])).sum(1) / 6
        )
    assert [type(module).__name__ for module in model.classifier] == ["Dropout", "Linear"]


@pytest.mark.parametrize("name", ["ast", *WAVEFORMS])
def test_layers_above_the_one_that_is_read_are_cut_off(name, tmp_path, tmp_path_factory):
    folder = saved(name, tmp_path_factory)
    whole, extractor = load(folder, head_pooling="mean")
    inputs = make_inputs(extractor)
    for number in (1, 2, 3):
        model, _ = load(folder, feature_layer=str(number), head_pooling="mean")
        with torch.no_grad():
            hidden = whole.encoder(inputs, output_hidden_states=True).hidden_states
            last = model.encoder(inputs)[0]
        if name in ("hubert", "wavlm"):  # the others end in a normalisation
            torch.testing.assert_close(read(model, inputs), hidden[number].mean(1))
        torch.testing.assert_close(read(model, inputs), last.mean(1))
        model.save_pretrained(tmp_path / str(number))
        extractor.save_pretrained(tmp_path / str(number))
        again, _ = load(tmp_path / str(number))
        assert again.config.encoder_config.num_hidden_layers == number
        torch.testing.assert_close(again(inputs).logits, model(inputs).logits)
    torch.testing.assert_close(read(model, inputs), read(whole, inputs))  # the last


def test_features_are_standardised_by_hand_and_stay_so(tmp_path, tmp_path_factory):
    for name, options in (
        ("hubert", {"head": "linear", "feature_layer": "all", "standardize_features": True}),
        ("musicnn", {"head": "mlp", "head_hidden_size": 5, "standardize_features": True}),
    ):
        model, extractor = load(saved(name, tmp_path_factory), **options)
        inputs = make_inputs(extractor)
        features, part = read(model, inputs), find_standardization(model)
        assert part.num_windows == 0
        torch.testing.assert_close(part(features), features)
        known = 3 + torch.randn(7, *features.shape[1:], generator=torch.Generator().manual_seed(0))
        known[..., 0] = 0.5  # never changes
        fit_standardization(part, known.numpy())
        expected = (known - known.mean(0)) / known.std(0, correction=0)
        torch.testing.assert_close(part(known)[..., 1:], expected[..., 1:], rtol=1e-4, atol=1e-5)
        assert (part(known)[..., 0].abs() < 1e-5).all() and part.num_windows == 7
        assert not any(p.requires_grad and "readout.0" in n for n, p in model.named_parameters())
        model.save_pretrained(tmp_path / name)
        extractor.save_pretrained(tmp_path / name)
        again, _ = load(tmp_path / name, window_seconds=None)
        assert find_standardization(again).num_windows == 7
        torch.testing.assert_close(again(inputs).logits, model(inputs).logits)


def test_a_feature_that_differs_by_rounding_is_left_unscaled():
    part = EncoderStandardization(3)
    dead = np.float32(-2e-6)
    features = np.stack([[dead, -1.0, 1e-6], [np.nextafter(dead, np.float32(0)), 3.0, 3e-6]]).astype(np.float32)
    assert features[0, 0] != features[1, 0]
    fit_standardization(part, features)
    torch.testing.assert_close(part.std, torch.tensor([1.0, 2.0, 1e-6]))


def test_musicnn_takes_a_plain_head_and_keeps_its_own_without_one(tmp_path, tmp_path_factory):
    folder = saved("musicnn", tmp_path_factory)
    own, extractor = load(folder)
    inputs = make_inputs(extractor)
    pooled = read(own, inputs)
    for options, layers, features in (
        ({"head": "linear"}, ["Dropout", "Linear"], pooled),
        ({"head": "mlp"}, ["Dropout", "Linear", "ReLU", "Dropout", "Linear"], pooled),
        ({"head_pooling": "mean"}, ["Dropout", "Linear"], pooled[:, 1::2]),
    ):
        model, _ = load(folder, **options)
        assert [type(module).__name__ for module in model.classifier] == layers
        torch.testing.assert_close(read(model, inputs), features)
        for key, tensor in own.backbone.state_dict().items():
            assert torch.equal(model.backbone.state_dict()[key], tensor)
    assert type(own.classifier[0]).__name__ == "VectorNorm"
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    assert load(tmp_path)[0].config.head_pooling == "mean"


def test_what_does_nothing_or_does_not_fit_is_refused(tmp_path, tmp_path_factory):
    hubert = saved("hubert", tmp_path_factory)
    model, extractor = load(hubert, head="mlp")
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    for folder, options, message in (
        (hubert, {"feature_layer": "4"}, "feature_layer is 4, but HubertModel has 3 layers"),
        (saved("whisper", tmp_path_factory), {"head_pooling": "mean"}, "--head_pooling mean.*not for whisper"),
        (
            saved("convnext", tmp_path_factory),
            {"standardize_features": True},
            "standardize_features.*not for convnext",
        ),
        (saved("musicnn", tmp_path_factory), {"feature_layer": "all"}, "musicnn reads what all of its layers"),
        (tmp_path, {"feature_layer": "all"}, "--feature_layer all contradicts the checkpoint.* last"),
        (tmp_path, {"head": "linear"}, "--head linear contradicts the checkpoint, whose head is mlp"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, window_seconds=None, **options)
    for value in ("0", "first", "-1", "1.5"):
        with pytest.raises(UserError, match="expected last, all or the number of a layer"):
            ModelArguments(model_name_or_path="x", feature_layer=value)


def test_all_learns_in_every_part(tmp_path):
    """A parameter without a gradient would stop training by several processes."""
    model, extractor = load(save_hubert(tmp_path / "hubert"), feature_layer="all", head="mlp")
    model.train()(make_inputs(extractor), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
