"""The numbers that a data set has for its classes and images, so that results can be evaluated against its annotations."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

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
        self._next = max((number for number in self.images.values() if isinstance(number, int)), default=0) + 1

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
            folder = root / (dataset.get('data_prefix') or {}).get('img', '')
            try:
                content = json.loads(path.read_text(encoding='utf-8'))
                by_name = {category['name']: category['id'] for category in content['categories']}
                images = {str((folder / image['file_name']).resolve()): image['id'] for image in content['images']}
            except (ValueError, TypeError, KeyError) as error:
                print_log(f'{path} cannot be read as annotations ({type(error).__name__}: {error}): its numbers of classes and '
                          'images are not used', 'current', logging.WARNING)
                continue
            if all(name in by_name for name in classes):
                return Numbering([by_name[name] for name in classes], images)
    if len(classes) == len(_COCO_IDS) and (classes[0], classes[-1]) == _COCO_ENDS:
        return Numbering(_COCO_IDS)
    return Numbering(list(range(1, len(classes) + 1)))


def numbers_in_masks(classes: Sequence[str], reduce_zero_label: bool) -> Numbering:
    """A segmentor's categories are numbered as the pixels of the data set's masks: from 1 where 0 is no class, as in ADE20K."""
    return Numbering([label + reduce_zero_label for label in range(len(classes))])
