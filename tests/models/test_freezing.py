"""What is frozen stays as it is, by structure and in every family: weights, batch statistics, dropout, time masks."""

import numpy as np
import pytest
import torch
import transformers
from tiny_models import load, save_convnext, saved

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone, find_layers, freeze, frozen_modules
from hf_utils.models.spectrogram_cnn import SpectrogramCNNConfig, SpectrogramCNNForAudioClassification

# Blocks of the tiny models: transformer layers, or stages of a convolutional net.
NUM_BLOCKS = {"ast": 3, "hubert": 3, "wav2vec2": 3, "wavlm": 3, "whisper": 2, "convnext": 4, "resnet": 4}
NUM_BLOCKS |= {"timm_resnet": 4, "musicnn": 3}
HEADS = [(name, "linear") for name in NUM_BLOCKS] + [("ast", "mlp"), ("hubert", "mlp"), ("timm_resnet", "mlp")]
# Leading parameters of the front end as transformers 5.23 and timm 1.0 name them.
FRONT_END = {
    "ast": "embeddings.",
    "hubert": "feature_extractor.",
    "wav2vec2": "feature_extractor.",
    "wavlm": "feature_extractor.",
    "whisper": ("conv1.", "conv2."),
    "convnext": "embeddings.",
    "resnet": "embedder.",
    "musicnn": "front_end.",
    "timm_resnet": ("timm_model.conv1.", "timm_model.bn1."),
}


def load_model(name, tmp_path_factory, head="linear"):
    return load(saved(name, tmp_path_factory), window_seconds=None if name == "whisper" else 1.0, head=head)[0]


def make_inputs(model):
    """Return random features of the right shape."""
    generator = torch.Generator().manual_seed(0)
    shape = {"spectrogram_cnn": (4, 1, 128, 44), "audio-spectrogram-transformer": (4, 100, 32)}
    shape["musicnn"] = (4, 30, 24)
    config = getattr(model.config, "encoder_config", model.config)
    return {model.main_input_name: torch.randn(shape.get(config.model_type, (4, 16000)), generator=generator)}


def keep_still(model):
    """What the Trainer does after `model.train()`."""
    for module in frozen_modules(model):
        module.eval()


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_backbone_leaves_the_head(name, head, tmp_path_factory):
    model = load_model(name, tmp_path_factory, head)
    backbone_parameters = {id(p) for p in find_backbone(model).parameters()}
    head_size = sum(p.numel() for p in model.parameters() if id(p) not in backbone_parameters)
    total = sum(p.numel() for p in model.parameters())
    assert freeze(model, "backbone") == (head_size, total)
    assert head_size > 0
    assert all((id(p) in backbone_parameters) != p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("name", "head"), HEADS)
@pytest.mark.parametrize("count", [1, 2])
def test_all_but_last_trains_the_last_blocks_and_the_head(name, head, count, tmp_path_factory):
    model = load_model(name, tmp_path_factory, head)
    backbone = find_backbone(model)
    blocks = find_layers(backbone).blocks
    assert len(blocks) == NUM_BLOCKS[name]
    trainable, total = freeze(model, "all_but_last", count)
    assert trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    states = dict(backbone.named_parameters())
    for number, block in enumerate(blocks):
        assert block and {states[n].requires_grad for n in block} == {number >= len(blocks) - count}
    names = list(states)
    first = names.index(blocks[-count][0])
    assert not any(states[n].requires_grad for n in names[:first]) and all(
        states[n].requires_grad for n in names[first:]
    )
    inside = {id(p) for p in backbone.parameters()}
    assert all(p.requires_grad for p in model.parameters() if id(p) not in inside)


@pytest.mark.parametrize("name", NUM_BLOCKS)
def test_feature_encoder_is_what_makes_features_of_the_input(name, tmp_path_factory):
    model = load_model(name, tmp_path_factory)
    before = trained_names(find_backbone(model))
    freeze(model, "feature_encoder")
    frozen = before - trained_names(find_backbone(model))
    assert frozen == {n for n in before if n.startswith(FRONT_END[name])} and frozen


