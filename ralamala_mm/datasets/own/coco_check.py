"""What a COCO-format split holds and what is wrong with it; a mended copy where the wrong would stop or distort a run.

A copy is made for what MMDetection or pycocotools cannot read or would count wrongly: annotation ids used twice, images
without a file, `area` or `iscrowd` left out, categories in another order than in training, and, in a split that is
evaluated, boxes and outlines that nothing can match. What they handle themselves is told, and left as it is.
"""

import codecs
import collections
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..names import SHARED_REMEDY, find_file, shared_files
from ..segmentations import cannot_be_evaluated, has_strays, is_degenerate, outlines, segmentation_problem
from .coco_files import CocoSplit
from .image_sizes import image_sizes
from .report import ERROR, MENDED, NOTE, Problem, problem, some

_COMPARED = 200  # images whose size is compared with the file's; opening all of a large set takes minutes
_TOO_MANY = 0.2  # share of boxes with the same defect, beyond which the file means something else
_SMALL, _LARGE = 32 ** 2, 96 ** 2  # square pixels, COCO's bounds


@dataclass
class CheckedSplit:
    """A split with its summary, its problems, and what has to be mended."""

    split: CocoSplit
    evaluated: bool
    summary: str = ''
    instances: collections.Counter = field(default_factory=collections.Counter)  # by category name
    problems: list[Problem] = field(default_factory=list)
    missing_images: set = field(default_factory=set)  # ids
    renamed: dict[str, str] = field(default_factory=dict)  # file names as written, and as the files are called
    left_out: set = field(default_factory=set)  # positions in `annotations`
    needs_copy: bool = False

    def tell(self, level: str, what: str, entries: Sequence, consequence: str = '', mending: str = '',
             needed: bool = False) -> bool:
        """Notes a problem if it has any entries; returns whether."""
        if entries:
            self.problems.append(problem(level, self.split.name, what, entries, consequence, mending, needed))
        return bool(entries)


def category_names(content: dict) -> list[str]:
    """Names in the file's order, without the parent of the others that Roboflow adds with id 0 and no instances."""
    used = {annotation['category_id'] for annotation in content['annotations']}
    parents = {category.get('supercategory') for category in content['categories'] if category['id'] != 0}
    return [category['name'] for category in content['categories']
            if category['id'] != 0 or category['id'] in used or category['name'] not in parents]


def check_split(split: CocoSplit, wants_masks: bool, evaluated: bool, smallest: int, opens_images: bool = True) -> CheckedSplit:
    """Looks at one split.

    Args:
        split: the split; its file is read if it was not.
        wants_masks: whether the config's model learns masks.
        evaluated: whether metrics are computed on it.
        smallest: pixels; training leaves out images with a shorter side.
        opens_images: compare some images' sizes with the annotations.
    """
    checked = CheckedSplit(split, evaluated)
    _check_images(checked, smallest)
    if opens_images:
        _check_sizes(checked)
    _check_categories(checked)
    _check_annotations(checked, wants_masks)
    _check_boxes(checked)
    if wants_masks:
        _check_segmentations(checked)
    checked.summary = _summary(split)
    return checked


def _check_images(checked: CheckedSplit, smallest: int) -> None:
    images = checked.split.content['images']
    checked.tell(ERROR, 'image ids used twice', _twice(image['id'] for image in images))
    present = _present(checked.split)
    checked.renamed = {name: file for name, file in present.items() if name != file}
    checked.needs_copy |= checked.tell(MENDED, 'file names written as on Windows, or in another Unicode form than the file\'s',
                                       list(checked.renamed), 'the files were found')
    checked.tell(NOTE, 'images listed twice', _twice(present.get(image['file_name'], image['file_name']) for image in images))
    shared = shared_files(present, checked.split.image_dir)
    checked.tell(ERROR, 'different names that lead to one file', shared, SHARED_REMEDY)
    missing = {image['id']: image['file_name'] for image in images if image['file_name'] not in present}
    checked.missing_images = set(missing)
    checked.needs_copy |= checked.tell(MENDED, 'images without a file', list(missing.values()),
                                       mending='left out with their annotations')
    if not checked.evaluated:
        tiny = [image['file_name'] for image in images if min(image['height'], image['width']) < smallest]
        checked.tell(NOTE, f'images smaller than {smallest} pixels', tiny, 'training leaves them out')


