"""Other tags for a file, and nothing else: whenever the process ends, the file is the old or the new one.

The file is copied to an `.aside-...` beside it, the copy gets the tags and is compared with the file, and takes its
name at last. Rights, owner and extended attributes are kept. The time of the last change is that of the writing: else
backups and players that look at size and time would pass over a file whose tags fitted into the space of the old ones.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from hf_utils.audio import AudioError, hash_sound
from hf_utils.files import UNFINISHED_PREFIX, read_file_state
from hf_utils.launch import lock_file
from hf_utils.tags.tag_fields import Fields, TagError, open_tags


def read_taggable_state(path: str) -> list[int]:
    """Return the `read_file_state` of a file that may be replaced by a copy of it.

    Raises:
        TagError: it is missing, no file, read-only, or has other names.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise TagError("is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)) from None
    if not stat.S_ISREG(status.st_mode):
        raise TagError("is a link" if stat.S_ISLNK(status.st_mode) else "is not a file")
    if not (status.st_mode & stat.S_IWUSR and os.access(path, os.W_OK)):
        raise TagError("is read-only")
    if status.st_nlink > 1:
        raise TagError(f"has {status.st_nlink} names (hard links), and the others would keep the old tags")
    return [status.st_size, status.st_mtime_ns]


def rewrite_tags(path: str, fields: Fields, state: list[int], note: Callable[[list[int], str], None]) -> None:
    """Write genre and provenance into a file.

    Args:
        state: the `read_file_state` for which this was decided.
        note: called before the file is replaced, with the state that it will have, and with its `hash_sound`.

    Raises:
        TagError: the file is left as it is: it has changed, another process is writing it, its tags cannot be
            written, or something else in it would not be the same.
        OSError: as TagError: it, or a file beside it, cannot be read or written.
    """
    aside = _aside_path(path)
    copy = lock_file(aside)
    if copy is None:
        raise TagError("is being written by another process")
    with copy:
        try:
            _fill(copy, path)
            others = _put_fields(str(aside), fields)
            tags = open_tags(str(aside))
            if tags.fields != fields or tags.others != others:
                raise TagError("could not keep all of its tags")
            sound = hash_decoded(path)
            if hash_decoded(str(aside)) != sound:
                raise TagError("would not sound the same")
            os.fsync(copy.fileno())
            if read_file_state(path) != state:
                raise TagError("has changed meanwhile")
            note(read_file_state(aside), sound)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def hash_decoded(path: str) -> str:
    """Return the `hash_sound` of a file. Raises TagError where it cannot be decoded."""
    try:
        return hash_sound(path)
    except AudioError as error:
        raise TagError(f"cannot be decoded: {error}") from None


def sweep_leftover(path: str) -> None:
    """Remove what a killed process left beside a file, unless another one is writing it."""
    aside = _aside_path(path)
    if aside.exists() and (copy := lock_file(aside)):
        with copy:
            aside.unlink()


def _aside_path(path: str) -> Path:
    """Return where the copy of a file is made: the same place each time, so that it is found again."""
    folder, name = os.path.split(path)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return Path(folder, f"{UNFINISHED_PREFIX}{digest}{Path(name).suffix}")


def _fill(copy: BinaryIO, path: str) -> None:
    """Make a file the copy of another, with its owner and rights."""
    copy.truncate(0)
    with open(path, "rb") as source:
        shutil.copyfileobj(source, copy)
        copy.flush()
        status = os.fstat(source.fileno())
    if (status.st_uid, status.st_gid) != (os.fstat(copy.fileno()).st_uid, os.fstat(copy.fileno()).st_gid):
        os.chown(copy.fileno(), status.st_uid, status.st_gid)
    shutil.copystat(path, copy.name)


def _put_fields(path: str, fields: Fields) -> Any:
    """Write the fields, and return the other tags as they were."""
    tags = open_tags(path)
    others = tags.others
    tags.put(fields)
    tags.save()
    os.utime(path)
    return others
