"""The layouts in which people, tools and public data sets leave images with masks: a table, and a function for each."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ralamala_mm.errors import UserError

from .class_names import CITYSCAPES_IDS, NAME_FILES, ClassNames
from .locating import holds_masks, is_hidden, settle_trainval, subfolders, walk_folders
from .mask_files import read_mask
from .mask_folders import IMAGE_ENDINGS, MaskSplit, images_in, is_mask
from .mask_merging import find_objects, with_background
from .report import is_image, some, split_name

Splits = dict[str, MaskSplit]
_DEPTH = 2  # folders below the one that was given: VOCdevkit/VOC2012
_PROBED = 20  # files of a folder that are looked at
_IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'img_dir', 'inputs', '701_stillsraw_full')
_MASK_FOLDERS = ('masks_machine', 'masks_human', 'masks_instances', 'labeledapproved_full', 'gtfine', 'gtcoarse')
_PREFERRED = ('masks_machine', 'masks_instances')  # of Supervisely's folders of the same masks
_VOC_LISTS = Path('ImageSets', 'Segmentation')
_VOC_MASKS = ('SegmentationClassPNG', 'SegmentationClass')  # labelme used to write arrays into the second
_VOC_NAME = re.compile(r'\d{4}_\d{6}')  # of Pascal VOC's own images
_TASK = re.compile(r'task-\d+-annotation-\d+-by-')  # Label Studio's masks
_SEGNET = '/SegNet/CamVid/'  # begins the paths in SegNet's lists
_SEGNET_CLASSES = ('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree', 'SignSymbol', 'Fence', 'Car', 'Pedestrian', 'Bicyclist')


def find_masks(root: Path) -> tuple[str, Splits]:
    """The splits of a folder by name ('train', 'val', 'test', or 'all'), and a word for its layout; none if there are none.

    Raises:
        UserError: several folders could be the same, or the layout is known and cannot be read as it is.
    """
    for depth in range(_DEPTH + 1):
        level = [folder for folder in walk_folders(root, depth) if len(folder.relative_to(root).parts) == depth]
        found = [(folder, *layout) for folder in level if (layout := _layout_of(folder))[1]]
        if len(found) > 1 and (joined := _of_each_split(found)):
            return f'{found[0][1]}, in a folder for each split', joined
        if len(found) > 1:
            raise UserError(f'{found[0][0]} and {found[1][0]} both hold images and masks: give one of them to --data')
        if found:
            folder, layout, splits = found[0]
            return layout + (f', in the folder {folder.relative_to(root)}' if depth else ''), splits
    return _LAYOUTS[-1][0], {}


def _of_each_split(found: list[tuple[Path, str, Splits]]) -> Splits:
    """Data sets that lie in folders of different splits and have none themselves, as one; none if they are something else."""
    names = [split_name(folder.name) for folder, _, _ in found]
    if None in names or len(set(names)) < len(names) or any(set(splits) != {'all'} for _, _, splits in found):
        return {}
    joined = {name: replace(splits['all'], name=name) for name, (_, _, splits) in zip(names, found, strict=True)}
    settle_trainval(joined)
    return joined


def _layout_of(root: Path) -> tuple[str, Splits]:
    for recognize, advice in _REFUSED:
        if sign := recognize(root):
            raise UserError(f'{root} holds {advice.format(sign=sign)}')
    for layout, find in _LAYOUTS:
        splits = find(root)
        settle_trainval(splits)
        if len(splits) > 1:
            splits.pop('all', None)
        if splits:
            splits = _merged({name: replace(split, root=root) for name, split in splits.items()})
            unused = _without_masks(root, splits)
            return layout + (f'; without masks, and not used: {", ".join(unused)}' if unused else ''), splits
    return '', {}


def _without_masks(root: Path, splits: Splits) -> list[str]:
    """Folders of images of other splits, as those of a challenge whose masks are kept back."""
    used = {folder for split in splits.values() for folder in (split.image_dir, *split.image_dir.parents)}
    return [str(folder.relative_to(root)) for folder in walk_folders(root, 2)
            if folder not in used and (name := split_name(folder.name)) and name != 'trainval' and name not in splits
            and _role([part.lower() for part in folder.relative_to(root).parts])[0] == 'image'
            and images_in(folder)]


def _merged(splits: Splits) -> Splits:
    """With masks of one object each merged, all splits with the same classes."""
    for several in (True, False):  # if one split has several for an image, those of the others are of one object each too
        for name, split in splits.items():
            if not (split.merged or split.mask_ending) and (several or any(other.merged for other in splits.values())):
                merged = find_objects(split.all_stems, split.mask_dir, split.mask_names, several)
                splits[name] = replace(split, merged=merged)
    if differing := [name for name, split in splits.items() if not split.merged]:
        if len(differing) < len(splits):
            raise UserError(f'the masks of {" and ".join({*splits} - {*differing})} are of one object each, and those of '
                            f'{" and ".join(differing)} are not: make all alike')
        return splits
    classes = with_background(name for split in splits.values() for name in split.merged.classes)
    return {name: replace(split, merged=replace(split.merged, classes=classes)) for name, split in splits.items()}


def _images(folder: Path) -> list[str]:
    """Names of the images in a folder itself."""
    return sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name) and not is_hidden(entry.name))


def _only(folders: list[Path], what: str) -> Path:
    preferred = next((folder for name in _PREFERRED for folder in folders if folder.name == name), None)
    if len(folders) > 1 and preferred is None:
        raise UserError(f'{" and ".join(map(str, folders[:3]))} could both be the {what}: leave one')
    return preferred or folders[0]


# Known layouts that cannot be read as they are.


def _full_ade20k(root: Path) -> str:
    patterns = ('index_ade20k.*', 'images/ADE/training', 'ADE/training', '*_seg.png', '*/ADE_*_seg.png', '*/*/ADE_*_seg.png',
                'images/training/*/*/ADE_*_seg.png')
    found = (path for pattern in patterns for path in root.glob(pattern) if '_seg' not in path.name or path.name[:4] == 'ADE_')
    return next((path.name for path in found), '')


def _label_studio(root: Path) -> str:
    names = (name for folder in walk_folders(root, 1) for name in islice(_images(folder), _PROBED))
    return next(filter(_TASK.match, names), '')


def _voc_without_images(root: Path) -> str:
    found = [name for name in _VOC_MASKS if (root / name).is_dir()]
    return found[0] if found and not (root / 'JPEGImages').is_dir() else ''


def _arrays(root: Path) -> str:
    found = [name for name in _VOC_MASKS if (root / name).is_dir()]
    arrays = [path.name for name in found for path in sorted((root / name).glob('*.npy'))]
    return arrays[0] if arrays and not any(images_in(root / name) for name in found) else ''


_REFUSED: tuple[tuple[Callable[[Path], str], str], ...] = (
    (_full_ade20k, 'the full ADE20K ({sign}), whose *_seg.png have colors for classes and instances: take ADEChallengeData2016, '
                   'which has a mask of 150 classes for each image'),
    (_label_studio, 'masks as Label Studio exports them ({sign}), named by the numbers of tasks and not by the images: rename '
                    'each to IMAGE_CLASS_NUMBER.png; the JSON export says which image a task has'),
    (_voc_without_images, 'masks in {sign} and no images in JPEGImages: export with images (in CVAT: "Save images"), or copy '
                          'them to JPEGImages'),
    (_arrays, 'masks as NumPy arrays ({sign}): export them as PNG, as labelme2voc.py does'),
)


# Layouts that are read.


def _cityscapes(root: Path) -> Splits:
    """leftImg8bit/train/aachen/*_leftImg8bit.png with gtFine/train/aachen/*_gtFine_labelIds.png; gtCoarse is not used."""
    images, masks = (next(iter([*root.glob(name), *root.glob(f'*/{name}')]), None) for name in ('leftImg8bit', 'gtFine'))
    if images is None or masks is None:
        return {}
    by_split = {name: (folder, masks / folder.name) for folder in subfolders(images)
                if (name := split_name(folder.name) or 'all') and (masks / folder.name).is_dir()}
    endings = ('_gtFine_labelTrainIds.png', '_gtFine_labelIds.png')
    counts = {name: [sum(mask.endswith(ending) for mask in images_in(folder)) for ending in endings]
              for name, (_, folder) in by_split.items()}
    if not any(map(any, counts.values())):
        raise UserError(f'{masks} has no masks that end in {endings[1]}: unpack gtFine_trainvaltest.zip into {root}')
    of_training = all(trained >= ids for trained, ids in counts.values())
    own = list(root.glob('label_colors.txt'))  # written by datumaro for other classes
    classes = None if own else _cityscapes_classes(masks, of_training)
    ending = endings[0] if of_training else endings[1]
    splits = {name: MaskSplit(name, *folders, mask_ending=ending, classes=classes) for name, folders in by_split.items()
              if any(counts[name])}
    if classes and 'test' in splits and not _has_labels(splits['test']):
        del splits['test']
    return splits