def _check_sizes(checked: CheckedSplit) -> None:
    images, present = checked.split.content['images'], _present(checked.split)
    compared = [image for image in images if image['file_name'] in present][::1 + len(images) // _COMPARED]
    others, stored = _other_sizes(checked.split, compared, present)
    checked.tell(ERROR, f'images of another size than the annotations say, of {len(compared)} looked at', others)
    checked.tell(NOTE, f'images annotated as they are stored, on their side, of {len(compared)} looked at', stored,
                 'they are read without the turn')


def _check_categories(checked: CheckedSplit) -> None:
    categories = checked.split.content['categories']
    ids, wanted = [category['id'] for category in categories], category_names(checked.split.content)
    checked.tell(ERROR, 'category ids used twice', _twice(ids))
    checked.tell(ERROR, 'category names used twice', _twice(wanted))
    parents = [category['name'] for category in categories if category['name'] not in wanted]
    checked.needs_copy |= checked.tell(MENDED, 'parents of the other categories, without instances', parents,
                                       mending='left out')
    if not checked.evaluated and ids and max(ids) - min(ids) >= len(ids):
        text = f'category ids have gaps ({some(sorted(ids), 6)}), which is fine'
        checked.problems.append(Problem(NOTE, checked.split.name, text))


def _check_annotations(checked: CheckedSplit, wants_masks: bool) -> None:
    content = checked.split.content
    annotations, images = content['annotations'], {image['id'] for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}

    def which(is_such: Callable[[dict], bool]) -> list[str]:
        return [f'annotation {a.get("id", f"number {i}")}' for i, a in enumerate(annotations) if is_such(a)]

    repeated = _twice(a['id'] for a in annotations if 'id' in a) + which(lambda a: 'id' not in a)
    checked.needs_copy |= checked.tell(MENDED, 'annotation ids used twice or missing', repeated,
                                       mending='all are numbered anew', needed=True)
    unfilled = which(lambda a: 'area' not in a or 'iscrowd' not in a)
    checked.needs_copy |= checked.tell(MENDED, 'annotations without area or iscrowd', unfilled,
                                       mending='filled in from the box', needed=True)
    with checked.split.ann_file.open('rb') as file:
        start = file.read(4)
    # As Windows tools write, and pycocotools cannot read.
    marked = [checked.split.ann_file.name] if start.startswith(codecs.BOM_UTF8) or b'\0' in start else []
    checked.needs_copy |= checked.tell(MENDED, 'text with a byte order mark, or in UTF-16', marked,
                                       mending='written anew', needed=True)
    checked.tell(NOTE, 'annotations of images that are not listed', which(lambda a: a['image_id'] not in images), 'not used')
    checked.tell(NOTE, 'annotations of a category that is not listed', which(lambda a: a['category_id'] not in names), 'not used')
    if wants_masks:
        checked.tell(ERROR, 'annotations with a box but no mask', which(lambda a: not a.get('segmentation')),
                     'this model needs masks: draw them, or train a RetinaNet (configs/retinanet_*)')
    checked.instances.update(names[a['category_id']] for a in annotations
                             if a['category_id'] in names and a['image_id'] in images)
    if not checked.evaluated:
        unused = [name for name in category_names(content) if not checked.instances[name]]
        checked.tell(NOTE, 'classes without an instance', unused)


def _twice(values) -> list:
    return [value for value, count in collections.Counter(values).items() if count > 1]


def _present(split: CocoSplit) -> dict[str, str]:
    """The images that have a file: its name within the folder. One listing of the folder is faster than asking for each."""
    listed = set(os.listdir(split.image_dir))
    present = {}
    for name in (image['file_name'] for image in split.content['images']):
        if name in listed:
            present[name] = name
        elif file := find_file(os.path.join(split.image_dir, name)):
            exact = os.path.join(split.image_dir, name) == file
            present[name] = name if exact else os.path.relpath(file, split.image_dir)
    return present


def _other_sizes(split: CocoSplit, images: Sequence[dict], present: dict[str, str]) -> tuple[list[str], list[str]]:
    """'name is 640×480, not 480×640' for images whose file is of another size; names of those whose EXIF turn explains it."""
    differences, stored = [], []
    for image in images:
        sizes = image_sizes(os.path.join(split.image_dir, present[image['file_name']]))
        wanted = image['width'], image['height']
        if sizes is None or sizes[0] == wanted:  # a damaged one is told with its name when it is read
            continue
        if sizes[1] == wanted:
            stored.append(image['file_name'])
        else:
            width, height = sizes[0]
            differences.append(f'{image["file_name"]} is {width}×{height}, not {wanted[0]}×{wanted[1]}')
    return differences, stored


def _check_segmentations(checked: CheckedSplit) -> None:
    """Outlines that pycocotools reads beyond its memory for, or takes for something else."""
    content = checked.split.content
    images = {image['id']: image for image in content['images']}
    unreadable, degenerate, strays = [], [], []
    for position, annotation in enumerate(content['annotations']):
        image, segmentation = images.get(annotation['image_id']), annotation.get('segmentation')
        if image is None or not segmentation:
            continue
        if text := segmentation_problem(segmentation, image['height'], image['width']):
            unreadable.append(f'annotation {annotation.get("id", "without id")} of {image["file_name"]} {text}')
        elif is_degenerate(segmentation):
            degenerate.append(position)
        elif has_strays(segmentation):
            strays.append(position)
    checked.tell(ERROR, 'outlines that cannot be read', unreadable)

    def named(positions: Sequence[int]) -> list[str]:
        return [f'annotation {content["annotations"][i].get("id", "without id")}' for i in positions]

    points, parts = 'outlines of fewer than three points', 'outlines with parts of an odd count or fewer than three points'
    if not checked.evaluated:
        checked.tell(NOTE, points, named(degenerate), 'training leaves them out')
        return
    stops = any(cannot_be_evaluated(content['annotations'][i]['segmentation']) for i in strays)
    checked.needs_copy |= checked.tell(MENDED, points, named(degenerate), mending='left out', needed=True)
    checked.needs_copy |= checked.tell(MENDED, parts, named(strays), mending='these parts are left out', needed=stops)
    checked.left_out.update(degenerate)


def _check_boxes(checked: CheckedSplit) -> None:
    """Boxes without area or outside of their image, in one pass over arrays, as there may be a million."""
    content = checked.split.content
    images = {image['id']: image for image in content['images']}
    known = [i for i, a in enumerate(content['annotations']) if a['image_id'] in images]
    annotations = [content['annotations'][i] for i in known]
    boxes = np.array([a['bbox'] for a in annotations], dtype=float).reshape(len(annotations), 4)
    limits = np.array([(images[a['image_id']]['width'], images[a['image_id']]['height']) for a in annotations], dtype=float)
    limits = limits.reshape(-1, 2)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    visible = np.minimum(high, limits) - np.maximum(low, 0)
    flat = (boxes[:, 2:] <= 0).any(1)
    outside = ~flat & (visible <= 0).any(1)
    beyond = ~flat & ~outside & ((low < -1) | (high > limits + 1)).any(1)  # a pixel of rounding is common
    tiny = ~flat & ~outside & (boxes[:, 2:] < 1).any(1)

    def which(mask: np.ndarray) -> list[str]:
        wrong = [annotations[i] for i in np.flatnonzero(mask)]
        return [f'annotation {a.get("id", "without id")} of {images[a["image_id"]]["file_name"]}' for a in wrong]

    does = (dict(mending='left out, as evaluation would count them as missed', needed=True) if checked.evaluated
            else dict(consequence='training leaves them out'))
    checked.tell(MENDED, 'boxes without area', which(flat), **does)
    checked.tell(MENDED, 'boxes outside of their image', which(outside), **does)
    if beyond.sum() > _TOO_MANY * len(boxes):
        checked.tell(ERROR, 'boxes that reach beyond their image', which(beyond),
                     'so many are no slips: COCO\'s boxes are x, y, width, height in pixels, not two corners')
    else:
        checked.tell(NOTE, 'boxes that reach beyond their image', which(beyond), 'they are cut off at its edge')
    if tiny.sum() > _TOO_MANY * len(boxes):
        checked.tell(ERROR, 'boxes smaller than a pixel', which(tiny),
                     'so many are no slips: COCO\'s boxes are in pixels, not shares of the image from 0 to 1')
    else:
        checked.tell(NOTE, 'boxes smaller than a pixel', which(tiny), 'training leaves them out')
    checked.left_out |= {known[i] for i in np.flatnonzero(flat | outside)}
    checked.needs_copy |= checked.evaluated and bool(checked.left_out)


def _summary(split: CocoSplit) -> str:
    images, annotations = split.content['images'], split.content['annotations']
    annotated = {a['image_id'] for a in annotations}
    empty = sum(image['id'] not in annotated for image in images)
    ends = [choose(images, key=lambda image: image['height'] * image['width']) for choose in (min, max)]
    sizes = ' to '.join(dict.fromkeys(f'{image["width"]}×{image["height"]}' for image in ends))
    areas = np.array([a.get('area') or a['bbox'][2] * a['bbox'][3] for a in annotations], dtype=float)
    small, large = (areas < _SMALL).mean(), (areas > _LARGE).mean()
    return (f'{len(images)} images of {sizes}, {empty} of them empty; {len(annotations)} instances, '
            f'{small:.0%} small, {1 - small - large:.0%} medium, {large:.0%} large; '
            f'{os.path.relpath(split.ann_file, split.root)}, {os.path.relpath(split.image_dir, split.root)}/')


def mended_copy(checked: CheckedSplit, classes: Sequence[str], images: Sequence[dict] | None = None) -> dict:
    """The split's content without its defects, its categories in the order of `classes`.

    Args:
        checked: the split.
        classes: names of all classes.
        images: entries to keep, of a split that is divided; all by default.
    """
    content = checked.split.content
    numbers = {name: i + 1 for i, name in enumerate(classes)}
    names = {category['id']: category['name'] for category in content['categories']}
    images = content['images'] if images is None else images
    kept = [dict(image, file_name=checked.renamed.get(image['file_name'], image['file_name']))
            for image in images if image['id'] not in checked.missing_images]
    known = {image['id'] for image in kept}
    annotations = []
    for position, annotation in enumerate(content['annotations']):
        number = numbers.get(names.get(annotation['category_id']))
        if annotation['image_id'] not in known or number is None or position in checked.left_out:
            continue
        width, height = annotation['bbox'][2:]
        annotations.append({'iscrowd': 0, 'area': width * height, **annotation,
                            'id': len(annotations) + 1, 'category_id': number})
        if checked.evaluated and isinstance(annotation.get('segmentation'), list):
            annotations[-1]['segmentation'] = outlines(annotation['segmentation'])  # by the first, pycocotools judges all
    categories = [dict(id=number, name=name) for name, number in numbers.items()]
    return dict(images=kept, annotations=annotations, categories=categories)
