"""Files of an output folder: whole or not there, named safely, and readable by others. N tracks, K genres.

A file is written beside its place and renamed when it is complete. So it is whole or not there, whenever a process
dies and however many write it at once.
"""

import contextlib
import csv
import errno
import gzip
import hashlib
import io
import json
import math
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash

from hf_utils.errors import UserError

# The card of a model or dataset, by the name that the Hub shows.
CARD_FILE = "README.md"

# How files end that `python -m hf_utils.export` writes, and by which they are known.
EXPORTED_SUFFIX = ".onnx"

# The options of a run, all of them.
CONFIG_FILE = "config.yaml"

# What identifies the tracks that a model has learned from, beside its weights.
RECORD_FILE = "split.json"

# What has learned under --lora_rank, beside the weights that it is merged into, in the format of peft.
ADAPTER_FOLDER, ADAPTER_FILE = "adapter", "adapter_model.safetensors"

# What a run of run_classification.py measured, written last.
RESULTS_FILE = "results.json"

# Which files the predictions beside it are of, and which models made them.
ORIGIN_FILE = "predictions_origin.json"

# What it measured under corruptions: scores, the genre that it chose for every test track, and a picture.
CORRUPTED_SCORES_FILE, CORRUPTED_PREDICTIONS_FILE = "robustness.csv", "robustness_predictions.csv"
CORRUPTED_PICTURE_FILE = "robustness.png"
ROBUSTNESS_FILES = (CORRUPTED_SCORES_FILE, CORRUPTED_PREDICTIONS_FILE, CORRUPTED_PICTURE_FILE)

# A file that is being written, or that a killed process left; `datasets` passes over names that begin with a dot.
UNFINISHED_PREFIX = ".aside-"
_READ_BYTES = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)

# Longest name that common file systems take, in bytes, and a path that leaves room for where the folder is.
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 1000
# Of each part of a shortened name: four bytes a character at most.
_SHORT_CHARACTERS = 25

_COLUMNS = ["track_id", "label", "prediction"]


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Give a file to write that becomes `path` when the block ends, and vanishes when it raises.

    Folders are made as needed.

    Raises:
        UserError: no space or no right to write.
    """
    path, unfinished = Path(path), None
    try:
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Every writer has another name: two that make one file at once must not write into one.
            descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED_PREFIX, dir=path.parent)
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            try:
                os.chmod(unfinished, 0o644)
                os.replace(unfinished, path)
            except FileNotFoundError:
                # Whoever finished the folder meanwhile swept it away, and has written the same.
                if not path.exists():
                    raise
    finally:
        if unfinished is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike) -> Iterator[None]:
    """Raise UserError where `path` cannot be written for want of space or of the right to."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise UserError(
                f"{path}: no space left on the disk. What is finished is kept: make room and run the same command "
                "again."
            ) from error
        if error.errno in _NO_RIGHT:
            raise UserError(f"{path} cannot be written ({error.strerror}): choose another folder.") from error
        raise


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a whole file by `atomic_writer`."""
    if isinstance(content, str):
        # A file name that is no UTF-8 comes as lone surrogates, which cannot be encoded otherwise.
        content = content.encode("utf-8", errors="backslashreplace")
    with atomic_writer(path) as file:
        file.write(content)


def hash_content(source: bytes | str | os.PathLike) -> str:
    """Return a digest of bytes, or of a file's; of a file that cannot be read, why."""
    if isinstance(source, bytes):
        return xxhash.xxh3_128_hexdigest(source)
    digest = xxhash.xxh3_128()
    try:
        with open(source, "rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        return f"unreadable {error.errno}"
    return digest.hexdigest()


def read_file_state(file: str | os.PathLike) -> list[int] | None:
    """Return size in bytes and time of the last change in ns, by which another file of this name is noticed.

    None if there is no such file.
    """
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def is_complete(folder: str | os.PathLike) -> bool | None:
    """Return whether a folder has all results of a run, as its `results.json` says; None where that is damaged.

    Until the pictures and the card of the run are there, too, it says that it has not. An early one says nothing.
    """
    try:
        return bool(json.loads(Path(folder, RESULTS_FILE).read_text(encoding="utf-8")).get("complete", True))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, AttributeError):
        return None


