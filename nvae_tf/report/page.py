"""The HTML page of a report: one file that loads nothing from elsewhere.

jinja2 is imported where it is used: it comes with the extra `report`.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import pathlib
from collections.abc import Sequence

from PIL import Image

from nvae_tf.core import extras

__all__ = [
    "Figure",
    "Page",
    "Row",
    "Section",
    "Table",
    "figure",
    "render",
    "require_packages",
]

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Figure:
    """An image on the page.

    Attributes:
      source: a data URI.
      width: pixels.
      height: pixels.
      caption: below it, and in its place where it is not seen.
      is_picture: of the model's making, rather than a plot.
    """

    source: str
    width: int
    height: int
    caption: str
    is_picture: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table; `is_changed` stands out."""

    cells: tuple[str, ...]
    is_changed: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      header: of the columns.
      rows: below it.
      summary: what it is folded up under; empty to show it.
      wraps: whether its text may break anywhere rather than be scrolled.
    """

    header: tuple[str, ...]
    rows: tuple[Row, ...]
    summary: str = ""
    wraps: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: title, a sentence, figures, tables."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing below the title."""
        return not (self.text or self.figures or self.tables)


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole page.

    Attributes:
      title: of the run.
      subtitle: below it.
      notes: what a reader should know first.
      facts: `(name, value)` of the numbers that count.
      sections: empty ones are left out.
    """

    title: str
    subtitle: str
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def figure(png: bytes, caption: str, *, is_picture: bool = False) -> Figure:
    """A PNG file as a `Figure`."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        width, height = image.size
    encoded = base64.b64encode(png).decode("ascii")
    return Figure(
        f"data:image/png;base64,{encoded}", width, height, caption, is_picture
    )


def require_packages() -> None:
    """Raises DataError, naming the extra, if what a report needs is missing."""
    for package in ("jinja2", "matplotlib"):
        extras.require(package, "report", "A report")


def render(page: Page) -> str:
    """The page as HTML; all text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    values = dataclasses.asdict(
        dataclasses.replace(
            page, sections=[s for s in page.sections if not s.is_empty]
        )
    )
    return environment.get_template("report.html").render(values)
