"""HTML pages that need nothing else, and their tables: cells that show one thing and may be sorted by another."""

import base64
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import cv2
import jinja2
import numpy as np

from ralamala_mm.version import __version__

TEMPLATES = Path(__file__).parent / 'templates'


@dataclass
class Cell:
    """What is shown, what a table is sorted by, and how strongly its ground is colored, from 0 to 1."""

    text: str
    order: float | str | None = None
    strength: float | None = None


@dataclass
class Table:
    """A table with headings, that a click on them sorts."""

    headings: list[str]
    rows: list[list[Cell]] = field(default_factory=list)

    @property
    def columns(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [all(not isinstance(row[i].order, str) for row in self.rows) for i in range(len(self.headings))]


def text(value: str) -> Cell:
    """A cell of text."""
    return Cell(value, value)


def percent(value: float, signed: bool = False) -> Cell:
    """A share in percent; a dash for NaN."""
    if not math.isfinite(value):
        return Cell('–', -1.0)
    return Cell(f'{100 * value:+.1f}' if signed else f'{100 * value:.1f}', 100 * value)


def count(value: float) -> Cell:
    """A whole number, with commas between thousands."""
    return Cell(f'{int(value):,}', float(value))


def html_of(template: str, **values: object) -> str:
    """A page; what is no text in UTF-8, as file names may be, with escapes.

    Args:
        template: its name in `templates/`; it extends `base.html.j2`.
        values: by name, as the template uses them; `version` and `date` are given besides.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    html = environment.get_template(template).render(
        version=__version__, date=f'{datetime.now():%Y-%m-%d %H:%M}', style=(TEMPLATES / 'style.css').read_text(),
        script=(TEMPLATES / 'sort.js').read_text(), **values)
    return html.encode('utf-8', 'backslashreplace').decode()


def as_address(image: np.ndarray) -> str:
    """A `data:` address of an RGB image `[h, w, 3]`."""
    encoded = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()
