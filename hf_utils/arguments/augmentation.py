"""The options of augment_dataset.py."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hf_utils.arguments.data import SPLITS
from hf_utils.arguments.made_dataset import MadeDatasetArguments
from hf_utils.arguments.options import option
from hf_utils.config_files import SUFFIXES, read_config
from hf_utils.errors import UserError

_copies = partial(option, group="copies")
_job = partial(option, group="what to do, and where")

_FLAG = "--augmentation"
_CONTENTS = {"transforms", "kinds"}


def _dataset_folder(options: Mapping[str, Any]) -> str:
    dataset = Path(options.get("dataset_name", "gtzan")).name
    return str(Path("data", f"{dataset}-{Path(options.get('augmentation', 'augmented')).stem}"))


@dataclasses.dataclass
class AugmentationArguments(MadeDatasetArguments):
    """Which clips to copy, how, and where to. Raises UserError on contradictions."""

    augmentation: str | None = _copies(
        None,
        "YAML file with transforms, or with kinds of corruptions; needed, but the flag is not. (default: none)",
        metavar="FILE",
    )
    noise_folder: str | None = _copies(
        None, "Your own recordings, for transforms that mix them in. (default: none)", metavar="FOLDER"
    )
    splits: list[str] = _copies(
        ["train"],
        "Splits to copy: train, validation, test. Copies of the last two are only for evaluation.",
        metavar="SPLIT",
    )
    copies: int = _copies(1, "Copies of every clip, each drawn anew.", metavar="COPIES", at_least=1)
    include_original: bool = _copies(
        False, "Write the clips themselves as well. Then train only on this dataset, not on real as well."
    )
    sampling_rate: int | None = _copies(
        None, "Sampling rate of the copies, in Hz. (default: that of each clip)", metavar="HZ", at_least=8000
    )
    seed: int | None = _copies(None, "Seed of the transforms. (default: 42; corruptions have fixed seeds)")
    output_dir: str | None = _job(
        None, "Folder of the new dataset. (default: data/<dataset>-<file>)", metavar="FOLDER", derive=_dataset_folder
    )
    preview: int | None = _job(
        None,
        "Only write so many clips before and after, with spectrograms, into the folder <output_dir>-preview.",
        metavar="CLIPS",
        at_least=1,
    )
    shard_size: int = _job(50, "Clips per file; what a killed run loses at most.", metavar="CLIPS", at_least=1)

    # Nothing is decoded into the cache: every clip is read once.
    waveform_cache_dir: None = dataclasses.field(init=False, default=None)

    def __post_init__(self):
        super().__post_init__()
        if self.augmentation is None:
            raise UserError("name a YAML file with transforms, such as configs/augment/awgn_10db.yaml")
        if not self.splits or len(set(self.splits)) < len(self.splits) or not set(self.splits) <= set(SPLITS):
            raise UserError(f"splits is {' '.join(self.splits)}, expected one or more of {' '.join(SPLITS)}")
        if self.has_kinds:
            for name, usual in (("seed", None), ("copies", 1)):
                if getattr(self, name) != usual:
                    raise UserError(
                        f"{name} is {getattr(self, name)}, but {self.augmentation} has kinds of corruptions, which "
                        f"are the same for everybody: leave {name} out"
                    )

    @cached_property
    def content(self) -> dict[str, Any]:
        """What the augmentation file holds: `transforms` or `kinds`, and perhaps a `description`."""
        return read_config(self.augmentation)

    @property
    def has_kinds(self) -> bool:
        """Whether the augmentation file describes corruptions rather than one chain of transforms."""
        return "kinds" in self.content


def flag_augmentation(argv: Sequence[str]) -> list[str]:
    """Return the command line with `--augmentation` before the YAML file that describes transforms.

    Other YAML files hold options. Raises UserError for two files of transforms.
    """
    flagged, found = [], []
    for index, word in enumerate(argv):
        if word.endswith(SUFFIXES) and Path(word).is_file() and _CONTENTS & set(read_config(word)):
            found.append(word)
            if index == 0 or argv[index - 1] != _FLAG:
                flagged.append(_FLAG)
        flagged.append(word)
    if len(found) > 1:
        raise UserError(f"{' and '.join(found)} both describe transforms: give one; a run makes one dataset")
    return flagged
