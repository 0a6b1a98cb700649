"""The report as a page: blocks of text, tables and pictures, written as HTML that needs nothing else, and as Markdown.

Everything that is shown may come from outside, so both renderings escape every text.
"""

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jinja2

from hf_utils.cards import markup
from hf_utils.files import write_atomically

_TEMPLATES = Path(__file__).parents[1] / "templates"


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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(page=page)


_MARKDOWN = {
    "table": lambda grid: markup.table(grid.header, grid.rows),
    "picture": lambda picture: markup.picture(picture.heading, picture.file_name),
}
