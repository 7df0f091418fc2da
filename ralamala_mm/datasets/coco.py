"""COCO-format annotations found in a folder, with the folder of their images; a copy of them with corrections.

Layouts that people and tools leave: COCO's own (`annotations/instances_train2017.json`, `train2017/`), `annotations/train.json`
with `images/train/`, Roboflow's (`train/_annotations.coco.json` beside the images, `valid/`), CVAT's
(`annotations/instances_default.json`, `images/default/`), one JSON file of any name beside a folder of images, and each of
these one folder deeper.
"""

import collections
import fnmatch
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec

from ralamala_mm.errors import UserError

from .coco_annotations import id_column
from .coco_file import read_coco
from .contents import CocoContents
from .images import find_file
from .locating import ImageIndex, find_here_or_deeper, has_text, is_hidden, settle_trainval, subfolders
from .report import CORRECTED, Problem, problem, some, split_name, split_of
from .segmentations import valid_polygons

_PATTERNS = ('instances*.json', '*_annotations.coco.json', '*coco*.json', '*train*.json', '*val*.json', '*test*.json',
             'annotations.json', 'labels.json', 'result.json', '*.json')
_NOT_INSTANCES = ('captions', 'person_keypoints', 'image_info', 'panoptic', 'stuff')
_KEYS = (b'"images"', b'"annotations"', b'"categories"')  # of a file that is COCO's whatever its name
_SNIFFED = 50  # files of other names in a folder that are looked into: labelme's are as many as images
_PROBE = 50  # images by which a folder is chosen


@dataclass(eq=False)
class CocoSplit:
    """One annotation file with the folder of its images; `name` is 'train', 'val', 'test', or 'all' if it is the only one.

    Attributes:
        changed_ids: ids that were written as text, as 3.0, or are no whole numbers, and are read as numbers here; by kind.
    """

    name: str
    ann_file: Path
    root: Path
    named_image_dir: Path | None = None  # by a config; else it is looked for
    changed_ids: dict[str, list] = field(default_factory=dict)
    is_trainval: bool = False  # its images may lie in the folders of both

    @cached_property
    def content(self) -> dict:
        """What the file holds, with ids of images and categories as whole numbers.

        Raises:
            UserError: it is not JSON of COCO's form.
        """
        content, problem = read_coco(self.ann_file)
        if problem:
            raise UserError(f'annotation file {self.ann_file} {problem}')
        self.changed_ids = normalize_ids(content)
        return content

    @cached_property
    def category_names(self) -> list[str]:
        """Names in the file's order, without the parent of the others that Roboflow adds with id 0 and no instances."""
        used = set(self.content['annotations'].category_ids.tolist())
        categories = self.content['categories']
        parents = {category.get('supercategory') for category in categories if category['id'] != 0}
        return [category['name'] for category in categories
                if category['id'] != 0 or category['id'] in used or category['name'] not in parents]

    @cached_property
    def index(self) -> ImageIndex:
        """All images below the root."""
        return ImageIndex(self.root, '' if self.is_trainval else self.name)

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
            if any(self.index.find(name) for name in names):
                return self.root
            raise UserError(f'none of the images that {self.ann_file} names is there, such as {names[0]}; looked in '
                            f'{", ".join(str(folder) for folder in found)}, and below {self.root} for the last part of the name')
        return best

    @cached_property
    def present(self) -> dict[str, str]:
        """The images that have a file, by `file_name`: its path within `image_dir`."""
        listed = set(os.listdir(self.image_dir))  # faster than asking for each
        present = {}
        for name in (image['file_name'] for image in self.content['images']):
            if name in listed:
                present[name] = name
            elif file := find_file(os.path.join(self.image_dir, name)):
                exact = os.path.join(self.image_dir, name) == file
                present[name] = name if exact else os.path.relpath(file, self.image_dir)
            elif not self.named_image_dir and (found := self.index.find(name)):
                present[name] = os.path.relpath(self.root / found, self.image_dir)
        return present

    @property
    def reaches_outside(self) -> bool:
        """Whether some of its images lie elsewhere than below the root."""
        root = os.path.abspath(self.root) + os.sep
        return any(not os.path.abspath(os.path.join(self.image_dir, path)).startswith(root)
                   for path in self.present.values() if os.path.isabs(path) or '..' in path)

    def _candidates(self) -> Iterator[Path]:
        stem = self.ann_file.stem.removeprefix('instances_')
        bases = [self.root, self.root / 'images', self.root / 'data']
        folders = [base / stem for base in bases]
        folders += [folder for base in bases if base.is_dir() for folder in subfolders(base)
                    if split_of(folder.name) == self.name or folder.name == 'default']
        folders += [folder / 'images' for folder in folders]
        folders += [self.ann_file.parent, self.ann_file.parent / 'images', *bases]
        yield from (folder for folder in dict.fromkeys(folders) if folder.is_dir())


