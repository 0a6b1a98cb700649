"""What a prediction has finished, one line per file, so that it continues after any end.

The first line is what all others were made by: the model by its content, and the windows. A line is added when a file
is finished; one that a killed process left incomplete is passed over.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from hf_utils.files import explain_os_errors, read_file_state, write_atomically

JOURNAL_FILE = "predictions_journal.jsonl"


class PredictionJournal:
    """The results of finished files by name, as they are on disk; `add` works within a `with` block.

    Attributes:
        differences: how what made these results differs from `made_by`, in words; none where there are no results.
    """

    def __init__(self, path: str | os.PathLike, made_by: Mapping[str, Any]):
        self._path, self._file = Path(path), None
        self._made_by = json.loads(json.dumps(made_by))
        self._entries: dict[str, dict] = {}
        self.differences: list[str] = []
        if self._path.is_file():
            lines = [_parse(line) for line in self._path.read_bytes().split(b"\n")]
            self._entries = {line["file"]: line for line in lines if line.keys() == {"file", "state", "result"}}
            found = lines[0]
            self.differences = [
                f"{name} {found.get(name)}, not {self._made_by.get(name)}"
                for name in {**self._made_by, **found}
                if found.get(name) != self._made_by.get(name) and self._entries
            ]

    def __enter__(self) -> Self:
        lines = [self._made_by, *self._entries.values()]
        write_atomically(self._path, "".join(f"{json.dumps(line)}\n" for line in lines))
        self._file = open(self._path, "ab")
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    @property
    def results(self) -> dict[str, dict]:
        """What `add` was given for each finished file, by name."""
        return {name: entry["result"] for name, entry in self._entries.items()}

    def has(self, name: str, file: Path) -> bool:
        """Return whether a file is finished, and has not changed since."""
        return name in self._entries and self._entries[name]["state"] == read_file_state(file)

    def forget(self, name: str) -> dict:
        """Take a file for unfinished; return its result."""
        return self._entries.pop(name)["result"]

    def add(self, name: str, state: list[int], result: dict) -> None:
        """Note the result, made of what JSON knows, of a file whose `read_file_state` was `state` before it was read.

        Raises:
            UserError: the disk is full.
        """
        self._entries[name] = {"file": name, "state": state, "result": result}
        with explain_os_errors(self._path):
            self._file.write(f"{json.dumps(self._entries[name])}\n".encode())
            self._file.flush()


def _parse(line: bytes) -> dict:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def digest_model(model: torch.nn.Module, feature_extractor) -> str:
    """Return a digest of weights, labels and features: the same for one model wherever it was loaded from."""
    digest = hashlib.sha256()
    config = {**model.config.to_dict(), "_name_or_path": None, "transformers_version": None}
    for content in (config, feature_extractor.to_dict()):
        digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
