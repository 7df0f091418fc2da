"""Whether COCO annotations are what training and evaluation make of them: every object that is not used is counted and explained.

What MMDetection or pycocotools cannot read or would count wrongly is corrected in a copy: ids that are no whole numbers from 1,
images without a file, `area` or `iscrowd` left out, categories in another order than in training, objects listed twice, rotated
boxes, and, in a split that is evaluated, boxes and polygons that nothing can match. What means something else than COCO
does, such as polygons of y and x, is an error.
"""

import codecs
import collections
import os
import unicodedata
from collections.abc import Iterable

import numpy as np

from .coco import CheckedSplit, CocoSplit
from .coco_contents import coco_contents
from .coco_masks import check_segmentations
from .coco_objects import TOO_MANY, Objects, corners, overlaps
from .images import SHARED_REMEDY, image_sizes, shared_files
from .report import CORRECTED, ERROR, NOTE, Problem, shown_path, some
from .segmentations import enclosing_box, segmentation_problem

CROWDS = ('objects', 'ignored')  # what `--iscrowd` takes
_COMPARED = 200  # images whose size is compared with the file's; opening all of a large set takes minutes
DETECTIONS = 100  # of an image, that COCO's metrics take
SMALL, LARGE = 32, 96  # square roots of areas in pixels, COCO's bounds


def check_split(split: CocoSplit, wants_masks: bool, evaluated: bool, smallest: int, opens_images: bool = True,
                crowds: str | None = None, trained: bool | None = None) -> CheckedSplit:
    """Inspects one split.

    Args:
        split: the split; its file is read if it was not.
        wants_masks: whether the config's model learns masks.
        evaluated: whether metrics are computed on it.
        smallest: pixels; training leaves out images with a shorter side.
        opens_images: compare some images' sizes with the annotations.
        crowds: what instances marked `iscrowd` or `ignore` are: 'objects' as all others, or 'ignored'; None if nobody said so.
        trained: whether a model is trained on it; by default where it is not evaluated. A split that is divided serves for both.
    """
    checked = CheckedSplit(split, evaluated, wants_masks=wants_masks, trained=not evaluated if trained is None else trained)
    _check_images(checked, smallest)
    _check_categories(checked)
    _check_ids(checked)
    objects = Objects.of(split.content)
    _check_references(checked, objects)
    if opens_images:
        _check_sizes(checked, objects)
    _check_fields(checked)
    _check_rotation(checked, objects)
    boxless = _check_boxes(checked, objects)
    unused = boxless | _check_duplicates(checked, objects)
    if wants_masks:
        unused |= check_segmentations(checked, objects, boxless)
    unused |= _check_crowds(checked, objects, crowds)
    unused = _check_use(checked, objects, unused, smallest)
    checked.summary = _summary(split, objects)
    checked.contents = coco_contents(checked, objects, ~unused)
    return checked


def _check_images(checked: CheckedSplit, smallest: int) -> None:
    images, present = checked.split.content['images'], checked.split.present
    checked.tell(ERROR, 'image ids used twice', _twice(image['id'] for image in images))
    checked.renamed = {name: file for name, file in present.items() if name != file}
    written = [name for name, file in checked.renamed.items() if '\\' in name or _plain_form(name) == _plain_form(file)]
    others = [f'{name} is {file}' for name, file in checked.renamed.items() if name not in written]
    checked.needs_copy |= checked.tell(CORRECTED, 'file names written as on Windows, or in another Unicode form than the file\'s',
                                       written, 'the files were found')
    checked.needs_copy |= checked.tell(CORRECTED, 'images found by the last part of their names', others, needed=True,
                                       correcting='the copy names the files')
    lvis = [image['file_name'] for image in images if 'neg_category_ids' in image]
    checked.needs_copy |= checked.tell(
        CORRECTED, 'images as LVIS lists them, by address and with some of the classes annotated', lvis, 'the metrics of COCO '
        'count objects of other classes that are found as wrong', correcting='the copy has file names', needed=True)
    checked.tell(NOTE, 'images listed twice', _twice(present.get(image['file_name'], image['file_name']) for image in images))
    shared = shared_files(present, checked.split.image_dir) or [
        ' and '.join(name for name, file in present.items() if file == shared) for shared in _twice(present.values())]
    checked.tell(ERROR, 'different names that lead to one file', shared, SHARED_REMEDY)
    missing = {image['id']: image['file_name'] for image in images if image['file_name'] not in present}
    checked.missing_images = set(missing)
    missing_at = [i for i, image in enumerate(images) if image['id'] in missing]
    if len(missing) > TOO_MANY * len(images):
        checked.tell(ERROR, 'images without a file', list(missing.values()),
                     f'too many to be left out; they were looked for in {checked.split.image_dir} and below {checked.split.root}',
                     images=missing_at)
    else:
        checked.needs_copy |= checked.tell(CORRECTED, 'images without a file', list(missing.values()),
                                           correcting='left out with their annotations', images=missing_at)
    if checked.trained:
        tiny = [i for i, image in enumerate(images) if min(image['height'], image['width']) < smallest]
        checked.tell(NOTE, f'images smaller than {smallest} pixels', [images[i]['file_name'] for i in tiny],
                     'training leaves them out', images=tiny)


