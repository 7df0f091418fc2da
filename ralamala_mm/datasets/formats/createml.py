"""CreateML: a JSON file with a list of images and the boxes of their objects, by center and size in pixels.

Format: https://developer.apple.com/documentation/createml/building-an-object-detector-data-source.
"""

from pathlib import Path

from ralamala_mm.datasets.report import split_name

from .json_files import as_list, read_json, written_by
from .labels import Found, Instance, LabeledImage, LabelError, Listing, number

_PROBED = 50  # JSON files that are looked into


def find(listing: Listing) -> Found | None:
    """The CreateML data set below a folder, if there is one."""
    files, splits = [], {}
    for path in listing.of('.json')[:_PROBED]:
        if not (entries := _entries(path)):
            continue
        files.append(path)
        split = listing.split(path)
        split = split if split != 'all' else split_name(path.stem) or 'all'
        splits.setdefault(split, []).extend((path, entry) for entry in entries)
    return Found('CreateML format', splits, lambda item: _read(*item, listing), files) if files else None


def _entries(path: Path) -> list[dict] | None:
    with path.open('rb') as file:
        if not file.read(100).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'['):
            return None
    try:
        content = read_json(path)
    except LabelError:
        return None
    keys = {'image', 'annotations'}
    return content if isinstance(content, list) and all(isinstance(one, dict) and keys <= set(one) for one in content) else None


def _read(path: Path, entry: dict, listing: Listing) -> LabeledImage:
    with written_by('CreateML'):
        name = str(entry['image'])
        found = LabeledImage(listing.image(name, [path.parent, path.parent / 'images'], listing.split(path)))
        for annotation in as_list(entry['annotations'], 'annotations'):
            given = annotation['coordinates']
            x, y, width, height = (number(given[key], key) for key in ('x', 'y', 'width', 'height'))
            found.instances.append(Instance(str(annotation['label']), box=(x - width / 2, y - height / 2, width, height)))
    return found
