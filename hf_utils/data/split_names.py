"""What people call splits and folds: names of folders and Parquet files, values of a `split` column."""

import logging
import re
from collections.abc import Iterable

from hf_utils.errors import UserError
from hf_utils.listing import listing

logger = logging.getLogger(__name__)
_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_FILLERS = {"set", "data", "split", "audio", "clips", "files", "music", "songs", "tracks"}
_COUNTED = "folder|part|split|cv|chunk|shard|batch|subset|set|group|session|disc|disk|cd|volume|vol|side"
_FOLD = re.compile(rf"k?[\W_]*fold[\W_]*(\d+|[a-z])|((?:{_COUNTED})[\W_]*)?\d+")

# `train-00000-of-00002.parquet` names any split; in other paths only the usual names are looked for.
_SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d+-of-\d+")
_IN_PATH = re.compile(rf"(?<![a-z])({'|'.join(_SPELLINGS)})(?![a-z])")


def read_split(name: str) -> str | None:
    """Return train, validation or test for a name such as `Training`, `test_set`, `valset` or `01 dev`, else None."""
    words = [word.removesuffix("set") or word for word in re.findall(r"[^\W\d_]+", name.lower())]
    words = [word for word in words if word not in _FILLERS]
    return _SPELLINGS.get(words[0]) if len(words) == 1 else None


def is_fold(name: str) -> bool:
    """Return whether a name is only a number, or one such as `fold1`, `part-02` or `Fold B`."""
    return _FOLD.fullmatch(name.lower()) is not None


def find_split_in_path(parts: tuple[str, ...]) -> str | None:
    """Return the split that the path of a Parquet file, without its suffix, speaks of; as it is written there.

    The last match counts: a file's name tells more than its folder's.
    """
    if shard := _SHARD.match(parts[-1]):
        return shard[1]
    return (_IN_PATH.findall("/".join(parts).lower()) or [None])[-1]


def name_splits(found: list[str | None], source: str) -> list[str | None]:
    """Return train, validation, test or None for every clip's split as `source` writes it.

    One split named train is no split: it is how `datasets` names a dataset that has none. Neither are folds. `eval` is
    the test split, or the validation split beside a `test`.

    Raises:
        UserError: there are several splits, and names among them that tell nothing of their use.
    """
    names = sorted(set(found) - {None})
    splits = _read_splits(names, source)
    unknown = [name for name in names if splits[name] is None]
    if names and all(is_fold(name) for name in names):
        warn_of_folds(names, source)
    elif unknown and len(names) > 1:
        raise UserError(
            f"{source}: splits {', '.join(unknown)} are none of train, validation, test. Rename them in the source, "
            "or rename the column or folders if they are no splits."
        )
    if set(found) == {"train"}:
        return [None] * len(found)
    return [splits.get(name) for name in found]


def _read_splits(names: Iterable[str], source: str) -> dict[str, str | None]:
    splits = {name: read_split(name) for name in names}
    evals = [name for name, split in splits.items() if split == "test" and "eval" in name.lower()]
    tests = [name for name, split in splits.items() if split == "test" and name not in evals]
    if evals and tests:
        if "validation" in splits.values():
            raise UserError(
                f"{source} has splits {', '.join(sorted(splits))}: both {evals[0]} and {tests[0]} may be the test "
                "split. Rename or remove one of them."
            )
        logger.warning("%s: split %s is read as validation, since %s is there.", source, evals[0], tests[0])
        splits |= dict.fromkeys(evals, "validation")
    return splits


def warn_of_folds(names: list[str], source: object) -> None:
    """Log that folds are read as one set of clips."""
    logger.warning(
        "%s: %s are read as folds, neither genres nor splits: all clips are one set, and --split_protocol draws the "
        "splits. If folds keep artists apart, give a column artist and --split_protocol artist_folds.",
        source,
        listing(names),
    )