def _check_sizes(checked: CheckedSplit, objects: Objects) -> None:
    """Images whose files have another size than the annotations say, those that EXIF rotates apart."""
    present, images = checked.split.present, checked.split.content['images']
    ends = objects.boxes[:, :2] + objects.boxes[:, 2:]
    beyond, fits_upright = (ends > objects.limits + 1).any(1), (ends <= objects.limits[:, ::-1] + 1).all(1)
    suspected = set(objects.images[beyond].tolist()) - set(objects.images[~fits_upright].tolist())
    compared = [i for i, image in enumerate(images) if image['file_name'] in present
                and (not i % (1 + len(images) // _COMPARED) or i in suspected)]
    differences, different, stored = [], [], []
    for i in compared:
        name, wanted = images[i]['file_name'], (images[i]['width'], images[i]['height'])
        sizes = image_sizes(os.path.join(checked.split.image_dir, present[name]))
        if sizes is None or sizes[0] == wanted:  # a damaged one is reported with its name when it is read
            continue
        if sizes[1] == wanted:
            stored.append(i)
        else:
            different.append(i)
            differences.append(f'{name} is {sizes[0][0]}×{sizes[0][1]}, not {wanted[0]}×{wanted[1]}')
    checked.tell(ERROR, f'images of another size than the annotations say, of {len(compared)} inspected', differences,
                 images=different)
    upright = sorted(suspected.intersection(stored))
    checked.tell(ERROR, f'images with the size as they are stored and boxes as they are shown, of {len(compared)} inspected',
                 [images[i]['file_name'] for i in upright],
                 'EXIF data rotate these images: width and height have to be those of the rotated image', images=upright)
    checked.tell(NOTE, f'images annotated as they are stored, not rotated as EXIF says, of {len(compared)} inspected',
                 [images[i]['file_name'] for i in stored if i not in upright], 'they are read without the rotation')


def _check_categories(checked: CheckedSplit) -> None:
    categories = checked.split.content['categories']
    ids, wanted = [category['id'] for category in categories], checked.split.category_names
    checked.tell(ERROR, 'category ids used twice', _twice(ids))
    checked.tell(ERROR, 'category names used twice', _twice(wanted))
    parents = [category['name'] for category in categories if category['name'] not in wanted]
    checked.needs_copy |= checked.tell(CORRECTED, 'parents of the other categories, without instances', parents,
                                       correcting='left out')
    if checked.trained and ids and max(ids) - min(ids) >= len(ids):
        text = f'category ids have gaps ({some(sorted(ids), 6)}), which is fine'
        checked.problems.append(Problem(NOTE, checked.split.name, text))


def _check_ids(checked: CheckedSplit) -> None:
    """Ids that pycocotools, faster-coco-eval or MMDetection would not match, or not distinguish."""
    for what, given in checked.split.changed_ids.items():
        checked.needs_copy |= checked.tell(CORRECTED, f'{what} that are text, or numbers with a point',
                                           list(map(repr, dict.fromkeys(given))), needed=True,
                                           correcting='made whole numbers; images keep theirs as original_id')
    annotations = checked.split.content['annotations']
    # Of an object with id 0 pycocotools never says that it was found; faster-coco-eval neither of negative ones.
    ids = annotations.ids.tolist()
    is_good = [type(given) is int and given >= 1 for given in ids]
    odd = [annotations.name(i) for i, good in enumerate(is_good) if not good]
    repeated = _twice([given for given, good in zip(ids, is_good, strict=True) if good])
    checked.needs_copy |= checked.tell(CORRECTED, 'annotation ids used twice or missing, or no whole numbers from 1',
                                       repeated + odd, correcting='all are numbered anew', needed=True)


def _check_references(checked: CheckedSplit, objects: Objects) -> None:
    """Annotations of images and categories that are not listed; many of them mean that ids are wrong."""
    content = checked.split.content
    annotations = content['annotations']
    for key, part in (('image_id', 'images'), ('category_id', 'categories')):
        unlisted = objects.unlisted[part]
        if not len(unlisted):
            continue
        listed = {entry['id'] for entry in content[part]}
        what = 'annotations of images that are not listed' if part == 'images' else 'annotations of a category that is not listed'
        named = checked.named(unlisted)
        where = dict(annotations=unlisted)
        used = set(getattr(annotations, f'{key}s').tolist()) - {None}
        are_numbers = bool(used) and all(type(number) is int for number in used)
        shift = next((shift for shift in (1, -1) if are_numbers and part == 'categories'
                      and {number + shift for number in used} <= listed), None)
        if shift:
            checked.tell(ERROR, what, named, f'their category ids, {min(used)} to {max(used)}, are off by one: the '
                         f'categories have {min(listed)} to {max(listed)}', **where)
        elif len(unlisted) > TOO_MANY * len(annotations):
            checked.tell(ERROR, what, named, f'too many to be annotation errors: {key}s and the ids of {part} do not '
                         'belong together', **where)
        else:
            checked.tell(NOTE, what, named, 'not used', **where)


def _check_fields(checked: CheckedSplit) -> None:
    """`area` and `iscrowd`, scores, and how the text is encoded."""
    annotations = checked.split.content['annotations']
    unfilled = np.flatnonzero(np.isnan(annotations.areas) | (annotations.crowd < 0)).tolist()
    useless = np.flatnonzero(annotations.areas <= 0).tolist()
    checked.needs_copy |= checked.tell(CORRECTED, 'annotations without area or iscrowd', checked.named(unfilled),
                                       correcting='area filled in from the box, iscrowd with 0', needed=True)
    checked.needs_copy |= checked.tell(CORRECTED, 'annotations whose area is 0 or less', checked.named(useless),
                                       correcting='filled in from the box', needed=True, annotations=useless)
    for position in {*unfilled, *useless}:
        area, box = float(annotations.areas[position]), annotations.boxes[position]
        checked.changes[position] = dict(area=area if area > 0 else float(box[2] * box[3]))
    if scores := annotations.scores[~np.isnan(annotations.scores)].tolist():
        checked.tell(NOTE, 'annotations with a score, as predictions have', scores,
                     f'they go from {min(scores)} to {max(scores)}, and all are taken as truth')
    with checked.split.ann_file.open('rb') as file:
        start = file.read(4)
    # As Windows tools write, and pycocotools cannot read.
    marked = [checked.split.ann_file.name] if start.startswith(codecs.BOM_UTF8) or b'\0' in start else []
    checked.needs_copy |= checked.tell(CORRECTED, 'text with a byte order mark, or in UTF-16', marked,
                                       correcting='written anew', needed=True)


def _check_rotation(checked: CheckedSplit, objects: Objects) -> None:
    """CVAT writes the box of a rotated rectangle as it was before the rotation, and the angle beside it."""
    annotations, images = checked.split.content['annotations'], checked.split.content['images']
    rotated = []
    has_attributes = np.zeros(len(annotations), dtype=bool)
    has_attributes[list(annotations.attributes)] = True
    for row in np.flatnonzero(has_attributes[objects.positions]).tolist():
        position = int(objects.positions[row])
        attributes = annotations.attributes[position]
        # With `occluded`, which CVAT writes beside it: others name a heading or the angle of a text so.
        angle = attributes.get('rotation') if isinstance(attributes, dict) and 'occluded' in attributes else None
        if not isinstance(angle, int | float) or not angle % 180:
            continue
        x, y, width, height = objects.boxes[row]
        cos, sin = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
        size = np.array([width * cos + height * sin, width * sin + height * cos])
        box = np.concatenate([np.array([x + width / 2, y + height / 2]) - size / 2, size])
        segmentation = annotations.segmentation(position)
        image = images[objects.images[row]]
        if segmentation and not segmentation_problem(segmentation, image['height'], image['width']):
            covered = np.array([enclosing_box(segmentation, image['height'], image['width'])])
            if not overlaps(covered, corners(box[None]))[0] > overlaps(covered, corners(objects.boxes[row:row + 1]))[0]:
                continue  # the box is that of the rotated mask already
        objects.boxes[row] = box
        checked.changes.setdefault(position, {}).update(bbox=box.tolist())
        rotated.append(position)
    checked.needs_copy |= checked.tell(CORRECTED, 'boxes written as before their rotation', checked.named(rotated), needed=True,
                                       correcting='made the box around the rotated one', annotations=rotated)


def _check_duplicates(checked: CheckedSplit, objects: Objects) -> np.ndarray:
    """Objects that are listed twice in every detail; of two, pycocotools lets a prediction match one."""
    annotations = checked.split.content['annotations']
    columns = [objects.images + 0.0, objects.categories + 0.0, *(objects.boxes + 0.0).T]  # -0.0 as 0.0
    mixed = np.zeros(len(objects.positions), np.uint64)
    for factor, column in zip((3, 5, 7, 11, 13, 17), columns, strict=True):
        mixed += np.ascontiguousarray(column).view(np.uint64) * np.uint64(factor * 0x9E3779B97F4A7C15 % 2 ** 64)
    order = np.argsort(mixed, kind='stable')
    same_as_before = np.flatnonzero(np.diff(mixed[order]) == 0) + 1
    repeated = np.zeros(len(objects.positions), dtype=bool)
    first: dict[tuple, set] = {}
    for row in np.unique(order[np.union1d(same_as_before, same_as_before - 1)]).tolist() if len(same_as_before) else ():
        alike = first.setdefault(tuple(column[row] for column in columns), set())
        rest = bytes(annotations.segmentation_text(objects.positions[row])), bool(objects.crowd[row])
        repeated[row] = rest in alike
        alike.add(rest)
    positions = objects.positions[repeated].tolist()
    checked.needs_copy |= checked.tell(CORRECTED, 'objects listed twice', checked.named(positions),
                                       correcting='left out', needed=True, annotations=positions)
    checked.left_out.update(positions)
    return repeated


def _check_boxes(checked: CheckedSplit, objects: Objects) -> np.ndarray:
    """Boxes without area or outside of their image; returns which are not used."""
    content, boxes, limits = checked.split.content, objects.boxes, objects.limits
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    visible = np.minimum(high, limits) - np.maximum(low, 0)
    flat = (boxes[:, 2:] <= 0).any(1)
    outside = ~flat & (visible <= 0).any(1)
    beyond = ~flat & ~outside & ((low < -1) | (high > limits + 1)).any(1)  # a pixel of rounding is common
    tiny = ~flat & ~outside & (boxes[:, 2:] < 1).any(1)

    def tell(level: str, what: str, mask: np.ndarray, consequence: str = '', **settings) -> None:
        named = [f'{checked.named([objects.positions[row]])[0]} of {content["images"][objects.images[row]]["file_name"]}'
                 for row in np.flatnonzero(mask)]
        checked.tell(level, what, named, consequence, annotations=objects.positions[mask], **settings)

    does = (dict(correcting='left out, as evaluation would count them as missed', needed=True) if checked.evaluated
            else dict(consequence='training leaves them out'))
    tell(CORRECTED, 'boxes without area', flat, **does)
    tell(CORRECTED, 'boxes outside the image', outside, **does)
    if beyond.sum() > TOO_MANY * len(boxes):
        tell(ERROR, 'boxes that reach beyond their image', beyond,
             'too many to be annotation errors: COCO\'s boxes are x, y, width, height in pixels, not two corners')
    else:
        tell(NOTE, 'boxes that reach beyond their image', beyond, 'they are cut off at its edge')
    if tiny.sum() > TOO_MANY * len(boxes):
        tell(ERROR, 'boxes smaller than a pixel', tiny,
             'too many to be annotation errors: COCO\'s boxes are in pixels, not shares of the image from 0 to 1')
    else:
        tell(NOTE, 'boxes smaller than a pixel', tiny, 'training leaves them out')
    checked.left_out.update(objects.positions[flat | outside].tolist())
    checked.needs_copy |= checked.evaluated and bool((flat | outside).any())
    return flat | outside | (tiny & (not checked.evaluated))


def _check_crowds(checked: CheckedSplit, objects: Objects, crowds: str | None) -> np.ndarray:
    """Objects marked iscrowd or ignore, which many tools write for what is no crowd; returns which are not used."""
    marked = objects.crowd | objects.ignore
    rows = np.flatnonzero(marked)
    what = 'instances marked iscrowd or ignore'
    if crowds == 'objects':
        checked.needs_copy |= checked.tell_counts(CORRECTED, what, objects.by_class(checked.split.content, marked),
                                                  correcting='taken as objects like all others')
        for position in objects.positions[rows].tolist():
            checked.changes.setdefault(position, {}).update(iscrowd=0, ignore=0)
        return np.zeros_like(marked)
    if checked.evaluated and objects.ignore.any():
        checked.needs_copy |= checked.tell_counts(
            CORRECTED, 'instances marked ignore, which pycocotools counts all the same',
            objects.by_class(checked.split.content, objects.ignore), correcting='marked iscrowd, which it does not count')
        for position in objects.positions[objects.ignore].tolist():
            checked.changes.setdefault(position, {}).update(iscrowd=1)
    totals = np.bincount(objects.categories, minlength=len(checked.split.content['categories']))
    marks = np.bincount(objects.categories[rows], minlength=len(totals))
    only = (totals > 0) & (marks == totals)
    if not checked.trained and not marked.all():  # a class of one crowd is no rarity among a few images
        only[:] = False
    if only.any() and crowds is None:
        checked.tell_counts(
            ERROR, 'instances marked iscrowd or ignore, as are all of their class',
            objects.by_class(checked.split.content, only[objects.categories]),
            'nothing would be learnt or counted of them; datumaro, supervision and CVAT\'s brush mark ordinary masks so: '
                     '--data DIR --iscrowd objects takes all as objects, --iscrowd ignored leaves them out')
    others = marked & ~only[objects.categories] if crowds is None else marked
    checked.tell_counts(NOTE, what, objects.by_class(checked.split.content, others),
                        'training does not learn them, and evaluation does not count them')
    return marked


def _check_use(checked: CheckedSplit, objects: Objects, unused: np.ndarray, smallest: int) -> np.ndarray:
    """How many objects are used of those in the file, by class; and classes that have none; returns which are not used."""
    content = checked.split.content
    missing = np.array([image['id'] in checked.missing_images for image in content['images']], dtype=bool)
    small = np.array([min(image['height'], image['width']) < smallest for image in content['images']], dtype=bool)
    unused = unused | missing[objects.images] | (small[objects.images] & checked.trained)
    counts = np.bincount(objects.images[~unused], minlength=len(missing))
    checked.with_objects = {content['images'][i]['id'] for i in np.flatnonzero(counts).tolist()}
    if checked.evaluated:
        crowded = np.flatnonzero(counts > DETECTIONS)
        checked.tell(NOTE, f'images of more than {DETECTIONS} objects', [content['images'][i]['file_name'] for i in crowded],
                     f'COCO\'s metrics take {DETECTIONS} predictions of an image, so that even perfect ones miss some',
                     images=crowded[np.argsort(-counts[crowded], kind='stable')])
    in_file = objects.by_class(checked.split.content, np.ones_like(unused))
    names = {category['id']: category['name'] for category in content['categories']}
    for position in np.union1d(*objects.unlisted.values()).tolist():
        in_file[names.get(content['annotations'].category_ids[position], 'not listed')] += 1
    used = objects.by_class(checked.split.content, ~unused)
    checked.instances = used
    lost = {name: count - used[name] for name, count in in_file.items() if count > used[name]}
    does = 'training uses' if checked.trained else 'evaluation counts'
    text = f'{does} {used.total()} of {in_file.total()} instances'
    if not used.total() and not any(problem.level == ERROR for problem in checked.problems):
        checked.problems.append(Problem(ERROR, checked.split.name, f'{text}: each has a defect that is named here'))
    elif lost:
        shares = [f'{count} of {in_file[name]} {name}' for name, count in sorted(lost.items(), key=lambda item: -item[1])]
        checked.problems.append(Problem(NOTE, checked.split.name, f'{text}; not used: {some(shares, 8)}'))
    if checked.trained:
        checked.tell(NOTE, 'classes without an instance', [name for name in checked.split.category_names if not used[name]])
    return unused


def _plain_form(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def _twice(values: Iterable) -> list:
    values = list(values)
    if len(set(values)) == len(values):
        return []
    return [value for value, count in collections.Counter(values).items() if count > 1]


def _summary(split: CocoSplit, objects: Objects) -> str:
    images, annotations = split.content['images'], split.content['annotations']
    empty = len(images) - np.count_nonzero(np.bincount(objects.images))
    pixels = np.array([image['height'] * image['width'] for image in images])
    ends = [images[i] for i in (pixels.argmin(), pixels.argmax())]
    sizes = ' to '.join(dict.fromkeys(f'{image["width"]}×{image["height"]}' for image in ends))
    areas = np.where(annotations.areas > 0, annotations.areas, annotations.boxes[:, 2] * annotations.boxes[:, 3])
    small, large = (areas < SMALL ** 2).mean(), (areas > LARGE ** 2).mean()
    return (f'{len(images)} images of {sizes}, {empty} of them empty; {len(annotations)} instances, '
            f'{small:.0%} small, {1 - small - large:.0%} medium, {large:.0%} large; '
            f'{shown_path(split.ann_file, split.root)}, {shown_path(split.image_dir, split.root)}/')
