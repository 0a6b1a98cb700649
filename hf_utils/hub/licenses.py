"""The licence that a dataset or a model states, in the metadata of its card."""

import re
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import hf_hub_download

from hf_utils.disclosure import is_hub_id
from hf_utils.files import CARD_FILE
from hf_utils.hub.repository import HUB_ERRORS

_METADATA = re.compile(r"\ufeff?\s*---\r?\n(.*?)\r?\n---\s*(?:\r?\n|$)", re.S)


def read_licenses(
    name: str, kind: Literal["model", "dataset"], *, revision: str | None = None, token: str | None = None
) -> list[str]:
    """Return the licence identifiers that the card of a folder, or of a repository on the Hub, states; often none.

    A card that is not there, cannot be reached or cannot be read states none.
    """
    path = Path(name, CARD_FILE)
    if is_hub_id(name):
        try:
            path = Path(hf_hub_download(name, CARD_FILE, repo_type=kind, revision=revision, token=token))
        except HUB_ERRORS:
            return []
    if not path.is_file():
        return []
    match = _METADATA.match(path.read_text(encoding="utf-8", errors="replace"))
    try:
        metadata = yaml.safe_load(match.group(1)) if match else None
    except yaml.YAMLError:
        return []
    stated = metadata.get("license") if isinstance(metadata, dict) else None
    return [str(license) for license in (stated if isinstance(stated, list) else [stated]) if license]
