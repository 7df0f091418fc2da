"""`--data DIR` for segmentors: folders of images and masks, looked at, reported, and put into the config."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict

from ..classes import config_classes, set_classes
from ..walking import datasets_of, replace_transforms
from .class_names import ClassNames, read_class_names
from .mask_check import IGNORED, CheckedMasks, Mask, check_masks, too_many_colours, write_converted
from .mask_files import MaskSplit, find_masks
from .report import ERROR, MENDED, NOTE, Problem, Report, problem, some
from .splits import HELD_OUT, hold_out


@dataclass(frozen=True)
class Reading:
    """How masks become classes."""

    classes: Sequence[str]
    first_is_ignored: bool = False  # ADE20K's 0, `reduce_zero_label`
    colours: Sequence[tuple[int, int, int]] | None = None
    convert: Callable[[np.ndarray], np.ndarray] | None = None  # None: the values are the classes

    def is_known(self, value: int) -> bool:
        return value == IGNORED or value < len(self.classes) + self.first_is_ignored


def use_mask_folder(config: Config, root: Path, modes: Sequence[str], show_progress: bool = True) -> Report | None:
    """Puts a folder into a segmentor's config: paths, classes, heads.

    Args:
        config: changed in place, unless the report has errors.
        root: the folder.
        modes: the data loaders that will be used, of 'train', 'val', 'test'.
        show_progress: print how far it is when it takes long.

    Returns:
        The report, or None if the folder holds no images with masks, or none to train on when that is asked for.

    Raises:
        UserError: masks do not bear the images' names, or a list of class names cannot be read.
    """
    layout, splits = find_masks(root)
    training = splits.get('train') or splits.get('all')
    if not splits or (training is None and 'train' in modes):
        return None
    report = Report(str(root), layout)
    validation = splits.get('val') or splits.get('test')
    if validation is None:
        rest, held_out = hold_out(training.all_stems)
        report.problems.append(Problem(NOTE, 'val', f'there is no validation split: every {HELD_OUT}th image is held out for it'))
        training, validation = training.only('train', rest), training.only('val', held_out)
    chosen = dict(train=training, val=validation, test=splits.get('test') or validation)
    used = {mode: split for mode in modes if (split := chosen[mode])}
    checked = {split.name: check_masks(split, show_progress) for split in dict.fromkeys(used.values())}
    own = _is_the_config_s_own(config, root, {mode: checked[split.name] for mode, split in used.items()})
    if not own and training and training.name not in checked:  # whose masks say which classes there are
        checked = {training.name: check_masks(training, show_progress), **checked}
    for masks in checked.values():
        report.problems += _file_problems(masks)
    reading = _config_reading(config) if own else _find_reading(root, checked, report)
    for masks in checked.values():
        report.splits.append((masks.split.name, _summary(masks, root)))
        if reading and not reading.convert:
            report.problems += _value_problems(masks, reading)
    if reading:
        report.classes = _shares(reading, next(iter(checked.values())))
    if report.errors:
        return report

    if not own:
        set_classes(config, reading.classes, reading.colours)
        for _, dataset in datasets_of(config):
            dataset.type, dataset.reduce_zero_label = 'BaseSegDataset', False
        replace_transforms(config, lambda transform: transform.pop('reduce_zero_label', None))
    _set_paths(config, root, chosen, checked, reading, report)
    return report


def _file_problems(masks: CheckedMasks) -> list[Problem]:
    """What is wrong with the files, whatever their values mean."""
    name = masks.split.name
    sizes = [f'{stem}: image {mask.image_size[0]}×{mask.image_size[1]}, mask {mask.size[0]}×{mask.size[1]}'
             for stem, mask in masks.masks.items() if mask.image_size and mask.kind != 'broken' and mask.image_size != mask.size]
    broken = masks.stems(lambda mask: mask.kind == 'broken')
    found = [
        (MENDED, masks.missing, 'images without a mask', 'left out'),
        (NOTE, masks.unpaired, 'masks without an image', 'not used'),
        (NOTE, masks.split.other_suffixes, f'images that do not end in {masks.split.image_suffix} as most do', 'not used'),
        (ERROR, sizes, 'masks of another size than their image', ''),
        (ERROR, broken, 'masks that cannot be read', ''),
        (ERROR, masks.stems(lambda mask: mask.kind == 'deep'), f'masks with values above {IGNORED}', ''),
    ]
    return [problem(level, name, what, entries, consequence) for level, entries, what, consequence in found if entries]


def _value_problems(masks: CheckedMasks, reading: Reading) -> list[Problem]:
    """Values that stand for no class: on a GPU they would end training with an assertion that names nothing."""
    wrong = {stem: values for stem, mask in masks.masks.items() if mask.kind == 'index'
             and (values := [value for value in mask.pixels if not reading.is_known(value)])}
    if not wrong:
        return []
    values = sorted({value for values in wrong.values() for value in values})
    top = len(reading.classes) - 1 + reading.first_is_ignored
    return [problem(ERROR, masks.split.name, 'masks with values outside the classes', list(wrong),
                    f'values {some(values, 8)}, where 0 to {top} and {IGNORED} (ignored) may be')]


def _is_the_config_s_own(config: Config, root: Path, checked: dict[str, CheckedMasks]) -> bool:
    """Whether the folder is the data set that the config is written for, such as ADE20K in another place.

    Args:
        config: with its own paths yet.
        root: the folder.
        checked: the masks of each mode.
    """
    for mode, dataset in datasets_of(config, list(checked)):
        prefixes = dataset.get('data_prefix') or {}
        if not all(value and (root / value).is_dir() for value in prefixes.values()) or read_class_names(root):
            return False
        masks = checked[mode]
        if 'ADE20K' in dataset.type:  # many people's own data lies in ADE20K's folders
            return all(Path(stem).name.startswith('ADE_') for stem in masks.masks)
        return all(mask.kind == 'index' for mask in masks.masks.values()) and max(
            (value for value in masks.pixels if value != IGNORED), default=0) < len(config_classes(config))
    return False


def _config_reading(config: Config) -> Reading:
    _, dataset = next(datasets_of(config))
    return Reading(config_classes(config), dataset.get('reduce_zero_label', 'ADE20K' in dataset.type))


def _find_reading(root: Path, checked: dict[str, CheckedMasks], report: Report) -> Reading | None:
    """What the masks' values or colours stand for; None, and a problem in the report, if that cannot be told."""
    names = read_class_names(root)
    masks = [mask for part in checked.values() for mask in part.masks.values()]
    pixels = set().union(*(mask.pixels for mask in masks)) if masks else set()
    where = ', '.join(checked)
    if any(mask.kind == 'colour' for mask in masks):
        return _find_colours(names, masks, pixels, where, report)
    convert = _first_channel if any(mask.kind == 'grey' for mask in masks) else None
    if pixels == {0, IGNORED}:
        text = 'masks hold 0 and 255 alone: 255 is taken for the object, not for "ignore"'
        report.problems.append(Problem(MENDED, where, text))
        classes = names.names if names and len(names.names) == 2 else ('background', names.names[0] if names else 'object')
        return Reading(classes, convert=lambda values: (_first_channel(values) == IGNORED))
    if convert:
        report.problems.append(Problem(MENDED, where, 'masks are grey pictures of three channels; the first one is used'))
    if names:
        return Reading(names.names, colours=names.colours, convert=convert)
    count = max((value for value in pixels if isinstance(value, int) and value != IGNORED), default=0) + 1
    report.problems.append(Problem(NOTE, where, f'no list of class names was found: a file classes.txt in {root}, one name a '
                                   'line, gives them'))
    return Reading([f'class {i}' for i in range(max(count, 2))], convert=convert)


