"""The numbers that a data set has for its classes and images, so that results can be evaluated against its annotations."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from ralamala_mm.datasets.walking import datasets_of

# COCO has 80 classes, numbered from 1 to 90 with gaps.
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]
_COCO_ENDS = ('person', 'toothbrush')


@dataclass
class Numbering:
    """Category ids by label, and image ids by a file's real path; images that the data set does not have get higher ones."""

    categories: list[int]
    images: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self._next = max(self.images.values(), default=0) + 1

    def image_id(self, path: str | None = None) -> int:
        """A number of its own for each picture or frame."""
        known = self.images.pop(str(Path(path).resolve()), None) if path else None
        if known is not None:
            return known
        self._next += 1
        return self._next - 1


def numbering_of(config: Config, classes: Sequence[str]) -> Numbering:
    """Numbers of a detector's classes and images, as in the annotation file of the config's test part if it is there and has
    these classes; COCO's for COCO's classes; else from 1."""
    for _, dataset in datasets_of(config, ['test']):
        root = Path(dataset.get('data_root') or '')
        path = root / str(dataset.get('ann_file') or '')
        if path.suffix == '.json' and path.is_file():
            content = json.loads(path.read_text())
            by_name = {category['name']: category['id'] for category in content.get('categories', [])}
            if all(name in by_name for name in classes):
                folder = root / (dataset.get('data_prefix') or {}).get('img', '')
                images = {str((folder / image['file_name']).resolve()): image['id'] for image in content.get('images', [])}
                return Numbering([by_name[name] for name in classes], images)
    if len(classes) == len(_COCO_IDS) and (classes[0], classes[-1]) == _COCO_ENDS:
        return Numbering(_COCO_IDS)
    return Numbering(list(range(1, len(classes) + 1)))


def labels_as_numbers(classes: Sequence[str]) -> Numbering:
    """A segmentor's categories are numbered as its masks' pixels."""
    return Numbering(list(range(len(classes))))
