"""What the page says, against plain loops over the annotations and masks."""

import base64
import collections
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from data_pages import DETECTOR, HOSTILE, SEGMENTOR, change, check, dictionaries, section, spoil, tables
from PIL import Image

from ralamala_mm.analysis.data_report import data_page
from ralamala_mm.analysis.data_report.drawing import draw_coco, draw_mask
from ralamala_mm.analysis.data_report.statistics import PER_IMAGE, SplitStatistics, bin_names, binned, statistics_of
from ralamala_mm.datasets.contents import CocoContents, MarkedObject, MaskContents
from ralamala_mm.datasets.validation import DataReport

ORANGE = (213, 94, 0)


def number(text: str) -> float:
    return float(text.replace(',', ''))


def bins_of(counts: list[int]) -> list[int]:
    """How many of the counts fall into each bin of the page."""
    ends = [*PER_IMAGE[1:], 10**9]
    return [sum(start <= count < end for count in counts) for start, end in zip(PER_IMAGE, ends, strict=True)]


def test_numbers_of_a_detector(root: Path, tmp_path: Path):
    def edit(content: dict) -> None:
        content['annotations'][0]['iscrowd'] = 1
        content['annotations'][1]['bbox'] = [500.0, 500.0, 20.0, 20.0]
        alone = content['annotations'][-1]['image_id']
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] != alone]

    change(root, 'train', edit)
    text = check(DETECTOR, root, tmp_path)[0].read_text()
    splits, classes = dictionaries(tables(section(text, 'splits'))[0]), dictionaries(tables(section(text, 'classes'))[0])
    per_image = tables(section(text, 'charts'))[0]
    assert per_image[0] == ['objects that are used', 'train: images', '%', 'val: images', '%']
    for split, column in (('train', 1), ('val', 3)):
        content = json.loads((root / f'annotations/instances_{split}.json').read_text())
        names = {category['id']: category['name'] for category in content['categories']}
        objects, images_with = collections.Counter(), collections.defaultdict(set)
        used = {image['id']: 0 for image in content['images']}
        small = 0
        for annotation in content['annotations']:
            name = names[annotation['category_id']]
            objects[name] += 1
            images_with[name].add(annotation['image_id'])
            used[annotation['image_id']] += not annotation['iscrowd'] and annotation['bbox'][0] < 128
            small += annotation['bbox'][2] * annotation['bbox'][3] < 32 * 32
        total = sum(objects.values())
        row = splits[split]
        empty = len(content['images']) - len({a['image_id'] for a in content['annotations']})
        assert number(row['images']) == len(content['images'])
        assert number(row['images opened']) == len(content['images']) - empty  # which training leaves out
        assert number(row['without objects']) == empty == (1 if split == 'train' else 0)
        assert number(row['objects']) == total
        assert number(row['not used']) == total - sum(used.values()) == (2 if split == 'train' else 0)
        assert number(next(value for key, value in row.items() if key.startswith('small'))) == round(100 * small / total, 1)
        assert set(classes) == set(names.values())
        for name in classes:
            assert number(classes[name][f'{split}: objects']) == objects[name]
            assert number(classes[name][f'{split}: images']) == len(images_with[name])
            assert number(classes[name][f'{split}: %']) == pytest.approx(100 * objects[name] / total, abs=0.06)
        assert [int(line[column]) for line in per_image[1:]] == bins_of(list(used.values()))
        if split == 'train':
            matrix = tables(section(text, 'together'))[0]
            for line in matrix[1:]:
                assert int(line[1]) == len(images_with[line[0]])
                for other, shown in zip(matrix[0][2:], line[2:], strict=True):
                    both = len(images_with[line[0]] & images_with[other])
                    assert shown == ('' if other == line[0] else f'{100 * both / len(images_with[line[0]]):.0f}')
    assert [line[0] for line in tables(section(text, 'classes'))[0][1:]] == sorted(
        classes, key=lambda name: -number(classes[name]['train: objects']))


