"""Annotations in XML."""

from pathlib import Path
from xml.etree import ElementTree

from .labels import LabelError

_HEAD = 1 << 16  # bytes in which the first element stands


def starts_with(path: Path, *elements: bytes) -> bool:
    """Whether a file's first element is one of these, given as `<name>` and `<name `."""
    with path.open('rb') as file:
        head = file.read(_HEAD)
    return any(element in head for element in elements)


def read_xml(path: Path) -> ElementTree.Element:
    """The first element of a file.

    Raises:
        LabelError: it is no XML, or has a document type, by which a small file can become a large one or name other files.
    """
    text = path.read_bytes()
    if b'<!DOCTYPE' in text or b'<!ENTITY' in text:
        raise LabelError('has a document type, which annotations do not need: remove its <!DOCTYPE …>')
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise LabelError(f'is not valid XML ({error})') from error
