"""Names of tracks, made from the names of their files: `genres/blues/blues.00012.wav` is track `blues.00012`."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from hf_utils.errors import UserError
from hf_utils.listing import listing
from hf_utils.sound_files import AUDIO_SUFFIXES


def name_tracks(paths: Sequence[str | None], folder: Path | None) -> list[str | None]:
    """Return a name per path: the file's name without suffix, or the relative path where several files share that.

    Args:
        paths: None gives None.
        folder: where relative paths start. Default: the deepest folder that all paths share.

    Names do not depend on the machine: they hold nothing above `folder`, and Unicode is composed, since file systems
    differ in that.
    """
    known = [PurePath(unicodedata.normalize("NFC", path)) for path in paths if path]
    stems = Counter(_strip_suffix(path).name for path in known)
    if folder is not None:
        root = unicodedata.normalize("NFC", str(folder))
    else:
        absolute = [path.parent for path in known if path.is_absolute()]
        root = os.path.commonpath(absolute) if absolute else ""
    names = iter(
        stem.name if stems[stem.name] == 1 else _relative(stem, root).as_posix() for stem in map(_strip_suffix, known)
    )
    return [next(names) if path else None for path in paths]


def _strip_suffix(path: PurePath) -> PurePath:
    # Only a known suffix: in `blues.00012` the number is part of the name.
    return path.with_suffix("") if path.suffix.lower() in AUDIO_SUFFIXES else path


def _relative(path: PurePath, root: str) -> PurePath:
    return path.relative_to(root) if path.is_relative_to(root) else path


def number_unnamed(track_ids: Sequence[str | None], embedded: Sequence[bool]) -> list[str]:
    """Return `track_ids` with `row-000012` for clips without a name, or with their own bytes but a shared name.

    Datasets with embedded files often lost the file names. Two rows with the same path are the same clip twice,
    which is for `refuse_duplicates`.
    """
    counts = Counter(track_ids)
    return [
        f"row-{row:06d}" if name is None or (counts[name] > 1 and embedded[row]) else name
        for row, name in enumerate(track_ids)
    ]


def refuse_duplicates(track_ids: Sequence[str], source: str) -> None:
    """Raise UserError, naming some, if two clips have the same name."""
    if repeated := [name for name, count in Counter(track_ids).items() if count > 1]:
        raise UserError(
            f"{source}: {len(repeated)} track names occur more than once: {listing(repeated, most=10)}. Every clip "
            "needs a track_id of its own; remove the copies or rename them."
        )
