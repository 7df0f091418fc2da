"""What is written: read back by pycocotools, and compared with what was predicted."""

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ralamala_mm.apis.drawing import draw
from ralamala_mm.apis.outputs import Tables, id_table_of, mask_id_table, write_colored, write_image, write_mask
from ralamala_mm.errors import UserError

CLASSES = ('circle', 'square', 'triangle', 'star')
PALETTE = [(220, 60, 60), (60, 120, 220), (60, 190, 90), (230, 180, 40)]


@pytest.fixture(scope='module')
def truth(shapes_root: Path) -> COCO:
    return COCO(shapes_root / 'annotations' / 'instances_val.json')


def perfect(truth: COCO, image: dict, encoded: bool):
    """The annotations of an image as predictions."""
    from mmdet.structures import DetDataSample

    annotations = truth.loadAnns(truth.getAnnIds(image['id']))
    names = {category['id']: category['name'] for category in truth.dataset['categories']}
    boxes = torch.tensor([annotation['bbox'] for annotation in annotations])
    boxes[:, 2:] += boxes[:, :2]
    masks = [truth.annToMask(annotation) for annotation in annotations]
    masks = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks] if encoded else torch.tensor(np.array(masks, bool))
    found = InstanceData(bboxes=boxes, labels=torch.tensor([CLASSES.index(names[a['category_id']]) for a in annotations]),
                         scores=torch.linspace(0.9, 0.5, len(annotations)), masks=masks)
    return DetDataSample(pred_instances=found, metainfo=dict(ori_shape=(image['height'], image['width'])))


@pytest.mark.parametrize('encoded', [False, True])
def test_perfect_predictions_have_an_ap_of_1_by_pycocotools(truth: COCO, shapes_root: Path, tmp_path: Path, encoded: bool):
    config = Config(dict(test_dataloader=dict(dataset=dict(data_root=str(shapes_root), ann_file='annotations/instances_val.json',
                                                           data_prefix=dict(img='val')))))
    images = list(truth.imgs.values())
    assert len(images) == 4
    with Tables(tmp_path, CLASSES, PALETTE, id_table_of(config, CLASSES), dict(description='test'), segments=False) as tables:
        # Another order, and a stranger among them: the data set's numbers are found by the files.
        tables.add(perfect(truth, images[0], encoded), 'other.png', str(tmp_path / 'other.png'))
        for image in reversed(images):
            tables.add(perfect(truth, image, encoded), image['file_name'], str(shapes_root / 'val' / image['file_name']))
    content = json.loads((tmp_path / 'predictions.json').read_text())
    numbers = {image['file_name']: image['id'] for image in content['images']}
    assert numbers.pop('other.png') not in truth.imgs
    assert numbers == {image['file_name']: image['id'] for image in images}
    assert [category['name'] for category in content['categories']] == list(CLASSES)
    predictions = [annotation for annotation in content['annotations'] if annotation['image_id'] in truth.imgs]
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(truth, truth.loadRes(predictions), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    rows = list(csv.DictReader((tmp_path / 'predictions.csv').open()))
    assert len(rows) == len(content['annotations']) > 4
    assert {row['class'] for row in rows} <= set(CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['predictions.csv', 'predictions.json']


def test_coco_classes_have_cocos_numbers_without_its_files():
    from mmdet.datasets import CocoDataset

    classes = CocoDataset.METAINFO['classes']
    config = Config(dict(test_dataloader=dict(dataset=dict(ann_file='nowhere.json'))))
    numbers = dict(zip(classes, id_table_of(config, classes).categories, strict=True))
    assert (numbers['person'], numbers['stop sign'], numbers['dining table'], numbers['toothbrush']) == (1, 13, 67, 90)
    assert id_table_of(config, CLASSES).categories == [1, 2, 3, 4]


def test_nothing_is_left_of_what_was_interrupted(truth: COCO, tmp_path: Path):
    def interrupted() -> None:
        with Tables(tmp_path, CLASSES, PALETTE, mask_id_table(CLASSES, False), {}, False) as tables:
            tables.add(perfect(truth, next(iter(truth.imgs.values())), True), 'a.png')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def areas(labels: np.ndarray):
    from mmseg.structures import SegDataSample

    return SegDataSample(pred_sem_seg=PixelData(data=torch.tensor(labels)[None]), metainfo=dict(ori_shape=labels.shape))


def test_masks_hold_the_labels_and_the_tables_their_pixels(tmp_path: Path):
    labels = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
    labels[:5] = 255
    sample = areas(labels)
    write_mask(tmp_path / 'masks' / 'a.png', sample, range(4))
    write_colored(tmp_path / 'coloured' / 'a.png', sample, PALETTE)
    assert (np.asarray(Image.open(tmp_path / 'masks' / 'a.png')) == labels).all()
    coloured = np.asarray(Image.open(tmp_path / 'coloured' / 'a.png'))
    assert (coloured[labels == 2] == PALETTE[2]).all()
    assert (coloured[labels == 255] == 0).all()
    with Tables(tmp_path, CLASSES, PALETTE, mask_id_table(CLASSES, False), {}, segments=True) as tables:
        tables.add(sample, 'a.jpg', mask='masks/a.png')
    content = COCO(tmp_path / 'predictions.json')
    assert len(content.anns) == 4
    for annotation in content.anns.values():
        assert (content.annToMask(annotation).astype(bool) == (labels == annotation['category_id'])).all()
    rows = list(csv.DictReader((tmp_path / 'predictions.csv').open()))
    expected = {name: int((labels == i).sum()) for i, name in enumerate(CLASSES)}
    assert {row['class']: int(row['pixels']) for row in rows} == expected


def test_labels_beyond_255_are_written_with_16_bits(tmp_path: Path):
    labels = np.array([[0, 299, 65535]], np.int32)
    write_mask(tmp_path / 'a.png', areas(labels), range(300))
    assert (cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED) == labels).all()


def test_masks_are_as_mmsegmentation_writes_them(tmp_path: Path):
    """With ADE20K's 0 for no class."""
    from mmseg.evaluation import IoUMetric

    labels = np.arange(150, dtype=np.uint8).reshape(10, 15)
    metric = IoUMetric(format_only=True, output_dir=str(tmp_path / 'theirs'))
    metric.dataset_meta = dict(classes=[str(label) for label in range(150)])
    metric.process({}, [dict(pred_sem_seg=dict(data=torch.tensor(labels)[None]), img_path='a.jpg', reduce_zero_label=True)])
    ids = mask_id_table(metric.dataset_meta['classes'], reduce_zero_label=True)
    write_mask(tmp_path / 'ours.png', areas(labels), ids.categories)
    theirs = np.asarray(Image.open(tmp_path / 'theirs' / 'a.png'))
    assert (np.asarray(Image.open(tmp_path / 'ours.png')) == theirs).all()
    assert theirs.min() == 1
    # 255 classes from 1 on leave no 8-bit number for pixels of none.
    write_mask(tmp_path / 'more.png', areas(np.array([[0, 254]], np.int32)), range(1, 256))
    assert cv2.imread(str(tmp_path / 'more.png'), cv2.IMREAD_UNCHANGED).tolist() == [[1, 255]]
    assert cv2.imread(str(tmp_path / 'more.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_names_that_are_not_utf8_come_back(truth: COCO, tmp_path: Path):
    name = os.fsdecode(b'caf\xe9.jpg')
    with Tables(tmp_path, CLASSES, PALETTE, mask_id_table(CLASSES, False), dict(description=name), False) as tables:
        tables.add(perfect(truth, next(iter(truth.imgs.values())), True), name, name)
    content = json.loads((tmp_path / 'predictions.json').read_text(encoding='utf-8'))
    assert content['images'][0]['file_name'] == content['info']['description'] == name
    assert list(csv.DictReader((tmp_path / 'predictions.csv').open(encoding='utf-8')))


@pytest.mark.parametrize('content', [
    '{"images": [', '[]', '{}', '{"categories": [{"id": 1}], "images": []}', '{"categories": [], "images": [3]}', b'\xff\xfe'])
def test_numbers_do_not_need_whole_annotations(tmp_path: Path, content: str | bytes):
    path = tmp_path / 'annotations.json'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = Config(dict(test_dataloader=dict(dataset=dict(ann_file=str(path)))))
    assert id_table_of(config, CLASSES).categories == [1, 2, 3, 4]


def test_numbers_that_are_no_integers_are_kept(tmp_path: Path):
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(dict(categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES)],
                                    images=[dict(id='first', file_name=str(tmp_path / 'a.jpg'))])))
    ids = id_table_of(Config(dict(test_dataloader=dict(dataset=dict(ann_file=str(path))))), CLASSES)
    assert [ids.image_id(str(tmp_path / name)) for name in ('a.jpg', 'b.jpg')] == ['first', 1]


