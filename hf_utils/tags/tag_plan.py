"""Which genre is to be written into which file: made of predictions, kept as JSON lines, one per file."""

import contextlib
import csv
import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_utils.disclosure import show_source
from hf_utils.errors import UserError
from hf_utils.files import ORIGIN_FILE, show_name, write_atomically
from hf_utils.tags.tag_fields import Fields, TagError, open_tags
from hf_utils.tags.tag_rewrite import read_taggable_state

# What predictions say where the model is not sure enough.
_UNKNOWN = "unknown"

_TYPES = {
    "file": str,
    "state": list,
    "old": list,
    "new": str,
    "confidence": float | int,
    "model": str,
    "revision": str,
}


@dataclasses.dataclass(frozen=True)
class PlannedTag:
    """What is to be written into a file.

    Attributes:
        file: its absolute path, no link.
        state: its `read_file_state` when this was planned.
        old: the genre that it has.
        new: the genre that it is to have.
        confidence: the model's probability of it.
        model: by which it was predicted; several of an ensemble are joined by " + ", and so are their revisions.
    """

    file: str
    state: list[int]
    old: list[str]
    new: str
    confidence: float
    model: str
    revision: str

    def __post_init__(self):
        for name, kind in _TYPES.items():
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"{name} is {value!r}")

    @property
    def fields(self) -> Fields:
        """What the file is to hold: the genre, and where it comes from."""
        names = ("confidence", "model", "revision")
        source = {"genre": self.new, **{name: getattr(self, name) for name in names}, "by": "hf_utils.tags"}
        return Fields([self.new], [json.dumps(source, ensure_ascii=False)])


@dataclasses.dataclass
class Plan:
    """Planned tags, and what of the predictions is not planned.

    Attributes:
        kept: how many files keep their tags on purpose, by the reason.
        num_changed: how many planned files have changed since they were predicted, perhaps only in their tags.
        notes: a line for each file that is planned under another name.
        problems: a line for each file that could not be planned.
    """

    tags: list[PlannedTag] = dataclasses.field(default_factory=list)
    kept: Counter = dataclasses.field(default_factory=Counter)
    num_changed: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def make_plan(
    predictions: Path, *, music: Path | None = None, min_confidence: float = 0.0, replace: bool = False
) -> Plan:
    """Return a plan for the files of a `predictions.csv` of run_classification.py.

    Args:
        music: where the files are now, if they have moved since they were predicted.
        min_confidence: files with a less probable genre keep their tags.
        replace: whether files that have a genre get another.

    Raises:
        UserError: the table, or what must be beside it, is missing or of another kind.
    """
    rows, origin = [*_read_rows(predictions)], _read_origin(predictions)
    model, revision = (
        " + ".join(show_source(found[key]) for found in origin["models"]) for key in ("name", "revision")
    )
    states = [_read_predicted_states(predictions.parent / found["journal"]) for found in origin["models"]]
    root = (music or Path(origin["predict_path"])).expanduser().absolute()
    if not root.exists():
        raise UserError(f"the predicted files are not in {root} any more: say by --music where they are")
    root = root if root.is_dir() else root.parent
    plan, seen = Plan(), {}
    for name, genre, confidence in rows:
        if genre == _UNKNOWN:
            plan.kept["predicted as unknown"] += 1
            continue
        if confidence < min_confidence:
            plan.kept[f"below a confidence of {min_confidence:g}"] += 1
            continue
        name, place = _find_file(root, name)
        path = os.path.realpath(place)
        first, first_genre = seen.setdefault(path, (name, genre))
        try:
            if first_genre != genre:
                raise TagError(f"is the same file as {first}, with another genre")
            if first != name:
                plan.notes.append(f"{show_name(name)}: is the same file as {show_name(first)}")
                continue
            state = read_taggable_state(path)
            old = open_tags(path).genres
        except (TagError, OSError) as error:
            plan.problems.append(describe_problem(name, error))
            continue
        has_it = [text.casefold() for text in old] == [genre.casefold()]
        if has_it or old and not replace:
            plan.kept["with that genre already" if has_it else "with a genre of their own"] += 1
            continue
        if os.path.islink(place):
            plan.notes.append(f"{show_name(name)}: is a link, and {show_name(path)} is planned")
        plan.num_changed += any(state != found.get(name, state) for found in states)
        plan.tags.append(PlannedTag(path, state, old, genre, confidence, model, revision))
    return plan


def describe_problem(name: str, error: TagError | OSError) -> str:
    """Return one line on a file that is left as it is."""
    reason = error.strerror or error if isinstance(error, OSError) else error
    return f"{show_name(name)}: {show_name(str(reason))}"


def _read_origin(predictions: Path) -> dict[str, Any]:
    try:
        return json.loads(predictions.with_name(ORIGIN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{predictions.parent} has no {ORIGIN_FILE}, which says where the files are and what they were predicted "
            "by. Run the same --do_predict once more: it does no file again that is finished."
        ) from None


def _read_predicted_states(journal: Path) -> dict[str, list[int]]:
    """Return the state in which files were predicted, by name. A journal that is gone tells of none."""
    states = {}
    with contextlib.suppress(FileNotFoundError):
        for line in journal.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, KeyError):  # a line cut short, and the first one
                entry = json.loads(line)
                states[entry["file"]] = entry["state"]
    return states


def _read_rows(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield (name, genre, its probability) of every row; `unknown` has none. Raises UserError for another table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                genre = row["prediction"]
                yield row["file"], genre, 0.0 if genre == _UNKNOWN else float(row[genre])
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), expected the predictions.csv that --do_predict wrote"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no table of predictions: expected columns file and prediction, and in every row a number in "
            f"the column of its genre ({type(error).__name__}: {error})."
        ) from None


def _find_file(root: Path, name: str) -> tuple[str, Path]:
    """Return the name and the path of a file of the table, where a byte that is no UTF-8 stands as \\udc80 or so."""
    if "\\udc" in name and not os.path.lexists(root / name):
        name = re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda found: chr(int(found[1], 16)), name)
    return name, root / name


def write_plan(path: Path, tags: Iterable[PlannedTag]) -> None:
    """Write a plan as JSON lines."""
    write_atomically(path, "".join(f"{json.dumps(dataclasses.asdict(tag))}\n" for tag in tags))


def read_plan(path: Path) -> list[PlannedTag]:
    """Return the tags of a plan. Raises UserError for another file, or one that names a file twice."""
    tags = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the plan {path} cannot be read ({reason}), expected the file that `plan` wrote") from None
    for number, line in enumerate(lines, start=1):
        try:
            tag = PlannedTag(**json.loads(line))
        except (ValueError, TypeError) as error:
            names = ", ".join(field.name for field in dataclasses.fields(PlannedTag))
            raise UserError(f"{path}: line {number} is no planned tag with {names}: {error}") from None
        if tag.file in tags:
            raise UserError(f"{path}: line {number} has a file of an earlier line, {show_name(tag.file)}")
        tags[tag.file] = tag
    return [*tags.values()]


def format_diff(tag: PlannedTag) -> str:
    """Return what a planned tag changes: the file, its genre, and what it is to be."""
    old = ", ".join(tag.old) or "(no genre)"
    new = f"{tag.new}  ({tag.confidence:.3f} by {tag.model})"
    return f"{show_name(tag.file)}\n- {show_name(old)}\n+ {show_name(new)}"