def _cityscapes_classes(path: Path, of_training: bool) -> ClassNames:
    from mmseg.datasets import CityscapesDataset

    known = CityscapesDataset.METAINFO
    return ClassNames(tuple(known['classes']), tuple(map(tuple, known['palette'])), path,
                      tuple(range(len(known['classes']))) if of_training else CITYSCAPES_IDS, others_ignored=True)


def _has_labels(split: MaskSplit) -> bool:
    """Whether some of the first masks have a class; those of Cityscapes' test images are kept back."""
    return any(set(read_mask(split, stem).pixels) & set(split.classes.values) for stem in split.all_stems[:_PROBED])


def _voc(root: Path) -> Splits:
    """JPEGImages, SegmentationClass and ImageSets/Segmentation/*.txt: Pascal VOC itself, CVAT, datumaro, labelme."""
    images = root / 'JPEGImages'
    masks = next((root / name for name in _VOC_MASKS if (root / name).is_dir()), None)
    if masks is None or not images.is_dir() or not images_in(masks):
        return {}
    lists: dict[str, list[Path]] = {}
    for path in sorted((root / _VOC_LISTS).glob('*.txt')):
        lists.setdefault(split_name(path.stem) or 'all', []).append(path)
    splits = {}
    for name, paths in lists.items():
        exact = [path for path in paths if path.stem == name]
        if len(paths) > 1 and not exact and (name != 'all' or len(lists) == 1):
            raise UserError(f'several lists in {root / _VOC_LISTS} are for {name}: leave one')
        stems = _stems_in((exact or paths)[0])
        splits[name] = MaskSplit(name, images, masks, stems, classes=_voc_classes(root, stems))
    return splits or {'all': MaskSplit('all', images, masks)}


