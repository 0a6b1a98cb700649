"""The page of the report: its blocks as HTML and as Markdown, and numbers as text.

Everything that is shown may come from outside, so both renderings escape every text. The HTML needs no other file, but
for the excerpts of music that it plays.
"""

import base64
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from hf_utils.cards import markup
from hf_utils.files import write_atomically

# Beside a page: excerpts of recordings, which are not inside it, so that it can be passed on without them.
AUDIO_FOLDER = "audio"


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
class Player:
    """A track to listen to: what is said of it, its excerpt, and a picture; it may lack either.

    Attributes:
        lines: a paragraph each.
        label: what is heard, for those who do not see the page.
        file_name: of the excerpt, in the folder `audio` beside the page.
        ogg: the excerpt, an Ogg file; b"" for none.
        picture: its heading is for those who do not see it.
    """

    heading: str
    lines: Sequence[str]
    label: str = ""
    file_name: str = ""
    ogg: bytes = b""
    picture: Picture | None = None

    @property
    def url(self) -> str:
        """Where the excerpt is, seen from the page."""
        return f"{AUDIO_FOLDER}/{self.file_name}"


@dataclasses.dataclass(frozen=True)
class Players:
    """Tracks to listen to, under a heading."""

    heading: str
    players: Sequence[Player]
    kind: str = dataclasses.field(default="players", init=False)


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Text | Bullets | Grid | Picture | Players]


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole report; a `banner` and a `note`, if any, stand above everything."""

    title: str
    banner: str
    note: str
    sections: Sequence[Section]

    @property
    def pictures(self) -> list[Picture]:
        """All of them, those of players among them."""
        blocks = [block for section in self.sections for block in section.blocks]
        shown = [block for block in blocks if block.kind == "picture"]
        return shown + [player.picture for player in self.players if player.picture is not None]

    @property
    def players(self) -> list[Player]:
        """All tracks to listen to."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [player for block in blocks if block.kind == "players" for player in block.players]


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
    "listen": lambda player: markup.link(player.label, player.url),
}


def write_page(page: Page, folder: Path) -> None:
    """Write `report.html`, the excerpts that it plays, `report.md` and the pictures that the latter shows."""
    for picture in page.pictures:
        write_atomically(folder / picture.file_name, picture.png)
    write_atomically(folder / "report.md", markup.render_template("report.md", page=page, **_MARKDOWN))
    write_html(page, folder / "report.html")


def write_html(page: Page, path: Path) -> None:
    """Write the page as one HTML file, and the excerpts that it plays into the folder `audio` beside it."""
    for player in page.players:
        if player.ogg:
            write_atomically(path.parent / player.url, player.ogg)
    write_atomically(path, render_html(page))


def render_html(page: Page) -> str:
    """Return the page as HTML with its pictures inside; it loads nothing but its excerpts, and runs nothing."""
    return markup.load_template("report.html", autoescape=True).render(page=page)
