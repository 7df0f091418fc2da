"""What the values or colors of masks stand for, and masks written anew as classes."""

import collections
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from ralamala_mm.files import atomic_write

from .class_names import IGNORED, ClassNames, read_class_names
from .config import Color, config_classes, datasets_of, reduces_zero_label
from .images import image_size
from .mask_files import MANY, CheckedMasks, Mask, read_mask, read_values
from .mask_folders import MaskSplit
from .mask_merging import BACKGROUND, HALF, PURE, are_smoothed
from .report import CORRECTED, ERROR, NOTE, Problem, Report, problem, some

_FAR, _SPARSE = 30, 3  # values beyond these are no class indices: from 30 on, and three times as high as there are values
_MOST = 0.5  # share of pixels from which a class may be the background
_BACKGROUND = re.compile('background|void|unlabel|other|none|ignore', re.IGNORECASE)


@dataclass(frozen=True)
class MaskEncoding:
    """How masks become classes."""

    classes: Sequence[str]
    numbers: Mapping[int | Color, int]  # the class that each value or color stands for, or IGNORED
    palette: Sequence[Color] | None = None
    converts: bool = False  # whether masks are written anew; else their values are the classes
    cut: bool = False  # whether they are smoothed, and each value is taken for 0 or 255


def by_value(classes: Sequence[str], palette: Sequence[Color] | None = None, converts: bool = False,
             values: Sequence[int] | None = None) -> MaskEncoding:
    """Values are class indices from 0, or those that a list gives."""
    values = range(len(classes)) if values is None else values
    numbers = {value: i for i, value in enumerate(values)}
    return MaskEncoding(classes, {IGNORED: IGNORED} | numbers, palette, converts or list(values) != list(range(len(classes))))


def is_the_config_s_own(config: Config, root: Path, checked: Mapping[str, CheckedMasks]) -> bool:
    """Whether the folder is the data set that the config is written for, such as ADE20K in another place.

    Args:
        config: with its own paths yet.
        root: the folder.
        checked: the masks of each mode.
    """
    mode, dataset = next(datasets_of(config, list(checked)))
    prefixes = dataset.get('data_prefix') or {}
    masks = checked[mode]
    if masks.split.merged or not all(value and (root / value).is_dir() for value in prefixes.values()) or read_class_names(root):
        return False
    if 'ADE20K' in dataset.type:  # many people's own data lies in ADE20K's folders
        return all(Path(stem).name.startswith('ADE_') for stem in masks.masks)
    known = config_encoding(config).numbers
    return all(mask.kind == 'index' for mask in masks.masks.values()) and all(value in known for value in masks.pixels)


def config_encoding(config: Config) -> MaskEncoding:
    """As the config's data set type reads its masks; some, as ADE20K's, ignore 0."""
    _, dataset = next(datasets_of(config))
    classes = config_classes(config)
    if not reduces_zero_label(config, dataset):
        return by_value(classes)
    return MaskEncoding(classes, {0: IGNORED, **{i + 1: i for i in range(len(classes))}, IGNORED: IGNORED})


def find_encoding(root: Path, checked: Mapping[str, CheckedMasks], weights_classes: Sequence[str] | None,
                 report: Report) -> MaskEncoding | None:
    """What the masks' values or colors stand for; None, and a problem in the report, if nothing says so.

    Args:
        root: the folder.
        checked: the masks of each split.
        weights_classes: what the weights that are tested were trained on, if they say so.
        report: receives the problems.
    """
    split = next(iter(checked.values())).split
    names = split.classes or read_class_names(split.root) or read_class_names(root)
    where = ', '.join(checked)
    if split.merged:
        return _by_name(names, split.merged.classes, checked, where, weights_classes, report)
    cut = _cut_smoothed(names, checked, where, report)
    masks = [mask for part in checked.values() for mask in part.masks.values()]
    pixels = set().union(*(mask.pixels for mask in masks)) if masks else set()
    names = names and names.fitting([value for value in pixels if isinstance(value, int)])
    encoding = _by_their_values(names, masks, pixels, root, where, weights_classes, report)
    return encoding and replace(encoding, cut=cut)


