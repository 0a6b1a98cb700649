"""Reads checkpoints of the Hub or of folders, safely: configuration, weights, feature extractor.

Whether loaded weights fill a model to the last tensor.
"""

import dataclasses
import logging
import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone

# Stands for masked frames in training alone; wav2vec2 checkpoints that were fine-tuned for speech often lack it.
MASK_EMBEDDING = "masked_spec_embed"


def reload_weights(model: nn.Module, folder: str | Path) -> None:
    """Copy the weights that `save_pretrained` wrote to `folder` into `model`, all of them.

    What is no model of transformers, such as a head alone, is read as the Trainer saved it.

    The stock Trainer reads the file as it is. transformers saves some families (AST, ViT) under older parameter names
    and converts them in `from_pretrained` alone, so the stock way silently skips those tensors.

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


def _list_wrong(missing: set, unexpected: set, mismatched: set) -> str:
    sizes = {f"{key} ({tuple(found)} in the file, {tuple(wanted)} expected)" for key, found, wanted in mismatched}
    groups = {"missing": missing, "unexpected": unexpected, "of another size": sizes}
    return "; ".join(f"{len(keys)} {kind}, e.g. {min(keys)}" for kind, keys in groups.items() if keys)


logger = logging.getLogger(__name__)

# Formats that hold Python objects, or that this release cannot read.
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
FEATURE_EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")

# What transformers raises for files that are absent, unreachable, malformed, unsafe, or not to be trusted.
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is, and what may be done to read it.

    Attributes:
        name: of the Hub, or a folder.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: whether to run Python files that come with it.
        allow_pickle: whether to read `.bin` weights where there are no safetensors (tensors only, no other objects).
        token: of the Hub.
        cache_dir: folder for downloads.
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    token: str | None = dataclasses.field(default=None, repr=False)
    cache_dir: str | None = None

    @property
    def _source(self) -> dict:
        return {"revision": self.revision, "token": self.token, "cache_dir": self.cache_dir}

    @property
    def has_weights(self) -> bool:
        """Whether weights are to be loaded; a folder with only a config.json has none."""
        folder = Path(self.name)
        return not folder.is_dir() or any(any(folder.glob(p)) for p in ("*.safetensors", *OTHER_WEIGHTS))

    @property
    def has_feature_extractor(self) -> bool:
        """Whether it brings one. Every audio checkpoint of the Hub does."""
        folder = Path(self.name)
        return not folder.is_dir() or any((folder / name).is_file() for name in FEATURE_EXTRACTOR_FILES)

    def load_config(self) -> PreTrainedConfig:
        """Return its configuration. Raises UserError if there is none, or if it needs code that is not trusted."""
        try:
            raw, _ = PreTrainedConfig.get_config_dict(self.name, **self._source)
            if not self.trust_remote_code and raw.get("model_type") not in CONFIG_MAPPING:
                _refuse_code(self.name, raw.get("auto_map"))
            return AutoConfig.from_pretrained(self.name, trust_remote_code=self.trust_remote_code, **self._source)
        except UserError:
            raise
        except LOADING_ERRORS as error:
            raise UserError(
                f"cannot read a model configuration from {self.name!r}: expected a folder with a config.json, or the "
                f"name of a model of the Hub that this machine can reach. {_first_line(error)}"
            ) from error

    def load_model(
        self, auto_class: type, config: PreTrainedConfig, unused: frozenset[str] = frozenset()
    ) -> tuple[PreTrainedModel, bool]:
        """Return the model in float32 and evaluation mode, and whether all of its head came from the checkpoint.

        Args:
            auto_class: one of transformers; `AutoModel` for a model without head.
            config: with the sizes of the checkpoint, so that every tensor fits.
            unused: names of tensors that may be left over, beside those of another head than the model's.

        Raises:
            UserError: no safe weights, or the backbone is not filled exactly.
        """
        if not self.has_weights:
            logger.warning("%s holds a configuration and no weights: the model starts from random ones.", self.name)
            model = auto_class.from_config(config, dtype=torch.float32, trust_remote_code=self.trust_remote_code)
            return model.eval(), False
        try:
            model, info = auto_class.from_pretrained(
                self.name,
                config=config,
                # Weights stored in half precision would otherwise be trained in it.
                dtype=torch.float32,
                # None takes safetensors where there are some, and else unpickles tensors alone (weights_only).
                use_safetensors=None if self.allow_pickle else True,
                # Not ignored: listed, so that the message below can name them.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=self.trust_remote_code,
                **self._source,
            )
        except pickle.UnpicklingError as error:
            # torch's own message explains how to run what the file holds.
            raise UserError(f"the .bin file of {self.name!r} holds more than tensors, so it is not loaded") from error
        except LOADING_ERRORS as error:
            raise UserError(
                f"cannot load the weights of {self.name!r}. Only safetensors are loaded; where you trust a checkpoint "
                "that has none, --allow_pickle loads the tensors of its .bin file, or save it again by "
                f"save_pretrained. {_first_line(error)}"
            ) from error
        return model, check_loading(self.name, model, info, auto_class is AutoModel, unused)

    def load_feature_extractor(self, config: PreTrainedConfig):
        """Return its feature extractor; for a folder without one, the default one of the family.

        Raises:
            UserError: none can be read.
        """
        if not self.has_feature_extractor:
            logger.warning("%s has no preprocessor_config.json: taking the defaults of its family.", self.name)
            names = ("num_mel_bins", "max_length")
            return FEATURE_EXTRACTOR_MAPPING[type(config)](
                **{n: getattr(config, n) for n in names if hasattr(config, n)}
            )
        try:
            return AutoFeatureExtractor.from_pretrained(
                self.name, trust_remote_code=self.trust_remote_code, **self._source
            )
        except LOADING_ERRORS as error:
            raise UserError(f"cannot read the feature extractor of {self.name!r}. {_first_line(error)}") from error


def _refuse_code(name: str, auto_map: dict | None) -> None:
    references = (auto_map or {}).values()
    files = sorted({f"{reference.rsplit('.', 1)[0]}.py" for reference in references if isinstance(reference, str)})
    if files:
        raise UserError(
            f"{name!r} comes with its own Python files, which would run on this machine: {', '.join(files)}. "
            "Read them, and pass --trust_remote_code if you trust them."
        )


def _first_line(error: Exception) -> str:
    return f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})"
