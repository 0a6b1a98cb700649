"""A file that a run left beside its weights, here or on the Hub."""

import re
from pathlib import Path
from typing import Literal

from huggingface_hub import hf_hub_download

from hf_utils.disclosure import is_hub_id
from hf_utils.hub.repository import HUB_ERRORS


def find_run_file(
    name: str,
    file: str,
    *,
    kind: Literal["model", "dataset"] = "model",
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> Path | None:
    """Return a file of a folder or of a repository on the Hub; None if it is not there or cannot be reached.

    Of a checkpoint in the middle of a training (`checkpoint-N`), what it lacks is looked for in the folder of its run.

    Args:
        cache_dir: of models on the Hub. (default: that of the Hub's client)
    """
    if is_hub_id(name):
        options = {"revision": revision, "cache_dir": cache_dir, "token": token}
        try:
            return Path(hf_hub_download(name, file, repo_type=kind, **options))
        except HUB_ERRORS:  # where more than this file is the trouble, what loads the model or the data says so
            return None
    folder = Path(name)
    folders = [folder]
    if kind == "model" and re.fullmatch(r"checkpoint-\d+", folder.name):
        folders.append(folder.parent)
    return next((path for path in (place / file for place in folders) if path.is_file()), None)