def _find_colours(names: ClassNames | None, masks: Sequence[Mask], pixels: set, where: str, report: Report) -> Reading | None:
    """Coloured masks need a list that says which colour is which class."""
    colours = [mask for mask in masks if mask.kind in ('colour', 'grey')]
    shown = sorted({(pixel if isinstance(pixel, tuple) else (pixel,) * 3) for mask in colours[:50] for pixel in mask.pixels})
    if any(too_many_colours(mask) for mask in colours):
        most = max(len(mask.pixels) for mask in colours)
        report.problems.append(Problem(ERROR, where, f'masks have up to {most} colours: they are photographs, or smoothed or '
                                       'saved as JPEG'))
        return None
    if names is None or names.colours is None:
        report.problems.append(Problem(
            ERROR, where, f'{len(colours)} masks are coloured (RGB), and nothing says which colour is which class: put a '
            f'labelmap.txt with lines like "name:r,g,b::" beside them; colours found: {some(shown, 6)}'))
        return None
    known = dict(zip(names.colours, range(len(names.names)), strict=True))
    if unknown := [colour for colour in shown if colour not in known]:
        report.problems.append(Problem(ERROR, where, f'masks have colours that {names.path} does not list: {some(unknown, 6)}'))
        return None

    def convert(values: np.ndarray) -> np.ndarray:
        classes = np.full(values.shape[:2], IGNORED, np.uint8)
        for colour, number in known.items():
            classes[(values == np.array(colour, np.uint8)).all(-1)] = number
        return classes

    text = f'masks are coloured (RGB); {names.path.name} says which colour is which class'
    report.problems.append(Problem(MENDED, where, text))
    return Reading(names.names, colours=names.colours, convert=convert)