def test_an_image_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(UserError, match='File name too long'):
        write_image(tmp_path / f'{"a" * 300}.png', np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'folder').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        write_image(tmp_path / 'folder' / 'a.png', np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize('image', [
    np.full((40, 50, 3), 300.7, np.float32), np.full((40, 50), 128, np.uint8), np.full((40, 50, 3), -4, np.int16)])
def test_images_of_other_kinds_are_drawn_on(image: np.ndarray):
    drawn = draw(image, areas(np.zeros((40, 50), np.uint8)), ['sky\nand\tsea'], PALETTE)
    assert (drawn.shape, drawn.dtype) == ((40, 50, 3), np.uint8)


@pytest.mark.parametrize('encoded', [False, True])
def test_objects_are_drawn_where_they_are(truth: COCO, encoded: bool):
    image = next(iter(truth.imgs.values()))
    sample = perfect(truth, image, encoded)
    grey = np.full((image['height'], image['width'], 3), 128, np.uint8)
    drawn = draw(grey, sample, CLASSES, PALETTE)
    assert (grey == 128).all()
    assert drawn.shape == grey.shape
    x1, y1, x2, y2 = sample.pred_instances.bboxes[0].round().int().tolist()
    assert (drawn[y1:y2, x1:x2] != 128).any()
    nothing = perfect(truth, image, encoded)
    nothing.pred_instances = nothing.pred_instances[nothing.pred_instances.scores > 1]
    assert (draw(grey, nothing, CLASSES, PALETTE) == 128).all()


@pytest.mark.parametrize('size', [(1, 1), (5, 300), (40, 30), (1500, 2000)])
def test_areas_are_drawn_at_any_size(size: tuple[int, int]):
    labels = np.zeros(size, np.uint8)
    labels[:, size[1] // 2:] = 255
    drawn = draw(np.full((*size, 3), 100, np.uint8), areas(labels), ('größe', 'дом'), [(250, 0, 0), (0, 0, 250)])
    assert drawn.shape == (*size, 3)
    if size == (1500, 2000):
        assert tuple(drawn[5, 5]) == (50, 50, 175)
        assert tuple(drawn[5, -5]) == (100, 100, 100)


def test_images_that_cannot_be_written_are_named(tmp_path: Path):
    from ralamala_mm.errors import UserError

    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        write_image(tmp_path / 'file' / 'a.png', np.zeros((4, 4, 3), np.uint8))
