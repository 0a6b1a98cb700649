"""What is known of the 1,000 tracks of GTZAN: artist, title, fault-filtered split, repetitions (`gtzan_tracks.csv`).

Sources: the split is that of Kereliuk, Sturm and Larsen (443 training, 197 validation and 290 test tracks; 70 are left
out); artists, titles and repetitions follow Sturm's catalogue of the faults of GTZAN (arXiv 1306.1461).
"""

import csv
import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType

_CSV_PATH = Path(__file__).with_name("gtzan_tracks.csv")


def is_gtzan(dataset: str, protocol: Mapping) -> bool:
    """Whether a dataset is GTZAN or made of it, as far as its own name (not its folder's) and its split tell."""
    return protocol["name"] == "filtered" or "gtzan" in PurePath(dataset).name.lower()


@functools.cache
def track_facts() -> Mapping[str, Mapping[str, str]]:
    """Return {track_id: {genre, artist, title, filtered_split, repetition_of}}; what is unknown or none is ""."""
    with open(_CSV_PATH, encoding="utf-8", newline="") as file:
        return MappingProxyType({row["track_id"]: MappingProxyType(row) for row in csv.DictReader(file)})


@functools.cache
def repetition_groups() -> Mapping[str, str]:
    """Return {track_id: the first track, by name, of all that repeat one another} for tracks with a repetition."""
    facts = track_facts()
    names = sorted(facts)
    groups = join_rows(
        [[name, facts[name]["repetition_of"]] if facts[name]["repetition_of"] else [name] for name in names]
    )
    members: dict[int, list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        members.setdefault(group, []).append(name)
    return MappingProxyType({name: group[0] for group in members.values() if len(group) > 1 for name in group})


def join_rows(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Return a group per row: the first row that it is connected to, where rows with a key in common are connected.

    Connections are transitive: a-b and b-c put a, b and c in one group.
    """
    parents = list(range(len(keys)))

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first_with: dict[Hashable, int] = {}
    for row, row_keys in enumerate(keys):
        for key in row_keys:
            one, other = find(row), find(first_with.setdefault(key, row))
            parents[max(one, other)] = min(one, other)
    return [find(row) for row in range(len(keys))]