@pytest.mark.parametrize('by_data', [True, False])
def test_numbers_of_a_segmentor(root: Path, tmp_path: Path, by_data: bool):
    text = check(SEGMENTOR, root, tmp_path, by_data)[0].read_text()
    classes, splits = dictionaries(tables(section(text, 'classes'))[0]), dictionaries(tables(section(text, 'splits'))[0])
    names = ['background', 'circle', 'square', 'triangle', 'star']
    assert set(classes) == set(names)
    for split in ('train', 'val'):
        masks = [np.asarray(Image.open(path)) for path in sorted((root / 'semantic' / split).iterdir())]
        assert number(splits[split]['images']) == len(masks)
        for value, name in enumerate(names):
            pixels = sum(int((mask == value).sum()) for mask in masks) / sum(mask.size for mask in masks)
            images = sum(bool((mask == value).any()) for mask in masks)
            assert number(classes[name][f'{split}: pixels, %']) == pytest.approx(100 * pixels, abs=0.06)
            assert number(classes[name][f'{split}: images']) == images
            assert number(classes[name][f'{split}: images, %']) == pytest.approx(100 * images / len(masks), abs=0.06)
        mean = sum(len(set(mask.ravel().tolist())) for mask in masks) / len(masks)
        assert number(splits[split]['classes in an image, mean']) == pytest.approx(mean, abs=0.06)


