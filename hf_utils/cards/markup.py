"""Text from outside in Markdown: names of genres, datasets and files cannot break a card or put HTML into it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

_TEMPLATES = Path(__file__).parents[1] / "templates"
# What means something inside a line, in Markdown, HTML, or the Hub's mathematics; and at its start.
_SPECIAL = re.compile(r"://|www\.|[\\`*_{}\[\]|~#!$&<>@]|^[-+=](?=[-+=\s]|$)|^\d+[.)](?=\s|$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "://": "&#58;//", "www.": "www&#46;"}


class Markdown(str):
    """Markdown that is meant as such. Templates escape every other value."""


def render_template(name: str, **values: Any) -> str:
    """Return a template of this package's `templates` folder, filled with `values`, each escaped unless `Markdown`."""
    text = load_template(name, finalize=escape).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def load_template(name: str, **escaping: Any) -> jinja2.Template:
    """Return a template of the `templates` folder; `escaping` is what makes jinja2 escape the values."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **escaping,
    )
    return environment.get_template(name)


def one_line(value: Any) -> str:
    """Return `value` as text on one line: line breaks, control and invisible characters become single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def escape(value: Any) -> Markdown:
    """Return `value` as Markdown that shows it literally, on one line: no markup, HTML, link or table cell."""
    if isinstance(value, Markdown):
        return value
    return Markdown(_SPECIAL.sub(_escape_match, one_line(value)))


def _escape_match(match: re.Match) -> str:
    text = match.group()
    # What is no entity is one character, or the number of a list, whose last character counts.
    return _ENTITIES.get(text, f"{text[:-1]}\\{text[-1]}")


def table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Markdown:
    """Return a table; columns after the first are aligned to the right if all they hold is numbers or nothing."""
    numeric = [column and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    lines = [header, ["---:" if right else "---" for right in numeric], *rows]
    cells = [[cell if index == 1 else escape(cell) for cell in line] for index, line in enumerate(lines)]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in cells))


def _is_number(cell: Any) -> bool:
    return not isinstance(cell, str) or re.match(r"(< )?[-+]?\d|n/a|–|$", cell) is not None


def code_block(text: str, language: str = "") -> Markdown:
    """Return a fenced block that `text` cannot end, whatever backticks it holds; invisible characters show as �."""
    text = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def picture(description: str, file_name: str) -> Markdown:
    """Return the picture of a file beside the card."""
    return Markdown(f"![{escape(description)}]({quote(file_name, safe='')})")


def link(text: str, path: str) -> Markdown:
    """Return a link to a file below the card's folder."""
    return Markdown(f"[{escape(text)}]({quote(path)})")


def paragraphs(text: str) -> Markdown:
    """Return plain text with its paragraphs, which empty lines part, kept."""
    return text if isinstance(text, Markdown) else Markdown("\n\n".join(map(escape, re.split(r"\n\s*\n", text))))
