"""The user's own recordings that transforms mix into the music: noise, short sounds, impulse responses.

They are checked as music is, before any work. audiomentations reads them itself and repairs nothing, so what would
have to be repaired is refused.
"""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hf_utils.audio import inspect
from hf_utils.data.audio_lists import list_files, report_others
from hf_utils.errors import UserError
from hf_utils.files import hash_content
from hf_utils.listing import listing_lines
from hf_utils.sndfile_decoder import SndfileSound
from hf_utils.sound_check import NO_LENGTH, AudioError, Demands
from hf_utils.sound_files import AUDIO_SUFFIXES

# Of background noise any part is drawn, so most of it must sound. Impulse responses and short sounds fade.
_DEMANDS = {"AddBackgroundNoise": Demands(min_seconds=0.1)}
_OTHER_DEMANDS = Demands(min_seconds=0.0, max_silent=1.0)
# A file of 16-bit numbers is lowered by more than that, a loud master by less.
_LEAST_GAIN = 0.1


def list_recordings(folder: str, transform: str, where: str) -> list[str]:
    """Return the audio files below a folder, in an order that does not depend on the file system.

    Args:
        transform: the name of the transform that mixes them in.

    Raises:
        UserError: there is no such folder, no audio in it, or files that cannot be used, all of which are named; the
            message begins with `where`.
    """
    from audiomentations.core.utils import SUPPORTED_EXTENSIONS

    path = Path(str(folder)).expanduser()
    if not path.is_dir():
        raise UserError(f"{where} is {folder}, which is no folder: give one with recordings")
    files, others = list_files(path)
    if not files:
        raise UserError(f"{where} is {folder}, which holds no audio files ({' '.join(sorted(AUDIO_SUFFIXES))})")
    report_others(path, others)
    demands = _DEMANDS.get(transform, _OTHER_DEMANDS)
    faults = []
    for file in tqdm(files, desc="Checking recordings", unit=" files", leave=False, disable=None):
        if file.suffix.lower() not in SUPPORTED_EXTENSIONS:
            faults.append(f"{file}: audiomentations takes no {file.suffix} files; convert it to WAV or FLAC")
        elif fault := _find_fault(str(file), _read_state(file), demands):
            faults.append(f"{file}: {fault}")
    if faults:
        lines = "\n".join(listing_lines(faults))
        raise UserError(
            f"{where} is {folder}, where {len(faults)} of {len(files)} recordings cannot be used:\n{lines}\nRepair "
            "or remove them."
        )
    return [str(file) for file in files]


def digest_recordings(files: Sequence[str]) -> str:
    """Return a digest of the names and contents of files, by which a changed folder shows."""
    facts = [[Path(file).name, _hash_file(file, _read_state(file))] for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read_state(file: str | os.PathLike) -> tuple[int, int]:
    """Return a file's size and time of change: within a process, several transforms have the same recordings."""
    try:
        state = os.stat(file)
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=100_000)
def _hash_file(file: str, state: tuple[int, int]) -> str:
    return hash_content(file)


@functools.lru_cache(maxsize=100_000)
def _find_fault(file: str, state: tuple[int, int], demands: Demands) -> str | None:
    """Return why a recording cannot be used, or None."""
    try:
        recording = inspect(file, demands)
    except AudioError as error:
        return str(error)
    if recording.decoder != SndfileSound.decoder:  # audiomentations has no other one
        return "libsndfile, by which audiomentations reads, does not know it; convert it to WAV or FLAC"
    if recording.repair.offset or recording.repair.gain < _LEAST_GAIN or NO_LENGTH in recording.remarks:
        return "; ".join(recording.remarks).replace(", taken off", "").replace(", divided by 32768", "")
    return None
