"""Weights: whether their files are whole, and whether they fill a model to the last tensor."""

import copy
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_utils.errors import UserError
from hf_utils.models.freezing import find_backbone

# Replaces masked frames, in training only; wav2vec2 checkpoints that were fine-tuned for speech often lack it.
MASK_EMBEDDING = "masked_spec_embed"

# Tables that CLAP computes by itself; some files have them.
_COMPUTED = ("position_ids", "token_type_ids", "relative_position_index")

# The weights that transformers and diffusers load: safetensors where there are some, in one file or in several.
_SAFETENSORS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_PICKLES = ("pytorch_model.bin", "diffusion_pytorch_model.bin")
# What else a checkpoint is read from, and Git LFS may leave out.
_OTHER_FILES = ("*.json", "*.model", "*.txt")
_JSON_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER = 1024
_AGAIN = "Download or copy it again."


def check_files(folder: str | Path, *, all_here: bool = True) -> None:
    """Check the files of a checkpoint before they are loaded, as far as their first bytes and their lengths show it.

    Args:
        folder: of a model of transformers, or of a component of a pipeline of diffusers.
        all_here: whether files that an index lists are missed; in the cache of the Hub they may still be to come.

    Raises:
        UserError: a file is a Git LFS pointer, a web page, empty, cut off, missing, or of another format.
    """
    folder = Path(folder)
    for path in _weight_files(folder, all_here):
        if damage := find_damage(path):
            raise UserError(f"{path} {damage}")
    for pattern in _OTHER_FILES:
        for path in sorted(folder.glob(pattern)):
            if _is_lfs_pointer(path):
                raise UserError(f"{path} {find_damage(path)}")
    for path in filter(Path.is_file, (folder / name for name in _JSON_FILES)):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            raise UserError(f"{path} is no whole JSON file: it is empty, cut off or damaged. {_AGAIN}") from None


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a file of weights and what to do, to be read after its path; None for a whole file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LONGEST_POINTER)
    text = start.decode("latin-1").strip().splitlines()
    if not size:
        return f"is empty: its download or its copy failed. {_AGAIN}"
    if _is_lfs_pointer(path):
        return (
            "is a Git LFS pointer, a few lines of text in place of the file: run `git lfs install` and `git lfs pull` "
            "in the repository it was cloned from, or download the file itself (`hf download`)."
        )
    if text and text[0].lower().startswith(("<!doctype", "<html", "<?xml")):
        return f"is a web page, expected weights: its address led to a page, or needed a login. {_AGAIN}"
    if path.suffix == ".safetensors":
        return _find_damaged_safetensors(path, size, start)
    if path.suffix == ".bin":
        return _find_damaged_pickle(path, start)
    return _find_damaged_json(path)


def _find_damaged_safetensors(path: Path, size: int, start: bytes) -> str | None:
    """The format: 8 bytes with the length of a JSON header, the header, and the tensors one after the other."""
    length = int.from_bytes(start[:8], "little")
    # A header is never that long; what is not its length begins with other bytes.
    if len(start) >= 8 and length > 100_000_000:
        kind = "pickled weights of torch" if start[:2] in (b"PK", b"\x80\x02") else f"a file that begins {start[:8]!r}"
        return f"is {kind}, expected safetensors: it has the wrong name, or was damaged. {_AGAIN}"
    if size < 8 + length:
        return f"is cut off within its header, after {size:,} bytes. {_AGAIN}"
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(8 + length)[8:])
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return f"has a damaged header. {_AGAIN}"
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return f"has {size:,} bytes, expected {expected:,}: it is cut off or damaged. {_AGAIN}"
    return None


def _find_damaged_pickle(path: Path, start: bytes) -> str | None:
    if start[:2] == b"PK":  # the end of a zip file has its table of contents
        return None if zipfile.is_zipfile(path) else f"is cut off. {_AGAIN}"
    return None if start[:1] == b"\x80" else f"is no file of torch.save: it begins {start[:8]!r}. {_AGAIN}"


def _find_damaged_json(path: Path) -> str | None:
    try:
        return None if json.loads(path.read_bytes())["weight_map"] else f"lists no weights. {_AGAIN}"
    except (ValueError, TypeError, KeyError):
        return f"is no index of weights, expected JSON with a weight_map. {_AGAIN}"


