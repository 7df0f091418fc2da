"""Annotations and predictions drawn on an image: one color per class, the same in every tool.

Images are uint8 `[H, W, 3]`, RGB, except in `draw`. Lines and letters grow with the image; labels are drawn last and avoid each
other.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont

from ralamala_mm.datasets.config import Color, distinct_colors

from .masks import RunLengths, decode

Box = tuple[int, int, int, int]  # x1, y1, x2, y2
IGNORED = 255  # in masks of segmentation: no class
_LETTERS = 0.022  # height of letters, in the root of the image's area
_SMALLEST_LETTERS = 12  # pixels
_LETTERS_OF_BOX = 0.2  # height of letters at most, in the root of the box's area, but a third of the others
_LINE_OF_BOX, _CONTOUR_OF_BOX = 0.03, 0.015  # widths of lines at most, in the root of the box's area
_MASK, _AREA = 0.4, 0.5  # how much of the color there is on an object, and on a segmentor's area
_NAMED = 0.003  # share of the image from which on a segmentor's area gets its name
_SEARCHED_SIDE = 1000  # pixels of the longer side at which positions for names are looked for
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def is_palette(palette: object, count: int) -> bool:
    """Whether it has a color for each of so many classes; MMDetection's 'random' has none."""
    return (isinstance(palette, list | tuple) and len(palette) >= count
            and all(isinstance(color, list | tuple) and len(color) == 3 for color in palette))


def palette_of(metainfo: Mapping) -> list[Color]:
    """A color for each of the `classes` of a data set's `metainfo`: its `palette`, or `distinct_colors` if it has none."""
    palette, count = metainfo.get('palette'), len(metainfo['classes'])
    if not is_palette(palette, count):
        return distinct_colors(count)
    return [tuple(int(value) for value in color) for color in palette[:count]]


def readable_on(color: Color) -> Color:
    """Black or white, whichever stands out more from a color."""
    red, green, blue = color
    return _BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else _WHITE


def draw(image: np.ndarray, sample: BaseDataElement, classes: Sequence[str], palette: Sequence[Color]) -> np.ndarray:
    """A copy of an image with its predictions, uint8 `[H, W, 3]` BGR.

    Args:
        image: `[H, W, 3]` BGR, as `predict` takes it, or gray `[H, W]`, from 0 to 255.
        sample: its data sample, of `predict`.
        classes: names of the labels.
        palette: their colors.
    """
    image = image.clip(0, 255).astype(np.uint8)  # pipelines may read numbers of other kinds
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
    if 'pred_sem_seg' in sample:
        drawn = draw_areas(rgb, sample.pred_sem_seg.data[0].numpy(), classes, palette)
    else:
        drawn = draw_instances(rgb, sample.pred_instances, classes, palette)
    return cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)


def draw_instances(image: np.ndarray, instances: InstanceData, classes: Sequence[str], palette: Sequence[Color]) -> np.ndarray:
    """`draw_objects` of MMDetection's instances, annotated or predicted, on the CPU and in pixels of the image."""
    masks = instances.get('masks')
    if hasattr(masks, 'to_ndarray'):  # BitmapMasks and PolygonMasks of annotations
        masks = masks.to_ndarray()
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    return draw_objects(image, boxes, instances.labels, classes, palette, instances.get('scores'), masks)


def draw_objects(image: np.ndarray, boxes: np.ndarray, labels: Sequence[int], classes: Sequence[str], palette: Sequence[Color],
                 scores: np.ndarray | None = None, masks: Sequence[np.ndarray | RunLengths] | None = None) -> np.ndarray:
    """A copy of an image with boxes, translucent masks and labels such as "circle 0.87"; the highest score lies on top.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
        boxes: `[n, 4]`, x1, y1, x2, y2 in pixels of the image; one without an area is taken from the mask.
        labels: `[n]`, indices of classes.
        classes: their names.
        palette: their colors.
        scores: `[n]`; without them the smallest object lies on top, and labels are names alone.
        masks: n times bool `[h, w]` or COCO's run lengths, enlarged or reduced to the image.
    """
    canvas = np.array(image)
    height, width = canvas.shape[:2]
    boxes = np.nan_to_num(np.asarray(boxes, np.float64)).reshape(-1, 4).clip(0, [width - 1, height - 1] * 2).round().astype(int)
    if masks is not None:
        masks = [_as_large(mask, canvas) for mask in masks]
        boxes = np.array([_extent(mask) if box[0] == box[2] or box[1] == box[3] else box
                          for box, mask in zip(boxes, masks, strict=True)], int).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(areas if scores is None else -np.asarray(scores), kind='stable')
    colors = [tuple(palette[label]) for label in labels]
    letters = [_letters_for(canvas, area) for area in areas]
    for i in order[::-1] if masks is not None else ():
        _draw_mask(canvas, masks[i], colors[i], _line_for(canvas, areas[i], _CONTOUR_OF_BOX))
    for i in order[::-1]:
        x1, y1, x2, y2 = boxes[i].tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colors[i], _line_for(canvas, areas[i], _LINE_OF_BOX), cv2.LINE_AA)
    texts = [_one_line(classes[label]) for label in labels]
    if scores is not None:
        texts = [f'{text} {float(score):.2f}' for text, score in zip(texts, scores, strict=True)]
    return _write_labels(canvas, [Label(texts[i], boxes[i].tolist(), colors[i], letters[i]) for i in order])


