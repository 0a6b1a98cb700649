"""Checkpoints of the Hub or of folders, read safely: configuration, weights, feature extractor."""

import contextlib
import dataclasses
import difflib
import logging
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file

from hf_utils.errors import UserError
from hf_utils.models.music_encoders import is_muq, read_mert_config, read_muq_config
from hf_utils.models.weights import check_files, check_loading

logger = logging.getLogger(__name__)

# Formats that hold Python objects, or that this release cannot read.
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
FEATURE_EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")

# What transformers raises for files that are absent, unreachable, malformed, unsafe, or not to be trusted.
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    EOFError,
    SafetensorError,
    StrictDataclassError,
)


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

    def check_files(self) -> None:
        """Raise UserError if a file that is here, in the folder or downloaded, is not whole; loads nothing."""
        if Path(self.name).is_dir():
            check_files(self.name)
            return
        with contextlib.suppress(OSError):  # nothing was downloaded yet, or there is no such checkpoint
            config = cached_file(self.name, CONFIG_NAME, local_files_only=True, **self._source)
            check_files(Path(config).parent, all_here=False)

    def load_config(self) -> PreTrainedConfig:
        """Return its configuration. Raises UserError if there is none, or if it needs code that is not trusted."""
        folder = Path(self.name)
        if (folder / ADAPTER_CONFIG_NAME).is_file():  # without peft in sight, transformers would pass over it
            raise UserError(
                f"{self.name} holds an adapter of peft ({ADAPTER_CONFIG_NAME}), which is a change of another model: "
                "merge it into that model by peft's merge_and_unload and save it. A run with --lora_rank has done "
                "that: take its own folder."
            )
        if folder.is_dir() and not (folder / CONFIG_NAME).is_file():
            raise UserError(f"there is no {CONFIG_NAME} in the folder {self.name}: expected that of a model")
        try:
            raw, _ = PreTrainedConfig.get_config_dict(self.name, **self._source)
            if "model_type" not in raw and is_muq(raw):
                return read_muq_config(self.name, raw)
            if raw.get("model_type") == "mert_model":
                if not self.has_feature_extractor:
                    raise UserError(
                        f"there is no preprocessor_config.json in {self.name}, expected that of MERT: some of its "
                        "models hear 24 kHz, others 16 kHz"
                    )
                return read_mert_config(self.name, raw)
            if not self.trust_remote_code and raw.get("model_type") not in CONFIG_MAPPING:
                _refuse_code(self.name, raw.get("auto_map"))
            if raw.get("model_type") == "timm_wrapper" or ("model_type" not in raw and "architecture" in raw):
                return _make_timm_config(self.name, raw)
            if "auto_map" not in raw:
                _expect_known_type(self.name, raw)
            return AutoConfig.from_pretrained(self.name, trust_remote_code=self.trust_remote_code, **self._source)
        except UserError:
            raise
        except (AttributeError, TypeError) as error:
            raise UserError(f"the config.json of {self.name!r} describes no model: expected a JSON object") from error
        except LOADING_ERRORS as error:
            self.check_files()
            found = "" if folder.exists() else f"There is no folder {folder.absolute()}. "
            raise UserError(
                f"cannot read a model configuration from {self.name!r}: expected a folder with a config.json, or the "
                f"name of a model of the Hub that this machine can reach. {found}{_describe(error)}"
            ) from error

    def make_model(self, auto_class: type, config: PreTrainedConfig) -> PreTrainedModel:
        """Return a model with random weights, in float32. Raises UserError if its configuration makes no sense."""
        try:
            return auto_class.from_config(config, dtype=torch.float32, trust_remote_code=self.trust_remote_code)
        except (*LOADING_ERRORS, AssertionError, ArithmeticError, IndexError) as error:
            raise UserError(
                f"the model that the config.json of {self.name!r} describes cannot be built. {_describe(error)}"
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
        self.check_files()
        if not self.has_weights:
            logger.warning("%s holds a configuration and no weights: the model starts from random ones.", self.name)
            return self.make_model(auto_class, config).eval(), False
        try:
            model, info = auto_class.from_pretrained(
                self.name,
                config=config,
                # Weights stored in half precision would otherwise be trained in it.
                dtype=torch.float32,
                # None takes safetensors where there are some, and else unpickles only tensors (weights_only).
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
        except OSError as error:
            self.check_files()  # those that were downloaded meanwhile
            raise UserError(
                f"cannot load the weights of {self.name!r}. Only safetensors are loaded; where you trust a checkpoint "
                "that has none, --allow_pickle loads the tensors of its .bin file, or save it again by "
                f"save_pretrained. {_describe(error)}"
            ) from error
        except LOADING_ERRORS as error:
            self.check_files()
            raise UserError(f"cannot load the weights of {self.name!r}. {_describe(error)}") from error
        return model, check_loading(self.name, model, info, auto_class is AutoModel, unused)

    def load_feature_extractor(self, config: PreTrainedConfig):
        """Return its feature extractor; for a folder without one, the default one of the family.

        Raises:
            UserError: none can be read, or it is for another sampling rate than the configuration names.
        """
        if self.has_feature_extractor:
            try:
                extractor = AutoFeatureExtractor.from_pretrained(
                    self.name, trust_remote_code=self.trust_remote_code, **self._source
                )
            except LOADING_ERRORS as error:
                self.check_files()
                if not self.trust_remote_code:
                    raw = {}
                    with contextlib.suppress(*LOADING_ERRORS):
                        raw, _ = FeatureExtractionMixin.get_feature_extractor_dict(self.name, **self._source)
                    _refuse_code(self.name, raw.get("auto_map"))
                raise UserError(f"cannot read the feature extractor of {self.name!r}. {_describe(error)}") from error
        else:
            extractor = self._make_default_extractor(config)
        sample_rate = getattr(config, "sample_rate", extractor.sampling_rate)
        if sample_rate != extractor.sampling_rate:
            raise UserError(
                f"the feature extractor of {self.name!r} is for {extractor.sampling_rate} Hz, but its config.json "
                f"says {sample_rate} Hz (sample_rate): add the preprocessor_config.json that belongs to the model"
            )
        return extractor

    def _make_default_extractor(self, config: PreTrainedConfig):
        extractor_class = FEATURE_EXTRACTOR_MAPPING.get(type(config), None)
        if extractor_class is None:
            raise UserError(f"there is no preprocessor_config.json in {self.name}: expected that of its encoder")
        logger.warning("%s has no preprocessor_config.json: taking the defaults of its family.", self.name)
        names = ("num_mel_bins", "max_length")
        return extractor_class(**{n: getattr(config, n) for n in names if hasattr(config, n)})


def _refuse_code(name: str, auto_map: dict | None) -> None:
    references = (auto_map or {}).values()
    files = sorted({f"{reference.rsplit('.', 1)[0]}.py" for reference in references if isinstance(reference, str)})
    if files:
        raise UserError(
            f"{name!r} comes with its own Python files, which would run on this machine: {', '.join(files)}. "
            "Read them, and pass --trust_remote_code if you trust them."
        )


def _make_timm_config(name: str, raw: dict) -> PreTrainedConfig:
    """Return the configuration of a model of timm, of which its architecture is enough.

    transformers knows such a file only by its `pretrained_cfg`, and makes no model without a number of classes.
    """
    # Here, since timm takes a second, and few models are its.
    import timm
    from transformers import TimmWrapperConfig

    architecture = raw.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UserError(
            f"the config.json of {name!r} describes no model: its architecture is {architecture!r}, expected one of "
            f"timm {timm.__version__}{_name_similar(architecture, timm.list_models())}"
        )
    settings = {key: value for key, value in raw.items() if value is not None}
    model_args = settings.get("model_args", {})
    if not isinstance(model_args, dict):
        raise UserError(f"the config.json of {name!r}: model_args is {model_args!r}, expected a mapping")
    # timm notes their number here, too, since 1.0.31; transformers gives it to timm by itself.
    settings["model_args"] = {key: value for key, value in model_args.items() if key != "num_classes"}
    return TimmWrapperConfig.from_dict({"num_classes": model_args.get("num_classes", 2), **settings})


def _expect_known_type(name: str, raw: dict) -> None:
    """Raise UserError for a configuration of which transformers would not know whose it is."""
    if "model_type" not in raw:
        raise UserError(
            f"the config.json of {name!r} describes no model: it has no model_type (such as hubert or convnext), and "
            "no architecture of timm"
        )
    if raw["model_type"] not in CONFIG_MAPPING:
        raise UserError(
            f"the config.json of {name!r} describes no model: its model_type is {raw['model_type']!r}, expected one "
            f"of transformers {transformers.__version__}{_name_similar(raw['model_type'], CONFIG_MAPPING)}"
        )


def _name_similar(name: Any, known: Iterable[str]) -> str:
    similar = difflib.get_close_matches(str(name).lower(), known, n=3)
    return f". Similar: {', '.join(similar)}" if similar else ""


def _describe(error: Exception) -> str:
    """Return the kind of an error and the beginning of its message, in one line."""
    text = " ".join(str(error).split())
    return f"({type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''})"
