"""Named corruptions, kinds x severities, under which a trained model is tested: the same noise for every model.

    name: genre-c               # of the benchmark, with its version; a file of your own may have neither
    version: 1
    kinds:
      white_noise:            # a kind
        20_db:                # a severity, mildest first
          - AddGaussianSNR: {min_snr_db: 20, max_snr_db: 20, p: 1.0}

The seed of a clip is made of the kind, the severity and the track, and of nothing else: no run can choose another.
`benchmarks.csv` holds the definitions of the corruptions of published benchmarks: a file that has changed one, and
still has the name and version, is refused.
"""

import csv
import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_utils.augmentation.pipeline import (
    PIPELINE_VERSION,
    TRANSFORM_PACKAGES,
    UNCHANGED,
    Augmentation,
    AugmentedClip,
)
from hf_utils.augmentation.transform_spec import needs_noise_folder
from hf_utils.config_files import read_config
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed
from hf_utils.versions import installed_versions

logger = logging.getLogger(__name__)

# Also names of splits and configurations on the Hub.
_NAME = re.compile(r"\w+(\.\w+)*")
_BENCHMARK_NAME = re.compile(r"[\w-]+")
_PUBLISHED_FILE = Path(__file__).with_name("benchmarks.csv")


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One kind at one severity; `corruption(samples, sample_rate, track_id)` returns an `AugmentedClip`.

    Attributes:
        kind: such as white_noise.
        severity: such as 20_db.
        snr_db: of the noise, where the severity is one; else None.
        benchmark: name and version of its file, such as "genre-c 1"; None where it has none.
    """

    kind: str
    severity: str
    snr_db: float | None
    augmentation: Augmentation
    benchmark: str | None = None

    @property
    def name(self) -> str:
        """Kind and severity, such as white_noise_20_db; unique within a file."""
        return f"{self.kind}_{self.severity}"

    @property
    def definition(self) -> str:
        """A short digest of all that the benchmark says of it: only scores under one definition can be compared."""
        facts = [self.kind, self.severity, self.augmentation.config, PIPELINE_VERSION]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def fingerprint(self) -> str:
        """All that its result depends on but the track; of two corruptions with one fingerprint, one may stand in."""
        versions = [PIPELINE_VERSION, installed_versions(TRANSFORM_PACKAGES)]
        facts = [self.kind, self.severity, self.augmentation.config, versions]
        return json.dumps(facts, sort_keys=True)

    def seed_of(self, track_id: str) -> int:
        """Return the seed of a track's corruption."""
        return derive_seed("corruption", self.kind, self.severity, track_id)

    def try_out(self, sample_rate: int) -> None:
        """Raise UserError if a transform cannot work at this rate, in Hz."""
        self.augmentation.try_out(sample_rate)

    def __call__(self, samples: np.ndarray, sample_rate: int, track_id: str) -> AugmentedClip:
        """Corrupt a whole track, float32 (T,), at its native rate in Hz: then every model hears the same noise.

        Raises:
            UserError: it came out silent, or without the noise. A track that the transforms leave as it is, such as
                one at 8 kHz by a low-pass at 8 kHz, has `fault` UNCHANGED, and no transforms.
        """
        clip = self.augmentation(samples, sample_rate, self.seed_of(track_id), must_change=True)
        if clip.fault not in (None, UNCHANGED):
            raise UserError(
                f"{self.name}: {track_id} comes out {clip.fault}: change the transforms or the recordings."
            )
        return clip if clip.fault is None else dataclasses.replace(clip, transforms=[])


def read_corruptions(path: str | Path, noise_folder: str | None = None) -> list[Corruption]:
    """Return the corruptions of a YAML file; as `build_corruptions`."""
    return build_corruptions(read_config(path), path, noise_folder)


def build_corruptions(content: Mapping, path: str | Path, noise_folder: str | None = None) -> list[Corruption]:
    """Return the corruptions that a YAML file with this content describes, kind by kind, in its order.

    Kinds that need the user's recordings are left out, with a notice, where no `noise_folder` is given.

    Args:
        path: of the file, which messages name.

    Raises:
        UserError: for any mistake in the file, with its place.
    """
    if unknown := sorted(set(content) - {"name", "version", "description", "kinds"}):
        names = "name, version, description and kinds"
        raise UserError(f"{path}: {', '.join(unknown)} is not known, expected {names}")
    benchmark = _benchmark(content, path)
    corruptions = []
    for kind, severities in _mapping(content.get("kinds"), f"{path}: kinds").items():
        severities = _mapping(severities, f"{path}: kinds.{kind}")
        if noise_folder is None and any(map(needs_noise_folder, severities.values())):
            logger.warning("%s: %s is left out: it needs your recordings, --noise_folder FOLDER.", path, kind)
            continue
        for severity, spec in severities.items():
            augmentation = Augmentation(spec, where=f"{path}: kinds.{kind}.{severity}", noise_folder=noise_folder)
            corruptions.append(Corruption(kind, severity, _fixed_snr_db(spec), augmentation, benchmark))
    names = [corruption.name for corruption in corruptions]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two corruptions have the name {max(names, key=names.count)}: rename one")
    _check_published(corruptions, path)
    return corruptions


def _benchmark(content: Mapping, path: str | Path) -> str | None:
    """Return name and version of a benchmark, such as "genre-c 1"; None for a file without them."""
    name, version = content.get("name"), content.get("version")
    if name is None and version is None:
        return None
    if not isinstance(name, str) or not _BENCHMARK_NAME.fullmatch(name):
        raise UserError(f"{path}: name is {name!r}, expected letters, digits, _ and -, since there is a version")
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: version is {version!r}, expected a whole number from 1, since there is a name")
    return f"{name} {version}"


def _check_published(corruptions: Sequence[Corruption], path: str | Path) -> None:
    """Raise UserError for a corruption that its benchmark does not have, or defines otherwise.

    What mixes in the user's own recordings is in no published benchmark.
    """
    with _PUBLISHED_FILE.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] in {c.benchmark for c in corruptions}]
    published = {(row["kind"], row["severity"]): row["definition"] for row in rows}
    for corruption in corruptions if published else ():
        has_recordings = "recordings" in corruption.augmentation.config
        if not has_recordings and published.get((corruption.kind, corruption.severity)) != corruption.definition:
            raise UserError(
                f"{path}: kinds.{corruption.kind}.{corruption.severity} is not what {corruption.benchmark} has: give "
                "the file another name, or no name and version"
            )


def _mapping(value, where: str) -> Mapping:
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"{where} is {value!r}, expected names and what they stand for")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{where}: {name!r} is no name: use letters, digits and _, and not only digits")
    return value


def _fixed_snr_db(spec: list[Mapping]) -> float | None:
    parameters = [value for transform in spec for value in transform.values()]
    snrs = {(value.get("min_snr_db"), value.get("max_snr_db")) for value in parameters} - {(None, None)}
    low, high = snrs.pop() if len(snrs) == 1 else (None, None)
    return float(low) if low is not None and low == high else None