def draw_areas(image: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: Sequence[Color]) -> np.ndarray:
    """A copy of an image seen through the colors of its classes, the larger areas named.

    Args:
        image: uint8 `[H, W, 3]`, RGB.
        labels: `[h, w]`, indices of classes, enlarged or reduced to the image; others, such as 255, leave it as it is.
        classes: their names.
        palette: their colors.
    """
    canvas, count = np.array(image), len(classes)
    labels = cv2.resize(np.asarray(labels).astype(np.uint16), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    tint = np.array([*palette[:count], _BLACK], np.uint8)[np.minimum(labels, count)]
    tinted = cv2.addWeighted(canvas, 1 - _AREA, tint, _AREA, 0)
    cv2.copyTo(tinted, (labels < count).astype(np.uint8), canvas)
    letters = _letters(canvas)
    names = []
    for label, (x, y) in _positions_of_names(labels, count):
        name = _one_line(classes[label])
        half = round(_font(letters).getlength(name)) // 2
        names.append(Label(name, (x - half, y + letters // 2, x + half, y + letters), tuple(palette[label]), letters))
    return _write_labels(canvas, names)


def caption(image: np.ndarray, text: str, letters: int = 13) -> np.ndarray:
    """An image below a line of text, black on white, in letters of so many pixels."""
    strip = Image.new('RGB', (image.shape[1], round(1.6 * letters)), 'white')
    ImageDraw.Draw(strip).text((2, strip.height / 2), text, fill='black', font=_font(letters), anchor='lm')
    return np.concatenate([np.asarray(strip), image])


def side_by_side(annotated: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Two drawings of an image, with a title each."""
    letters = round(1.2 * _letters(annotated))
    return tile([caption(annotated, 'ground truth', letters), caption(predicted, 'prediction', letters)], 2)


def tile(images: Sequence[np.ndarray], columns: int, gap: int = 8) -> np.ndarray:
    """Images `[h, w, 3]` on white, in rows of `columns`; smaller ones are padded."""
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * height, i % columns * width
        sheet[y:y + image.shape[0], x:x + image.shape[1]] = image
    return sheet


def read_image(path: str) -> np.ndarray:
    """RGB `[h, w, 3]`, decoded as in the pipelines."""
    return mmcv.imread(path, channel_order='rgb', backend='cv2')


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """An image whose longer side has `side` pixels."""
    factor = side / max(image.shape[:2])
    height, width = (max(round(factor * size), 1) for size in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


class Label(NamedTuple):
    text: str  # of one line
    box: Sequence[int]  # x1, y1, x2, y2 of what it names
    color: Color
    letters: int  # height in pixels


def _letters(image: np.ndarray) -> int:
    """Height of letters in pixels."""
    return max(_SMALLEST_LETTERS, round(_LETTERS * (image.shape[0] * image.shape[1]) ** 0.5))


def _letters_for(image: np.ndarray, area: float) -> int:
    """Height of the letters that name a box of so many pixels: smaller for small ones, which they would hide."""
    largest = _letters(image)
    return max(_SMALLEST_LETTERS, round(largest / 3), min(largest, round(_LETTERS_OF_BOX * area ** 0.5)))


def _one_line(name: str) -> str:
    return ''.join(letter if letter.isprintable() else ' ' for letter in name)


def _line_for(image: np.ndarray, area: float, share: float) -> int:
    """Width of a line around what fills a box of so many pixels: at most this share of the root of it."""
    return max(1, round(min(_letters(image) / 6, share * area ** 0.5)))


def _as_large(mask: np.ndarray | RunLengths, image: np.ndarray) -> np.ndarray:
    """uint8 `[H, W]`, 0 or 1: a mask as large as the image, with smooth edges where it is enlarged."""
    mask = decode(mask) if isinstance(mask, dict) else np.asarray(mask)
    if mask.shape == image.shape[:2]:
        return np.ascontiguousarray(mask, np.uint8)
    interpolation = cv2.INTER_AREA if mask.shape[0] > image.shape[0] else cv2.INTER_LINEAR
    return (cv2.resize(mask.astype(np.float32), image.shape[1::-1], interpolation=interpolation) > 0.5).astype(np.uint8)


def _extent(mask: np.ndarray) -> Box:
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width, y + height


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, color: Color, line: int) -> None:
    """Tints the mask's pixels and draws its contour, in place; only the part of the image that it is in is touched."""
    x1, y1, x2, y2 = _extent(mask)
    if x1 == x2:
        return
    part, inside = np.ascontiguousarray(canvas[y1:y2, x1:x2]), np.ascontiguousarray(mask[y1:y2, x1:x2])
    tinted = cv2.addWeighted(part, 1 - _MASK, np.full_like(part, color), _MASK, 0)
    cv2.copyTo(tinted, inside, part)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(part, contours, -1, color, line, cv2.LINE_AA)
    canvas[y1:y2, x1:x2] = part


@lru_cache(maxsize=64)
def _font(letters: int) -> ImageFont.FreeTypeFont:
    # Latin, Greek and Cyrillic letters; it comes with Matplotlib, which MMEngine needs.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')), letters)


def _write_labels(image: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Names of boxes, the most important first: each above its box, or where it hides no other."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    taken = np.zeros((0, 4), int)
    for label in labels:
        font, gap = _font(label.letters), max(2, label.letters // 5)
        x1, y1, x2, y2 = label.box
        width, height = round(font.getlength(label.text)) + 2 * gap, label.letters + 2 * gap
        corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2 - height), (x2, y1)]
        boxes = [_moved_inside(x, y, width, height, image) for x, y in corners]
        box = min(boxes, key=lambda box: _hidden(box, taken))  # the first of equal ones
        taken = np.concatenate([taken, [box]])
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=label.color)
        pen.text((box[0] + gap, (box[1] + box[3]) / 2), label.text, readable_on(label.color), font, anchor='lm')
    return np.array(canvas)


def _moved_inside(x: int, y: int, width: int, height: int, image: np.ndarray) -> Box:
    x, y = max(0, min(x, image.shape[1] - width)), max(0, min(y, image.shape[0] - height))
    return x, y, x + width, y + height


def _hidden(box: Box, others: np.ndarray) -> int:
    """Pixels that a box shares with others `[n, 4]`."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return int(sides.clip(0).prod(axis=1).sum())


def _positions_of_names(labels: np.ndarray, count: int) -> Iterable[tuple[int, tuple[int, int]]]:
    """(label, (x, y)) for the areas that are worth a name, larger ones first: the point furthest from the area's border."""
    scale = max(1, max(labels.shape) / _SEARCHED_SIDE)
    size = (max(1, round(labels.shape[1] / scale)), max(1, round(labels.shape[0] / scale)))
    small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    values, counts = np.unique(small, return_counts=True)
    for value, pixels in sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        if value < count and pixels >= _NAMED * small.size:
            # Zero around the image, so that its edge counts as a border.
            inside = cv2.copyMakeBorder((small == value).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
            distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
            y, x = np.unravel_index(distance.argmax(), distance.shape)
            yield value, (round((x - 1) * scale), round((y - 1) * scale))


@VISUALIZERS.register_module()
class SampleVisualizer(Visualizer):
    """Draws objects or classes of a data sample: ground truth, where the pipeline loads it, left of the prediction."""

    @master_only
    def add_datasample(self, name: str, image: np.ndarray, data_sample: BaseDataElement | None = None, draw_gt: bool = True,
                       draw_pred: bool = True, show: bool = False, wait_time: float = 0, out_file: str | None = None,
                       pred_score_thr: float = 0.3, step: int = 0) -> None:
        """Draws a data sample; shows it, writes it to a file, or hands it to the backends.

        Args:
            name: of the image for the window and the backends.
            image: `[H, W, 3]`, RGB, from 0 to 255.
            data_sample: annotations and predictions, in pixels of the image.
            draw_gt: whether annotations are drawn.
            draw_pred: whether predictions are drawn.
            show: whether a window shows it.
            wait_time: of the window, in seconds.
            out_file: where to write it, instead of to the backends.
            pred_score_thr: objects below this score are not drawn.
            step: recorded by the backends.
        """
        image = image.clip(0, 255).astype(np.uint8)
        sample = (data_sample or BaseDataElement()).cpu()
        kinds = [kind for kind, wanted in (('gt', draw_gt), ('pred', draw_pred)) if wanted]
        views = [view for kind in kinds if (view := self._view(image, sample, kind, pred_score_thr)) is not None]
        drawn = side_by_side(*views) if len(views) == 2 else (views or [image])[0]
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file:
            mmcv.imwrite(drawn[..., ::-1], out_file)
        else:
            self.add_image(name, drawn, step)

    def _view(self, image: np.ndarray, sample: BaseDataElement, kind: str, score: float) -> np.ndarray | None:
        """The image with what the sample has of a kind, 'gt' or 'pred'; None if it has nothing of it."""
        classes, palette = self.dataset_meta['classes'], palette_of(self.dataset_meta)
        areas = sample.get(f'{kind}_sem_seg')
        if areas is not None:
            return draw_areas(image, areas.data[0].numpy(), classes, palette)
        instances = sample.get(f'{kind}_instances')
        if instances is None:
            return None
        if 'scores' in instances:
            instances = instances[instances.scores >= score]
        return draw_instances(image, instances, classes, palette)
