"""The leak check: nothing that is trained on, or a copy of it, may be tested.

Training is checked against every other set, and validation against test. Named evaluation sets are checked against
training only: a corrupted copy of the test split is what they are for.

Tracks are compared by their sound, where both are decoded, and by name: a copy names the track that it was made from
and may hold the digest of its sound, a piece names its song, a track of GTZAN its known repetitions. Two tracks of one
name with other sound are two recordings.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import datasets

from hf_utils.data.clips import label_names, read_column
from hf_utils.data.gtzan import repetition_groups
from hf_utils.data.segments import find_songs
from hf_utils.errors import UserError
from hf_utils.listing import listing_lines

logger = logging.getLogger(__name__)
# Names of clips that had none: equal ones in two datasets mean nothing.
_MADE_UP_NAME = re.compile(r"row-\d{6,}")

_REMEDIES = {
    "same track": "remove the track from one of the sets, or rename it if it is another recording",
    "copy of the track": "make copies of training tracks only, or evaluate on copies of test tracks",
    "copies of one track": "make both sets of copies from the same split",
    "identical recording": "remove one of the files",
    "known repetition": "--split_protocol filtered leaves them out, stratified and artist_folds keep them together",
    "pieces of one song": "--split_protocol stratified and artist_folds keep them together; if they are songs "
    "themselves: --group_segments never",
}


class _Clip(NamedTuple):
    """What two clips may have in common; None for what a clip does not have.

    Attributes:
        repetition: the group of known repetitions of its recording.
        song: that it is a piece of.
        sha256: of its samples, where it is decoded.
        parent_sha256: of the samples of the track that it was made from, where its dataset says so.
    """

    track_id: str
    parent_id: str | None
    repetition: str | None
    song: str | None
    sha256: str | None
    parent_sha256: str | None
    is_noisy: bool


def check_leaks(sets: Mapping[str, datasets.Dataset], group_segments: str = "auto") -> None:
    """Raise UserError, listing the pairs, if two sets share a track, a parent, a song or a recording.

    Args:
        sets: train, validation, test (each may be missing) and any named evaluation sets. Clip tables; recordings are
            compared where both sets have `sha256`.
        group_segments: of `splits.recording_names`.
    """
    clips = _list_clips(sets, group_segments)
    sides = [("train", name) for name in sets if name != "train"] + [("validation", "test")]
    found: dict[str, list[str]] = {}
    for one, other in sides:
        if one in clips and other in clips:
            for kind, first, second in _find_pairs(clips[one], clips[other], f"{one} and {other}"):
                found.setdefault(kind, []).append(f"{first} ({one}) and {second} ({other})")
    if not found:
        return
    lines = [f"{kind}: {pair}" for kind, pairs in found.items() for pair in pairs]
    title = f"{len(lines)} pairs of clips are" if len(lines) > 1 else "1 pair of clips is"
    remedies = [f"For {kind} ({len(pairs)}): {_REMEDIES[kind]}." for kind, pairs in found.items()]
    raise UserError("\n".join([f"{title} on two sides of the split:", *listing_lines(lines), *remedies]))


def _list_clips(sets: Mapping[str, datasets.Dataset], group_segments: str) -> dict[str, list[_Clip]]:
    """Return the clips of every set. Pieces of a song are found among the names of all sets together."""
    recordings, genres = {}, []
    for name, table in sets.items():
        parents = zip(table["track_id"][:], table["parent_id"][:], strict=True)
        recordings[name] = [parent or own for own, parent in parents]
        genres += label_names(table)
    songs: dict[str, str] = {}
    if group_segments != "never":
        names = [recording for part in recordings.values() for recording in part]
        songs = find_songs(names, genres, certain=group_segments == "auto")
        songs |= {song: song for song in songs.values()}  # a whole song may lie beside its pieces
    groups = repetition_groups()
    clips = {}
    for name, table in sets.items():
        names = ("track_id", "parent_id", "origin", "sha256", "parent_sha256")
        columns = (read_column(table, column) for column in names)
        clips[name] = []
        for own, parent, origin, *digests, recording in zip(*columns, recordings[name], strict=True):
            song = songs.get(recording)
            clips[name].append(_Clip(own, parent, groups.get(song or recording), song, *digests, origin == "noisy"))
    return clips


def _find_pairs(one: list[_Clip], other: list[_Clip], sides: str) -> list[tuple[str, str, str]]:
    """Return (kind, track of `one`, track of `other`), every pair once, under the first kind that it is.

    Of the pieces of a song only one pair, since a song can have hundreds of pieces.
    """
    indices = {field: defaultdict(list) for field in _Clip._fields[:-1]}
    for clip in one:
        for field, index in indices.items():
            if (key := getattr(clip, field)) is not None:
                index[key].append(clip)
    namesakes = [
        clip for clip in other for first in indices["track_id"].get(clip.track_id, ()) if _differ(first, clip)
    ]
    _tell_apart(namesakes, sides)
    passed_songs = {None, *(clip.song for clip in namesakes)}
    pairs: dict[tuple[str, str], str] = {}
    for clip in other:
        for kind, field, key in (
            ("same track", "track_id", clip.track_id),
            ("copy of the track", "track_id", clip.parent_id),
            ("copy of the track", "parent_id", clip.track_id),
            ("copies of one track", "parent_id", clip.parent_id),
            ("copy of the track", "sha256", clip.parent_sha256),
            ("copy of the track", "parent_sha256", clip.sha256),
            ("copies of one track", "parent_sha256", clip.parent_sha256),
            ("identical recording", "sha256", clip.sha256),
            ("known repetition", "repetition", clip.repetition),
        ):
            for first in indices[field].get(key, ()):
                if kind != "same track" or not _differ(first, clip):
                    pairs.setdefault((first.track_id, clip.track_id), kind)
        if clip.song not in passed_songs and clip.song in indices["song"]:
            pairs.setdefault((indices["song"][clip.song][0].track_id, clip.track_id), "pieces of one song")
            passed_songs.add(clip.song)
    return [(kind, first, second) for (first, second), kind in pairs.items()]


def _differ(one: _Clip, other: _Clip) -> bool:
    """Whether two clips of one name are two recordings. A noisy copy sounds different from its track."""
    is_known = one.sha256 and other.sha256 and not (one.is_noisy or other.is_noisy)
    return bool(is_known) and one.sha256 != other.sha256


def _tell_apart(namesakes: list[_Clip], sides: str) -> None:
    names = {clip.track_id for clip in namesakes if not _MADE_UP_NAME.fullmatch(clip.track_id)}
    if names:
        logger.warning(
            "%s: %d tracks have one name and two sounds, such as %s. They are taken for different recordings.",
            *(sides, len(names), min(names)),
        )