def _by_their_values(names: ClassNames | None, masks: Sequence[Mask], pixels: set, root: Path, where: str,
                     weights_classes: Sequence[str] | None, report: Report) -> MaskEncoding | None:
    """What values or colors stand for, of one mask for each image."""
    if any(mask.kind == 'color' for mask in masks):
        return _by_color(names, masks, pixels, where, weights_classes, report)
    if pixels == {0, IGNORED} and not (names and names.values):
        text = 'masks hold 0 and 255 alone: 255 is taken for the object, not for "ignore"'
        report.problems.append(Problem(CORRECTED, where, text))
        default = names.names if names and len(names.names) == 2 else ('background', 'object')
        return MaskEncoding(weights_classes or default, {0: 0, IGNORED: 1}, converts=True)
    if names and weights_classes and tuple(names.names) != tuple(weights_classes):
        report.problems.append(Problem(ERROR, where, f'{names.path} names {some(names.names, 8)}; the weights were trained on '
                                       f'{some(weights_classes, 8)}'))
        return None
    grey = any(mask.kind == 'grey' for mask in masks)
    if grey:
        report.problems.append(Problem(CORRECTED, where, 'masks are grey images of three channels; one is used'))
    if names or weights_classes:
        _note_background(names, masks, where, report)
        encoding = by_value(names.names if names else weights_classes, names and names.colors, grey, names and names.values)
        return _ignoring_others(encoding, pixels, names, where, report) if names and names.others_ignored else encoding
    values = sorted(value for value in pixels if value != IGNORED)
    if len(values) > MANY:
        report.problems.append(Problem(ERROR, where, f'masks have {len(values)} different values: they were smoothed or saved as '
                                       f'JPEG; if they are classes, a file classes.txt in {root} with one name a line says so'))
        return None
    if values and _FAR <= values[-1] < IGNORED and values[-1] + 1 > _SPARSE * len(values):
        report.problems.append(Problem(ERROR, where, f'masks hold the values {some(sorted(pixels), 8)}, and classes are numbered '
                                       f'from 0 without gaps: a file classes.txt in {root} with lines like "{values[-1]} NAME" '
                                       'says which class each value is'))
        return None
    report.problems.append(Problem(NOTE, where, f'no list of class names was found: a file classes.txt in {root}, one name a '
                                   'line, gives them'))
    return by_value([f'class {i}' for i in range(max(values[-1:] + [1]) + 1)], converts=grey)


def _ignoring_others(encoding: MaskEncoding, pixels: set, names: ClassNames, where: str, report: Report) -> MaskEncoding:
    """For a known data set, whose other values are labels that are not trained."""
    others = sorted(value for value in pixels - set(encoding.numbers) if isinstance(value, int))
    if not others:
        return encoding
    text = f'values of no class are ignored, as in {names.path.name}: {some(others, 16)}'
    report.problems.append(Problem(CORRECTED, where, text))
    return replace(encoding, numbers={**encoding.numbers, **dict.fromkeys(others, IGNORED)}, converts=True)


def _by_name(names: ClassNames | None, classes: Sequence[str], checked: Mapping[str, CheckedMasks], where: str,
             weights_classes: Sequence[str] | None, report: Report) -> MaskEncoding | None:
    """Classes of masks of one object each: those that the files' names give, in the order of a list if there is one."""
    known = list(weights_classes or (names.names if names else classes))
    if BACKGROUND not in known and not weights_classes:
        known.insert(0, BACKGROUND)
    if unknown := sorted(set(classes) - set(known)):
        whose = 'the weights' if weights_classes else str(names.path)
        report.problems.append(Problem(ERROR, where, f'names of mask files have classes that are unknown to {whose}: '
                                       f'{some(unknown, 6)}; known are {some(known, 8)}'))
        return None
    text = f'masks of one object each are merged into one mask of {len(classes)} classes: {some(classes, 8)}'
    report.problems.append(Problem(CORRECTED, where, text))
    for name, part in checked.items():
        if overlap := sum(mask.overlap for mask in part.masks.values()):
            images = part.stems(lambda mask: mask.overlap > 0)
            report.problems.append(problem(NOTE, name, f'{overlap} pixels are in masks of several classes; the later of '
                                           f'{some(classes, 8)} is taken. Images', images))
    return MaskEncoding(known, {IGNORED: IGNORED, **{i: known.index(one) for i, one in enumerate(classes)}}, converts=True)


def _cut_smoothed(names: ClassNames | None, checked: Mapping[str, CheckedMasks], where: str, report: Report) -> bool:
    """Reads masks of 0 and 255 with smoothed edges anew, each value as the nearer one; whether they are such masks.

    They are if most pixels are nearly 0 or 255, and if the others are no classes, and no list gives them. DeepGlobe says of its
    masks that they are to be cut at 128; masks of one class as JPEG are alike.
    """
    masks = [mask for part in checked.values() for mask in part.masks.values() if mask.pixels]
    values = {value for mask in masks for pixel in mask.pixels for value in (pixel if isinstance(pixel, tuple) else (pixel,))}
    if names and names.colors:
        is_such = (all({*color} <= {0, IGNORED} for color in names.colors)
                   and all(mask.kind in ('color', 'grey') for mask in masks))
    else:
        is_such = ({0, IGNORED} <= values and all(mask.kind in ('index', 'grey') for mask in masks)
                   and not (names and (len(names.names) != 2 or names.values)))
    sizes = [mask.size[0] * mask.size[1] for mask in masks]
    pure = sum(mask.pure * size for mask, size in zip(masks, sizes, strict=True)) / max(1, sum(sizes))
    if not (is_such and are_smoothed(values) and pure >= PURE):
        return False
    for part in checked.values():
        part.masks = {stem: read_mask(part.split, stem, cut=True) if mask.pixels else mask for stem, mask in part.masks.items()}
    text = (f'masks are of 0 and 255 with smoothed edges ({1 - pure:.1%} of the pixels): values from {HALF} on are taken for '
            '255, the others for 0')
    report.problems.append(Problem(CORRECTED, where, text))
    return True


