"""COCO-format annotations found in a folder, and checked; a corrected copy where they would stop or distort a run.

Layouts that people and tools leave: COCO's own (`annotations/instances_train2017.json`, `train2017/`), `annotations/train.json`
with `images/train/`, Roboflow's (`train/_annotations.coco.json` beside the images, `valid/`), CVAT's
(`annotations/instances_default.json`, `images/default/`), and one JSON file beside a folder of images.

A corrected copy of the annotations is made for what MMDetection or pycocotools cannot read or would count wrongly: annotation
ids used twice, images without a file, `area` or `iscrowd` left out, categories in another order than in training, and, in a
split that is evaluated, boxes and polygons that nothing can match. What they handle themselves is reported and left as it is.
"""

import codecs
import collections
import fnmatch
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ralamala_mm.errors import UserError

from .diagnosis import read_coco
from .images import SHARED_REMEDY, find_file, image_sizes, shared_files
from .report import CORRECTED, ERROR, NOTE, Problem, problem, some, split_of

_FARTHEST = 1e6  # pixels; pycocotools draws every point of an outline, in 32-bit integers
_PATTERNS = ('instances*.json', '*_annotations.coco.json', '*coco*.json', '*train*.json', '*val*.json', '*test*.json',
             'annotations.json', 'labels.json', 'result.json')
_NOT_INSTANCES = ('captions', 'person_keypoints', 'image_info', 'panoptic', 'stuff')
_PROBE = 50  # images by which a folder is chosen
_COMPARED = 200  # images whose size is compared with the file's; opening all of a large set takes minutes
_TOO_MANY = 0.2  # share of boxes with the same defect, beyond which the file means something else
_SMALL, _LARGE = 32 ** 2, 96 ** 2  # square pixels, COCO's bounds