def test_statistics_against_loops():
    """Odd sizes: an image without objects, a class without any, 300 objects in 7 images."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 6, 300).astype(np.int32), rng.integers(0, 4, 300).astype(np.int32)
    boxes = (rng.random((300, 4)) * 90).astype(np.float32)
    used = rng.random(300) < 0.8
    contents = CocoContents('train', list('abcde'), list('0123456'), {}, np.full((7, 2), 99), images, labels, boxes, used)
    found = SplitStatistics('train', contents)
    pairs = {(int(image), int(label)) for image, label in zip(images, labels, strict=True)}
    assert found.amounts.tolist() == [sum(int(label) == i for label in labels) for i in range(5)]
    assert found.images_with.tolist() == [sum(label == i for _, label in pairs) for i in range(5)]
    assert found.per_image.tolist() == [sum(bool(u) and int(image) == i for image, u in zip(images, used, strict=True))
                                        for i in range(7)]
    assert found.unused.tolist() == [sum(not u and int(label) == i for label, u in zip(labels, used, strict=True))
                                     for i in range(5)]
    chosen = [3, 0, 4]
    assert found.together(chosen).tolist() == [[sum((image, a) in pairs and (image, b) in pairs for image in range(7))
                                                for b in chosen] for a in chosen]
    assert found.empty == 1
    assert binned(np.array([0, 5, 6, 7, 100, 101, 5000]), PER_IMAGE).tolist() == bins_of([0, 5, 6, 7, 100, 101, 5000])
    names = bin_names(PER_IMAGE, True, 5000)
    assert (names[0], names[6], names[-2], names[-1]) == ('0', '6–7', '51–100', '101+')
    assert [one.name for one in statistics_of([contents, contents])] == ['train', 'train (2)']


def test_defects_are_named_drawn_and_said_what_to_do_about(root: Path, tmp_path: Path):
    spoil(root)
    page, report = check(DETECTOR, root, tmp_path)
    text = page.read_text()
    verdict = re.search(r'<section class="verdict bad".*?</section>', text, re.DOTALL)[0]
    errors = {problem.what for problem, _ in report.problems if problem.level == 'ERROR'}
    assert len(errors) >= 2
    assert f'{len(errors)} kinds of defect keep this data from being used' in verdict
    assert 'Not everything was inspected' in verdict
    cards = re.findall(r'<article class="card" id="(.*?)">(.*?)</article>', text, re.DOTALL)
    assert 8 <= len(cards) <= 12
    shown = {re.search(r'</span> (.*?)</h3>', card)[1] for _, card in cards}
    assert shown >= errors | {'boxes outside the image', 'objects listed twice', 'boxes smaller than a pixel',
                              'images of more than 100 objects'}
    levels = [re.search(r'class="level (\w+)"', card)[1] for _, card in cards]
    assert levels == sorted(levels, key=['error', 'corrected', 'note', 'extreme'].index)
    outside = next(card for _, card in cards if '> boxes outside the image<' in card)
    assert '00000.png' in outside
    assert 'x −60, y 20, 50 × 40 pixels. The image is annotated as 128×128.' in outside
    assert 'Training leaves them out.' in outside
    for link in re.findall(r'href="#(case-\d+)"', text):
        assert link in dict(cards)
    # The classes are counted all the same, and the image of 120 objects more lies beyond the limit.
    assert len(tables(section(text, 'classes'))[0]) == 5
    last = tables(section(text, 'charts'))[0][-1]
    assert (last[0], last[1], last[3]) == ('101+', '0', '1')
    assert 'the evaluator\'s limit: 100' in text


def test_what_users_wrote_is_text(root: Path, tmp_path: Path):
    """Names of classes and files with markup, and file names that are no UTF-8."""
    spoil(root)
    hostile, latin = '<img src=x onerror=alert(2)>.png', os.fsdecode(b'\xe9.png')
    (root / 'train/00005.png').rename(root / 'train' / hostile)
    (root / 'train/00000.png').rename(root / 'train' / latin)
    change(root, 'train', lambda content: (content['images'][5].update(file_name=hostile, width=90),
                                           content['images'][0].update(file_name=latin)))
    page, _ = check(DETECTOR, root, tmp_path)
    text = page.read_text(encoding='utf-8')  # else it would raise
    assert '<img src=x' not in text
    assert HOSTILE not in text
    assert '&lt;b&gt;x&lt;/b&gt;&lt;img src=x' in text
    assert '&lt;img src=x onerror=alert(2)&gt;.png' in text
    assert '\\udce9.png' in text
    names = [row[0] for row in tables(section(text, 'classes'))[0]]
    assert HOSTILE in names


def test_a_file_that_is_damaged_has_a_card_without_image(data_pages: dict[str, Path]):
    text = data_pages['damaged'].read_text()
    assert '2 kinds of defect keep this data from being used' in text
    assert '16 images were opened; 2 files cannot be used.' in text
    cards = dict(re.findall(r'</span> (damaged|unreadable mask)</h3>(.*?)</article>', text, re.DOTALL))
    assert 'The image cannot be shown.' in cards['damaged']
    assert '00001.png is damaged or cut short' in cards['damaged']
    assert cards['unreadable mask'].count('<img ') == 1  # the image, without its mask
    splits = dictionaries(tables(section(text, 'splits'))[0])
    assert {name: row['files unusable'] for name, row in splits.items()} == dict(train='1', val='1')


def test_pages_need_nothing_else_and_are_small(data_pages: dict[str, Path]):
    assert len(data_pages) == 4
    for path in data_pages.values():
        text = path.read_text()
        addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert addresses
        assert all(address.startswith(('data:', '#')) for address in addresses)
        assert '@import' not in text
        assert len(text) < 2_000_000
        for encoded in re.findall(r'data:image/jpeg;base64,([^"]+)', text):
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                assert max(image.size) <= 640
        assert text.count('<svg role="img" aria-label="') == text.count('<svg ') >= 4
    assert 'This data can be trained on' in data_pages['detector'].read_text()
    assert 'class="verdict good"' in data_pages['segmentor'].read_text()


def one_image(tmp_path: Path, boxes: list, size: tuple[int, int] = (100, 80)) -> CocoContents:
    Image.new('RGB', (100, 80), (20, 60, 120)).save(tmp_path / 'a.png')
    count = len(boxes)
    return CocoContents('train', ['star'], ['a.png'], {'a.png': str(tmp_path / 'a.png')}, np.array([size]),
                        np.zeros(count, np.int32), np.zeros(count, np.int32), np.array(boxes, np.float32).reshape(-1, 4),
                        np.ones(count, bool))


def where(image: np.ndarray, color: tuple[int, int, int], tolerance: int = 40) -> np.ndarray:
    """Rows and columns, `[n, 2]`, of pixels of about a color."""
    return np.argwhere((np.abs(image.astype(int) - color) <= tolerance).all(-1))


@pytest.mark.parametrize(('box', 'side'), [((-60, 20, 50, 40), 0), ((120, 20, 50, 40), 1)])
def test_a_box_outside_the_image_is_drawn_beside_it(tmp_path: Path, box: tuple, side: int):
    drawn = draw_coco(one_image(tmp_path, [box]), 0, [MarkedObject('annotation 1', 'star', box)])
    image, orange = where(drawn, (20, 60, 120), 12), where(drawn, ORANGE)
    assert max(drawn.shape) <= 640
    factor = np.ptp(image[:, 1]) / 99
    assert factor == pytest.approx(np.ptp(image[:, 0]) / 79, rel=0.03)
    if side == 0:
        assert orange[:, 1].max() < image[:, 1].min()
    else:
        assert orange[:, 1].min() > image[:, 1].max()
    assert np.ptp(orange[:, 1]) == pytest.approx(factor * box[2], abs=8)
    assert orange[:, 0].max() - image[:, 0].min() == pytest.approx(factor * (box[1] + box[3]), abs=8)


@pytest.mark.parametrize('kind', ['polygons', 'run lengths'])
def test_a_mask_elsewhere_than_its_box_is_drawn(tmp_path: Path, kind: str):
    from pycocotools import mask as masks

    segmentation: object = [[60, 40, 90, 40, 90, 70, 60, 70]]
    if kind == 'run lengths':
        rle = masks.merge(masks.frPyObjects(segmentation, 80, 100))
        segmentation = dict(size=[80, 100], counts=rle['counts'].decode())
    box = (5, 5, 20, 20)
    drawn = draw_coco(one_image(tmp_path, [box]), 0, [MarkedObject('annotation 1', 'star', box, segmentation)])
    factor = drawn.shape[1] / 100
    tinted = where(drawn, tuple(0.6 * a + 0.4 * b for a, b in zip((20, 60, 120), (26, 127, 193), strict=True)), 6)
    assert tinted.min(0) == pytest.approx(np.array([40, 60]) * factor, abs=8)
    assert tinted.max(0) == pytest.approx(np.array([70, 90]) * factor, abs=8)
    inside = [MarkedObject('annotation 1', 'star', (60, 40, 30, 30), segmentation)]
    assert not len(where(draw_coco(one_image(tmp_path, [box]), 0, inside), (26, 127, 193), 10))


def test_the_annotated_size_is_drawn_where_it_differs(tmp_path: Path):
    drawn = draw_coco(one_image(tmp_path, [(1, 1, 9, 9)], size=(200, 80)), 0)
    orange, image = where(drawn, ORANGE), where(drawn, (20, 60, 120), 12)
    assert np.ptp(orange[:, 1]) == pytest.approx(2 * np.ptp(image[:, 1]), rel=0.05)
    plain = draw_coco(one_image(tmp_path, [(1, 1, 9, 9)]), 0)
    assert not len(where(plain, ORANGE, 20))


def test_values_of_a_mask_that_are_no_class(tmp_path: Path):
    mask = np.zeros((80, 100), np.uint8)
    mask[20:60, 50:90] = 77
    Image.fromarray(mask).save(tmp_path / 'm.png')
    Image.new('RGB', (100, 80)).save(tmp_path / 'a.png')
    views = draw_mask(str(tmp_path / 'a.png'), str(tmp_path / 'm.png'), {0: 'background', 1: 'star'})
    assert [caption for caption, _ in views] == ['image, 100×80', 'mask, 100×80']
    drawn = views[1][1]
    reddish = np.argwhere(drawn[..., 0].astype(int) - drawn[..., 2] > 60)
    factor = drawn.shape[1] / 100
    assert reddish.min(0) == pytest.approx(np.array([20, 50]) * factor, abs=4)
    assert reddish.max(0) == pytest.approx(np.array([60, 90]) * factor, abs=4)
    assert [caption for caption, _ in draw_mask(str(tmp_path / 'a.png'), str(tmp_path / 'none.png'), {})] == ['image, 100×80']


def test_many_classes_are_folded():
    names = [f'class {i}' for i in range(1200)]
    contents = MaskContents('train', names, ['a.png'], ['m.png'], np.array([[9, 9]]),
                            np.arange(1201)[None] + 1, dict(enumerate(names)))
    report = DataReport('config.py', contents=[contents])
    page = data_page(report, 'data')
    found = tables(section(page, 'classes'))
    assert [len(table) - 1 for table in found] == [80, 920]
    assert found[0][1][0] == 'class 1199'
    assert '200 classes more are not shown' in page


def test_a_report_without_contents():
    """Other data sets than COCO's and those of masks."""
    report = DataReport('config.py')
    report.images['train'] = 3
    text = data_page(report, 'data')
    assert '3 images were opened, and all can be used.' in text
    assert tables(section(text, 'splits'))[0][1] == ['train', '3', '–', '3', '0']
