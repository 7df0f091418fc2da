"""Drawings, read back from their pixels: one color per class in every tool, translucent masks, labels that can be read."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData, PixelData
from PIL import ImageDraw

from ralamala_mm.analysis.detections import DetectedImage, Objects
from ralamala_mm.analysis.report import examples
from ralamala_mm.analysis.report.predicting import Predictions
from ralamala_mm.apis import drawing
from ralamala_mm.apis.drawing import (
    distinct_colors,
    draw,
    draw_areas,
    draw_instances,
    draw_objects,
    is_palette,
    palette_of,
)
from ralamala_mm.apis.masks import encode
from ralamala_mm.datasets.config import set_classes
from ralamala_mm.engine import use_visualization
from ralamala_mm.errors import UserError

CLASSES = ('circle', 'square', 'triangle')
PALETTE = [(220, 60, 60), (60, 120, 220), (60, 190, 90)]
BOX = (50, 40, 120, 100)
GRAY = np.full((120, 160, 3), 128, np.uint8)
_NUMBERS = itertools.count()


def has(image: np.ndarray) -> list[bool]:
    """Which classes' colors an RGB image has, pure."""
    return [bool((image == color).all(axis=-1).any()) for color in PALETTE]


def mask_of(box: Sequence[int]) -> np.ndarray:
    mask = np.zeros(GRAY.shape[:2], bool)
    mask[box[1]:box[3], box[0]:box[2]] = True
    return mask


def predicted(label: int, score: float = 0.87) -> InstanceData:
    return InstanceData(bboxes=torch.tensor([BOX], dtype=torch.float32), labels=torch.tensor([label]),
                        masks=torch.tensor(mask_of(BOX)[None]), scores=torch.tensor([score]))