def _first_channel(values: np.ndarray) -> np.ndarray:
    return values[..., 0] if values.ndim == 3 else values


def _shares(reading: Reading, masks: CheckedMasks) -> list[tuple[str, str]]:
    """The share of training pixels of each class."""
    pixels = masks.pixels
    total = sum(pixels.values()) or 1

    def share(number: int) -> float:
        if reading.convert is None or not reading.colours:
            values = [number + reading.first_is_ignored, (number,) * 3]
            if reading.convert and set(pixels) == {0, IGNORED}:
                values = [0 if number == 0 else IGNORED]
        else:
            colour = tuple(reading.colours[number])
            values = [colour, *([colour[0]] if len(set(colour)) == 1 else [])]  # a mask of one grey colour counts by value
        return sum(pixels[value] for value in values) / total

    shares = {name: share(i) for i, name in enumerate(reading.classes)}
    return [(name, f'{shares[name]:.1%}') for name in sorted(shares, key=shares.__getitem__, reverse=True)]


def _summary(masks: CheckedMasks, root: Path) -> str:
    sizes = sorted({mask.image_size for mask in masks.masks.values() if mask.image_size}, key=lambda size: size[0] * size[1])
    empty = masks.stems(lambda mask: set(mask.pixels) <= {0, IGNORED, (0, 0, 0)} and IGNORED not in mask.pixels)
    shown = ' to '.join(dict.fromkeys(f'{width}×{height}' for width, height in sizes[:1] + sizes[-1:]))
    split = masks.split
    return (f'{len(masks.masks)} images of {shown} with masks, {len(empty)} of them empty; '
            f'{split.image_dir.relative_to(root)}/*{split.image_suffix}, {split.mask_dir.relative_to(root)}/*{split.mask_suffix}')


def _set_paths(config: Config, root: Path, chosen: dict[str, MaskSplit], checked: dict[str, CheckedMasks], reading: Reading,
               report: Report) -> None:
    """Folders, suffixes and lists of the data sets; converted masks and lists go to the work directory."""
    folder = Path(config.work_dir, 'data').absolute()
    config.data_root = str(root)
    written = False
    for mode, dataset in datasets_of(config):
        split = chosen[mode]
        if split is None or split.name not in checked:
            continue  # not among the modes of this run
        masks = checked[split.name]
        mask_dir, mask_suffix, listed = split.mask_dir, split.mask_suffix, ''
        if reading.convert:
            mask_dir, mask_suffix = folder / 'masks' / split.name, '.png'
            for stem in masks.masks:
                write_converted(split.mask(stem), mask_dir / f'{stem}.png', reading.convert)
            written = True
        if split.stems is not None or masks.missing:
            listed = str(_write_list(folder / f'{split.name}.txt', list(masks.masks)))
            written = True
        masks_at = str(mask_dir) if reading.convert else os.path.relpath(mask_dir, root)
        dataset.update(data_root=str(root), ann_file=listed, img_suffix=split.image_suffix, seg_map_suffix=mask_suffix,
                       data_prefix=ConfigDict(img_path=os.path.relpath(split.image_dir, root), seg_map_path=masks_at))
    if written:
        report.problems.append(Problem(NOTE, 'all', f'lists and converted masks are in {folder}; your files stay as they are'))


def _write_list(path: Path, stems: Sequence[str]) -> Path:
    """In one move, as several processes may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.{os.getpid()}')
    unfinished.write_text('\n'.join(stems) + '\n')
    os.replace(unfinished, path)
    return path
