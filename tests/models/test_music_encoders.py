"""Music encoders of the Hub are heard as they were pretrained, come back equal, or are refused with the reason."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import MAEST_CODE, load, save_clap_towers, save_maest, save_mert, save_muq, saved
from transformers import AutoModelForAudioClassification, ClapModel, HubertModel, Wav2Vec2FeatureExtractor

from hf_utils.errors import UserError
from hf_utils.models.families import family_of, probabilities_of, window_samples_for
from hf_utils.models.features import WindowCollator, make_spec_augment, run_windows
from hf_utils.models.freezing import find_backbone, find_layers, freeze


def make_noise(model, extractor, count=2):
    samples = window_samples_for(model.config, extractor, None)
    return list(np.random.default_rng(0).normal(0, 0.1, (count, samples)).astype(np.float32))


def come_back(model, extractor, folder, **options):
    """Return the outputs of a model and of what others load from its folder, and our own loading of it."""
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    noise = make_noise(model, extractor)
    again, extractor_again = load(folder, None, window_seconds=None, **options)
    assert window_samples_for(again.config, extractor_again, None) == len(noise[0])
    assert extractor_again.to_dict() == extractor.to_dict()
    return run_windows(model, extractor, noise), run_windows(again, extractor_again, noise)


def check_all_learns_and_comes_back(model, extractor, noise, folder):
    inputs = WindowCollator(extractor)([{"samples": x, "label": 0, "seed": None} for x in noise])
    model.train()(**inputs).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    before, after = come_back(model, extractor, folder)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap") / "fused"
    return save_clap_towers(folder, "fusion", enable_fusion=True, fusion_type="aff_2d")


@pytest.mark.parametrize("options", [{}, {"head": "mlp", "head_pooling": "mean_max", "standardize_features": True}])
def test_the_audio_tower_of_clap_is_the_checkpoints_and_comes_back(options, tmp_path, tmp_path_factory):
    folder = saved("clap", tmp_path_factory)
    model, extractor = load(folder, window_seconds=None, **options)
    assert family_of(model.config) == "clap" and window_samples_for(model.config, extractor, None) == 480_000
    clap = ClapModel.from_pretrained(folder).eval()
    noise = make_noise(model, extractor)
    inputs = extractor(noise, sampling_rate=48_000, return_tensors="pt")
    heard = []
    hook = model.readout.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
    ours = run_windows(model, extractor, noise)
    hook.remove()
    with torch.no_grad():
        outputs = clap.audio_model(**inputs)
    expected = outputs.pooler_output
    if options:
        places = outputs.last_hidden_state.flatten(2)
        expected = torch.cat([places.mean(2), places.max(2).values], 1)
    torch.testing.assert_close(heard[0], expected)
    with torch.no_grad():  # as a pipeline of transformers calls it
        torch.testing.assert_close(model(**inputs).logits, ours)
    before, after = come_back(model, extractor, tmp_path)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_fused_clap_hears_every_window_alike_and_trains_all_that_it_uses(fused, tmp_path):
    model, extractor = load(fused, window_seconds=None)
    noise = make_noise(model, extractor, count=3)
    together = run_windows(model, extractor, noise)
    # The extractor calls one window of every batch "longer", at random: alone it is that one.
    torch.testing.assert_close(together, torch.cat([run_windows(model, extractor, [x]) for x in noise]))
    check_all_learns_and_comes_back(model, extractor, noise, tmp_path)


def test_clap_is_frozen_and_masked_by_its_parts(tmp_path_factory):
    model, extractor = load(saved("clap", tmp_path_factory), window_seconds=None)
    backbone = find_backbone(model)
    layers = find_layers(backbone)
    assert len(layers.blocks) == 4
    assert {name.split(".")[1] for name in layers.front_end} == {"patch_embed", "batch_norm"}
    freeze(model, "all_but_last", 1)
    learns = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learns == {"layers", "norm"}
    assert {n.split(".")[2] for n, p in backbone.named_parameters() if p.requires_grad and ".layers." in n} == {"3"}
    masks = make_spec_augment(model.config, extractor, 480_000, time_seconds=1.0, frequency_bins=8)
    assert (masks.time_axis, masks.time_frames, masks.frequency_axis) == (1, 100, 2)


def test_mert_is_the_hubert_that_its_code_builds(tmp_path, tmp_path_factory):
    folder = saved("mert", tmp_path_factory)
    for options in ({}, {"head": "mlp", "feature_layer": "all"}, {"feature_layer": "2", "head_pooling": "mean"}):
        model, extractor = load(folder, window_seconds=0.5, **options)
        assert extractor.sampling_rate == 24_000 and not extractor.do_normalize
        assert window_samples_for(model.config, extractor, None) == 12_000
        encoder = find_backbone(model)
        assert type(encoder) is HubertModel
        # Its weights, under names of today.
        wanted = HubertModel.from_pretrained(folder, config=encoder.config)
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], tensor)
        target = tmp_path / str(len(options))
        before, after = come_back(model, extractor, target)
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert not list(target.glob("*MERT*"))
        assert AutoModelForAudioClassification.from_pretrained(target).config.num_labels == 3


def slow_spectrogram(samples):
    """Return the mel bands of MuQ (F, T) in dB, frame by frame: the HTK scale, triangles of height 1."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 12_000 / 700), 130) / 2595) - 1)
    bins = np.linspace(0, 12_000, 1025)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    window = np.sin(np.pi * np.arange(2048) / 2048) ** 2
    padded = np.pad(samples.astype(np.float64), 1024, mode="reflect")
    frames = np.stack([padded[240 * i :][:2048] * window for i in range(samples.size // 240)])
    power = np.abs(np.fft.rfft(frames)) ** 2 @ np.clip(np.minimum(rise, fall), 0, None).T
    return 10 * np.log10(np.maximum(power, 1e-10)).T


def test_muq_hears_what_its_package_computes(tmp_path_factory):
    model, extractor = load(saved("muq", tmp_path_factory), head="mlp", feature_layer="all")
    (noise,) = make_noise(model, extractor, 1)
    assert extractor.sampling_rate == 24_000 and noise.size == 24_000
    inputs = extractor([noise], sampling_rate=24_000, return_tensors="pt").input_values
    assert torch.equal(inputs[0], torch.from_numpy(noise))
    expected = (slow_spectrogram(noise) - 6.768) / 18.418
    np.testing.assert_allclose(model.encoder.compute_spectrogram(inputs)[0], expected, atol=2e-4)
    with torch.no_grad():
        outputs = model.encoder(inputs, output_hidden_states=True)
    # 100 frames per second, a quarter of the steps; the input of the first layer, and each layer's output.
    assert outputs.last_hidden_state.shape == (1, 25, 16) and len(outputs.hidden_states) == 4
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)


@pytest.mark.parametrize(
    "options", [{}, {"feature_layer": "all", "standardize_features": True}, {"head": "mlp", "feature_layer": "2"}]
)
def test_muq_learns_in_every_part_and_comes_back(options, tmp_path, tmp_path_factory):
    folder = saved("muq", tmp_path_factory)
    model, extractor = load(folder, **options)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, tensors[f"model.{name}"])
    assert find_layers(model.encoder).front_end[0] == "conv.conv.0.conv1.weight"
    noise = make_noise(model, extractor)
    run_windows(model, extractor, noise)  # as features are standardised before training, in inference mode
    check_all_learns_and_comes_back(model, extractor, noise, tmp_path)


@pytest.mark.parametrize("options", [{}, {"head": "linear", "feature_layer": "2"}])
def test_windows_of_maest_fill_its_frames(options, tmp_path):
    folder = save_maest(tmp_path / "maest")
    with pytest.raises(UserError, match="feature_extraction_maest.py.*--trust_remote_code"):
        load(folder, window_seconds=None)
    model, extractor = load(folder, window_seconds=None, trust=True, **options)
    assert window_samples_for(model.config, extractor, None) == 62 * 256
    before, after = come_back(model, extractor, tmp_path / "out", trust=True)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (tmp_path / "out" / "feature_extraction_maest.py").read_text() == MAEST_CODE
    with pytest.raises(UserError, match="--trust_remote_code"):
        load(tmp_path / "out", None, window_seconds=None)

    # The last frame is of the window's end, and nothing after it is heard.
    (noise,) = make_noise(model, extractor, 1)
    changed = noise.copy()
    changed[-200:] = 0
    features, others = (
        extractor([x], sampling_rate=16_000, return_tensors="np")["input_values"][0] for x in (noise, changed)
    )
    rows = np.flatnonzero((features != others).any(axis=1))
    assert rows[-1] == 62 and rows[0] >= 60

    short, extractor = load(folder, window_seconds=0.512, trust=True, **options)
    assert extractor.max_length == 33 and window_samples_for(short.config, extractor, 0.512) == 0.512 * 16_000


def test_an_extractor_of_other_frames_is_refused(tmp_path):
    edge = MAEST_CODE.replace('pad_mode="constant"', "center=False")
    for number, (code, message) in enumerate(
        (
            (edge, "makes 61 frames of 15872 samples, expected 63 frames with a hop of 256"),
            (MAEST_CODE.replace("self.n_fft, self.hop_length = mean", "self.n_fft, self.hop = mean"), "no hop_length"),
        )
    ):
        code = code if number == 0 else code.replace("self.hop_length", "self.hop")
        with pytest.raises(UserError, match=message):
            load(save_maest(tmp_path / str(number), code), window_seconds=None, trust=True)


def test_a_tagger_of_styles_is_read_through_sigmoids(tmp_path):
    model, extractor = load(save_maest(tmp_path / "maest"), None, window_seconds=None, trust=True)
    logits = run_windows(model, extractor, make_noise(model, extractor, 1)).double()
    np.testing.assert_allclose(probabilities_of(model.config, logits.numpy()), logits.sigmoid().numpy())


def test_what_would_be_heard_wrongly_is_refused(fused, tmp_path, tmp_path_factory):
    clap = saved("clap", tmp_path_factory)

    def refuse(message, folder, **options):
        with pytest.raises(UserError, match=message):
            load(folder, **{"window_seconds": None} | options)

    refuse("constant-Q.*feature_extractor_cqt.*MERT-v1-95M", save_mert(tmp_path / "cqt", feature_extractor_cqt=True))
    refuse("with DeepNorm", save_mert(tmp_path / "deep", deepnorm=True))
    slow = save_mert(tmp_path / "slow")
    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(slow)
    refuse("is for 16000 Hz, but its config.json says 24000 Hz", slow)
    (slow / "preprocessor_config.json").unlink()
    refuse("no preprocessor_config.json.*24 kHz", slow)

    refuse("window_seconds is 5.0, but clap_audio_model takes windows of 10 s", clap, window_seconds=5.0)
    refuse("feature_layer is all, but the layers of CLAP have several widths", clap, feature_layer="all")
    refuse("truncation is 'fusion', expected 'rand_trunc'", save_clap_towers(tmp_path / "other", "fusion"))
    shutil.copytree(clap, tmp_path / "waveforms")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "waveforms")
    refuse("is Wav2Vec2FeatureExtractor, expected ClapFeatureExtractor", tmp_path / "waveforms")

    refuse("MuQ with .*'label_rate': 75.*expected .* label_rate 25 or 50", save_muq(tmp_path / "rate", label_rate=75))
    refuse("no melspec_2048_mean", save_muq(tmp_path / "stat", stat={}))
    refuse("too short for muq: take more than 0.043 s", saved("muq", tmp_path_factory), window_seconds=0.04)


