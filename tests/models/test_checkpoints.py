"""A config.json is enough, of transformers or of timm, and one that describes no model is refused with the reason."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from tiny_models import load

from hf_utils.errors import UserError

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
CLASSES = {"num_classes": 10, "num_features": 16, "label_names": None}


def write_config(folder, config) -> None:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18"},
        {"architecture": "resnet18", "num_classes": 10},
        {"architecture": "resnet18.a1_in1k"},
        {"architecture": "resnet18", **CLASSES},
        {"architecture": "resnet18", "pretrained_cfg": None},
        {"architecture": "resnet18", "pretrained_cfg": {}},
        {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224], "num_classes": 1000}},
        {"architecture": "resnet18", "model_type": "timm_wrapper"},
        {"architecture": "resnet18", "model_type": "timm_wrapper", "num_classes": 1000, "pretrained_cfg": {}},
        {"architecture": "resnet18", "global_pool": "avg", "custom": 1},
    ],
    ids=str,
)
def test_the_architecture_of_timm_is_enough(config, tmp_path, caplog):
    write_config(tmp_path, {**config, "model_args": SMALL})
    model, _ = load(tmp_path)
    assert "random" in caplog.text and model.num_labels == 3
    expected = timm.create_model("resnet18", num_classes=0, **SMALL)
    own = model.backbone.timm_model.state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {
        name: tensor.shape for name, tensor in expected.state_dict().items()
    }
    model.save_pretrained(tmp_path / "saved")
    again, _ = load(tmp_path / "saved", spectrogram={}, window_seconds=None)
    torch.testing.assert_close(again.backbone.timm_model.conv1.weight, model.backbone.timm_model.conv1.weight)


def test_weights_of_timm_load_without_a_pretrained_cfg(tmp_path):
    trained = timm.create_model("resnet18", **SMALL)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    write_config(tmp_path, {"architecture": "resnet18", "model_args": SMALL})
    own = load(tmp_path)[0].backbone.timm_model.state_dict()
    assert own and all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in own.items())


def test_what_timm_saves_loads(tmp_path):
    """It notes the number of classes among the arguments as well, which transformers passes by itself."""
    trained = timm.create_model("resnet18", **SMALL)
    save_for_hf(trained, tmp_path, safe_serialization=True, model_args=SMALL)
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["num_classes"] == 1000
    own = load(tmp_path)[0].backbone.timm_model.state_dict()
    assert own and all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in own.items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "resnet19"}, "architecture is 'resnet19'.*resnet18"),
        ({"architecture": "ResNet18"}, "architecture is 'ResNet18'.*resnet18"),
        ({"architecture": "hf-hub:timm/resnet18"}, "architecture is 'hf-hub:timm/resnet18'"),
        ({"architecture": 18}, "architecture is 18"),
        ({"model_type": "timm_wrapper"}, "architecture is None"),
        ({"architecture": "resnet18", "model_args": {"foo": 1}}, "foo"),
        ({"architecture": "resnet18", "model_args": [1]}, "model_args"),
        ({"architecture": "vit_tiny_patch16_224"}, "convolutional"),
        ({}, "no model_type"),
        ({"hidden_size": 8}, "no model_type"),
        ({"architectures": ["ResNetForImageClassification"]}, "no model_type"),
        ({"model_type": ""}, "model_type is ''"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": 3}, "model_type is 3"),
        ({"model_type": "huberts"}, "model_type is 'huberts'.*hubert"),
        ([], "JSON object"),
        ("null", "JSON object"),
        ("", "config.json"),
        ('{"model_type": "hubert"', "config.json"),
        ({"model_type": "convnext", "depths": "3"}, "depths.*'3'"),
        ({"model_type": "hubert", "hidden_size": -1}, "cannot be built"),
        ({"model_type": "hubert", "hidden_size": 10, "num_attention_heads": 3}, "cannot be built"),
    ],
    ids=str,
)
def test_a_description_of_no_model_is_refused_with_the_reason(config, message, tmp_path):
    folder = tmp_path / "described"
    folder.mkdir()
    write_config(folder, config)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "described" in str(caught.value) or "convolutional" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_folder_without_a_description_is_refused_as_such(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json in the folder"):
        load(tmp_path)
