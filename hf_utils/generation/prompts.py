"""Text prompts per genre: lists and templates from a YAML file, or finished prompts from YAML, CSV or plain text."""

import csv
import dataclasses
import hashlib
import json
import logging
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_utils.config_files import SUFFIXES, read_config
from hf_utils.data.genre_spellings import fold_genre
from hf_utils.errors import UserError
from hf_utils.seeding import derive_seed

logger = logging.getLogger(__name__)

SHIPPED_PROMPTS = Path(__file__).resolve().parents[2] / "configs" / "generate" / "prompts.yaml"
PLAIN_TEMPLATE = "{genre} music, instrumental"
_RANGE = "tempo_bpm"


@dataclasses.dataclass(frozen=True)
class GenrePrompts:
    """What the prompts of one genre are drawn from; finished prompts are templates without fields.

    Attributes:
        spoken: the genre as it is said.
        templates: texts with the fields {genre}, {tempo} and the names of `lists`.
        lists: words per field.
        tempo_bpm: lowest and highest whole number for {tempo}.
    """

    spoken: str
    templates: tuple[str, ...]
    lists: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    tempo_bpm: tuple[int, int] | None = None

    def draw(self, seed: int) -> str:
        """Return a prompt that depends only on `seed`: each field has its own seed."""
        template = self.templates[derive_seed(seed, "template") % len(self.templates)]
        words = {name: items[derive_seed(seed, name) % len(items)] for name, items in self.lists.items()}
        if self.tempo_bpm:
            low, high = self.tempo_bpm
            words["tempo"] = low + derive_seed(seed, "tempo") % (high - low + 1)
        return template.format(genre=self.spoken, **words)


def load_prompts(path: str | Path | None, genres: Sequence[str]) -> dict[str, GenrePrompts]:
    """Return the prompts of each of `genres`, from the file or, by default, the project's own.

    Genres that the file lacks get its plain template, with a notice.

    Raises:
        UserError: the file cannot be read, is of no known kind, or a template has a field that the genre has no list
            for.
    """
    path = Path(path or SHIPPED_PROMPTS).expanduser()
    if path.suffix in SUFFIXES:
        book = _check_layout(read_config(path), path)
    elif path.suffix in (".txt", ".csv"):
        book = {"genres": _read_lines(path) if path.suffix == ".txt" else _read_csv(path)}
    else:
        raise UserError(f"prompts is {path}, expected a .yaml, .txt or .csv file (see configs/generate/prompts.yaml)")
    prompts = {}
    for genre in genres:
        name = fold_genre(genre, book["genres"])
        spoken = genre.replace("_", " ").replace("-", " ")
        if name is None:
            plain = book.get("plain", PLAIN_TEMPLATE)
            logger.warning("No prompts for genre %r in %s: it gets %r.", genre, path.name, plain)
            entry = [plain]
        else:
            entry = book["genres"][name]
        prompts[genre] = _read_genre(entry, book.get("templates", ()), spoken, f"{path}: genre {genre!r}")
    return prompts


def hash_prompts(prompts: Mapping[str, GenrePrompts]) -> str:
    """Return a digest of everything that prompts are drawn from."""
    content = {genre: dataclasses.asdict(entry) for genre, entry in prompts.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_layout(book: dict[str, Any], path: Path) -> dict[str, Any]:
    if not isinstance(book.get("genres"), dict):
        raise UserError(f"{path} has no mapping `genres`: see configs/generate/prompts.yaml for the layout")
    unknown = set(book) - {"genres", "templates", "plain"}
    if unknown or not isinstance(book.get("templates", []), list) or not isinstance(book.get("plain", ""), str):
        raise UserError(
            f"{path}: expected `genres` (a mapping), `templates` (a list) and `plain` (a text), "
            f"found {', '.join(f'{key} ({type(value).__name__})' for key, value in book.items())}"
        )
    return book


def _read_genre(entry: Any, templates: Sequence[str], spoken: str, where: str) -> GenrePrompts:
    """Return one genre's prompts from its mapping of lists or its list of finished prompts."""
    if isinstance(entry, list):
        prompts = GenrePrompts(spoken, _check_texts(entry, where))
    elif isinstance(entry, dict):
        entry = dict(entry)
        spoken, tempo = entry.pop("spoken", spoken), entry.pop(_RANGE, None)
        if tempo is not None and not (_is_pair(tempo) and 0 < tempo[0] <= tempo[1]):
            raise UserError(f"{where}: {_RANGE} is {tempo}, expected [lowest, highest] in whole beats per minute")
        own = _check_texts(entry.pop("templates", templates), f"{where}, templates")
        lists = {name: _check_texts(items, f"{where}, {name}") for name, items in entry.items()}
        prompts = GenrePrompts(str(spoken), own, lists, tuple(tempo) if tempo else None)
    else:
        raise UserError(f"{where}: expected a mapping of lists or a list of finished prompts, found {entry!r}")
    _check_fields(prompts, where)
    return prompts


def _check_fields(prompts: GenrePrompts, where: str) -> None:
    known = {"genre", *prompts.lists, *(["tempo"] if prompts.tempo_bpm else [])}
    for template in prompts.templates:
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        except ValueError as error:
            raise UserError(f"{where}: {error} in template {template!r}; a brace itself is written twice") from None
        if unknown := sorted(fields - known):
            raise UserError(f"{where}: template {template!r} uses {unknown}, expected only {sorted(known)}")


def _check_texts(items: Any, where: str) -> tuple[str, ...]:
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        raise UserError(f"{where}: expected a list of texts, found {items!r}")
    if wrong := [item for item in items if not isinstance(item, str) or not item.strip()]:
        raise UserError(f"{where}: expected texts, found {wrong[0]!r}; put it in quotes")
    return tuple(items)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)


def _read_lines(path: Path) -> dict[str, list[str]]:
    prompts: dict[str, list[str]] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        genre, colon, prompt = line.partition(":")
        if not colon or not genre.strip() or not prompt.strip():
            raise UserError(f"{path}, line {number}: expected `genre: prompt`, found {line!r}")
        prompts.setdefault(genre.strip(), []).append(_literal(prompt))
    return prompts


def _read_csv(path: Path) -> dict[str, list[str]]:
    reader = csv.DictReader(_read_text(path).splitlines(keepends=True))
    if not {"genre", "prompt"} <= set(reader.fieldnames or ()):
        raise UserError(f"{path}: expected the columns genre and prompt, found {reader.fieldnames}")
    prompts: dict[str, list[str]] = {}
    for number, row in enumerate(reader, start=1):
        if not (row["genre"] or "").strip() or not (row["prompt"] or "").strip():
            raise UserError(f"{path}, row {number}: expected a genre and a prompt, found {dict(row)}")
        prompts.setdefault(row["genre"].strip(), []).append(_literal(row["prompt"]))
    return prompts


def _literal(prompt: str) -> str:
    """Return a finished prompt as a template: its braces are just braces."""
    return prompt.strip().replace("{", "{{").replace("}", "}}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from None
