"""The worst images: a card for each, with its problem drawn on it, what is wrong and what to do."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ralamala_mm.analysis.pages import as_address
from ralamala_mm.datasets.contents import CocoContents, Contents, Example, MarkedObject, MaskContents
from ralamala_mm.datasets.validation import DataReport, Fault

from .drawing import draw_coco, draw_mask
from .findings import Finding, file_faults

CARDS = 12  # images in the page
_ALL, _SIZE = 'all boxes, a color for each class', 'orange: the annotated size'
_LISTED = 3  # objects whose numbers a card gives
# Kinds of faults of files that are no images: nothing is drawn of them.
_UNREADABLE = ('missing', 'empty', 'damaged', 'not an image', 'unreadable', 'undecodable', 'too large', 'channels', 'not finite')

Views = list[tuple[str, np.ndarray]]  # (caption, RGB image)


@dataclass
class Card:
    """An image of the page; without `views`, a text stands in its place."""

    anchor: str
    level: str
    split: str
    name: str
    what: str
    detail: str
    advice: str
    views: list[tuple[str, str]] = field(default_factory=list)  # (caption, address of its data)


@dataclass
class _Case:
    """What a card is made of."""

    finding: Finding
    name: str
    detail: str
    draw: Callable[[], Views]


def worst_cases(report: DataReport, findings: Sequence[Finding]) -> list[Card]:
    """Up to `CARDS` images, those of the worst findings first and of each kind about as many; findings get their anchors."""
    by_key: dict[tuple[str, str], list[_Case]] = defaultdict(list)
    of_key = {finding.key: finding for finding in reversed(findings)}
    for case in (*_of_contents(report.contents, of_key), *_of_faults(report, of_key)):
        by_key[case.finding.key].append(case)
    groups = [by_key[key] for key in dict.fromkeys(finding.key for finding in findings) if by_key[key]]
    counts = [0] * len(groups)
    while sum(counts) < CARDS and (left := [i for i, group in enumerate(groups) if counts[i] < len(group)]):
        for i in left[:CARDS - sum(counts)]:
            counts[i] += 1
    if sum(counts) < CARDS:
        groups.append(list(_extremes(report.contents))[:CARDS - sum(counts)])
        counts.append(len(groups[-1]))
    cards = []
    for group, count in zip(groups, counts, strict=True):
        for case in group[:count]:
            cards.append(_card(case, f'case-{len(cards) + 1}'))
            case.finding.anchor = case.finding.anchor or cards[-1].anchor
    return cards


def _card(case: _Case, anchor: str) -> Card:
    finding, views = case.finding, []
    try:
        views = [(caption, as_address(image)) for caption, image in case.draw()]
    except Exception as error:  # decoders of broken files raise whatever they come upon
        logging.getLogger(__name__).debug('%s is not drawn: %s', case.name, error)
    return Card(anchor, finding.level, finding.split, case.name, finding.what, case.detail, finding.advice, views)


def _of_contents(contents: Sequence[Contents], findings: dict[tuple[str, str], Finding]) -> Iterator[_Case]:
    for one in contents:
        for example in one.examples:
            finding = findings.get((example.problem.split, example.problem.what))
            if finding:
                yield (_of_mask if isinstance(one, MaskContents) else _of_coco)(one, example, finding)


def _of_coco(contents: CocoContents, example: Example, finding: Finding) -> _Case:
    name = contents.names[example.image]
    width, height = contents.sizes[example.image].tolist()
    details = [f'{one.name}, {one.label}: x {_short(one.box[0])}, y {_short(one.box[1])}, '
               f'{_short(one.box[2])} × {_short(one.box[3])} pixels' for one in example.objects[:_LISTED]]
    if len(example.objects) > _LISTED:
        details.append(f'{len(example.objects) - _LISTED} more')
    if not example.objects:
        details.append(f'{int((contents.images == example.image).sum())} objects')
    detail = f'{"; ".join(details)}. The image is annotated as {width}×{height}.'
    if name not in contents.files:
        return _Case(finding, name, detail, list)
    caption = 'orange: what it is about' if example.objects else _ALL
    if 'another size' in finding.what:
        caption = _SIZE
    return _Case(finding, name, detail, lambda: [(caption, draw_coco(contents, example.image, example.objects))])


def _extremes(contents: Sequence[Contents]) -> Iterator[_Case]:
    """What is most of all: objects or classes in an image, and the smallest object."""
    for one in contents:
        if not len(one.names):
            continue
        if isinstance(one, MaskContents):
            classes = (one.pixels[:, :-1] > 0).sum(1)
            image = int(classes.argmax())
            yield _of_mask(one, Example(None, image), _extreme(one, f'most classes in an image: {classes[image]}'))
            continue
        amounts = np.bincount(one.images, minlength=len(one.names))
        image = int(amounts.argmax())
        yield _of_coco(one, Example(None, image), _extreme(one, f'most objects in an image: {amounts[image]}'))
        areas = one.boxes[:, 2] * one.boxes[:, 3]
        if (areas > 0).any():
            smallest = int(np.where(areas > 0, areas, np.inf).argmin())
            box = tuple(one.boxes[smallest].tolist())
            marked = MarkedObject('object', one.classes[one.labels[smallest]], box)
            yield _of_coco(one, Example(None, int(one.images[smallest]), (marked,)),
                           _extreme(one, f'smallest object: {_short(box[2])} × {_short(box[3])} pixels'))


def _extreme(contents: Contents, what: str) -> Finding:
    return Finding('extreme', contents.split, what, 0, '', '')


def _of_mask(contents: MaskContents, example: Example, finding: Finding) -> _Case:
    image, mask = contents.names[example.image], contents.masks[example.image]
    return _Case(finding, _last(image), f'The mask is {_last(mask)}.', lambda: draw_mask(image, mask, contents.values))


def _of_faults(report: DataReport, findings: dict[tuple[str, str], Finding]) -> Iterator[_Case]:
    for fault in file_faults(report):
        finding = findings.get((fault.split, fault.kind))
        if finding:
            detail = fault.text
            for path in filter(None, (fault.file, fault.image)):
                detail = detail.replace(path, _last(path))
            yield _Case(finding, _last(fault.image or fault.file), f'{detail[:1].upper()}{detail[1:]}.',
                        _drawing_of(fault, report.contents))


def _drawing_of(fault: Fault, contents: Sequence[Contents]) -> Callable[[], Views]:
    if fault.image:
        values = next((one.values for one in contents if isinstance(one, MaskContents) and one.split == fault.split), {})
        return lambda: draw_mask(fault.image, fault.file, values)
    caption = _SIZE if fault.kind == 'other size' else _ALL
    return list if fault.kind in _UNREADABLE else lambda: _drawn(fault.file, contents, caption)


def _drawn(file: str, contents: Sequence[Contents], caption: str) -> Views:
    """An image with all of its boxes, wherever it is listed."""
    for one in contents:
        if isinstance(one, CocoContents) and (name := next((name for name, path in one.files.items() if path == file), None)):
            return [(caption, draw_coco(one, list(one.names).index(name)))]
    return []


def _last(path: str) -> str:
    return path.rpartition('/')[2]


def _short(value: float) -> str:
    return f'{value:.1f}'.removesuffix('.0').replace('-', '−')