def normalize_ids(content: dict) -> dict[str, list]:
    """Makes whole numbers of the ids of images and categories, in place, and of what refers to them.

    Text such as '3' and numbers such as 3.0 become 3; images whose ids are other texts are numbered in their order.

    Returns:
        The ids that were changed, by what they are of; an id that is used twice stays so.
    """
    changed: dict[str, list] = collections.defaultdict(list)
    for part, key in (('images', 'image_id'), ('categories', 'category_id')):
        given = getattr(content['annotations'], f'{key}s')
        if given.dtype != object and {type(entry['id']) for entry in content[part]} == {int}:
            continue  # as in nearly every file
        numbers = _numbered(content[part])
        plain = {_plain(given): number for given, number in numbers.items()}
        if part == 'categories':  # some tools refer to them by their names
            plain = {category['name']: numbers[category['id']] for category in content[part]} | plain
        is_renumbered = any(_plain(given) != number for given, number in numbers.items())
        for entry in content[part]:
            if type(entry['id']) is not int:
                changed[f'ids of {part}'].append(entry['id'])
                entry['original_id'] = entry['id']
            entry['id'] = numbers[entry['id']]
        if given.dtype != object and not is_renumbered:
            continue
        references = given.tolist()
        meant = [numbers[reference] if reference in numbers else
                 plain.get(_plain(reference), None if is_renumbered else _plain(reference)) for reference in references]
        setattr(content['annotations'], f'{key}s', id_column(meant))
        if odd := [reference for reference in references if type(reference) is not int]:
            changed[f'{key}s of annotations'] = odd
    return dict(changed)


def _numbered(entries: Sequence[dict]) -> dict[object, int]:
    """A whole number for each id: itself, what it says, or else a number in the order of the entries."""
    ids = list(dict.fromkeys(entry['id'] for entry in entries))
    plain = [_plain(given) for given in ids]
    if all(type(number) is int for number in plain) and len(set(plain)) == len(ids):
        return dict(zip(ids, plain, strict=True))
    return {given: i + 1 for i, given in enumerate(ids)}


def _plain(given: object) -> object:
    if isinstance(given, float) and given.is_integer():
        return int(given)
    return int(given) if isinstance(given, str) and re.fullmatch(r'-?\d{1,18}', given) else given


def find_coco(root: Path, work_dir: Path | None = None) -> tuple[str, dict[str, CocoSplit]]:
    """The splits in a folder by name, and a word for its layout; none if there is no COCO-format file.

    Args:
        root: the folder.
        work_dir: is left out, where it lies in the folder: it may hold corrected copies.

    Raises:
        UserError: several files want to be the same split.
    """
    return find_here_or_deeper(root, _find_in, work_dir)


