"""The licence that a dataset or a model states, in the metadata of its card."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import yaml

from hf_utils.files import CARD_FILE
from hf_utils.hub.run_files import find_run_file

_METADATA = re.compile(r"\ufeff?\s*---\r?\n(.*?)\r?\n---\s*(?:\r?\n|$)", re.S)


def read_metadata(card: str | os.PathLike) -> dict[str, Any]:
    """Return the metadata at the top of a card; {} for a card without, or with such that cannot be read."""
    match = _METADATA.match(Path(card).read_text(encoding="utf-8", errors="replace"))
    try:
        metadata = yaml.safe_load(match.group(1)) if match else None
    except yaml.YAMLError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def read_licenses(
    name: str,
    kind: Literal["model", "dataset"],
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> list[str]:
    """Return the licence identifiers that the card of a folder, or of a repository on the Hub, states; often none.

    A card that is not there, cannot be reached or cannot be read states none.
    """
    path = find_run_file(name, CARD_FILE, kind=kind, revision=revision, cache_dir=cache_dir, token=token)
    if path is None:
        return []
    stated = read_metadata(path).get("license")
    return [str(license) for license in (stated if isinstance(stated, list) else [stated]) if license]
