"""CreateML: a JSON file with a list of images and the boxes of their objects, by center and size in pixels.

Format: https://developer.apple.com/documentation/createml/building-an-object-detector-data-source.
"""

from pathlib import Path

from .json_files import as_list, entries_by_split, read_json, written_by
from .labels import Found, Instance, LabeledImage, LabelError, Listing, number

_KEYS = (('image', 'annotations'), ('imagefilename', 'annotation'))  # as tools write them, and Apple's first examples


def find(listing: Listing) -> Found | None:
    """The CreateML data set below a folder, if there is one."""
    splits = entries_by_split(listing, _entries)
    return Found('CreateML format', splits, lambda item: _read(*item, listing)) if splits else None


def _entries(path: Path) -> list[dict] | None:
    with path.open('rb') as file:
        if not file.read(100).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'['):
            return None
    try:
        content = read_json(path)
    except LabelError:
        return None
    if not isinstance(content, list) or not all(
            isinstance(one, dict) and any(set(keys) <= set(one) for keys in _KEYS) for one in content):
        return None
    return [{ours: entry[theirs] for ours, theirs in zip(_KEYS[0], keys, strict=True)} for entry in content
            for keys in _KEYS if set(keys) <= set(entry)]


def _read(path: Path, entry: dict, listing: Listing) -> LabeledImage:
    with written_by('CreateML'):
        name = str(entry['image'])
        found = LabeledImage(listing.image(name, [path.parent, path.parent / 'images'], listing.split(path)))
        for annotation in as_list(entry['annotations'], 'annotations'):
            given = annotation['coordinates']
            x, y, width, height = (number(given[key], key) for key in ('x', 'y', 'width', 'height'))
            found.instances.append(Instance(str(annotation['label']), box=(x - width / 2, y - height / 2, width, height)))
    return found
