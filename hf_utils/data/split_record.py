"""Which recordings the weights of a checkpoint know: a record beside them, and what it rules out.

A split belongs to the weights that were trained with it. Whoever evaluates them, resumes their training or trains them
further is checked against their record, by sound: neither the path nor the names of the music matter. The record holds
digests and no names: those come from the music at hand.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import datasets

from hf_utils.arguments.data import SPLITS
from hf_utils.data.clips import genre_names, label_names, read_column
from hf_utils.errors import UserError
from hf_utils.files import RECORD_FILE, write_atomically
from hf_utils.listing import listing

logger = logging.getLogger(__name__)
_FORMAT = 1
# The options behind what a protocol records.
_PROTOCOL_OPTIONS = {"name": "split_protocol", "seed": "split_seed", "num_folds": "num_folds", "fold": "fold"}
_ABOUT = (
    "recordings that these weights know: the first 64 bits of the SHA-256 of their 16-bit samples, at their own rate"
)
# 64 bits: of a million recordings none is taken for one of another million, but for one case in 18 million.
_DIGEST_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """What a checkpoint was trained and selected on.

    Attributes:
        protocol: of its run, as `splits.read_protocol`.
        genres: in the order of the labels.
        splits: {train, validation, test: {digest: genre}} of the real tracks of its run.
        trained: digests of all that the weights learned from, in this run and in those before it: of copies, the
            copies and their tracks.
        selected: digests of the tracks that checkpoints were selected on, in this run and in those before it; of
            copies likewise.
        order: a digest of all that this run trains on, in the order that the draws of an epoch are made in. None in
            records of earlier versions.
        checkpoint: what to call the weights in messages.
    """

    protocol: Mapping[str, Any]
    genres: Sequence[str]
    splits: Mapping[str, Mapping[str, str]]
    trained: frozenset[str]
    selected: frozenset[str]
    order: str | None = None
    checkpoint: str = dataclasses.field(default="the checkpoint", compare=False)

    @classmethod
    def of_run(
        cls,
        protocol: Mapping[str, Any],
        splits: Mapping[str, datasets.Dataset],
        mix: datasets.Dataset,
        before: Self | None = None,
    ) -> Self:
        """Return the record of a run.

        Args:
            protocol: from `splits.read_protocol`.
            splits: decoded clips of train, validation and test.
            mix: decoded clips that are trained on; the parents of copies are in `splits["train"]`.
            before: the record of the weights that training starts from.
        """
        tracks = splits["train"]
        digest_of = dict(zip(tracks["track_id"][:], tracks["sha256"][:], strict=True))
        trained = {_shorten(digest_of[name]) for name in mix["parent_id"][:] if name in digest_of}
        trained |= _digests(mix) | _parents(mix)
        selected = _digests(splits["validation"]) | _parents(splits["validation"])
        return cls(
            protocol,
            genre_names(tracks),
            {name: dict(zip(_list_digests(clips), label_names(clips), strict=True)) for name, clips in splits.items()},
            frozenset(trained | (before.trained if before else frozenset())),
            frozenset(selected | (before.selected if before else frozenset())),
            _digest(map(str, _list_digests(mix))),
        )

    @classmethod
    def read(cls, path: str | Path, checkpoint: str) -> Self:
        """Return the record in a file. Raises UserError for a damaged file, or one of a later version."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["format"] == _FORMAT:
                splits = {
                    name: {digest: genre for genre, text in found["splits"][name].items() for digest in text.split()}
                    for name in SPLITS
                }
                sets = (frozenset(found[name].split()) for name in ("trained", "selected"))
                return cls(found["protocol"], found["genres"], splits, *sets, found.get("order"), checkpoint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}), and it says which tracks the checkpoint was trained "
                "on. Copy the whole checkpoint again."
            ) from error
        raise UserError(f"{path} has format {found['format']}, and this version reads format {_FORMAT}: update it.")

    def write(self, folder: str | Path) -> None:
        """Write `split.json` into a folder: about 35 bytes per track."""
        splits: dict[str, dict[str, str]] = {}
        for name, tracks in self.splits.items():
            by_genre: dict[str, list[str]] = {}
            for digest, genre in sorted(tracks.items()):
                by_genre.setdefault(genre, []).append(digest)
            splits[name] = {genre: " ".join(digests) for genre, digests in by_genre.items()}
        content = {
            "about": _ABOUT,
            "format": _FORMAT,
            "protocol": dict(self.protocol),
            "genres": list(self.genres),
            "splits": splits,
            "trained": " ".join(sorted(self.trained)),
            "selected": " ".join(sorted(self.selected)),
            "order": self.order,
        }
        write_atomically(Path(folder, RECORD_FILE), json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def was_trained_on(self, sha256: str) -> bool:
        """Return whether the weights learned from the recording with this digest, in full."""
        return _shorten(sha256) in self.trained

    def summarize(self) -> dict[str, str]:
        """Return a digest of the recordings of each split: equal ones mean equal splits."""
        return {name: summarize(tracks) for name, tracks in self.splits.items()}

    def describe_split(self) -> str:
        """Return the options that draw the split of its run again, from the same tracks."""
        options = {option: self.protocol[name] for name, option in _PROTOCOL_OPTIONS.items()}
        return " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)

    def holds_out(self, clips: datasets.Dataset) -> bool:
        """Return whether the decoded clips of validation and test, by their `split`, are those of its run."""
        expected = {(digest, name) for name in ("validation", "test") for digest in self.splits[name]}
        found = zip(_list_digests(clips), clips["split"][:], strict=True)
        return {(digest, name) for digest, name in found if digest and name != "train"} == expected

    def assign(self, clips: datasets.Dataset) -> list[str | None] | None:
        """Return on which side of its run's split each of the decoded clips is, or None if they are not its music.

        They are if they have all of its validation and test tracks, or no other tracks than its. Clips that its run
        did not use, and bad ones, get None.
        """
        sides = {digest: name for name, tracks in self.splits.items() for digest in tracks}
        digests = _list_digests(clips)
        found = [sides.get(digest) for digest in digests]
        held_out = self.splits["validation"].keys() | self.splits["test"].keys()
        only_its_own = all(side for digest, side in zip(digests, found, strict=True) if digest)
        if held_out <= set(digests) or (only_its_own and {"validation", "test"} <= set(found)):
            return found
        return None

    def select_trained(self, clips: datasets.Dataset) -> datasets.Dataset:
        """Return those of the decoded clips that the weights were trained on, or that are copies of such tracks."""
        rows = zip(_list_digests(clips), _list_parents(clips), strict=True)
        return clips.select([row for row, digests in enumerate(rows) if self.trained.intersection(digests)])

    def find_seen(self, sets: Mapping[str, datasets.Dataset]) -> dict[str, dict[str, list[str]]]:
        """Return {set: {"trained on" or "selected on": track ids}} of decoded clips that are not new to the weights.

        A copy counts as the track that it was made from. Selection counts for test only: validation is what it is for,
        and further sets may be made from validation.
        """
        seen: dict[str, dict[str, list[str]]] = {}
        for name, clips in sets.items():
            columns = clips["track_id"][:], _list_digests(clips), _list_parents(clips)
            for track_id, *digests in zip(*columns, strict=True):
                if self.trained.intersection(digests):
                    seen.setdefault(name, {}).setdefault("trained on", []).append(track_id)
                elif name == "test" and self.selected.intersection(digests):
                    seen.setdefault(name, {}).setdefault("selected on", []).append(track_id)
        return seen

    def check_seen(self, sets: Mapping[str, datasets.Dataset], *, allow: bool) -> dict[str, dict[str, int]]:
        """Return how many tracks of which set, as of `find_seen`, are not new to the weights; {} if all are.

        Raises:
            UserError: some are, and they are not allowed.
        """
        seen, lines = self.find_seen(sets), []
        for name, kinds in seen.items():
            for kind, track_ids in kinds.items():
                shown = listing(sorted(track_ids), most=20)
                lines.append(f"  {name}: {kind} {len(track_ids)} of {len(sets[name])} tracks: {shown}")
        if seen and not allow:
            raise UserError(
                f"The weights of {self.checkpoint} know tracks that they are to be evaluated on:\n"
                + "\n".join(lines)
                + f"\n{self._advise(seen)} If you mean it: --allow_seen_tracks; results.json and the card then tell."
            )
        if seen:
            logger.warning(
                "Scores will be too good, since %s knows these tracks:\n%s", self.checkpoint, "\n".join(lines)
            )
        return {name: {kind: len(track_ids) for kind, track_ids in kinds.items()} for name, kinds in seen.items()}

    def _advise(self, seen: Mapping[str, Mapping]) -> str:
        """Return what to do about sets of `find_seen`: a split can be drawn otherwise, a named set cannot."""
        named = [name for name in seen if name not in ("validation", "test")]
        advice = []
        if len(named) < len(seen):
            advice.append(
                f"Keep to the split that they were trained with ({self.describe_split()}), or take other music or "
                "other weights."
            )
        if named:
            advice.append(
                f"Leave these tracks, and their copies, out of {' and '.join(named)}, or take weights that were not "
                "trained on them."
            )
        return " ".join(advice)

    def list_differences(self, now: Self) -> list[str]:
        """Return in words what differs between this record and that of the same training now; [] if nothing does."""
        lines = [
            f"{_PROTOCOL_OPTIONS[name]}: {value} before, {now.protocol.get(name)} now"
            for name, value in self.protocol.items()
            if value != now.protocol.get(name)
        ]
        if list(self.genres) != list(now.genres):
            lines.append(f"genres: {', '.join(self.genres)} before, {', '.join(now.genres)} now")
        for name in SPLITS:
            old, new = self.splits[name], now.splits[name]
            changes = {
                "missing": len(old.keys() - new.keys()),
                "new": len(new.keys() - old.keys()),
                "of another genre": sum(old[digest] != new[digest] for digest in old.keys() & new.keys()),
            }
            if any(changes.values()):
                lines.append(f"{name} tracks: {_count(changes)}")
        mixes = {"missing": len(self.trained - now.trained), "new": len(now.trained - self.trained)}
        if not lines and any(mixes.values()):
            lines.append(f"recordings to train on: {_count(mixes)}")
        if not lines and self.order not in (None, now.order):
            lines.append("recordings to train on: in another order, that of train_datasets or of the files' names")
        return lines


def summarize(digests: Iterable[str]) -> str:
    """Return a digest of a set of digests."""
    return _digest(sorted(digests))


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _shorten(sha256: str) -> str:
    return sha256[:_DIGEST_CHARACTERS]


def _list_digests(clips: datasets.Dataset) -> list[str | None]:
    """Return None for a bad file."""
    return [digest and _shorten(digest) for digest in clips["sha256"][:]]


def _list_parents(clips: datasets.Dataset) -> list[str | None]:
    """Return the digests of the tracks that copies were made from, as far as their dataset has them."""
    return [digest and _shorten(digest) for digest in read_column(clips, "parent_sha256")]


def _digests(clips: datasets.Dataset) -> set[str]:
    return set(_list_digests(clips))


def _parents(clips: datasets.Dataset) -> set[str]:
    return set(_list_parents(clips)) - {None}


def _count(changes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in changes.items() if count)
