"""Lists of class names that lie beside masks: which class a value or a color of a mask is."""

import csv
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ralamala_mm.errors import UserError

from .config import Color

# Ids in the masks of Cityscapes of the 19 classes that are trained, in their order; the other 15 labels are ignored.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_NUMBERED = re.compile(r'(\d{1,3})\s*[:,;\s]\s*(\S.*)')  # '0 background', '1: circle'
_COLOR_FIRST = re.compile(r'(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)')  # '64 128 64 Animal'
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
    others_ignored: bool = False  # whether other values are no defect, but pixels of no class

    def fitting(self, pixels: Collection[int]) -> 'ClassNames':
        """With the numbers at the start of the lines as values, if the masks have no others; '2 wheels' is a name else."""
        return self.numbered if self.numbered and set(pixels) <= {*self.numbered.values, IGNORED} else self


def read_class_names(root: Path) -> ClassNames | None:
    """The classes of a folder, by the first of `NAME_FILES` in it or in folders of it.

    Raises:
        UserError: the file cannot be read, gives two classes one name, color or value, or others of its name say otherwise.
    """
    found = next((paths for name in NAME_FILES if (paths := sorted(root.glob(name)) or sorted(root.glob(f'*/{name}')))), None)
    if found is None:
        return None
    names, *others = map(_checked, found)
    for other in others:  # as Roboflow has one in each split
        if replace(other, path=names.path, numbered=names.numbered) != names:
            raise UserError(f'{names.path} and {other.path} differ: masks of all splits must have the same classes and values')
    return names


def _checked(path: Path) -> ClassNames:
    try:
        found = NAME_FILES[path.name](path)
    except (OSError, ValueError, TypeError, IndexError, csv.Error) as error:
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


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]


def _labelmap(path: Path) -> ClassNames:
    """CVAT's and datumaro's: name:r,g,b:parts:actions."""
    fields = [line.split(':') for line in _lines(path) if not line.startswith('#')]
    names = tuple(field[0] for field in fields)
    colorless = [field[0] for field in fields if not ''.join(field[1:2]).strip()]
    if fields and len(colorless) == len(fields) and all(len(field) > 1 for field in fields):  # datumaro's: Pascal VOC's colors
        return ClassNames(names, tuple(map(voc_color, range(len(names)))), path)
    if colorless:
        raise ValueError(f'without a color: {", ".join(colorless)}; each line is name:r,g,b::')
    return ClassNames(names, tuple(_color(field[1].split(',')) for field in fields), path)


def _label_colors(path: Path) -> ClassNames:
    """CamVid's: r g b, and the name; datumaro leaves the colors out if it has none, and the background too."""
    lines = [line for line in _lines(path) if not line.startswith('#')]
    found = [_COLOR_FIRST.fullmatch(line) for line in lines]
    if not any(found):
        lines = lines if 'background' in lines else ['background', *lines]
        return ClassNames(tuple(lines), tuple(map(voc_color, range(len(lines)))), path)
    if colorless := [line for line, match in zip(lines, found, strict=True) if not match]:
        raise ValueError(f'without a color: {", ".join(colorless)}; each line is r g b name')
    names, colors = tuple(match[4] for match in found), tuple(_color(match.groups()[:3]) for match in found)
    if (0, 0, 0) not in colors:
        names, colors = ('background', *names), ((0, 0, 0), *colors)
    return ClassNames(names, colors, path)


def _roboflow(path: Path) -> ClassNames:
    """A header, and value, name."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(_lines(path))][1:]
    values = tuple(int(row[0]) for row in rows)
    if not all(0 <= value <= IGNORED for value in values):
        raise ValueError('its values are not of 0 to 255')
    return ClassNames(tuple(row[1] for row in rows), None, path, values)


def _class_dict(path: Path) -> ClassNames:
    """A header, and name, r, g, b."""
    rows = list(csv.reader(_lines(path)))[1:]
    return ClassNames(tuple(row[0] for row in rows), tuple(_color(row[1:4]) for row in rows), path)


def _supervisely(path: Path) -> ClassNames:
    """{"name": [r, g, b]}; what has none of the colors is the background."""
    content = json.loads(path.read_text(encoding='utf-8-sig'))
    if not isinstance(content, dict):
        raise ValueError('it holds no names with colors')
    content = {'background': [0, 0, 0], **content} if [0, 0, 0] not in content.values() else content
    names, colors = tuple(content), tuple(_color(value) for value in content.values())
    if all(len(set(color)) == 1 for color in colors):
        return ClassNames(names, None, path, tuple(color[0] for color in colors))
    return ClassNames(names, colors, path)


def _plain(path: Path) -> ClassNames:
    """One name a line, with or without its value in front."""
    lines = _lines(path)
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    names, values = zip(*((found[2], int(found[1])) for found in numbered if found), strict=True) if any(numbered) else ((), ())
    with_values = None
    if all(numbered) and len(set(names)) == len(names) == len(set(values)) and max(values, default=0) <= IGNORED:
        with_values = ClassNames(names, None, path, values)
    return ClassNames(tuple(lines[lines[:1] == [_LABELME_IGNORED]:]), None, path, numbered=with_values)


NAME_FILES: dict[str, Callable[[Path], ClassNames]] = {
    'labelmap.txt': _labelmap,
    'label_colors.txt': _label_colors,
    'class_dict.csv': _class_dict,
    '_classes.csv': _roboflow,
    'obj_class_to_machine_color.json': _supervisely,
    'classes.txt': _plain,
    'labels.txt': _plain,
    'class_names.txt': _plain,
    'codes.txt': _plain,  # fastai's
}


def _color(texts: Sequence) -> Color:
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
