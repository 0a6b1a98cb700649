"""The leak check: nothing that is trained on, or a copy of it, may be tested.

Training is checked against every other set, and validation against test. Named evaluation sets are checked against
training alone: a corrupted copy of the test split is what they are for.
"""

import re
from collections.abc import Mapping

import datasets

from hf_utils.data.gtzan import repetition_groups
from hf_utils.errors import UserError

_MAX_LISTED = 20
# Names of clips that had none: equal ones in two datasets mean nothing.
_MADE_UP_NAME = re.compile(r"row-\d{6,}")

_REMEDIES = {
    "same track": "remove the track from one of the sets, or rename it if it is another recording",
    "copy of the track": "make copies of training tracks only, or evaluate on copies of test tracks",
    "copies of one track": "make both sets of copies from the same split",
    "known repetition": "--split_protocol filtered leaves them out, stratified and artist_folds keep them together",
    "identical recording": "remove one of the files",
}


def check_leaks(sets: Mapping[str, datasets.Dataset]) -> None:
    """Raise UserError, listing the pairs, if two sets share a track, a parent, a known repetition or a recording.

    Args:
        sets: train, validation, test (each may be missing) and any named evaluation sets. Clip tables; recordings are
            compared where both sets have `sha256`.
    """
    keys = {name: _list_keys(clips) for name, clips in sets.items()}
    sides = [("train", name) for name in sets if name != "train"] + [("validation", "test")]
    found: dict[str, list[str]] = {}
    for one, other in sides:
        if one in keys and other in keys:
            for kind, first, second in _find_pairs(keys[one], keys[other]):
                found.setdefault(kind, []).append(f"{first} ({one}) and {second} ({other})")
    if not found:
        return
    lines = [f"  {kind}: {pair}" for kind, pairs in found.items() for pair in pairs]
    title = f"{len(lines)} pairs of clips are" if len(lines) > 1 else "1 pair of clips is"
    more = [f"  and {len(lines) - _MAX_LISTED} more"] if len(lines) > _MAX_LISTED else []
    remedies = [f"For {kind} ({len(pairs)}): {_REMEDIES[kind]}." for kind, pairs in found.items()]
    raise UserError("\n".join([f"{title} on two sides of the split:", *lines[:_MAX_LISTED], *more, *remedies]))


def _list_keys(clips: datasets.Dataset) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return (track_id, parent_id, group of known repetitions, sha256) per clip."""
    repetitions = repetition_groups()
    digests = clips["sha256"][:] if "sha256" in clips.column_names else [None] * len(clips)
    return [
        (own, parent, repetitions.get(parent or own), digest)
        for own, parent, digest in zip(clips["track_id"][:], clips["parent_id"][:], digests, strict=True)
    ]


def _find_pairs(one: list[tuple], other: list[tuple]) -> list[tuple[str, str, str]]:
    """Return (kind, track of `one`, track of `other`), every pair once, under the first kind that it is."""
    tracks, parents, repetitions, digests = ({}, {}, {}, {})
    for row in one:
        for index, key in zip((tracks, parents, repetitions, digests), row, strict=True):
            if key is not None:
                index.setdefault(key, []).append(row)
    pairs: dict[tuple[str, str], str] = {}
    for own, parent, repetition, digest in other:
        for kind, index, key in (
            ("same track", tracks, own),
            ("copy of the track", tracks, parent),
            ("copy of the track", parents, own),
            ("copies of one track", parents, parent),
            ("known repetition", repetitions, repetition),
            ("identical recording", digests, digest),
        ):
            for row in index.get(key, ()):
                if kind != "same track" or not _differ_by_sound(row, own, digest):
                    pairs.setdefault((row[0], own), kind)
    return [(kind, first, second) for (first, second), kind in pairs.items()]


def _differ_by_sound(row: tuple, own: str, digest: str | None) -> bool:
    return bool(_MADE_UP_NAME.fullmatch(own) and digest and row[3] and digest != row[3])