def _stems_in(path: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in path.read_text(encoding='utf-8-sig', errors='replace').splitlines() if line.strip()]
    return tuple(os.path.splitext(line)[0] if is_image(line) else line for line in lines)


def _voc_classes(root: Path, stems: tuple[str, ...]) -> ClassNames | None:
    """The 20 classes and the background, if the images are Pascal VOC's own."""
    if not stems or not all(map(_VOC_NAME.fullmatch, stems)) or any((root / name).exists() for name in NAME_FILES):
        return None
    from mmseg.datasets import PascalVOCDataset

    known = PascalVOCDataset.METAINFO
    return ClassNames(tuple(known['classes']), tuple(map(tuple, known['palette'])), root)


def _pairs(root: Path) -> Splits:
    """Lists of pairs of paths: SegNet's CamVid, and datumaro's export of that name."""
    splits = {}
    for path in sorted(root.glob('*.txt')):
        if path.name in NAME_FILES or is_hidden(path.name):
            continue
        lines = [line for line in path.read_text(encoding='utf-8-sig', errors='replace').splitlines() if line.strip()]
        pairs = [_pair(line) for line in lines]
        if not lines or None in pairs or not any(mask for _, mask in pairs):
            continue
        classes = None
        if all(line.startswith(_SEGNET) for line in lines) and not any((root / name).exists() for name in NAME_FILES):
            classes = ClassNames(_SEGNET_CLASSES, None, path, tuple(range(len(_SEGNET_CLASSES))), others_ignored=True)
        name = split_name(path.stem) or 'all'
        splits[name] = replace(_split_of_pairs(name, path, pairs), classes=classes)
    return splits