def find_lost_shards(folder: Path) -> str:
    """Return how many files of a dataset that was made here are gone, by split, in words; "" if none.

    `datasets` takes what is left for the whole, without a word.
    """
    planned = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("shards", {})
    found = {split: len(list(folder.glob(f"data/{split}-*.parquet"))) for split in planned}
    return ", ".join(
        f"{planned[split] - found[split]} of {split}" for split in planned if found[split] < planned[split]
    )


def file_stem(name: str) -> str:
    """Return `name` as part of a file name on any system; what had to be replaced is told apart by a digest."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name)[:80]
    if safe == name and safe.strip("."):
        return safe
    return f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def show_name(name: str) -> str:
    """Return a file's name for a message: without line breaks, control characters and what is no UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def name_outputs(names: Iterable[str], suffix: str) -> dict[str, str]:
    """Return {name: name of the file, below some folder, that is made of the file `name`}, for relative names.

    That is the name with `suffix` after it. Where that is too long for a file system, or the same as another's but for
    capitals or the way in which accents are coded, it is a shortened name with a digest of the whole one.
    """
    names = list(names)
    counts = Counter(_fold(name) for name in names)
    return {name: _name_output(name, suffix, is_shared=counts[_fold(name)] > 1) for name in names}


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _name_output(name: str, suffix: str, *, is_shared: bool) -> str:
    plain = f"{name}{suffix}"
    parts, folders = plain.split("/"), name.split("/")[:-1]
    fits = (
        all(len(os.fsencode(part)) <= _MAX_NAME_BYTES for part in parts) and len(os.fsencode(plain)) <= _MAX_PATH_BYTES
    )
    # A folder with the suffix could have the name of another file's output.
    if fits and not is_shared and not any(_fold(f).endswith(suffix) for f in folders):
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    words = [re.sub(r"[^\w .,()+&'-]", "_", part)[:_SHORT_CHARACTERS] for part in name.split("/")[-2:]]
    return f"{' - '.join(words)}-{digest}{suffix}"


def to_json(value: Any) -> Any:
    """Return `value` as JSON knows it: numbers of numpy as Python's, NaN and infinities as None, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_csv(path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV file; texts with commas, quotes or line breaks are quoted, floats keep every digit.

    A row is in memory at a time, so `rows` may be made as they are written. A path that ends in `.gz` is compressed,
    to the same bytes for the same rows.
    """
    with atomic_writer(path) as plain, contextlib.ExitStack() as stack:
        file: BinaryIO = plain
        if str(path).endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0))
        # A file name that is no UTF-8 comes as lone surrogates, which cannot be encoded otherwise.
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        # The writer quotes what holds a character of its line end: with "\n" only, "\r" in a name would break a row.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.flush()
        text.detach()


class Predictions(NamedTuple):
    """A `predictions_<set>.csv`: N track and K genre names, true indices int64 (N,), probabilities float64 (N, K)."""

    track_ids: list[str]
    genres: list[str]
    labels: np.ndarray
    probabilities: np.ndarray


def write_predictions(
    path: str | os.PathLike,
    track_ids: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    genres: Sequence[str],
) -> None:
    """Write (N, K) probabilities as CSV: track_id, label, prediction (genre names), then a column per genre."""
    chosen = probabilities.argmax(axis=1)
    rows = [
        [track_id, genres[label], genres[top], *row]
        for track_id, label, top, row in zip(track_ids, labels, chosen, probabilities.tolist(), strict=True)
    ]
    write_csv(path, [*_COLUMNS, *genres], rows)


def read_predictions(path: str | os.PathLike) -> Predictions:
    """Return what `write_predictions` wrote. Raises UserError for another kind of file."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    genres = header[len(_COLUMNS) :]
    if header[: len(_COLUMNS)] != _COLUMNS or not genres or any(len(row) != len(header) for row in rows):
        raise UserError(f"{path} is no predictions file: its columns must be {', '.join(_COLUMNS)} and one per genre.")
    return Predictions(
        [row[0] for row in rows],
        genres,
        np.array([genres.index(row[1]) for row in rows], np.int64),
        np.array([row[len(_COLUMNS) :] for row in rows], np.float64).reshape(len(rows), len(genres)),
    )
