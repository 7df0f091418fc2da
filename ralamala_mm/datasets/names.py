"""Finding files whose names were written down on another system: Windows' separators, other Unicode normal forms."""

import os
import unicodedata
from collections.abc import Iterator

_FORMS = ('NFC', 'NFD')  # macOS writes é as e and an accent, most others as one character


def find_file(path: str) -> str | None:
    r"""The existing file that a path means, or None.

    Args:
        path: as the annotations give it behind a folder. `train\a.jpg` and `C:\x\train\a.jpg` are looked for in the folder
            with as many of their own folders as are there, the longest way first.
    """
    return next((found for way in _ways(path) if (found := _in_some_form(way))), None)


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
