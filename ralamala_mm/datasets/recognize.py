"""What a folder holds that cannot be read as it is, in a sentence that says what to do."""

import json
from itertools import islice
from pathlib import Path

from .locating import is_hidden, walk_folders

_YOLO = ('data.yaml', 'data.yml', 'dataset.yaml')
_DEPTH = 2  # folders below the one that was given
_PROBED = 20  # files of a kind that are opened
_EXPORT = 'export COCO JSON from the tool that wrote it, or convert it'
_JSON_KINDS = (  # keys of the object in a file, and what it then is
    ({'shapes', 'imagePath'}, 'labelme annotations, one JSON file for each image'),
    ({'segments_info'}, 'COCO panoptic annotations, which have segments and no instances'),
    ({'classTitle'}, 'Supervisely annotations'),
    ({'objects', 'tags'}, 'Supervisely annotations'),
)


def recognize(root: Path) -> str | None:
    """A sentence about annotations of another kind below a folder, None if nothing is recognised."""
    folders = list(walk_folders(root, _DEPTH))
    if any((folder / name).is_file() for folder in folders for name in _YOLO) or any(
            folder.name == 'labels' and _has_texts(folder) for folder in folders):
        return f'a YOLO data set (data.yaml, labels/*.txt): {_EXPORT}'
    xml = b''.join(_start(path) for folder in folders for path in _some(folder, '.xml'))
    if b'<annotation>' in xml or b'<annotation/>' in xml:
        return f'Pascal VOC annotations, one XML file for each image: {_EXPORT}'
    if b'<annotations' in xml:
        return f'annotations in XML, as CVAT writes them for images: {_EXPORT}'
    for path in (path for folder in folders for path in _some(folder, '.json')):
        if path.name.startswith('captions'):
            return f'captions ({path.name}), which have no instances: instances_*.json is needed'
        if kind := _json_kind(path):
            return f'{kind} ({path.name}): {_EXPORT}'
    if archives := [path.name for folder in folders[:1] for path in sorted(folder.iterdir())
                    if path.suffix.lower() in ('.zip', '.tar', '.gz', '.tgz', '.7z', '.rar')]:
        return f'an archive ({archives[0]}): unpack it'
    return None


def _json_kind(path: Path) -> str | None:
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size < 2**24 else None
    except (ValueError, RecursionError):
        return None
    if isinstance(content, list) and content and isinstance(content[0], dict) and {'image', 'annotations'} <= set(content[0]):
        return 'CreateML annotations'
    if not isinstance(content, dict):
        return None
    keys = set(content)
    if isinstance(content.get('annotations'), list) and content['annotations'] and isinstance(content['annotations'][0], dict):
        keys |= {'segments_info'} & set(content['annotations'][0])
    return next((kind for wanted, kind in _JSON_KINDS if wanted <= keys), None)


def _has_texts(folder: Path) -> bool:
    """Whether there are text files in a folder or those within it."""
    return any(_some(inner, '.txt') for inner in [folder, *(path for path in folder.iterdir() if path.is_dir())])


def _some(folder: Path, suffix: str) -> list[Path]:
    """The first few files of a suffix."""
    return list(islice((path for path in sorted(folder.iterdir()) if path.suffix.lower() == suffix and path.is_file()
                        and not is_hidden(path.name)), _PROBED))


def _start(path: Path) -> bytes:
    """The first bytes of a file, and a line's end."""
    with path.open('rb') as file:
        return file.read(500) + b'\n'
