"""EfficientNet-Lite from ImageNet (Tan and Le 2019, arXiv 1905.11946), converted to timm's names."""

import io
import json
import logging
from pathlib import Path

import torch

from hf_utils.errors import UserError
from hf_utils.models.weights import expect_finite_weights

logger = logging.getLogger(__name__)

# Pixels as the authors' code normalises them: (x - 127) / 128 of 0 to 255. timm's own configuration has 127.5.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255


def save_image_net(architecture: str, weights: bytes, folder: Path) -> None:
    """Write a model of timm as timm's own uploads to the Hub are laid out: safetensors, and the rest in a config.json.

    Args:
        architecture: by timm's name.
        weights: a file of `torch.save`, of which only tensors are read.
        folder: is made.

    Raises:
        UserError: the tensors are not those of the architecture, one after the other.
    """
    import timm  # here, since they take a second
    from timm.models import save_for_hf

    model = timm.create_model(architecture, pretrained=False)
    found = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    model.load_state_dict(rename_in_order(found, model.state_dict()), strict=True)
    expect_finite_weights(architecture, model)
    data_config = {"mean": (PIXEL_MEAN,) * 3, "std": (PIXEL_STD,) * 3}
    save_for_hf(model, folder, safe_serialization=True, data_config=data_config)
    # timm notes arguments here that transformers passes by itself; with both it loads nothing.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["model_args"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    logger.info("All %d tensors fit timm's %s.", len(found), architecture)


def rename_in_order(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of `found` under the names of `expected`, whose layers come in the same order.

    Raises:
        UserError: another number of tensors, or in one place another size or kind (weight, bias, running_mean ...).
    """
    if len(found) != len(expected):
        raise UserError(f"the weights have {len(found)} tensors, expected {len(expected)}")
    for (name, tensor), (ours, wanted) in zip(found.items(), expected.items(), strict=True):
        if tensor.shape != wanted.shape or name.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise UserError(
                f"the weights have {name} {tuple(tensor.shape)} where {ours} {tuple(wanted.shape)} is expected: they "
                "are another model's, or this release of timm orders its layers otherwise"
            )
    return dict(zip(expected, found.values(), strict=True))
