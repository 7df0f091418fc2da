"""Finding COCO-format annotation files and their images in a folder, in the layouts that people and tools leave.

COCO's own (`annotations/instances_train2017.json`, `train2017/`), `annotations/train.json` with `images/train/`,
Roboflow's (`train/_annotations.coco.json` beside the images, `valid/`), CVAT's (`annotations/instances_default.json`,
`images/default/`), and one JSON file beside a folder of images.
"""

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ralamala_mm.errors import UserError

from ..diagnosis import read_coco
from ..names import find_file
from .splits import split_of

_PATTERNS = ('instances*.json', '*_annotations.coco.json', '*coco*.json', '*train*.json', '*val*.json', '*test*.json',
             'annotations.json', 'labels.json', 'result.json')
_NOT_INSTANCES = ('captions', 'person_keypoints', 'image_info', 'panoptic', 'stuff')
_PROBE = 50  # images by which a folder is chosen


@dataclass(eq=False)
class CocoSplit:
    """One annotation file with the folder of its images; `name` is 'train', 'val', 'test', or 'all' if it is the only one."""

    name: str
    ann_file: Path
    root: Path
    named_image_dir: Path | None = None  # by a config; else it is looked for

    @cached_property
    def content(self) -> dict:
        """What the file holds.

        Raises:
            UserError: it is not JSON of COCO's form.
        """
        content, problem = read_coco(self.ann_file)
        if problem:
            raise UserError(f'annotation file {self.ann_file} {problem}')
        return content

    @cached_property
    def image_dir(self) -> Path:
        """The folder to which the file's `file_name`s belong.

        Raises:
            UserError: no folder has any of the images.
        """
        if self.named_image_dir:
            return self.named_image_dir
        images = self.content['images']
        names = [image['file_name'] for image in images[::max(1, len(images) // _PROBE)]]
        found = {folder: sum(bool(find_file(os.path.join(folder, name))) for name in names) for folder in self._candidates()}
        best = max(found, key=found.__getitem__)
        if not found[best]:
            raise UserError(f'none of the images that {self.ann_file} names is there, such as {names[0]}; looked in '
                            f'{", ".join(str(folder) for folder in found)}')
        return best

    def _candidates(self) -> Iterator[Path]:
        stem = self.ann_file.stem.removeprefix('instances_')
        bases = [self.root, self.root / 'images', self.root / 'data']
        folders = [base / stem for base in bases]
        folders += [folder for base in bases if base.is_dir() for folder in sorted(base.iterdir())
                    if split_of(folder.name) == self.name or folder.name == 'default']
        folders += [folder / 'images' for folder in folders]
        folders += [self.ann_file.parent, self.ann_file.parent / 'images', *bases]
        yield from (folder for folder in dict.fromkeys(folders) if folder.is_dir())


def find_coco(root: Path) -> tuple[str, dict[str, CocoSplit]]:
    """The splits in a folder by name, and a word for its layout; none if there is no COCO-format file.

    Raises:
        UserError: several files want to be the same split.
    """
    files: dict[str, list[Path]] = {}
    folders = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    for path in (path for folder in folders for path in sorted(folder.glob('*.json'))):
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in _PATTERNS) and not path.name.startswith(_NOT_INSTANCES):
            named = split_of(path.stem) or (split_of(path.parent.name) if path.parent != root else None)
            files.setdefault(named or 'all', []).append(path)
    splits = {}
    for name, paths in files.items():
        ranks = [next(i for i, pattern in enumerate(_PATTERNS) if fnmatch.fnmatch(path.name, pattern)) for path in paths]
        best = [path for path, rank in zip(paths, ranks, strict=True) if rank == min(ranks)]
        if len(best) > 1:
            several = ' and '.join(str(path) for path in best[:3])
            raise UserError(f'{several} could both be the {name} annotations: leave one in {root}')
        splits[name] = CocoSplit(name, best[0], root)
    if len(splits) > 1:
        splits.pop('all', None)
    return _layout(root, splits), splits


def _layout(root: Path, splits: dict[str, CocoSplit]) -> str:
    stems = [split.ann_file.stem for split in splits.values()]
    if any(stem.endswith('_annotations.coco') for stem in stems):
        return 'COCO format as Roboflow exports it'
    if any((subset := stem.removeprefix('instances_')) == 'default' or subset.istitle() for stem in stems):
        return 'COCO format as CVAT exports it'
    if all(split.ann_file.parent == root / 'annotations' for split in splits.values()):
        return 'COCO format'
    return 'COCO format, in a layout of its own'
