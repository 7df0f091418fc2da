"""Annotations in JSON."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from .labels import LabelError, Listing

_PROBED = 50


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


def holds_keys(path: Path, *keys: str) -> bool:
    """Whether a JSON file is an object with these keys."""
    try:
        content = read_json(path)
    except LabelError:
        return False
    return isinstance(content, dict) and set(keys) <= set(content)


def entries_by_split(listing: Listing, entries_of: Callable[[Path], Sequence[dict] | None]) -> dict[str, list[tuple[Path, dict]]]:
    """What JSON files of many images each say of one, with the file, by split.

    Args:
        listing: of the folder; if none of the first 50 JSON files is of the format, no more are looked into.
        entries_of: the entries of a file; None if it is of another format.
    """
    splits: dict[str, list[tuple[Path, dict]]] = {}
    for i, path in enumerate(listing.of('.json')):
        if i == _PROBED and not splits:
            break
        if entries := entries_of(path):
            splits.setdefault(listing.split_of_file(path), []).extend((path, entry) for entry in entries)
    return splits


def as_list(value: object, what: str) -> list:
    """The value, if it is a list.

    Raises:
        LabelError: it is none.
    """
    if not isinstance(value, list):
        raise LabelError(f'its {what} are no list')
    return value
