"""A list of transforms as a YAML file has it -> transform objects; every mistake is found before audio is read.

    transforms:
      - AddGaussianSNR: {min_snr_db: 0, max_snr_db: 30, p: 1.0}
      - OneOf:
          p: 0.5
          transforms:
            - TimeStretch: {min_rate: 0.9, max_rate: 1.1, p: 1.0}
            - PitchShift: {min_semitones: -1, max_semitones: 1, p: 1.0}

Names of transforms and parameters are those of audiomentations, and of `transmission.py`, which has what it lacks.
`p`, the probability, has to be given: its default there is 0.5, and a dataset of which half is silently unchanged is
nobody's intention.
"""

import difflib
import functools
import importlib.util
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from hf_utils.augmentation.recordings import list_recordings
from hf_utils.errors import UserError

COMPOSITIONS = ("Compose", "OneOf", "SomeOf")
_PACKAGES = {
    "Mp3Compression": ("fast_mp3_augment", "fast-mp3-augment"),
    "RoomSimulator": ("pyroomacoustics", "pyroomacoustics"),
    "LoudnessNormalization": ("loudness", "loudness"),
    "Limiter": ("numpy_audio_limiter", "numpy-audio-limiter"),
}
_REFUSED = {
    "Resample": "it returns audio at another rate without saying so; LowPassFilter and Aliasing narrow the band",
    "Padding": "it puts silence into the music, a cue that a classifier learns; clips keep their length",
    "AdjustDuration": "clips keep their length",
    "Lambda": "a YAML file cannot hold a Python function",
}

# Values that a parameter must have, and why; they are set where the file leaves them out.
_FIXED = {
    "TimeStretch": {"leave_length_unchanged": (False, "else it ends faster clips in silence; we fill from the music")},
    "Shift": {"rollover": (True, "else the shift leaves silence, a cue that a classifier learns")},
    "RoomSimulator": {"use_ray_tracing": (False, "the ray tracer has a random generator that cannot be seeded")},
    "ApplyImpulseResponse": {"leave_length_unchanged": (True, "clips keep their length")},
    "Mp3Compression": {
        "backend": ("fast-mp3-augment", "the other back ends are deprecated, and delay or write to disk"),
        "preserve_delay": (False, "else every clip begins with near silence and is longer"),
    },
}

# Functions, which YAML cannot hold, and what audiomentations itself no longer takes.
_HIDDEN = {"noise_transform", "part_transform", "lru_cache_size", "signal_gain_in_db_during_noise", "kwargs"}
_FOLDER_PARAMETERS = ("sounds_path", "ir_path")

# What audiomentations takes and soundfile decodes.
_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav")


def build_transforms(spec: Any, where: str, noise_folder: str | None = None) -> list:
    """Return the transforms of the list `spec`.

    Args:
        where: how messages name the list, such as "mild.yaml: transforms".
        noise_folder: the `sounds_path` of transforms that state none.

    Raises:
        UserError: naming the place of the first mistake, what is valid there, and a package to install.
    """
    if not isinstance(spec, list) or not spec:
        raise UserError(
            f"{where} is {spec!r}, expected a list of transforms, such as `- PolarityInversion: {{p: 0.5}}`"
        )
    return [_build(item, f"{where}[{index}]", noise_folder) for index, item in enumerate(spec)]


def needs_noise_folder(spec: Iterable[Mapping]) -> bool:
    """Whether a checked or unchecked list has a transform that mixes in recordings and names no folder of them."""
    for item in spec if isinstance(spec, list) else ():
        for name, parameters in item.items() if isinstance(item, Mapping) else ():
            given = parameters if isinstance(parameters, Mapping) else {}
            if "sounds_path" in _parameters_of(name) and "sounds_path" not in given:
                return True
            if needs_noise_folder(given.get("transforms")):
                return True
    return False


def _build(item: Any, where: str, noise_folder: str | None):
    if not isinstance(item, Mapping) or len(item) != 1:
        raise UserError(f"{where} is {item!r}, expected one transform, such as `- PolarityInversion: {{p: 0.5}}`")
    [(name, given)] = item.items()
    _check_name(name, where)
    where = f"{where}.{name}"
    if not isinstance(given, Mapping):
        raise UserError(f"{where} is {given!r}, expected its parameters, such as {{p: 1.0}}")
    given = dict(given)
    _check_parameters(name, given, where)
    if name in COMPOSITIONS:
        _check_composition(given, where)
        given["transforms"] = build_transforms(given["transforms"], f"{where}.transforms", noise_folder)
    else:
        _complete(name, given, where, noise_folder)
    try:
        return _transforms()[name](**given)
    except (AssertionError, TypeError, ValueError) as error:
        values = ", ".join(f"{key}: {value}" for key, value in item[name].items())
        raise UserError(f"{where} does not work with {values}{f': {error}' if str(error) else ''}") from error


