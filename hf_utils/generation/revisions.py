"""Which state of a checkpoint is meant: the commit on the Hub, or a digest of a folder's files."""

import hashlib
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from hf_utils.errors import UserError


def find_file(name: str, revision: str | None, file: str) -> str | None:
    """Return the local path of a file of a checkpoint, downloaded if need be, or None if the checkpoint has none.

    Raises:
        UserError: there is no such checkpoint, or it cannot be reached.
    """
    if revision is not None and Path(name).is_dir():
        raise UserError(f"A revision ({revision!r}) is for checkpoints on the Hub; {name} is a folder.")
    try:
        return cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, HfHubHTTPError, ValueError) as error:
        hint = "" if Path(name).exists() else f"\nIf {name!r} was meant to be a local folder: it does not exist here."
        raise UserError(f"Cannot load the checkpoint {name!r}: {error}{hint}") from error


def resolve_revision(name: str, revision: str | None, file: str) -> str:
    """Return the commit of a checkpoint that has `file`; for a folder, a digest of all its files.

    Other weights under one name make other music, and a folder has no commit.

    Raises:
        UserError: there is no such checkpoint or file, or it cannot be reached.
    """
    path = find_file(name, revision, file)
    if path is None:
        if Path(name).is_dir():
            raise UserError(f"The checkpoint {name!r} has no {file}.")
        raise UserError(
            f"The checkpoint {name!r} has no {file} that could be read. Check its name, and the network (or "
            "HF_HUB_OFFLINE): what is not in the cache comes from the Hub, also for a preview."
        )
    if Path(name).is_dir():
        return _digest_folder(Path(name))
    return extract_commit_hash(path, None) or revision or "main"


def _digest_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    # The training state and curves of a run's folder are no part of its model, nor are its earlier checkpoints.
    files = {path for pattern in ("*.json", "*.safetensors", "*.bin") for path in folder.rglob(pattern)}
    for path in sorted(files - set(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/**/*"))):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]