def _find_in(root: Path) -> tuple[str, dict[str, CocoSplit]]:
    files: dict[str, list[tuple[int, Path]]] = {}
    for folder in [root, *subfolders(root)]:
        sniffed = 0
        for path in sorted(folder.glob('*.json')):
            if is_hidden(path.name) or path.name.startswith(_NOT_INSTANCES) or not path.is_file():
                continue
            rank = next(i for i, pattern in enumerate(_PATTERNS) if fnmatch.fnmatch(path.name, pattern))
            sniffed += _PATTERNS[rank] == '*.json'
            if rank and (sniffed > _SNIFFED or not _looks_like_coco(path)):
                continue
            name = split_name(path.stem) or (split_name(path.parent.name) if path.parent != root else None)
            files.setdefault(name or 'all', []).append((rank, path))
    splits = {}
    for name, ranked in files.items():
        best = [path for rank, path in ranked if rank == min(ranked)[0]]
        if len(best) > 1:
            several = ' and '.join(str(path) for path in best[:3])
            raise UserError(f'{several} could both be the {name} annotations: leave one in {root}')
        splits[name] = CocoSplit(name, best[0], root, is_trainval=name == 'trainval')
    settle_trainval(splits)
    if len(splits) > 1:
        splits.pop('all', None)
    return _layout(root, splits), splits


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON file of any name has the lists of COCO's instances."""
    return all(has_text(path, key) for key in _KEYS) and not has_text(path, b'"segments_info"')


def _layout(root: Path, splits: dict[str, CocoSplit]) -> str:
    stems = [split.ann_file.stem for split in splits.values()]
    if any(stem.endswith('_annotations.coco') for stem in stems):
        return 'COCO format as Roboflow exports it'
    if any((subset := stem.removeprefix('instances_')) == 'default' or subset.istitle() for stem in stems):
        return 'COCO format as CVAT exports it'
    if all(split.ann_file.parent == root / 'annotations' for split in splits.values()):
        return 'COCO format'
    return f'COCO format, {" and ".join(os.path.relpath(split.ann_file, root) for split in splits.values())}'


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
    changes: dict[int, dict] = field(default_factory=dict)  # corrected values, by position in `annotations`
    needs_copy: bool = False
    wants_masks: bool = False
    trained: bool = False  # whether a model is trained on it
    with_objects: set = field(default_factory=set)  # ids of images in which something is used
    contents: CocoContents | None = None

    def tell(self, level: str, what: str, entries: Sequence, consequence: str = '', correcting: str = '',
             needed: bool = False, annotations: Sequence[int] = (), images: Sequence[int] = ()) -> bool:
        """Notes a problem if it has any entries; returns whether. Positions of annotations or images say where it can be seen."""
        if entries:
            self.problems.append(problem(level, self.split.name, what, entries, consequence, correcting, needed,
                                         annotations=annotations, images=images))
        return bool(entries)

    def named(self, positions: Sequence[int]) -> list[str]:
        """'annotation 7' for each position in `annotations`."""
        return list(map(self.split.content['annotations'].name, positions))

    def tell_counts(self, level: str, what: str, counts: collections.Counter, consequence: str = '',
                    correcting: str = '') -> bool:
        """`tell` of objects by class: 'what: 5 (circle 3, star 2)'."""
        if counts:
            which = some([f'{name} {count}' for name, count in counts.most_common()], 8)
            text = f'{what}: {counts.total()} ({which})' + (f'; {consequence}' if consequence else '')
            self.problems.append(Problem(level, self.split.name, text, correcting, level == CORRECTED, (), what, counts.total(),
                                         which, consequence))
        return bool(counts)


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
    given = content['annotations']
    for position, (image, category) in enumerate(zip(given.image_ids.tolist(), given.category_ids.tolist(), strict=True)):
        number = numbers.get(names.get(category))
        if image not in known or number is None or position in checked.left_out:
            continue
        entry = dict(id=len(annotations) + 1, image_id=image, category_id=number, bbox=given.boxes[position].tolist(),
                     area=float(given.areas[position]), iscrowd=int(given.crowd[position] > 0))
        if given.ignore[position] > 0:
            entry['ignore'] = 1
        if checked.wants_masks and (text := given.segmentation_text(position)):
            segmentation = given.segmentation(position) if checked.evaluated else None
            # By the first polygon, pycocotools judges all.
            entry['segmentation'] = valid_polygons(segmentation) if isinstance(segmentation, list) else text
        annotations.append(entry | checked.changes.get(position, {}))
    categories = [dict(id=number, name=name) for name, number in numbers.items()]
    return dict(images=kept, annotations=annotations, categories=categories)


def encode_coco(content: dict) -> bytes:
    """An annotation file of this content."""
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:  # file names that are no UTF-8, for which Python has escapes
        return json.dumps(content, default=lambda raw: json.loads(bytes(raw))).encode()
