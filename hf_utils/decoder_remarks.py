"""What decoders written in C say, which is past Python and all logging."""

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def collect_remarks(remarks: list[str]) -> Iterator[None]:
    """Add the lines, each once, that are written meanwhile to the standard error of the process: libsndfile's MP3s."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            written.seek(0)
            remarks += dict.fromkeys(written.read().decode(errors="replace").splitlines())
