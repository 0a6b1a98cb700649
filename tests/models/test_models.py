"""Every family loads completely, keeps its genres straight, trains without unused parameters, and comes back equal."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from tiny_models import SAVERS, load, save_ast, save_hubert, saved
from transformers import AutoModel, AutoModelForAudioClassification, pipeline

from hf_utils.errors import UserError
from hf_utils.models.checkpoints import Checkpoint
from hf_utils.models.families import (
    family_of,
    fit_positions,
    is_multi_label,
    needs_feature_stats,
    probabilities_of,
    set_feature_stats,
    unnormalised,
    window_samples_for,
)
from hf_utils.models.features import run_windows
from hf_utils.models.freezing import find_backbone
from hf_utils.models.loading import own_genres
from hf_utils.models.weights import reload_weights

# Checkpoint and head: what a user can train.
KINDS = [(name, "linear") for name in ("ast", "hubert", "wav2vec2", "wavlm", "convnext", "timm_resnet", "resnet")]
KINDS += [("ast", "mlp"), ("hubert", "mlp"), ("convnext", "mlp"), ("musicnn", "mlp")]
FAMILIES = {
    "ast": "spectrogram_transformer",
    "hubert": "waveform",
    "wav2vec2": "waveform",
    "wavlm": "waveform",
    "whisper": "other",
    "musicnn": "musicnn",
}


def make_inputs(model, feature_extractor, count=2, seed=0):
    """Return the features of `count` windows of noise."""
    samples = window_samples_for(model.config, feature_extractor, None)
    if needs_feature_stats(feature_extractor):
        set_feature_stats(feature_extractor, -8.0, 4.0)
    noise = np.random.default_rng(seed).normal(0, 0.1, (count, samples)).astype(np.float32)
    name = feature_extractor.model_input_names[0]
    rate = feature_extractor.sampling_rate
    return {name: feature_extractor(list(noise), sampling_rate=rate, return_tensors="pt")[name]}


@torch.no_grad()
def logits_of(model, inputs):
    return model.eval()(**inputs).logits


def assert_same_weights(one, other):
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    different = [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, expected[name])]
    assert not different


@pytest.mark.parametrize(("name", "head"), KINDS)
def test_trains_every_parameter_and_comes_back_equal(name, head, tmp_path, tmp_path_factory):
    model, feature_extractor = load(saved(name, tmp_path_factory), head=head)
    assert family_of(model.config) == FAMILIES.get(name, "spectrogram_cnn")
    inputs = make_inputs(model, feature_extractor)
    output = model.train()(**inputs, labels=torch.tensor([0, 2]))
    assert output.loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])).item(), rel=1e-5
    )
    output.loss.backward()
    # A parameter without gradient stops DistributedDataParallel.
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    before = logits_of(model, inputs)
    model.save_pretrained(tmp_path / "out")
    feature_extractor.save_pretrained(tmp_path / "out")
    again, extractor_again = load(tmp_path / "out", window_seconds=None, head=head)
    assert_same_weights(again, model)
    assert type(extractor_again) is type(feature_extractor)
    assert again.config.id2label == {0: "blues", 1: "jazz", 2: "rock"}
    assert again.config.label2id == {"blues": 0, "jazz": 1, "rock": 2}
    torch.testing.assert_close(logits_of(again, make_inputs(again, extractor_again)), before, rtol=0, atol=0)

    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.add_(1)
    reload_weights(again, tmp_path / "out")
    assert_same_weights(again, model)


def test_ast_is_saved_under_other_names_than_its_own(tmp_path, tmp_path_factory):
    """The reason for `reload_weights`. When this fails, transformers saves plainly again, and it can go."""
    model, _ = load(saved("ast", tmp_path_factory))
    model.save_pretrained(tmp_path)
    in_file = load_file(tmp_path / "model.safetensors")
    assert not in_file.keys() >= model.state_dict().keys()
    skipped = model.load_state_dict(in_file, strict=False).missing_keys
    assert any("q_proj" in name for name in skipped)


def test_reload_refuses_other_weights(tmp_path, tmp_path_factory):
    model, _ = load(saved("hubert", tmp_path_factory))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["hubert.feature_projection.projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 missing, e.g. hubert.feature_projection"):
        reload_weights(model, tmp_path)


@pytest.mark.parametrize("name", ["ast", "hubert", "wav2vec2", "wavlm"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_encoder_weights_are_the_checkpoints(name, head, tmp_path_factory):
    folder = saved(name, tmp_path_factory)
    model, _ = load(folder, head=head)
    assert_same_weights(find_backbone(model), AutoModel.from_pretrained(folder))


def test_audioset_head_is_replaced(tmp_path_factory, caplog):
    folder = saved("ast", tmp_path_factory)
    original = AutoModelForAudioClassification.from_pretrained(folder)
    assert original.config.num_labels == 527 and original.config.problem_type == "multi_label_classification"
    model, _ = load(folder)
    assert model.classifier.dense.weight.shape == (3, 16)
    assert torch.equal(model.classifier.layernorm.weight, original.classifier.layernorm.weight)
    assert model.config.problem_type == "single_label_classification"
    assert "527 labels" in caplog.text


def test_genres_never_change_places(tmp_path, tmp_path_factory, caplog):
    model, feature_extractor = load(saved("ast", tmp_path_factory))
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    inputs = make_inputs(model, feature_extractor)
    blues, jazz, rock = logits_of(model, inputs).T
    caplog.clear()

    reordered, _ = load(tmp_path, ["rock", "blues", "jazz"])
    assert torch.equal(logits_of(reordered, inputs), torch.stack([rock, blues, jazz], dim=1))
    assert reordered.config.id2label == {0: "rock", 1: "blues", 2: "jazz"}
    own, _ = load(tmp_path, None)
    assert_same_weights(own, model)
    assert "replaced" not in caplog.text

    # As many genres, but others: the old outputs must not be taken for them.
    others, _ = load(tmp_path, ["disco", "metal", "pop"])
    assert "3 labels (blues, jazz, rock)" in caplog.text
    assert not torch.isclose(others.classifier.dense.weight, model.classifier.dense.weight).any()
    assert torch.equal(others.classifier.layernorm.weight, model.classifier.layernorm.weight)


def test_genres_must_be_two_and_different(tmp_path_factory):
    for genres in (["blues"], ["blues", "jazz", "blues"]):
        with pytest.raises(UserError, match="at least two different"):
            load(saved("hubert", tmp_path_factory), genres)
    with pytest.raises(UserError, match="no trained head"):
        load(saved("convnext", tmp_path_factory), None)


@pytest.mark.parametrize("window_seconds", [0.16, 0.5, 0.97, 1.0, 2.3])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_ast_window_fits_the_positions(window_seconds, head, tmp_path_factory):
    folder = saved("ast", tmp_path_factory)
    old = AutoModel.from_pretrained(folder).embeddings.position_embeddings[0]
    model, feature_extractor = load(folder, window_seconds=window_seconds, head=head)
    backbone = find_backbone(model)
    new = backbone.embeddings.position_embeddings[0]
    frames = round(100 * window_seconds)
    assert feature_extractor.max_length == backbone.config.max_length == frames
    # 32 mel bands in patches of 16 every 10: two rows. Time likewise.
    rows, old_columns, columns = 2, (100 - 16) // 10 + 1, (frames - 16) // 10 + 1
    assert old.shape[0] == 2 + rows * old_columns and new.shape[0] == 2 + rows * columns
    assert torch.equal(new[:2], old[:2])
    grid = old[2:].reshape(rows, old_columns, -1).tolist()
    for row in range(rows):
        for column in range(columns):
            expected = torch.tensor(grid_value(grid[row], column, columns))
            torch.testing.assert_close(new[2 + row * columns + column], expected, rtol=0, atol=1e-6)
    assert logits_of(model, make_inputs(model, feature_extractor)).shape == (2, 3)


def grid_value(row, column, columns):
    """What the authors' code puts into a column of a row: a cut from the middle, or the mean of the two nearest."""
    if columns < len(row):
        return row[len(row) // 2 - columns // 2 + column]
    place = min(max((column + 0.5) * len(row) / columns - 0.5, 0), len(row) - 1)
    low = min(int(place), len(row) - 2)
    return [(1 - (place - low)) * a + (place - low) * b for a, b in zip(row[low], row[low + 1], strict=True)]


def test_five_seconds_of_audioset_positions_are_its_middle_columns():
    """12 rows of 101 columns for 10.24 s. 500 frames have 49: from column 50 - 24 on, as published."""
    positions = torch.arange(2 + 12 * 101.0).reshape(1, -1, 1)
    cut = fit_positions(positions, 12, 49)[0, :, 0]
    assert cut[:2].tolist() == [0, 1]
    assert cut[2:51].tolist() == list(range(2 + 26, 2 + 75))
    assert cut[-49:].tolist() == list(range(2 + 11 * 101 + 26, 2 + 11 * 101 + 75))
    assert torch.equal(fit_positions(positions, 12, 101), positions)


def test_ast_window_is_kept_by_its_checkpoint(tmp_path, tmp_path_factory):
    model, feature_extractor = load(saved("ast", tmp_path_factory), window_seconds=0.7)
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    again, extractor_again = load(tmp_path, window_seconds=None)
    assert_same_weights(again, model)
    assert extractor_again.max_length == 70
    with pytest.raises(UserError, match="at least 0.16"):
        load(tmp_path, window_seconds=0.1)


def test_ast_extractor_never_pads_a_window(tmp_path):
    config_folder = save_ast(tmp_path / "ast", max_length=1024)
    model, feature_extractor = load(config_folder, window_seconds=10.24)
    samples = window_samples_for(model.config, feature_extractor, 10.24)
    assert samples == 400 + 160 * 1023
    noise = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)

    def count_frames(length):
        kaldi = torchaudio.compliance.kaldi
        return kaldi.fbank(torch.from_numpy(noise[None, :length]), num_mel_bins=32, window_type="hanning").shape[0]

    assert count_frames(samples) == 1024 and count_frames(samples - 1) == 1023
    with unnormalised(feature_extractor):
        full = feature_extractor(noise, sampling_rate=16000, return_tensors="np").input_values[0]
        short = feature_extractor(noise[:-1], sampling_rate=16000, return_tensors="np").input_values[0]
    assert full.shape == (1024, 32) and (full[-1] != 0).all() and (short[-1] == 0).all()


