"""Finding files whose names were written down on another system: Windows' separators, other Unicode normal forms."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator

SHARED_REMEDY = 'the folders in them are missing: put the files into these, or correct the names'
_FORMS = ('NFC', 'NFD')  # macOS writes é as e and an accent, most others as one character


def find_file(path: str) -> str | None:
    r"""The existing file that a path means, or None.

    Args:
        path: as the annotations give it behind a folder. `train\a.jpg` and `C:\x\train\a.jpg` are looked for in the folder
            with as many of their own folders as are there, the longest way first.
    """
    return next((found for way in _ways(path) if (found := _in_some_form(way))), None)


def shared_files(names: Collection[str], folder: str | os.PathLike[str] = '') -> list[str]:
    r"""Different names for which `find_file` finds one file: 'cam1\1.jpg and cam2\1.jpg', where there is only a `1.jpg`.

    Args:
        names: as the annotations give them.
        folder: the one that they belong to.
    """
    if not any('\\' in name for name in names):
        return []  # a name without it is found as a whole or not at all
    by_end: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        whole = os.path.normpath(unicodedata.normalize('NFC', name.replace('\\', '/')))
        by_end[os.path.basename(whole)].setdefault(whole, name)
    found: dict[str, list[str]] = defaultdict(list)
    for alike in (list(group.values()) for group in by_end.values()):
        if len(alike) > 1 and any('\\' in name for name in alike):
            for name in alike:
                if file := find_file(os.path.join(folder, name)):
                    found[os.path.normpath(file)].append(name)
    return [' and '.join(several) for several in found.values() if len(several) > 1]


def _ways(path: str) -> Iterator[str]:
    yield path
    start, separator, rest = path.partition('\\')
    if not separator:
        return
    folder, first = os.path.split(start)
    parts = [part for part in [first, *rest.split('\\')] if part not in ('', '.')]
    for i in range(len(parts)):
        yield os.path.join(folder, *parts[i:])


def _in_some_form(path: str) -> str | None:
    """The file of this name in one of the normal forms, each folder on the way too."""
    if os.path.isfile(path):
        return path
    if path.isascii():
        return None
    found = os.sep if path.startswith(os.sep) else ''
    for part in path.split(os.sep):
        forms = [part, *(unicodedata.normalize(form, part) for form in _FORMS)]
        way = next((way for form in forms if os.path.exists(way := os.path.join(found, form))), None)
        if way is None:
            return None
        found = way
    return found if os.path.isfile(found) else None