def _pair(line: str) -> tuple[str, str] | None:
    """The image and the mask ('' for none) in a line such as `/train/a.png trainannot/a.png` or `"a b.png" "c d.png"`."""
    quoted = re.fullmatch(r'\s*"([^"]+)"\s+"([^"]*)"\s*', line)
    found = quoted.groups() if quoted else (*re.split(r'[\s,;]+', line.strip()), '')[:2] if len(line.split()) < 3 else ()
    return (found[0], found[1]) if found and is_image(found[0]) and (is_image(found[1]) or not found[1]) else None


def _split_of_pairs(name: str, path: Path, pairs: list[tuple[str, str]]) -> MaskSplit:
    places, stems = set(), []
    for image, mask in pairs:
        image, mask = (_in_root(path.parent, one) for one in (image, mask or image))
        while image.parent.name == mask.parent.name and image.parent != mask.parent:  # cities, dates
            image, mask = (Path(one.parent.parent, f'{one.parent.name}\0{one.name}') for one in (image, mask))
        base, suffix = os.path.splitext(image.name)
        ending = next((ending for ending in IMAGE_ENDINGS if base.endswith(ending)), '')
        stem = base.removesuffix(ending)
        stems.append(stem.replace('\0', os.sep))
        if image != mask:
            places.add((image.parent, ending + suffix, mask.parent, mask.name.removeprefix(stem)))
    if len(places) != 1:
        raise UserError(f'the pairs in {path} lie in several folders or differ in their endings ({_shown(places)}): '
                        'MMSegmentation reads one folder of images and one of masks, with one ending each')
    image_dir, image_ending, mask_dir, mask_ending = places.pop()
    return MaskSplit(name, image_dir, mask_dir, tuple(stems), image_ending=image_ending, mask_ending=mask_ending)


def _shown(places: set) -> str:
    return some(sorted(f'{image_dir.name}/*{image}, {mask_dir.name}/*{mask}' for image_dir, image, mask_dir, mask in places), 2)


def _in_root(root: Path, path: str) -> Path:
    """A path in a list, relative to the list's folder: its first folders may be those of another machine."""
    parts = [part for part in path.replace('\\', '/').split('/') if part not in ('', '.')]
    ways = (root.joinpath(*parts[i:]) for i in range(len(parts)))
    return next((way for way in ways if way.parent.is_dir()), root.joinpath(*parts))


def _folders_of_images(root: Path) -> Splits:
    """A folder for each image: ID/images/ID.png with ID/masks/*.png, as in Kaggle's Data Science Bowl 2018."""
    splits = {}
    for folder in [root, *subfolders(root)]:
        inner = [one for one in subfolders(folder) if (one / 'images').is_dir() and (one / 'masks').is_dir()]
        if not inner or not all(map(_own_image, inner[:_PROBED])):
            continue
        masks = [f'{one.name}/masks/{name}' for one in inner for name in _images(one / 'masks')]
        merged = find_objects([one.name for one in inner], folder, masks)
        if merged is None:
            raise UserError(f'the masks in {inner[0] / "masks"} are not of one object each, with 0 and one other value')
        files = {f'{one}/images/{one}': found for one, found in merged.files.items()}
        name = (split_name(folder.name) if folder != root else None) or 'all'
        splits[name] = MaskSplit(name, folder, folder, tuple(sorted(files)), merged=replace(merged, files=files),
                                 image_ending=os.path.splitext(_own_image(inner[0]))[1])
    return splits


def _own_image(folder: Path) -> str:
    """The image in `ID/images` that is called ID, or ''."""
    names = _images(folder / 'images')
    return names[0] if len(names) == 1 and os.path.splitext(names[0])[0] == folder.name else ''


