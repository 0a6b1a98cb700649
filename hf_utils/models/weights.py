"""Weights: whether those of a file fill a model to the last tensor."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone

# Replaces masked frames, in training only; wav2vec2 checkpoints that were fine-tuned for speech often lack it.
MASK_EMBEDDING = "masked_spec_embed"


def check_loading(name: str, model: PreTrainedModel, info: dict, is_base: bool, unused: frozenset[str]) -> bool:
    """Return whether the head was in the checkpoint, too.

    Args:
        name: of the checkpoint, for the message.
        model: just loaded.
        info: as `output_loading_info` gives it.
        is_base: whether the model has no head.
        unused: tensors of the checkpoint that may be left over, beside those of other heads.

    Raises:
        UserError: the backbone was not filled exactly.
    """
    backbone = model if is_base else find_backbone(model)
    path = next(f"{name}." if name else "" for name, module in model.named_modules() if module is backbone)
    base_prefix = f"{model.base_model_prefix}."
    children = {key.split(".")[0] for key in backbone.state_dict()}

    def is_lost(key: str) -> bool:
        """Whether a tensor of the file belongs to the backbone. What else there is served another head."""
        bare = key.removeprefix(base_prefix)
        inside = bare.startswith(path) if path else bare != key
        return key not in unused and (inside or key.startswith(path or base_prefix) or bare.split(".")[0] in children)

    missing = {key for key in info["missing_keys"] if key.startswith(path) and not key.endswith(MASK_EMBEDDING)}
    unexpected = {key for key in info["unexpected_keys"] if is_lost(key)}
    wrong = _list_wrong(missing, unexpected, info["mismatched_keys"])
    if wrong:
        raise UserError(
            f"the weights of {name!r} do not fit its configuration: {wrong}. The checkpoint is incomplete, or it "
            "needs another version of transformers."
        )
    return not info["missing_keys"]


def reload_weights(model: nn.Module, folder: str | Path) -> None:
    """Copy the weights that `save_pretrained` wrote to `folder` into `model`, all of them.

    The stock Trainer reads the file as it is. transformers saves some families (AST, ViT) under older parameter names
    and converts them only in `from_pretrained`, so the stock way silently skips those tensors. What is no model of
    transformers, such as a separate head, is read as the Trainer saved it.

    Raises:
        UserError: the folder's weights do not fill the model exactly.
    """
    if not isinstance(model, PreTrainedModel):
        try:
            model.load_state_dict(load_file(Path(folder, SAFE_WEIGHTS_NAME)), strict=True)
        except RuntimeError as error:
            raise UserError(
                f"the weights in {folder} are not those of this model. Was it trained otherwise?"
            ) from error
        return
    loaded, info = type(model).from_pretrained(
        folder, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
    )
    wrong = _list_wrong(info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    if wrong or loaded.state_dict().keys() != model.state_dict().keys():
        raise UserError(f"the weights in {folder} are not those of this model: {wrong}. Was it trained otherwise?")
    model.load_state_dict(loaded.state_dict(), strict=True)


def _list_wrong(missing: set, unexpected: set, mismatched: set) -> str:
    sizes = {f"{key} ({tuple(found)} in the file, {tuple(wanted)} expected)" for key, found, wanted in mismatched}
    groups = {"missing": missing, "unexpected": unexpected, "of another size": sizes}
    return "; ".join(f"{len(keys)} {kind}, e.g. {min(keys)}" for kind, keys in groups.items() if keys)
