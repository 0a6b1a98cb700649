"""What was written into which file, one JSON line per file, so that it can be verified and undone.

A line is on the disk before its file is replaced. So after a kill it may tell of a file that is still the old one, but
no file is replaced without a line. A last line that a killed process left incomplete is passed over; with any other
line that cannot be read, an old genre would be lost.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from hf_utils.errors import UserError
from hf_utils.files import explain_os_errors
from hf_utils.launch import lock_file
from hf_utils.tags.tag_fields import Fields


@dataclasses.dataclass(frozen=True)
class WrittenTag:
    """What was written into a file.

    Attributes:
        file: its absolute path.
        state: its `read_file_state` afterwards.
        old: what it held, as stored.
        new: what it holds.
        sound: its `hash_sound`, before and after.
    """

    file: str
    state: list[int]
    old: Fields
    new: Fields
    sound: str

    @classmethod
    def from_line(cls, line: bytes) -> "WrittenTag":
        """Return what `to_line` gave. Raises ValueError or TypeError for another line."""
        written = cls(**json.loads(line))
        return dataclasses.replace(written, old=Fields(*written.old), new=Fields(*written.new))

    def to_line(self) -> bytes:
        """Return the line of the journal."""
        return f"{json.dumps(dataclasses.asdict(self))}\n".encode()


class TagJournal:
    """The journal of a plan, beside it.

    Attributes:
        path: of the file.
        written: the last line of each file, by its path.

    Raises:
        UserError: a line is damaged.
    """

    def __init__(self, plan: Path):
        self.path, self._file = plan.with_name(f"{plan.name}.journal"), None
        self.written: dict[str, WrittenTag] = {}
        self._read()

    def _read(self) -> int:
        """Take in all lines; return how many bytes they have, without a last one that a kill cut short."""
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                if line:
                    written = WrittenTag.from_line(line)
                    self.written[written.file] = written
            except (ValueError, TypeError) as error:
                if number == len(lines):
                    return len(content) - len(line)
                raise UserError(
                    f"{self.path}, line {number} is damaged ({error}), and it has the genre that a file had before. "
                    "Bring the journal back from a copy. If there is none, remove this line: its file then keeps the "
                    "genre of the plan."
                ) from error
        return len(content)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other processes out, and let `add` write, within the block.

        Raises:
            UserError: another process works on this plan, or nobody can write there.
        """
        with explain_os_errors(self.path):
            self._file = lock_file(self.path)
        if self._file is None:
            raise UserError(f"another process is writing or undoing the tags of this plan ({self.path} is locked)")
        with self._file:
            self._file.truncate(self._read())
            if self._file.seek(0, os.SEEK_END):
                self._file.write(b"\n")  # ends a last line that an editor left without an end
            try:
                yield
            finally:
                if not self.written:
                    self.path.unlink(missing_ok=True)

    def add(self, written: WrittenTag) -> None:
        """Note what is about to be written. Raises UserError where the disk is full."""
        with explain_os_errors(self.path):
            self._file.write(written.to_line())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.written[written.file] = written

    def forget_all(self) -> None:
        """Remove the journal at the end of the block: all was undone."""
        self.written.clear()