def test_feature_stats_of_ast_and_of_models_without(tmp_path_factory):
    model, feature_extractor = load(saved("ast", tmp_path_factory))
    assert not needs_feature_stats(feature_extractor)
    noise = np.random.default_rng(0).normal(0, 0.1, 16240).astype(np.float32)
    with unnormalised(feature_extractor):
        plain = feature_extractor(noise, sampling_rate=16000, return_tensors="np").input_values
    set_feature_stats(feature_extractor, float(plain.mean()), float(plain.std()))
    features = feature_extractor(noise, sampling_rate=16000, return_tensors="np").input_values
    # Zero mean and a deviation of one half: the convention of the pretrained weights.
    assert features.mean() == pytest.approx(0, abs=1e-5) and features.std() == pytest.approx(0.5, rel=1e-5)
    with pytest.raises(UserError, match="above 0"):
        set_feature_stats(feature_extractor, -4.0, 0.0)
    _, waveforms = load(saved("hubert", tmp_path_factory))
    assert not needs_feature_stats(waveforms)
    with pytest.raises(UserError, match="leave out --feature_stats train"):
        set_feature_stats(waveforms, 0.0, 1.0)


def test_attention_mask_only_without_group_norm(tmp_path_factory):
    noise = np.zeros(16000, np.float32)
    for name, head, expected in (
        ("hubert", "linear", {"input_values"}),
        ("wav2vec2", "linear", {"input_values", "attention_mask"}),
        ("wav2vec2", "mlp", {"input_values"}),
    ):
        _, feature_extractor = load(saved(name, tmp_path_factory), head=head)
        assert set(feature_extractor(noise, sampling_rate=16000)) == expected


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_short_windows_train_with_masks(name, head, tmp_path_factory):
    model, feature_extractor = load(saved(name, tmp_path_factory), window_seconds=0.5, head=head)
    backbone = find_backbone(model)
    assert backbone.config.layerdrop == 0 and backbone.config.apply_spec_augment
    inputs = make_inputs(model, feature_extractor, count=4)
    model.train()
    for _ in range(10):
        model.zero_grad(set_to_none=True)
        model(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        # All layers run and at least one frame is masked, so every process has the same gradients to share.
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    ones = torch.ones(8, 24, 16)
    backbone.masked_spec_embed.data.zero_()
    hidden = 1 - backbone._mask_hidden_states(ones.clone()).mean(dim=(1, 2))
    assert (hidden > 0).all() and (hidden < 0.25).all()


def test_masks_of_usual_windows_stay(tmp_path_factory):
    model, _ = load(saved("hubert", tmp_path_factory), window_seconds=10.0)
    assert (model.config.mask_time_length, model.config.mask_time_prob) == (10, 0.05)
    assert model.config.mask_time_min_masks == 2


def test_unused_mask_embedding_does_not_learn(tmp_path):
    for number, changes in enumerate(
        ({"apply_spec_augment": False}, {"mask_time_prob": 0.0, "mask_feature_prob": 0.1})
    ):
        model, feature_extractor = load(save_hubert(tmp_path / str(number), **changes))
        assert not model.hubert.masked_spec_embed.requires_grad
        inputs = make_inputs(model, feature_extractor)
        model.train()(**inputs, labels=torch.tensor([0, 1])).loss.backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_window_travels_with_the_checkpoint(tmp_path, tmp_path_factory):
    for name in ("hubert", "convnext"):
        model, feature_extractor = load(saved(name, tmp_path_factory), window_seconds=3.0)
        rate = feature_extractor.sampling_rate
        assert window_samples_for(model.config, feature_extractor, 3.0) == 3 * rate
        model.save_pretrained(tmp_path / name)
        feature_extractor.save_pretrained(tmp_path / name)
        again, extractor_again = load(tmp_path / name, window_seconds=None)
        assert window_samples_for(again.config, extractor_again, None) == 3 * rate
        fresh, fresh_extractor = load(saved(name, tmp_path_factory), window_seconds=None)
        assert window_samples_for(fresh.config, fresh_extractor, None) == 10 * rate


def test_whisper_takes_its_encoder_and_its_window(tmp_path_factory, caplog):
    folder = saved("whisper", tmp_path_factory)
    model, feature_extractor = load(folder, window_seconds=None)
    assert_same_weights(model.encoder, AutoModel.from_pretrained(folder).encoder)
    assert window_samples_for(model.config, feature_extractor, None) == 30 * 16000
    for options, message in (
        ({"window_seconds": 10.0}, "windows of 30 s"),
        ({"head": "mlp"}, "not for whisper"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, **{"window_seconds": None} | options)


def change_weights(folder, target, change):
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("name", ["hubert", "convnext", "timm_resnet"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_incomplete_backbone_is_refused(name, head, tmp_path, tmp_path_factory):
    folder = saved(name, tmp_path_factory)
    key = {
        "hubert": "hubert.feature_projection.projection.weight",
        "convnext": "convnext.embeddings.patch_embeddings.weight",
        "timm_resnet": "layer2.0.conv1.weight",
    }[name]

    def cut(tensors):
        tensors[key] = tensors[key][:1].contiguous()

    def rename(tensors):
        tensors[key.replace("weight", "wait")] = tensors.pop(key)

    for number, (change, message) in enumerate(
        ((lambda t: t.pop(key), "1 missing, e.g."), (cut, "1 of another size"), (rename, "1 missing.*1 unexpected"))
    ):
        with pytest.raises(UserError, match=message):
            load(change_weights(folder, tmp_path / str(number), change), head=head)


def test_speech_checkpoint_without_mask_embedding_loads(tmp_path, tmp_path_factory):
    folder = saved("wav2vec2", tmp_path_factory)

    def change(tensors):
        del tensors["wav2vec2.masked_spec_embed"]
        tensors["lm_head.weight"] = torch.zeros(4, 16)
        for name in ("projector.weight", "projector.bias", "classifier.weight", "classifier.bias"):
            del tensors[name]

    model, _ = load(change_weights(folder, tmp_path / "ctc", change))
    assert torch.isfinite(model.wav2vec2.masked_spec_embed).all()


def test_half_precision_checkpoint_loads_in_full(tmp_path, tmp_path_factory):
    for name in ("hubert", "convnext"):
        model = AutoModel.from_pretrained(saved(name, tmp_path_factory), dtype=torch.float16)
        model.save_pretrained(tmp_path / name)
        if name == "hubert":
            shutil.copy(saved(name, tmp_path_factory) / "preprocessor_config.json", tmp_path / name)
        classifier, _ = load(tmp_path / name)
        assert {p.dtype for p in classifier.parameters()} == {torch.float32}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_weights_need_permission_and_run_nothing(tmp_path, tmp_path_factory):
    model, feature_extractor = load(saved("hubert", tmp_path_factory))
    model.save_pretrained(tmp_path / "bin")
    feature_extractor.save_pretrained(tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(UserError, match="--allow_pickle"):
        load(tmp_path / "bin")
    assert_same_weights(load(tmp_path / "bin", allow_pickle=True)[0], model)

    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors"):
        load(tmp_path / "bin", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["ast", "hubert", "convnext", "timm_resnet"])
def test_folder_with_a_configuration_alone_gives_random_weights(name, tmp_path, tmp_path_factory, caplog):
    folder = saved(name, tmp_path_factory)
    shutil.copy(folder / "config.json", tmp_path)
    model, feature_extractor = load(tmp_path)
    assert "starts from random" in caplog.text
    backbone, trained = find_backbone(model), AutoModel.from_pretrained(folder)
    same = [n for n, p in backbone.named_parameters() if torch.equal(p, trained.get_parameter(n))]
    assert len(same) == 0
    assert torch.isfinite(logits_of(model, make_inputs(model, feature_extractor))).all()


def test_what_cannot_be_used_is_explained(tmp_path, tmp_path_factory):
    def refuse(message, name, **options):
        with pytest.raises(UserError, match=message):
            load(name, **options)

    refuse("type bert, expected an audio model .*hubert.* or an image", saved("bert", tmp_path_factory))
    refuse("vit does not take spectrograms of 1 x 128 bins x 40 frames.*convolutional", saved("vit", tmp_path_factory))
    refuse("folder with a config.json, or the name of a model of the Hub", tmp_path / "nowhere")
    refuse("folder with a config.json", "someone/something")
    refuse("num_mel_bins: .* spectrogram CNNs", saved("ast", tmp_path_factory), spectrogram={"num_mel_bins": 64})
    refuse("choose --head mlp", saved("ast", tmp_path_factory), head_dropout=0.1)
    (tmp_path / "config.json").write_text("{")
    refuse("config.json is no whole JSON", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    refuse("unheard_of", tmp_path)
    ast = json.loads((saved("ast", tmp_path_factory) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(ast))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor"})
    )
    refuse("is Wav2Vec2FeatureExtractor, which names no hop_length.*how much audio fills a window", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 64})
    )
    refuse("makes 64 mel bands, but the model reads 32", tmp_path)


def test_foreign_code_needs_trust(tmp_path):
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('ran')")
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModelForAudioClassification": "modeling_x.X"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": auto_map}))
    with pytest.raises(UserError, match="configuration_x.py, modeling_x.py.*--trust_remote_code"):
        load(tmp_path)


def test_token_is_not_shown():
    assert "hf_secret" not in repr(Checkpoint("name", token="hf_secret"))


def test_every_tiny_model_is_tested(tmp_path_factory):
    # Music encoders are in test_music_encoders.py.
    assert set(SAVERS) - {name for name, _ in KINDS} == {"whisper", "mert", "muq", "clap", "vit", "bert"}


AUDIOSET = {i: f"sound {i}" for i in range(527)} | {0: "Speech", 137: "Music"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"problem_type": None, "id2label": AUDIOSET}, True),
        ({"problem_type": "single_label_classification", "id2label": AUDIOSET}, False),
        ({"problem_type": None}, False),
        ({"problem_type": None, "id2label": dict(enumerate("abc"))}, False),
        ({"problem_type": "multi_label_classification", "id2label": dict(enumerate("abc"))}, True),
    ],
    ids=["tagger", "AudioSet", "said otherwise", "unknown", "few", "small tagger"],
)
def test_a_tagger_is_read_through_sigmoids_as_by_transformers(changes, expected, tmp_path):
    model, feature_extractor = load(save_ast(tmp_path / "ast", **changes), None)
    assert is_multi_label(model.config) == expected
    samples = np.random.default_rng(0).normal(0, 0.1, 16240).astype(np.float32)
    classify = pipeline("audio-classification", model=model, feature_extractor=feature_extractor, top_k=None)
    function = "sigmoid" if expected else "softmax"
    scores = {row["label"]: row["score"] for row in classify(samples, function_to_apply=function)}
    logits = run_windows(model, feature_extractor, [samples]).numpy()
    probabilities = probabilities_of(model.config, logits)[0]
    assert dict(zip(own_genres(model.config), probabilities, strict=True)) == pytest.approx(scores, abs=1e-6)
    assert (probabilities.sum() == pytest.approx(1)) != expected


def test_a_tagger_stays_one_until_it_is_trained_on_genres(tmp_path):
    folder = save_ast(tmp_path / "ast", id2label=dict(enumerate(("blues", "jazz", "rock"))))
    assert load(folder, None)[0].config.problem_type == "multi_label_classification"
    model, feature_extractor = load(folder)
    assert not is_multi_label(model.config)
    model.save_pretrained(tmp_path / "trained")
    feature_extractor.save_pretrained(tmp_path / "trained")
    assert not is_multi_label(load(tmp_path / "trained", None)[0].config)


def test_outputs_that_are_no_genres_are_refused(tmp_path):
    for changes, word in (
        ({"problem_type": "regression"}, "regression"),
        ({"id2label": {0: "a", 1: "a"}}, "different"),
        ({"id2label": {0: "music"}}, "at least two"),
    ):
        folder = save_ast(tmp_path / word, **changes)
        with pytest.raises(UserError, match=word):
            load(folder, None)
