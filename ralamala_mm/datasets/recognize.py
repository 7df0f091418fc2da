"""What a folder holds that cannot be read, in a sentence that says what to do."""

import json
from itertools import islice
from pathlib import Path

from .locating import is_hidden, walk_folders
from .report import is_image

_DEPTH = 3  # folders below the one that was given
_PROBED = 20  # files of a kind that are opened
_EXPORT = 'export COCO JSON from the tool that wrote it, or convert it'
_JSON_KINDS = (  # keys of the object in a file, and what it then is
    ({'dm_format_version'}, 'datumaro\'s own annotations'),
    ({'annotations', 'image'}, 'Segment Anything\'s annotations, which have masks without classes'),
    ({'completions'}, 'Label Studio\'s JSON'),
)
_LABEL_STUDIO = ({'data', 'annotations'}, {'image', 'id', 'label'}, {'image', 'annotator'})  # keys of its tasks
_ANNOTATIONS = ('.txt', '.xml', '.json', '.csv')


def recognize(root: Path) -> str | None:
    """A sentence about what is below a folder, None if nothing is recognised."""
    folders = list(walk_folders(root, _DEPTH))
    for path in (path for folder in folders for path in _some(folder, '.json')):
        if path.name.startswith('captions'):
            return f'captions ({path.name}), which have no instances: instances_*.json is needed'
        if kind := _json_kind(path):
            return f'{kind} ({path.name}): {_EXPORT}'
    if any(folder.name.startswith('label_') and _some(folder, '.txt') for folder in folders):
        return f'annotations as KITTI writes them (label_2/*.txt): {_EXPORT}'
    if archives := [path.name for folder in folders[:1] for path in sorted(folder.iterdir())
                    if path.suffix.lower() in ('.zip', '.tar', '.gz', '.tgz', '.7z', '.rar')]:
        return f'an archive ({archives[0]}): unpack it'
    files = [path for folder in folders for path in folder.iterdir() if path.is_file() and not is_hidden(path.name)]
    annotations = [path.name for path in files if path.suffix.lower() in _ANNOTATIONS]
    if annotations and not any(map(is_image, files)):
        return f'files such as {annotations[0]} and no images: put the images that they are about beside them'
    return None


def _json_kind(path: Path) -> str | None:
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size < 2**24 else None
    except (ValueError, RecursionError):
        return None
    if isinstance(content, list) and content and isinstance(content[0], dict) and any(
            keys <= set(content[0]) for keys in _LABEL_STUDIO):
        return 'Label Studio\'s JSON'
    if not isinstance(content, dict):
        return None
    keys = set(content)
    return next((kind for wanted, kind in _JSON_KINDS if wanted <= keys), None)


def _some(folder: Path, suffix: str) -> list[Path]:
    """The first few files of a suffix."""
    return list(islice((path for path in sorted(folder.iterdir()) if path.suffix.lower() == suffix and path.is_file()
                        and not is_hidden(path.name)), _PROBED))