def test_none_freezes_nothing(tmp_path_factory):
    model = load_model("hubert", tmp_path_factory)
    total = sum(p.numel() for p in model.parameters())
    assert freeze(model, "none") == (total, total)


def test_impossible_choices_are_explained(tmp_path_factory):
    model = load_model("hubert", tmp_path_factory)
    for count in (0, 4):
        with pytest.raises(UserError, match=f"unfrozen_layers is {count}.*3 blocks"):
            freeze(model, "all_but_last", count)
    with pytest.raises(UserError, match="freeze is 'everything'.*feature_encoder"):
        freeze(model, "everything")
    backbone_config = transformers.PoolFormerConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    pool_former = SpectrogramCNNForAudioClassification(SpectrogramCNNConfig(backbone_config, hidden_size=8))
    with pytest.raises(UserError, match="PoolFormerModel.*--freeze"):
        freeze(pool_former, "feature_encoder")
    assert trained_names(pool_former) == {n for n, _ in pool_former.named_parameters()}


@pytest.mark.parametrize(
    ("architecture", "num_blocks"),
    [("vgg11_bn", 7), ("mobilenetv2_100", 7), ("legacy_xception", 13), ("resnetv2_50", 4), ("convnext_atto", 4)],
)
def test_timm_families_have_blocks(architecture, num_blocks):
    with torch.device("meta"):
        backbone = transformers.AutoModel.from_config(transformers.TimmWrapperConfig(architecture=architecture))
    layers = find_layers(backbone)
    assert len(layers.blocks) == num_blocks
    assert layers.front_end
    shapes = {name: p.ndim for name, p in backbone.named_parameters()}
    assert all(any(shapes[name] > 1 for name in block) for block in layers.blocks)
    assert set(layers.front_end).isdisjoint(name for block in layers.blocks for name in block)


@pytest.mark.parametrize(
    ("name", "head"),
    [("timm_resnet", "linear"), ("resnet", "mlp"), ("hubert", "linear"), ("hubert", "mlp"), ("musicnn", "linear")],
)
def test_frozen_backbone_is_the_same_in_every_step(name, head, tmp_path_factory):
    """Batch statistics stand still, and dropout and time masks are off: embeddings can be computed once."""
    model = load_model(name, tmp_path_factory, head)
    freeze(model, "backbone")
    backbone = find_backbone(model)
    buffers = {n: b.clone() for n, b in backbone.named_buffers()}
    inputs = make_inputs(model)
    embeddings = []
    backbone.register_forward_hook(
        lambda module, args, output: embeddings.append(getattr(output, "last_hidden_state", output).detach())
    )
    model.eval()(**inputs)
    for _ in range(3):
        model.train()
        keep_still(model)
        assert model.training and model.classifier.training
        model(**inputs)
    assert all(torch.equal(e, embeddings[0]) for e in embeddings)
    assert all(torch.equal(b, buffers[n]) for n, b in backbone.named_buffers())
    model.train()
    model(**inputs)
    assert not torch.equal(embeddings[-1], embeddings[0])


def test_partly_frozen_backbone_keeps_its_trained_part_in_training(tmp_path_factory):
    model = load_model("timm_resnet", tmp_path_factory)
    freeze(model, "all_but_last", 1)
    model.train()
    keep_still(model)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {m.training for n, m in norms.items() if "layer4" in n} == {True}
    assert {m.training for n, m in norms.items() if "layer4" not in n} == {False}
    assert len(norms) > 8


def test_frozen_modules_are_the_largest_ones():
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), torch.nn.Linear(2, 2))
    assert frozen_modules(model) == []
    model[0].requires_grad_(False)
    assert frozen_modules(model) == [model[0]]
    model.requires_grad_(False)
    assert frozen_modules(model) == [model]


def test_frozen_parameters_do_not_move(tmp_path):
    torch.manual_seed(0)
    model, _ = load(save_convnext(tmp_path / "convnext"))
    freeze(model, "all_but_last", 1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    model.train()
    keep_still(model)
    labels = torch.from_numpy(np.array([0, 1, 2, 0]))
    model(**make_inputs(model), labels=labels).loss.backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trained_names(model)