def _folders(root: Path) -> Splits:
    """A folder of images and one of masks for each split, or one pair that lists divide: ADE20K, MMSegmentation, CamVid, …"""
    found: dict[tuple[str, str], list[Path]] = {}  # by role and split
    for folder in [inner for outer in subfolders(root) for inner in (outer, *subfolders(outer))]:
        parts = [part.lower() for part in folder.relative_to(root).parts]
        role, split = _role(parts)
        several = found.setdefault((role, split), [])
        if role and not (several and several[-1] == folder.parent) and _holds_images(folder, split):
            several.append(folder)
    splits = {}
    for name in ('train', 'trainval', 'val', 'test', 'all'):
        images, masks = found.get(('image', name)), found.get(('mask', name))
        if images and masks and not (name == 'all' and splits):
            folders = _only(images, f'{name} images'), _only(masks, f'{name} masks')
            splits[name] = MaskSplit(name, *map(_innermost, folders))
    return _divided_by_lists(splits['all'], root) if 'all' in splits else splits


def _role(parts: list[str]) -> tuple[str, str]:
    """'image', 'mask' or '' for a folder of these parts of its path, and its split."""
    split = next((split for part in parts if (split := split_name(part))), 'all')
    if any(holds_masks(part) or part in _MASK_FOLDERS for part in parts):
        return 'mask', split
    return 'image' if split != 'all' or any(part in _IMAGE_FOLDERS for part in parts) else '', split


def _holds_images(folder: Path, split: str) -> bool:
    """Whether there are images in a folder or in folders of it: cities, dates, or images' names; not those for another role."""
    if _images(folder):
        return True
    roles = ((inner, *_role([inner.name.lower()])) for inner in subfolders(folder))
    return any(images_in(inner) for inner, role, named in roles
               if not role or (role == 'image' and 'all' not in (named, split)))  # train/masks/train_1, the split being known


def _innermost(folder: Path) -> Path:
    """The only folder in a folder that holds nothing else, as Oxford-IIIT Pet's annotations/trimaps."""
    inner = [one for one in subfolders(folder) if images_in(one)]
    return inner[0] if len(inner) == 1 and not _images(folder) else folder


def _divided_by_lists(split: MaskSplit, root: Path) -> Splits:
    """One pair of folders in the parts that train.txt, val.txt, … beside them name, as fastai's CamVid has a valid.txt."""
    known, lists = set(split.all_stems), {}
    for path in sorted(root.glob('*.txt')):
        name = split_name(path.stem)
        if name and path.stem.lower() in ('train', 'training', 'val', 'valid', 'validation', 'test', 'trainval'):
            stems = _stems_in(path)
            if 2 * len(known.intersection(stems)) > len(stems):  # what is missing is reported
                lists[name] = split.only(name, stems)
    if lists and not {'train', 'trainval'} & set(lists):
        listed = {stem for part in lists.values() for stem in part.stems}
        lists['train'] = split.only('train', sorted(known - listed))
    return lists or {'all': split}


def _beside(root: Path) -> Splits:
    """Masks beside their images, a_mask.png and a.jpg, in a folder for each split or in one: Roboflow, DeepGlobe."""
    found: dict[str, list[Path]] = {}
    for folder in [root, *subfolders(root)]:
        names = _images(folder)
        if 0 < sum(map(is_mask, names)) < len(names):
            found.setdefault((split_name(folder.name) if folder != root else None) or 'all', []).append(folder)
    folders = {name: _only(several, f'{name} images and masks') for name, several in found.items()}
    return {name: MaskSplit(name, folder, folder) for name, folder in folders.items()}


_LAYOUTS: tuple[tuple[str, Callable[[Path], Splits]], ...] = (
    ('Cityscapes', _cityscapes),
    ('Pascal VOC\'s folders, as CVAT exports them', _voc),
    ('pairs of images and masks in lists, as CamVid', _pairs),
    ('a folder for each image, with a mask for each object', _folders_of_images),
    ('folders of images and masks', _folders),
    ('masks beside their images', _beside),
)