def _note_background(names: ClassNames | None, masks: Sequence[Mask], where: str, report: Report) -> None:
    """A list without a background, whose first class covers most of the images, lacks its first line, perhaps."""
    if names is None or names.values or any(_BACKGROUND.search(name) for name in names.names):
        return
    pixels = collections.Counter()
    for mask in masks:
        pixels.update(mask.pixels)
    share = pixels[0] / max(1, pixels.total())
    if share > _MOST:
        report.problems.append(Problem(NOTE, where, f'value 0 is {names.names[0]} by {names.path}, and {share:.0%} of the pixels '
                                       'have it: if it is the background, the list lacks a first line "background"'))


def _by_color(names: ClassNames | None, masks: Sequence[Mask], pixels: set, where: str, weights_classes: Sequence[str] | None,
               report: Report) -> MaskEncoding | None:
    """Colored masks need a list that says which color is which class."""

    def stop(text: str) -> None:
        report.problems.append(Problem(ERROR, where, text))

    kinds = [mask.kind for mask in masks]
    colors = sorted(pixel if isinstance(pixel, tuple) else (pixel,) * 3 for pixel in pixels)
    if any(mask.kind == 'color' and len(mask.pixels) > MANY for mask in masks):
        return stop(f'color masks have more than {MANY} colors: they are photographs, or were smoothed or saved as JPEG')
    if single := kinds.count('index'):
        return stop(f'{single} masks have one channel, the other {len(kinds) - single} are colored: make all alike')
    if names is None or names.colors is None:
        return stop(f'{len(masks)} masks are colored (RGB), and nothing says which color is which class: put a labelmap.txt '
                    f'with lines like "name:r,g,b::" beside them; colors found: {some(colors, 6)}')
    classes = list(weights_classes or names.names)
    if unknown := sorted(set(names.names) - set(classes)):
        return stop(f'{names.path.name} names {some(unknown)}, unknown to the weights, which were trained on {some(classes, 8)}')
    numbers = {color: classes.index(name) for name, color in zip(names.names, names.colors, strict=True)}
    if strange := [color for color in colors if color not in numbers]:
        return stop(f'masks have colors that {names.path} does not list: {some(strange, 6)}')
    text = f'masks are colored (RGB); {names.path.name} says which color is which class'
    report.problems.append(Problem(CORRECTED, where, text))
    grey = {color[0]: number for color, number in numbers.items() if len(set(color)) == 1}  # masks of one grey color
    return MaskEncoding(classes, {**numbers, **grey}, None if weights_classes else names.colors, converts=True)


def value_problems(masks: CheckedMasks, encoding: MaskEncoding) -> list[Problem]:
    """Values that stand for no class: on a GPU they would end training with an assertion that names nothing."""
    wrong = {stem: values for stem, mask in masks.masks.items() if mask.kind in ('index', 'grey')
             and (values := [value for value in mask.pixels if value not in encoding.numbers])}
    if not wrong:
        return []
    values = sorted({value for values in wrong.values() for value in values})
    top = max(value for value in encoding.numbers if isinstance(value, int) and value != IGNORED)
    background = ('; if 0 is the background, the list of classes lacks a first line "background"'
                  if values == [top + 1] and not any(map(_BACKGROUND.search, encoding.classes)) else '')
    grey = ('' if background or values[-1] < _FAR else
            f'; if they are classes, lines like "{values[0]} NAME" in classes.txt say which')
    return [problem(ERROR, masks.split.name, 'masks with values outside the classes', list(wrong),
                    f'values {some(values, 8)}, where 0 to {top} and {IGNORED} (ignored) may be{background}{grey}',
                    files=map(masks.split.mask, wrong))]


def shares(encoding: MaskEncoding, masks: CheckedMasks) -> list[tuple[str, str]]:
    """The share of pixels of each class, largest first."""
    pixels = masks.pixels
    total = sum(pixels.values()) or 1
    share = dict.fromkeys(range(len(encoding.classes)), 0.0)
    for value, number in encoding.numbers.items():
        if number != IGNORED:
            share[number] += pixels[value] / total
    return [(encoding.classes[number], f'{share[number]:.1%}') for number in sorted(share, key=share.__getitem__, reverse=True)]


def write_converted(split: MaskSplit, stem: str, target: Path, encoding: MaskEncoding) -> None:
    """Writes one mask as classes `[H, W]` uint8.

    Args:
        split: where the mask is, in values or colors of its own.
        stem: the image's name.
        target: the file to write, atomically.
        encoding: the class of each value or color; `IGNORED` for the rest.
    """
    values, _ = read_values(split, stem, image_size(split.image(stem)), encoding.cut)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    classes = np.full(values.shape[:2], IGNORED, np.uint8)
    for value, number in encoding.numbers.items():
        classes[(values == np.array(value, np.uint8)).all(-1)] = number  # a single value is compared with all three channels
    atomic_write(target, lambda unfinished: Image.fromarray(classes).save(unfinished, format='PNG'))
