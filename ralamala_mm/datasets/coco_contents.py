"""The contents of a COCO split, with some images for each of its problems."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .coco_objects import Objects
from .contents import CocoContents, Example, MarkedObject
from .report import Problem

if TYPE_CHECKING:
    from .coco import CheckedSplit

_EXAMPLES = 4  # images of a problem that are kept
_MARKED = 5  # objects of an image


def coco_contents(checked: 'CheckedSplit', objects: Objects, used: np.ndarray) -> CocoContents:
    """The contents of a split after all checks.

    Args:
        checked: the split with its problems.
        objects: its objects, N of them.
        used: bool `[N]`, whether training or evaluation uses an object.
    """
    content, split = checked.split.content, checked.split
    numbers: dict[str, int] = {}  # names may be listed twice
    for category in content['categories']:
        numbers.setdefault(category['name'], len(numbers))
    of_category = np.array([numbers[category['name']] for category in content['categories']], dtype=np.int32)
    sizes = np.array([(image['width'], image['height']) for image in content['images']]).astype(np.int64).reshape(-1, 2)
    names = [image['file_name'] for image in content['images']]
    files = {name: os.path.join(split.image_dir, file) for name, file in split.present.items()}
    found = CocoContents(split.name, list(numbers), names, files, sizes, objects.images.astype(np.int32),
                         of_category[objects.categories], objects.boxes.astype(np.float32), used)
    index_of = {image['id']: i for i, image in enumerate(content['images'])}
    for problem in checked.problems:
        found.examples += _examples(checked, problem, index_of)
    return found


def _examples(checked: 'CheckedSplit', problem: Problem, index_of: dict[int, int]) -> Iterator[Example]:
    """An example for each of the first images that a problem has."""
    yield from (Example(problem, image) for image in problem.images[:_EXAMPLES])
    content, marked = checked.split.content, {}
    annotations = content['annotations']
    names = {category['id']: category['name'] for category in content['categories']}
    for position in problem.annotations:
        category = annotations.category_ids[position]
        image = index_of.get(annotations.image_ids[position])
        if image is None or (image not in marked and len(marked) == _EXAMPLES):
            continue
        if len(marked.setdefault(image, [])) < _MARKED:
            label = names.get(category, f'category {category}, not listed')
            marked[image].append(MarkedObject(annotations.name(position), label, tuple(annotations.boxes[position].tolist()),
                                              annotations.segmentation(position)))
    yield from (Example(problem, image, tuple(objects)) for image, objects in marked.items())