def annotated(label: int) -> InstanceData:
    from mmdet.structures.mask import BitmapMasks

    return InstanceData(bboxes=torch.tensor([BOX], dtype=torch.float32), labels=torch.tensor([label]),
                        masks=BitmapMasks([mask_of(BOX).astype(np.uint8)], *GRAY.shape[:2]))


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written on images from here on."""
    written, write = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', lambda pen, xy, text, *args, **kwargs: written.append(text) or write(
        pen, xy, text, *args, **kwargs))
    return written


def by_infer(label: int) -> list[np.ndarray]:
    from mmdet.structures import DetDataSample

    return [draw(GRAY, DetDataSample(pred_instances=predicted(label)), CLASSES, PALETTE)[..., ::-1]]


def visualizer(config: Config | None = None):
    config = config or Config(dict(default_scope='mmdet', model=dict(type='MaskRCNN'), visualizer=dict(
        type='DetLocalVisualizer', _scope_='mmdet', vis_backends=[]), default_hooks=dict(visualization=dict(type='x'))))
    use_visualization(config, show=False, show_dir='drawn', wait_time=0)
    made = VISUALIZERS.build(dict(config.visualizer, name=f'drawing_{next(_NUMBERS)}'))
    made.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    return made


def by_show_dir(label: int) -> list[np.ndarray]:
    from mmdet.structures import DetDataSample

    made = visualizer()
    made.add_datasample('a', GRAY, DetDataSample(pred_instances=predicted(label), gt_instances=annotated(label)))
    pair = made.get_image()
    assert pair.shape[0] > GRAY.shape[0]  # titles
    return [pair[:, :GRAY.shape[1]], pair[:, -GRAY.shape[1]:]]


def by_report(label: int) -> list[np.ndarray]:
    objects = Objects([BOX], [label], [0.87], rles=[encode(mask_of(BOX))])
    image = DetectedImage('a.png', *GRAY.shape[:2], objects, objects)
    predictions = Predictions(Path('a.pth'), CLASSES, PALETTE, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, 'read_image', lambda path: GRAY)
        patch.setattr(examples, 'as_address', lambda image: image)
        return [examples.draw_detection(image, predictions, is_predicted) for is_predicted in (False, True)]


@pytest.mark.parametrize('tool', [by_infer, by_show_dir, by_report])
@pytest.mark.parametrize('label', range(3))
def test_a_class_has_one_color_in_truth_and_prediction_and_in_every_tool(tool: Callable, label: int, texts: list[str]):
    views = tool(label)
    assert [has(view) for view in views] == [[i == label for i in range(3)]] * len(views)
    named = [text for text in texts if text.startswith(CLASSES[label])]
    assert named == [CLASSES[label], f'{CLASSES[label]} 0.87'][-len(views):]
    assert set(texts) - set(named) <= {'ground truth', 'prediction'}


def test_masks_can_be_seen_through_and_have_a_contour():
    image = np.random.default_rng(0).integers(0, 256, GRAY.shape, np.uint8)
    drawn = draw_instances(image, predicted(1), CLASSES, PALETTE)
    inside = np.s_[60:90, 60:110]
    blend = 0.6 * image[inside] + 0.4 * np.array(PALETTE[1])
    assert np.abs(drawn[inside] - blend).max() <= 1
    assert (drawn[:20] == image[:20]).all()
    ring = np.zeros_like(GRAY)
    ring[30:110, 40:130] = 255  # a mask within a larger box: its own edge is drawn
    drawn = draw_objects(GRAY, [[0, 0, 159, 119]], [0], CLASSES, PALETTE, masks=[ring[..., 0] > 0])
    assert (drawn[60, 38:43] == PALETTE[0]).all(axis=-1).any()


@pytest.mark.parametrize('corner', [(0, 0), (110, 0), (0, 100), (110, 100), (50, 50)])
def test_labels_are_inside_the_image_and_on_top(corner: tuple[int, int]):
    """The mask of another object, of a higher score and another color, covers all."""
    x, y = corner
    boxes = [[x, y, x + 49, y + 19], [0, 0, 159, 119]]
    drawn = draw_objects(GRAY, boxes, [0, 1], CLASSES, PALETTE, [0.5, 0.9], [mask_of(box) for box in boxes])
    pure = (drawn == PALETTE[0]).all(axis=-1).astype(np.uint8)
    _, _, found, _ = cv2.connectedComponentsWithStats(pure)
    assert max(area for *_, area in found[1:]) > 300  # of a label, without its letters; it would be cut off outside


def test_labels_of_objects_in_one_place_do_not_hide_each_other():
    boxes = [[60, 40, 110, 80]] * 3
    drawn = draw_objects(GRAY, boxes, range(3), CLASSES, PALETTE, [0.9, 0.8, 0.7])
    assert all((drawn == color).all(axis=-1).sum() > 300 for color in PALETTE)


@pytest.mark.parametrize('size', [(1, 1), (5, 300), (60, 40), (1000, 1400)])
def test_letters_grow_with_the_image(size: tuple[int, int]):
    drawn = draw_objects(np.full((*size, 3), 128, np.uint8), [[0, 0, size[1] - 1, size[0] - 1]], [0], CLASSES, PALETTE, [1.0])
    assert drawn.shape == (*size, 3)
    if size == (1000, 1400):
        assert drawing._letters(drawn) == 26


def test_boxes_and_masks_that_are_odd():
    """Beyond the image, not finite, without an area, and masks of another size."""
    boxes = [[-50, -9, 900, 900], [float('nan'), 0, float('inf'), 10], [0, 0, 0, 0]]
    small = mask_of((80, 60, 160, 120))[::2, ::2]
    drawn = draw_objects(GRAY, boxes, [0, 1, 2], CLASSES, PALETTE, [0.5, 0.6, 0.7], [small, encode(small), small])
    assert drawn.shape == GRAY.shape
    assert (drawn[119, 90:150] == PALETTE[2]).all(axis=-1).any()  # the last box is that of its mask
    assert (draw_objects(GRAY, np.zeros((0, 4)), [], CLASSES, PALETTE) == GRAY).all()


def test_areas_in_their_colors():
    labels = np.full((60, 80), 255, np.uint8)  # half as large as the image
    labels[:, 40:] = 2
    drawn = draw_areas(GRAY, labels, CLASSES, PALETTE)
    assert (drawn[:, :60] == 128).all()
    assert np.abs(drawn[5, 100] - (0.5 * 128 + 0.5 * np.array(PALETTE[2]))).max() <= 1
    assert has(drawn) == [False, False, True]  # the label


def test_areas_side_by_side(tmp_path: Path):
    from mmseg.structures import SegDataSample

    config = Config(dict(default_scope='mmseg', model={}, visualizer=dict(type='SegLocalVisualizer', vis_backends=[]),
                         default_hooks=dict(visualization=dict(type='x', interval=50))))
    made = visualizer(config)
    assert (config.visualizer.save_dir, config.default_hooks.visualization.interval) == ('drawn', 1)
    part = PixelData(data=torch.ones(1, *GRAY.shape[:2], dtype=torch.long))
    file = tmp_path / 'drawn.png'  # exact, where Matplotlib's canvas may be a pixel off
    made.add_datasample('a', GRAY, SegDataSample(pred_sem_seg=part, gt_sem_seg=part), out_file=str(file))
    pair = cv2.imread(str(file))[..., ::-1]
    for view in (pair[-GRAY.shape[0]:, :GRAY.shape[1]], pair[-GRAY.shape[0]:, -GRAY.shape[1]:]):
        assert has(view) == [False, True, False]
    made.add_datasample('a', GRAY, SegDataSample(pred_sem_seg=part), out_file=str(file))
    assert (cv2.imread(str(file))[..., ::-1] == view).all()


def test_scores_below_the_threshold_are_not_drawn():
    from mmdet.structures import DetDataSample

    made = visualizer()
    made.add_datasample('a', GRAY, DetDataSample(pred_instances=predicted(0, 0.29)), pred_score_thr=0.3)
    assert (made.get_image() == GRAY).all()


@pytest.mark.parametrize(('model', 'own'), [({}, dict(line_width=1)), ({}, dict(type='TrackLocalVisualizer')),
                                            (dict(panoptic_fusion_head={}), {})])
def test_a_visualizer_of_the_configs_own_stays(model: dict, own: dict):
    config = Config(dict(default_scope='mmdet', model=model, visualizer=dict(dict(type='DetLocalVisualizer'), **own),
                         default_hooks=dict(visualization=dict(type='DetVisualizationHook'))))
    use_visualization(config, show=False, show_dir='drawn', wait_time=1)
    assert config.visualizer.type == own.get('type', 'DetLocalVisualizer')
    assert config.default_hooks.visualization.test_out_dir == 'drawn'


def test_drawing_needs_the_hook():
    with pytest.raises(UserError, match=r'need default_hooks\.visualization'):
        use_visualization(Config(dict(default_hooks={})), show=True, show_dir=None, wait_time=1)
    use_visualization(Config({}), show=False, show_dir=None, wait_time=1)


@pytest.mark.parametrize('count', [1, 4, 80, 150])
def test_made_up_colors_differ(count: int):
    colors = distinct_colors(count)
    assert len(set(colors)) == count
    assert colors == distinct_colors(count + 1)[:count]
    steps = [np.abs(np.subtract(a, b)).max() for a, b in itertools.pairwise(colors)]
    assert min(steps, default=255) > 90  # neighbors
    config = Config(dict(model={}, train_dataloader=dict(dataset=dict(type='CocoDataset'))))
    set_classes(config, [str(i) for i in range(count)])
    metainfo = config.train_dataloader.dataset.metainfo
    assert is_palette(metainfo.palette, count)
    assert palette_of(metainfo) == colors