def _is_lfs_pointer(path: Path) -> bool:
    if path.stat().st_size > _LONGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _weight_files(folder: Path, all_here: bool) -> Iterator[Path]:
    """Yield the files of weights that are loaded, each index before what it lists; nothing if there are none."""
    for names in (_SAFETENSORS, _PICKLES):
        found = [folder / f"{name}{suffix}" for name in names for suffix in ("", ".index.json")]
        found = [path for path in found if path.is_file()]
        for path in found:
            yield path
            if path.suffix == ".json":
                parts = [folder / name for name in sorted(set(json.loads(path.read_bytes())["weight_map"].values()))]
                missing = [part.name for part in parts if not part.is_file()]
                if missing and all_here:
                    raise UserError(f"{path} lists {len(parts)} files of weights; missing: {', '.join(missing)}")
                yield from (part for part in parts if part.is_file())
        if found:
            return


def check_loading(name: str, model: PreTrainedModel, info: dict, is_base: bool, unused: frozenset[str]) -> bool:
    """Return whether the head was in the checkpoint, too.

    Args:
        name: of the checkpoint, for the message.
        model: just loaded.
        info: as `output_loading_info` gives it.
        is_base: whether the model has no head.
        unused: tensors of the checkpoint that may be left over, beside those of other heads.

    Raises:
        UserError: the backbone was not filled exactly, or with numbers that are not finite.
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

    spared = (MASK_EMBEDDING, *_COMPUTED)
    missing = {key for key in info["missing_keys"] if key.startswith(path) and not key.endswith(spared)}
    unexpected = {key for key in info["unexpected_keys"] if is_lost(key)}
    wrong = _list_wrong(missing, unexpected, info["mismatched_keys"])
    if wrong:
        raise UserError(
            f"the weights of {name!r} do not fit its configuration: {wrong}. The checkpoint is incomplete or mixed "
            "with another model's, or it needs another version of transformers."
        )
    expect_finite_weights(name, model)
    return not info["missing_keys"]


def expect_filled(name: str, model: nn.Module, info: dict) -> None:
    """Raise UserError unless all that a model of transformers has learned came from the file, and is finite.

    For models that are used whole. What the file holds beyond it is nobody's loss, and fixed tables are computed.

    Args:
        name: of the checkpoint, for the message.
        model: just loaded.
        info: as `output_loading_info` gives it.
    """
    learned = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    if wrong := _list_wrong(learned & set(info["missing_keys"]), set(), info["mismatched_keys"]):
        raise UserError(
            f"the weights of {name!r} do not fit its configuration: {wrong}. The checkpoint is incomplete or mixed "
            "with another model's."
        )
    expect_finite_weights(name, model)


def expect_finite_weights(name: str, model: nn.Module) -> None:
    """Raise UserError if a tensor of a loaded model holds NaN or infinite numbers; `name` is the checkpoint's."""
    wrong = [
        key for key, tensor in model.state_dict().items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if wrong:
        raise UserError(
            f"the weights of {name!r} are not finite (NaN or infinity) in {len(wrong)} tensors, e.g. {min(wrong)}: "
            "its training went wrong, or the file is damaged. Take an earlier or another checkpoint."
        )


def reload_weights(model: nn.Module, folder: str | Path) -> None:
    """Copy the weights that `save_pretrained` wrote to `folder` into `model`, all of them.

    The stock Trainer reads the file as it is. transformers saves some families (AST, ViT) under older parameter names
    and converts them only in `from_pretrained`, so the stock way silently skips those tensors. What is no model of
    transformers, such as a separate head, is read as the Trainer saved it.

    Raises:
        UserError: a file is not whole, or the folder's weights do not fill the model exactly.
    """
    check_files(folder)
    if not isinstance(model, PreTrainedModel):
        try:
            model.load_state_dict(load_file(Path(folder, SAFE_WEIGHTS_NAME)), strict=True)
        except RuntimeError as error:
            raise UserError(
                f"the weights in {folder} are not those of this model. Was it trained otherwise?"
            ) from error
        return
    # By the model's own configuration: the folder of a separate head has none.
    loaded, info = type(model).from_pretrained(
        folder,
        config=copy.deepcopy(model.config),
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    wrong = _list_wrong(info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    if wrong or loaded.state_dict().keys() != model.state_dict().keys():
        raise UserError(f"the weights in {folder} are not those of this model: {wrong}. Was it trained otherwise?")
    model.load_state_dict(loaded.state_dict(), strict=True)


def _list_wrong(missing: set, unexpected: set, mismatched: set) -> str:
    sizes = {f"{key} ({tuple(found)} in the file, {tuple(wanted)} expected)" for key, found, wanted in mismatched}
    groups = {"missing": missing, "unexpected": unexpected, "of another size": sizes}
    return "; ".join(f"{len(keys)} {kind}, e.g. {min(keys)}" for kind, keys in groups.items() if keys)
