"""The page of the report: its blocks as HTML and as Markdown, and numbers as text.

Everything that is shown may come from outside, so both renderings escape every text. The HTML needs no other file.
"""

import base64
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from hf_utils.cards import markup
from hf_utils.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; a `notice` stands out."""

    text: str
    notice: bool = False
    kind: str = dataclasses.field(default="text", init=False)


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]
    kind: str = dataclasses.field(default="bullets", init=False)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table under a heading; the first columns (`num_names` of them) are text, the others numbers."""

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1
    kind: str = dataclasses.field(default="grid", init=False)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file under a heading."""

    heading: str
    file_name: str
    png: bytes
    kind: str = dataclasses.field(default="picture", init=False)

    @property
    def data_url(self) -> str:
        """The picture inside a page."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Text | Bullets | Grid | Picture]


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole report; a `banner` and a `note`, if any, stand above everything."""

    title: str
    banner: str
    note: str
    sections: Sequence[Section]


def percent(value: float, form: str = ".1f") -> str:
    """Return a share as percent, or a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    text = format(100 * value, form)
    return text.lstrip("+-") if float(text) == 0 else text  # neither -0.0 nor +0.0


def p_text(p: float) -> str:
    """Return a p-value to three digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


_MARKDOWN = {
    "table": lambda grid: markup.table(grid.header, grid.rows),
    "picture": lambda picture: markup.picture(picture.heading, picture.file_name),
}


def write_page(page: Page, folder: Path) -> None:
    """Write `report.html`, `report.md` and the pictures that the latter shows."""
    for section in page.sections:
        for block in section.blocks:
            if block.kind == "picture":
                write_atomically(folder / block.file_name, block.png)
    write_atomically(folder / "report.md", markup.render_template("report.md", page=page, **_MARKDOWN))
    write_atomically(folder / "report.html", render_html(page))


def render_html(page: Page) -> str:
    """Return the page as one HTML file with its pictures inside; it loads nothing and runs nothing."""
    return markup.load_template("report.html", autoescape=True).render(page=page)