def segmentation_problem(segmentation: object, height: int, width: int) -> str | None:
    """Why a COCO segmentation is none of an image of this size, or None.

    Polygons with an odd count or fewer than three points pass: MMDetection leaves them out.

    Args:
        segmentation: a list of polygons, or run lengths as a list or compressed.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    if isinstance(segmentation, list):
        return _polygon_problem(segmentation)
    if not isinstance(segmentation, dict):
        return f'is a {type(segmentation).__name__}, neither polygons nor run lengths'
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return f'has run lengths for size {size} (height, width), and its image is [{height}, {width}]'
    if isinstance(counts, str | bytes):
        counts = _decompressed(counts)
    total = _total(counts)
    if total is None:
        return 'has run lengths that cannot be read'
    if total != height * width:
        return f'has run lengths for {total} pixels, and its image has {height * width}'
    return None


def is_degenerate(segmentation: object) -> bool:
    """Polygons without one of at least three points: learnt from by nobody, and taken for boxes by pycocotools."""
    return isinstance(segmentation, list) and not any(_is_outline(polygon) for polygon in segmentation)


def cannot_be_evaluated(segmentation: object) -> bool:
    """Degenerate polygons, and those whose first has at most four values: by it, pycocotools takes all for what they are not."""
    return is_degenerate(segmentation) or (isinstance(segmentation, list) and len(segmentation[0]) <= 4)


def has_strays(segmentation: object) -> bool:
    """Polygons of which some, and not all, have an odd count or fewer than three points; training leaves these parts out."""
    return isinstance(segmentation, list) and 0 < len(outlines(segmentation)) < len(segmentation)


def outlines(segmentation: list) -> list:
    """The polygons of at least three points."""
    return [polygon for polygon in segmentation if _is_outline(polygon)]


def _is_outline(polygon: Sequence) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def _polygon_problem(polygons: list) -> str | None:
    for polygon in polygons:
        if not isinstance(polygon, list | tuple):
            return 'is a flat list: COCO has a list of polygons, each a list x, y, x, y, …'
        try:
            if not math.isfinite(sum(polygon)):
                return 'has a polygon with values that are no finite numbers'
            if polygon and (max(polygon) > _FARTHEST or min(polygon) < -_FARTHEST):
                return 'has a polygon that lies far beyond its image'
        except (TypeError, OverflowError):
            return 'has a polygon with values that are no numbers'
    return None


def _total(counts: object) -> int | None:
    """How many pixels run lengths are for; None if they are no list of counts."""
    if isinstance(counts, np.ndarray):
        return int(counts.sum()) if counts.size and counts.min() >= 0 else None
    if not isinstance(counts, list) or not counts or not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return sum(counts)


def _decompressed(text: str | bytes) -> np.ndarray | None:
    """Run lengths from COCO's text: five bits a character, the lowest first, from the third on as differences.

    Returns:
        int64 `[runs]`, or None if the text is none.
    """
    try:
        values = np.frombuffer(text.encode('ascii') if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not values.size or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    ends = np.flatnonzero(~values & 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # a count has at most 32 bits
        return None
    places = 5 * (np.arange(values.size) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((values & 31) << places, starts)
    runs -= np.where(values[ends] & 16, 1 << (places[ends] + 5), 0)  # the highest bit is the sign
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


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


@dataclass
class CheckedSplit:
    """A split with its summary, its problems, and what has to be corrected."""

    split: CocoSplit
    evaluated: bool
    summary: str = ''
    instances: collections.Counter = field(default_factory=collections.Counter)  # by category name
    problems: list[Problem] = field(default_factory=list)
    missing_images: set = field(default_factory=set)  # ids
    renamed: dict[str, str] = field(default_factory=dict)  # file names as written, and as the files are called
    left_out: set = field(default_factory=set)  # positions in `annotations`
    needs_copy: bool = False

    def tell(self, level: str, what: str, entries: Sequence, consequence: str = '', correcting: str = '',
             needed: bool = False) -> bool:
        """Notes a problem if it has any entries; returns whether."""
        if entries:
            self.problems.append(problem(level, self.split.name, what, entries, consequence, correcting, needed))
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
    checked.needs_copy |= checked.tell(CORRECTED, 'file names written as on Windows, or in another Unicode form than the file\'s',
                                       list(checked.renamed), 'the files were found')
    checked.tell(NOTE, 'images listed twice', _twice(present.get(image['file_name'], image['file_name']) for image in images))
    shared = shared_files(present, checked.split.image_dir)
    checked.tell(ERROR, 'different names that lead to one file', shared, SHARED_REMEDY)
    missing = {image['id']: image['file_name'] for image in images if image['file_name'] not in present}
    checked.missing_images = set(missing)
    checked.needs_copy |= checked.tell(CORRECTED, 'images without a file', list(missing.values()),
                                       correcting='left out with their annotations')
    if not checked.evaluated:
        tiny = [image['file_name'] for image in images if min(image['height'], image['width']) < smallest]
        checked.tell(NOTE, f'images smaller than {smallest} pixels', tiny, 'training leaves them out')


def _check_sizes(checked: CheckedSplit) -> None:
    images, present = checked.split.content['images'], _present(checked.split)
    compared = [image for image in images if image['file_name'] in present][::1 + len(images) // _COMPARED]
    others, stored = _other_sizes(checked.split, compared, present)
    checked.tell(ERROR, f'images of another size than the annotations say, of {len(compared)} inspected', others)
    checked.tell(NOTE, f'images annotated as they are stored, on their side, of {len(compared)} inspected', stored,
                 'they are read without the turn')


def _check_categories(checked: CheckedSplit) -> None:
    categories = checked.split.content['categories']
    ids, wanted = [category['id'] for category in categories], category_names(checked.split.content)
    checked.tell(ERROR, 'category ids used twice', _twice(ids))
    checked.tell(ERROR, 'category names used twice', _twice(wanted))
    parents = [category['name'] for category in categories if category['name'] not in wanted]
    checked.needs_copy |= checked.tell(CORRECTED, 'parents of the other categories, without instances', parents,
                                       correcting='left out')
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
    checked.needs_copy |= checked.tell(CORRECTED, 'annotation ids used twice or missing', repeated,
                                       correcting='all are numbered anew', needed=True)
    unfilled = which(lambda a: 'area' not in a or 'iscrowd' not in a)
    checked.needs_copy |= checked.tell(CORRECTED, 'annotations without area or iscrowd', unfilled,
                                       correcting='filled in from the box', needed=True)
    with checked.split.ann_file.open('rb') as file:
        start = file.read(4)
    # As Windows tools write, and pycocotools cannot read.
    marked = [checked.split.ann_file.name] if start.startswith(codecs.BOM_UTF8) or b'\0' in start else []
    checked.needs_copy |= checked.tell(CORRECTED, 'text with a byte order mark, or in UTF-16', marked,
                                       correcting='written anew', needed=True)
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
    checked.needs_copy |= checked.tell(CORRECTED, points, named(degenerate), correcting='left out', needed=True)
    checked.needs_copy |= checked.tell(CORRECTED, parts, named(strays), correcting='these parts are left out', needed=stops)
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

    does = (dict(correcting='left out, as evaluation would count them as missed', needed=True) if checked.evaluated
            else dict(consequence='training leaves them out'))
    checked.tell(CORRECTED, 'boxes without area', which(flat), **does)
    checked.tell(CORRECTED, 'boxes outside the image', which(outside), **does)
    if beyond.sum() > _TOO_MANY * len(boxes):
        checked.tell(ERROR, 'boxes that reach beyond their image', which(beyond),
                     'too many to be annotation errors: COCO\'s boxes are x, y, width, height in pixels, not two corners')
    else:
        checked.tell(NOTE, 'boxes that reach beyond their image', which(beyond), 'they are cut off at its edge')
    if tiny.sum() > _TOO_MANY * len(boxes):
        checked.tell(ERROR, 'boxes smaller than a pixel', which(tiny),
                     'too many to be annotation errors: COCO\'s boxes are in pixels, not shares of the image from 0 to 1')
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


def corrected_copy(checked: CheckedSplit, classes: Sequence[str], images: Sequence[dict] | None = None) -> dict:
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