def test_an_encoder_of_unknown_code_is_refused_by_what_it_brings(tmp_path):
    code = (
        "from transformers import PreTrainedConfig\n\nclass XConfig(PreTrainedConfig):\n    model_type = 'x_encoder'\n"
    )
    (tmp_path / "configuration_x.py").write_text(code)
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x_encoder", "auto_map": auto_map}))
    with pytest.raises(UserError, match="configuration_x.py, modeling_x.py.*--trust_remote_code"):
        load(tmp_path)
    with pytest.raises(UserError, match="x_encoder, whose code brings AutoConfig, AutoModel, expected .*mert, .*muq"):
        load(tmp_path, trust=True)


def test_clap_needs_all_weights_of_its_audio_tower(tmp_path, tmp_path_factory):
    folder = tmp_path / "clap"
    shutil.copytree(saved("clap", tmp_path_factory), folder)
    tensors = load_file(folder / "model.safetensors")
    # Tables of older files; each is computed.
    tables = [name for name in tensors if name.endswith(("position_ids", "token_type_ids", "relative_position_index"))]
    kept = {name: tensor for name, tensor in tensors.items() if name not in tables}
    assert len(tables) == 6
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    whole, _ = load(saved("clap", tmp_path_factory), window_seconds=None)
    again, _ = load(folder, window_seconds=None)
    for name, tensor in whole.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name], tensor)
    del kept["audio_model.audio_encoder.norm.weight"]
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 missing, e.g. audio_model.audio_encoder.norm.weight"):
        load(folder, window_seconds=None)
