"""Folders of the user's own recordings (noise, impulse responses) that transforms mix into the music."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hf_utils.errors import UserError

# What audiomentations takes and soundfile decodes.
_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav")


def list_recordings(folder: str, where: str) -> list[str]:
    """Return the audio files below a folder, in an order that does not depend on the file system.

    Raises:
        UserError: there is no such folder, or no audio in it; the message begins with `where`.
    """
    path = Path(str(folder)).expanduser()
    if not path.is_dir():
        raise UserError(f"{where} is {folder}, which is no folder: give one with recordings")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"{where} is {folder}, which holds no audio files ({' '.join(_SUFFIXES)})")
    return [str(file) for file in files]


def digest_recordings(files: Sequence[str]) -> str:
    """Return a digest of the names and sizes of files, by which a changed folder shows."""
    facts = [[Path(file).name, Path(file).stat().st_size] for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
