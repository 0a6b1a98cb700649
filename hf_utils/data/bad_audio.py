"""What is wrong with the audio files of a clip table: a list with their paths, and what is done about it."""

import functools
import logging
from collections.abc import Sequence

import datasets

from hf_utils.audio import read_header
from hf_utils.data.waveforms import check_clips
from hf_utils.errors import UserError
from hf_utils.listing import listing_lines

logger = logging.getLogger(__name__)

# Files that are listed with one kind of remark.
_MAX_REMARKS = 10


def leave_out_bad(clips: datasets.Dataset, *, cache_dir: str | None, num_proc: int) -> datasets.Dataset:
    """Return the clips whose files can be used, all others listed by path with the reason.

    This comes before a split is drawn, so that its sizes hold, and nothing depends on what was left out.

    Raises:
        UserError: none is left.
    """
    checked = check_clips(clips, cache_dir=cache_dir, num_proc=num_proc)
    _report_problems(checked, on_bad_audio="skip")
    problems = checked["problem"][:]
    return clips.select([row for row, problem in enumerate(problems) if not problem]) if any(problems) else clips


def has_bad_header(clips: datasets.Dataset) -> bool:
    """Return whether a file is missing, empty or none that the decoder opens. Bytes inside a table are not looked at.

    A file with a good header may still be bad.
    """
    files = clips.select_columns("audio").with_format(None)["audio"]
    return any(file["bytes"] is None and read_header(file["path"])[0] == 0 for file in files)


def drop_problems(decoded: datasets.Dataset, on_bad_audio: str) -> datasets.Dataset:
    """Return the clips without a problem, all others listed by path with the reason; remarks on the rest are logged.

    Args:
        decoded: from `decode_clips` or `check_clips`.
        on_bad_audio: `error` stops at any, `skip` logs the list and goes on.

    Raises:
        UserError: under `error`, if there is a bad clip; under `skip`, if no good one is left.
    """
    if remarks := describe_remarks(_list_names(decoded), decoded["remarks"][:]):
        _warn_once(remarks)
    _report_problems(decoded, on_bad_audio)
    problems = decoded["problem"][:]
    if not any(problems):
        return decoded
    return decoded.select([row for row, problem in enumerate(problems) if not problem])


def _list_names(clips: datasets.Dataset) -> list[str]:
    return [path or track_id for path, track_id in zip(clips["file"], clips["track_id"], strict=True)]


def _report_problems(decoded: datasets.Dataset, on_bad_audio: str) -> None:
    """Log a list of the bad files. Raises UserError as `drop_problems`."""
    problems, names = decoded["problem"][:], _list_names(decoded)
    bad = [row for row, problem in enumerate(problems) if problem]
    if not bad:
        return
    genres, labels = decoded.features["label"], decoded["label"]
    listing = "\n".join(f"  {names[row]}: {problems[row]} ({genres.int2str(labels[row])})" for row in bad)
    message = f"{len(bad)} of {len(decoded)} audio files cannot be used:\n{listing}"
    if on_bad_audio == "error":
        raise UserError(f"{message}\nRepair or remove them, or go on without them by --on_bad_audio skip.")
    if len(bad) == len(decoded):
        raise UserError(f"{message}\nNo clip is left.")
    _warn_once(f"{message}\nThey are left out.")


def describe_remarks(names: Sequence[str], remarks: Sequence[str | None]) -> str:
    """Return a line per file and remark, of each kind the first few; nothing where there are no remarks.

    Args:
        names: of the files.
        remarks: as in `decode_clips`.
    """
    by_kind: dict[str, list[str]] = {}
    for name, text in zip(names, remarks, strict=True):
        for remark in filter(None, (text or "").split("; ")):
            by_kind.setdefault(remark.partition(":")[0], []).append(f"{name}: {remark}")
    lines = []
    for kind, found in by_kind.items():
        lines += listing_lines(found, _MAX_REMARKS, rest=f"more files: {kind}")
    num_files = sum(map(bool, remarks))
    return f"Of {len(names)} audio files, {num_files} are used with a remark:\n" + "\n".join(lines) if lines else ""


@functools.cache
def _warn_once(message: str) -> None:
    """Every stage of a run, and every trial of a search, decodes the same clips."""
    logger.warning("%s", message)
