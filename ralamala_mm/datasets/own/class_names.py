"""Names and colours of the classes that masks hold, from the small files that lie beside them."""

import csv
from dataclasses import dataclass
from pathlib import Path

from ralamala_mm.errors import UserError

Colour = tuple[int, int, int]
_FILES = ('labelmap.txt', 'class_dict.csv', 'classes.txt', 'labels.txt', 'class_names.txt')


@dataclass(frozen=True)
class ClassNames:
    """Names in the order of the mask's values, with colours if the file gives them."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    path: Path


def read_class_names(root: Path) -> ClassNames | None:
    """The classes of a folder: CVAT's `labelmap.txt`, a `class_dict.csv` (name, r, g, b), or one name a line.

    Raises:
        UserError: the file cannot be read.
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
    return found


def _read(path: Path) -> ClassNames:
    lines = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    if path.name == 'labelmap.txt':  # name:r,g,b:parts:actions
        fields = [line.split(':') for line in lines if not line.startswith('#')]
        return ClassNames(tuple(f[0] for f in fields), tuple(_colour(f[1].split(',')) for f in fields), path)
    if path.suffix == '.csv':
        rows = list(csv.reader(lines))[1:]
        return ClassNames(tuple(row[0] for row in rows), tuple(_colour(row[1:4]) for row in rows), path)
    return ClassNames(tuple(lines), None, path)


def _colour(texts: list[str]) -> Colour:
    red, green, blue = map(int, texts)
    return red, green, blue
