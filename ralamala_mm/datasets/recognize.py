"""What a folder holds that cannot be read as it is, in a sentence that says what to do."""

import json
from collections.abc import Iterator
from pathlib import Path

from .locating import is_hidden, walk_folders

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
    if any(_files(folder, 'data.yaml', 'data.yml', 'dataset.yaml') for folder in folders) or any(
            folder.name == 'labels' and _all_files(folder, '.txt') for folder in folders):
        return f'a YOLO data set (data.yaml, labels/*.txt): {_EXPORT}'
    if any(_has(path, b'<annotation>') or _has(path, b'<annotation/>') for folder in folders for path in _some(folder, '.xml')):
        return f'Pascal VOC annotations, one XML file for each image: {_EXPORT}'
    if any(_has(path, b'<annotations') for folder in folders for path in _some(folder, '.xml')):
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


def _files(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def _all_files(folder: Path, suffix: str) -> bool:
    return next(_some(folder, suffix), None) is not None or any(
        next(_some(inner, suffix), None) for inner in folder.iterdir() if inner.is_dir())


def _some(folder: Path, suffix: str) -> Iterator[Path]:
    """The first few files of a suffix."""
    found = 0
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == suffix and path.is_file() and not is_hidden(path.name):
            yield path
            found += 1
            if found == _PROBED:
                return


def _has(path: Path, text: bytes) -> bool:
    """Whether a text is among the first of a file."""
    with path.open('rb') as file:
        return text in file.read(500)
