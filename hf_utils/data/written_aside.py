"""Files that are whole or not there, whenever a process dies and however many write them at once."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hf_utils.errors import UserError

# A file that is being written, or that a killed process left; `datasets` passes over names that begin with a dot.
ASIDE = ".aside-"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator:
    """Give a file to write that becomes `path` when the block ends, and vanishes when it raises.

    Raises:
        UserError: no space or no right to write.
    """
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own for every writer: two that make one file at once must not write into one.
        descriptor, aside = tempfile.mkstemp(prefix=f"{ASIDE}{path.name}-", dir=path.parent)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.chmod(aside, 0o644)
            os.replace(aside, path)
        except FileNotFoundError:
            # Whoever finished the folder meanwhile swept it away, and has written the same.
            if not path.exists():
                raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise UserError(
                f"{path}: no space left on the disk. Finished shards are kept: make room and run the same "
                "command again."
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another folder.") from error
        raise
    finally:
        if aside is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