@functools.cache
def _transforms() -> dict[str, type]:
    """Return every transform by its name: those of audiomentations, and ours, which add to them or replace them."""
    import audiomentations

    from hf_utils.augmentation import transmission, white_noise

    ours = (white_noise.AddGaussianSNR, transmission.SyntheticReverb, transmission.MuLaw, transmission.DropFrames)
    theirs = {name: value for name, value in vars(audiomentations).items() if inspect.isclass(value)}
    return theirs | {transform.__name__: transform for transform in ours}


def _parameters_of(name: str) -> dict[str, inspect.Parameter]:
    cls = _transforms().get(str(name))
    found = inspect.signature(cls).parameters if cls else {}
    return {key: parameter for key, parameter in found.items() if key not in _HIDDEN}


def _check_name(name: Any, where: str) -> None:
    names = [known for known in sorted(_transforms()) if known not in _REFUSED]
    if name in _REFUSED:
        raise UserError(f"{where}: {name} cannot be used: {_REFUSED[name]}")
    if name not in names:
        raise UserError(
            f"{where}: there is no transform {name!r}{_nearest(name, names)}. There are: {', '.join(names)}"
        )
    if name in _PACKAGES and importlib.util.find_spec(_PACKAGES[name][0]) is None:
        raise UserError(f"{where}: {name} needs a package that is not installed: pip install {_PACKAGES[name][1]}")


def _nearest(name: Any, names: Iterable[str]) -> str:
    lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def _check_parameters(name: str, given: Mapping, where: str) -> None:
    """Raise UserError for parameters that are unknown, of a wrong type, missing, or inverted ranges."""
    known = _parameters_of(name)
    for key, value in given.items():
        if key not in known:
            names = ", ".join(known)
            raise UserError(f"{where}: there is no parameter {key!r}{_nearest(key, known)}. There are: {names}")
        _check_number(known[key].default, value, f"{where}: {key}")
    if name not in COMPOSITIONS and "p" not in given:
        raise UserError(f"{where}: give p, the probability of the transform: 1.0 for always")
    values = {key: parameter.default for key, parameter in known.items()} | dict(given)
    if not 0 <= values["p"] <= 1:
        raise UserError(f"{where}: p is {values['p']}, expected a probability from 0 to 1")
    for low in (key for key in known if key.startswith("min_")):
        high = "max_" + low.removeprefix("min_")
        if None not in (values[low], values.get(high)) and values[low] > values[high]:
            said = [f"{key} is {values[key]}{'' if key in given else ' by default'}" for key in (low, high)]
            raise UserError(f"{where}: {' and '.join(said)}: expected the minimum not to exceed the maximum")


def _check_number(default: Any, value: Any, what: str) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{what} is {value!r}, expected true or false")
    elif isinstance(default, (int, float)) and not (is_number and math.isfinite(value)):
        raise UserError(f"{what} is {value!r}, expected a number (YAML wants 1.0e-3 rather than 1e-3)")


def _check_composition(given: dict, where: str) -> None:
    if "transforms" not in given:
        raise UserError(f"{where}: give transforms, the list to choose from")
    wanted, count = given.get("num_transforms"), len(given["transforms"] or ())
    if isinstance(wanted, list):
        given["num_transforms"] = tuple(wanted)
    low, high = wanted if isinstance(wanted, list) and len(wanted) == 2 else (wanted, wanted)
    high = count if high is None else high
    if wanted is not None and not (type(low) is type(high) is int and 0 <= low <= high <= count):
        raise UserError(f"{where}: num_transforms is {wanted}, expected a number up to {count}, or [fewest, most]")


def _complete(name: str, given: dict, where: str, noise_folder: str | None) -> None:
    """Set the fixed parameters of a transform, and its recordings as a sorted list of files."""
    for key, (value, reason) in _FIXED.get(name, {}).items():
        if given.setdefault(key, value) != value:
            raise UserError(f"{where}: {key} must be {str(value).lower()}: {reason}")
    for key in _FOLDER_PARAMETERS:
        if key not in _parameters_of(name):
            continue
        folder = given.get(key) or (noise_folder if key == "sounds_path" else None)
        if folder is None:
            remedy = "give --noise_folder FOLDER, or sounds_path" if key == "sounds_path" else "give ir_path"
            raise UserError(f"{where}: {name} needs a folder of recordings: {remedy}")
        given[key] = list_recordings(folder, name, f"{where}: {key}")
