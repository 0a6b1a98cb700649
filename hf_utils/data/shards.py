"""A dataset folder that is written shard by shard, by any number of processes and machines, and survives their death.

    data/<split>-<i>-of-<n>.parquet   one shard: written aside, then renamed, so that a file under its name is whole
    config.json                       what the shards are made from; another configuration is refused
    README.md                         the card, written last: a folder without it is unfinished

The file system is the only meeting place: no process waits for another, and a shard that two of them make by mistake
is the same file. `datasets.load_dataset(folder)` reads a finished folder.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from hf_utils.errors import UserError
from hf_utils.files import CARD_FILE, UNFINISHED_PREFIX, atomic_writer, write_atomically
from hf_utils.listing import listing

DATASET_CONFIG_FILE = "config.json"

# Rows per Parquet row group, and so what a writer or reader holds in memory at once: some 20 MB of 30 s clips.
ROWS_PER_GROUP = 20
_SPLIT_NAME = re.compile(r"\w+(\.\w+)*")


class Shards:
    """The shards of one folder, numbered from 0 through all splits; made by `open_shards`.

    Attributes:
        folder: the dataset folder.
        paths: the file of each shard.
        splits: the split of each shard.
    """

    def __init__(self, folder: Path, shards_per_split: Mapping[str, int]):
        self.folder = folder
        self.paths = [
            folder / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet"
            for split, count in shards_per_split.items()
            for index in range(count)
        ]
        self.splits = [split for split, count in shards_per_split.items() for _ in range(count)]

    @property
    def finished(self) -> bool:
        """Whether the card is there, which is written last, and no shard was lost since."""
        return (self.folder / CARD_FILE).exists() and not self.missing()

    def missing(self, part: int = 0, num_parts: int = 1) -> list[int]:
        """Return the numbers of the shards still to be made: all, or those of one of `num_parts` machines.

        A machine's share does not depend on what the others have done, so machines may start at any time.
        """
        return [i for i, path in enumerate(self.paths) if i % num_parts == part and not path.exists()]

    def write(self, index: int, rows: Iterable[Mapping[str, Any]], features: datasets.Features) -> None:
        """Write shard `index`; the rows are consumed in groups, so a generator keeps memory flat.

        Args:
            rows: one mapping per clip with a key for every feature; audio as `{"bytes": ..., "path": ...}`, labels as
                integers. Whatever their making raises passes through, and nothing of the shard stays behind.
            features: the columns; they travel with the file.

        Raises:
            UserError: no space or no right to write.
        """
        schema = features.arrow_schema
        # FLAC does not compress; the other columns do.
        compression = {name: "none" if name == "audio" else "zstd" for name in schema.names}
        with (
            atomic_writer(self.paths[index]) as file,
            pq.ParquetWriter(file, schema, compression=compression) as writer,
        ):
            rows = iter(rows)
            while group := list(islice(rows, ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))

    def read(self, columns: list[str], split: str | None = None) -> pa.Table:
        """Return columns of all shards, or those of one split, in order; `audio` is better left out.

        Raises:
            UserError: a shard is no whole Parquet file, as after a copy that broke off.
        """
        wanted = [index for index, name in enumerate(self.splits) if split in (None, name)]
        return pa.concat_tables([self.read_shard(index, columns) for index in wanted])

    def read_shard(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Return shard `index`, or those of `columns` that it has.

        Raises:
            UserError: it is no whole Parquet file, as after a copy that broke off.
        """
        path = self.paths[index]
        try:
            with pq.ParquetFile(path) as file:
                return file.read(columns)
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run the same command again") from error

    def reopen(self) -> None:
        """Take the card away, before shards of a finished folder are written anew: nobody can load it meanwhile."""
        (self.folder / CARD_FILE).unlink(missing_ok=True)

    def finish(self, card_text: str) -> None:
        """Check that every shard is there and every `track_id` occurs once, then write the card.

        Raises:
            UserError: shards are missing, a `track_id` occurs twice, or `data` holds Parquet files of something else.
        """
        if missing := self.missing():
            names = listing([self.paths[i].name for i in missing])
            raise UserError(
                f"{self.folder} lacks {len(missing)} of {len(self.paths)} shards ({names}): run the same command "
                "again, on the machines whose part is missing or without --num_shards."
            )
        strangers = sorted(
            {path.name for path in self.paths[0].parent.glob("*.parquet")} - {p.name for p in self.paths}
        )
        if strangers:
            raise UserError(f"{self.paths[0].parent} holds files that are no part of this dataset: {strangers}")
        seen, doubled = set(), set()
        for track_id in self.read(["track_id"])["track_id"].to_pylist():
            (doubled if track_id in seen else seen).add(track_id)
        if doubled:
            raise UserError(f"{self.folder} holds track_ids more than once: {listing(sorted(doubled))}")
        for leftover in self.folder.rglob(f"{UNFINISHED_PREFIX}*"):
            leftover.unlink(missing_ok=True)
        write_atomically(self.folder / CARD_FILE, card_text)


def open_shards(
    folder: str | os.PathLike,
    config: Mapping[str, Any],
    shards_per_split: Mapping[str, int],
    environment: Collection[str] = (),
) -> Shards:
    """Return the shards of `folder`, which is created, or continued if it was begun with the same configuration.

    Args:
        config: everything that the content depends on (options, seed, versions), JSON-ready; nothing that it does not
            depend on (number of processes, the folder's name).
        shards_per_split: number of shards of each split, such as {"train": 12}. Kept with the configuration.
        environment: keys of `config` that the user does not choose, such as versions: another one matters only while
            shards are missing.

    Raises:
        UserError: the folder was begun with another configuration (the difference is shown), holds something else, or
            cannot be written. Nothing is changed then.
    """
    folder = Path(folder).expanduser()
    for split in shards_per_split:
        if not _SPLIT_NAME.fullmatch(split):
            raise UserError(f"{split!r} cannot name a split: use letters, digits and _")
    wanted = json.loads(json.dumps({**config, "shards": dict(shards_per_split)}))
    path = folder / DATASET_CONFIG_FILE
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(p.name[0] != "." for p in folder.iterdir())):
            raise UserError(f"{folder} holds other files and no {DATASET_CONFIG_FILE}: choose a new or empty folder")
        write_atomically(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
    begun = json.loads(path.read_text(encoding="utf-8"))
    shards = Shards(folder, shards_per_split)
    if not shards.missing():
        wanted |= {key: begun.get(key) for key in environment}
    if differences := list(_differences(begun, wanted)):
        raise UserError(
            f"{folder} was begun with another configuration; nothing was changed. The difference:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\nGive the same options as before to continue it, or choose another folder."
        )
    return shards


def _differences(begun: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(begun, dict) and isinstance(wanted, dict):
        for key in [*begun, *(key for key in wanted if key not in begun)]:
            yield from _differences(begun.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif begun != wanted:
        yield f"{name}: {json.dumps(begun)} in the folder, {json.dumps(wanted)} now"
