"""Lists of class names that lie beside masks: which class a value or a color of a mask is."""

import csv
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ralamala_mm.errors import UserError

from .config import Color

_FILES = ('labelmap.txt', 'class_dict.csv', '_classes.csv', 'classes.txt', 'labels.txt', 'class_names.txt')
_NUMBERED = re.compile(r'(\d{1,3})\s*[:,;\s]\s*(\S.*)')  # '0 background', '1: circle'
IGNORED = 255  # pixels that neither train nor count
_LABELME_IGNORED = '__ignore__'  # the first line of labelme's lists, for what is not annotated; no mask has a value for it


@dataclass(frozen=True)
class ClassNames:
    """Names in the order of the mask's values, with colors or values if the file gives them."""

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None
    path: Path
    values: tuple[int, ...] | None = None  # of each class in the masks; None: 0, 1, 2, …
    numbered: 'ClassNames | None' = None  # the same lines, taken for values with names

    def fitting(self, pixels: Collection[int]) -> 'ClassNames':
        """With the numbers at the start of the lines as values, if the masks have no others; '2 wheels' is a name else."""
        return self.numbered if self.numbered and set(pixels) <= {*self.numbered.values, IGNORED} else self


def read_class_names(root: Path) -> ClassNames | None:
    """The classes of a folder.

    CVAT's and datumaro's `labelmap.txt`, a `class_dict.csv` (name, r, g, b), Roboflow's `_classes.csv` (value, name), or one name
    a line, with or without its value in front.

    Raises:
        UserError: the file cannot be read, or gives two classes one name, color or value.
    """
    path = next((path for name in _FILES for path in sorted(root.glob(name)) + sorted(root.glob(f'*/{name}'))), None)
    if path is None:
        return None
    try:
        found = _read(path)
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(f'{path} is not a list of class names as its name promises ({error})') from error
    if not found.names or len(set(found.names)) < len(found.names) or '' in found.names:
        what = 'a class twice, or one without a name' if found.names else 'no classes'
        raise UserError(f'{path} lists {what}: one name a line')
    for what, given in (('color', found.colors), ('value', found.values)):
        if given and len(set(given)) < len(given):
            one = next(value for value in given if given.count(value) > 1)
            alike = ' and '.join(name for name, value in zip(found.names, given, strict=True) if value == one)
            raise UserError(f'{path} gives the {what} {one} to {alike}: each class needs its own')
    return found


def _read(path: Path) -> ClassNames:
    lines = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    if path.name == 'labelmap.txt':  # name:r,g,b:parts:actions
        fields = [line.split(':') for line in lines if not line.startswith('#')]
        if short := next((field for field in fields if len(field) < 2), None):
            raise ValueError(f'the line "{short[0]}" has no color')
        names = tuple(f[0] for f in fields)
        if not any(f[1] for f in fields):  # as datumaro writes it: the colors are Pascal VOC's
            return ClassNames(names, tuple(map(voc_color, range(len(names)))), path)
        return ClassNames(names, tuple(_color(f[1].split(',')) for f in fields), path)
    if path.name == '_classes.csv':
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)][1:]
        values = tuple(int(row[0]) for row in rows)
        if not all(0 <= value <= IGNORED for value in values):
            raise ValueError('its values are not of 0 to 255')
        return ClassNames(tuple(row[1] for row in rows), None, path, values)
    if path.suffix == '.csv':
        rows = list(csv.reader(lines))[1:]
        return ClassNames(tuple(row[0] for row in rows), tuple(_color(row[1:4]) for row in rows), path)
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    names, values = zip(*((found[2], int(found[1])) for found in numbered if found), strict=True) if any(numbered) else ((), ())
    with_values = None
    if all(numbered) and len(set(names)) == len(names) == len(set(values)) and max(values, default=0) <= IGNORED:
        with_values = ClassNames(names, None, path, values)
    return ClassNames(tuple(lines[lines[:1] == [_LABELME_IGNORED]:]), None, path, numbered=with_values)


def _color(texts: list[str]) -> Color:
    red, green, blue = map(int, texts)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f'{red},{green},{blue} is no color of 0 to 255')
    return red, green, blue


def voc_color(number: int) -> Color:
    """The color of a class in Pascal VOC's masks: of three bits of the number each, one goes to red, green and blue."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (number >> channel & 1) << (7 - bit)
        number >>= 3
    return color[0], color[1], color[2]
