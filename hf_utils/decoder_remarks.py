"""What decoders written in C say, which is past Python and all logging."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

# The MP3 decoder's, such as "Note: Trying to resync..." and "[src/libmpg123/id3.c:...] error: ...".
_REMARK = re.compile(r"(Note|Warning): |\[.*libmpg123")


@contextlib.contextmanager
def collect_remarks(remarks: list[str]) -> Iterator[None]:
    """Add the decoder's lines, each once, that are written meanwhile to the standard error of the process.

    What other threads write there at that moment, such as progress bars, comes out afterwards.
    """
    own = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            written.seek(0)
            lines = written.read().decode(errors="replace").splitlines(keepends=True)
            remarks += dict.fromkeys(line.strip() for line in lines if _REMARK.match(line))
            others = "".join(line for line in lines if not _REMARK.match(line))
            if others.strip():
                os.write(2, others.encode())
