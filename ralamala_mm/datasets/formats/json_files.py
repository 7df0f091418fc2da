"""Annotations in JSON."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from .labels import LabelError


@contextmanager
def written_by(tool: str) -> Iterator[None]:
    """Reading values out of JSON as a tool writes it.

    Raises:
        LabelError: it is not of that form.
    """
    try:
        yield
    except LabelError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise LabelError(f'is not as {tool} writes it ({error!r})') from error


def read_json(path: Path, kind: type = object) -> object:
    """What a JSON file holds.

    Args:
        path: the file.
        kind: what msgspec makes of it.

    Raises:
        LabelError: it is no JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(b'\xef\xbb\xbf'), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LabelError(f'is not valid JSON, or not of the form expected ({error})') from error


def as_list(value: object, what: str) -> list:
    """The value, if it is a list.

    Raises:
        LabelError: it is none.
    """
    if not isinstance(value, list):
        raise LabelError(f'its {what} are no list')
    return value
