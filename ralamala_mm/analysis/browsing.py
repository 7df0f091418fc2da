"""What a config makes of its data: samples drawn as the model gets them, and statistics of the annotations."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from ralamala_mm.apis.drawing import caption, draw_areas, draw_objects, palette_of, resize, tile
from ralamala_mm.apis.masks import encode
from ralamala_mm.datasets.coco_checks import LARGE, SMALL
from ralamala_mm.datasets.config import is_segmentation
from ralamala_mm.datasets.progress import Progress
from ralamala_mm.errors import UserError
from ralamala_mm.files import atomic_write

from .charts import COLORS
from .detections import Objects, compressed
from .samples import spread

SIZES = dict(small=(0, SMALL), medium=(SMALL, LARGE), large=(LARGE, float('inf')))  # COCO's: square roots of areas in pixels
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
_SMALLEST_REGION = 16  # pixels; smaller specks are no objects
_BINS = 40
SIDE = 360  # pixels of an image's longer side on a sheet, or nearly so
ROWS = 5  # images on a sheet
# What MMEngine's and MMDetection's data sets say when a pipeline drops everything; they have no type for it.
_NOTHING_LEFT = ('Cannot find valid image', 'should not get `None`', 'always return None')
_MOST_BARS = 60  # classes in the bar chart


@dataclass
class Statistics:
    """What is counted of a data set.

    Args:
        classes: names.
        of: 'objects', or 'regions' for segmentation: the connected parts of a class of at least 16 pixels.
        images: how many were counted.
        available: how many there are.
        counts: objects or regions per class.
        seen_in: images per class.
        pixels: per class, for segmentation.
        ignored_pixels: of no class, for segmentation.
        boxes: (width, height) in pixels of each object or region.
        per_image: objects or regions.
        sizes: (width, height) of each image.
    """

    classes: tuple[str, ...]
    of: str
    available: int = 0
    images: int = 0
    counts: Counter = field(default_factory=Counter)
    seen_in: Counter = field(default_factory=Counter)
    pixels: Counter = field(default_factory=Counter)
    ignored_pixels: int = 0
    boxes: list[tuple[float, float]] = field(default_factory=list)
    per_image: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def box_sizes(self) -> np.ndarray:
        """`[objects]`, the square roots of the boxes' areas, in pixels."""
        return np.sqrt(np.prod(np.array(self.boxes, float).reshape(-1, 2), axis=1))

    @property
    def aspects(self) -> np.ndarray:
        """`[objects]`, width over height."""
        boxes = np.array(self.boxes, float).reshape(-1, 2)
        return boxes[:, 0] / np.maximum(boxes[:, 1], 1e-6)

    def add_image(self, width: int, height: int, labels: Iterable[int], boxes: Iterable[tuple[float, float]],
                    present: Iterable[int] | None = None) -> None:
        """Counts one image's objects.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
            labels: the class of each object.
            boxes: (width, height) of each object.
            present: the classes that are seen in it; by default those of the objects.
        """
        labels = [int(label) for label in labels]
        self.images += 1
        self.counts.update(labels)
        self.seen_in.update(set(labels if present is None else present))
        self.boxes.extend(boxes)
        self.per_image.append(len(labels))
        self.sizes.append((width, height))

    def add_mask(self, mask: np.ndarray) -> None:
        """Counts one image's classes and their regions.

        Args:
            mask: `[h, w]`, classes; 255 for none.
        """
        values, amounts = np.unique(mask, return_counts=True)
        labels, boxes = [], []
        for value, amount in zip(values.tolist(), amounts.tolist(), strict=True):
            if value >= len(self.classes):
                self.ignored_pixels += amount
                continue
            self.pixels[value] += amount
            parts = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8))[2][1:]
            kept = parts[parts[:, cv2.CC_STAT_AREA] >= _SMALLEST_REGION]
            labels += [value] * len(kept)
            boxes += [(float(part[cv2.CC_STAT_WIDTH]), float(part[cv2.CC_STAT_HEIGHT])) for part in kept]
        present = [value for value in values.tolist() if value < len(self.classes)]
        self.add_image(mask.shape[1], mask.shape[0], labels, boxes, present)

    def as_numbers(self) -> dict:
        """Everything as what JSON holds; keys name units."""
        sizes = self.box_sizes
        numbers = dict(
            images=self.images, images_available=self.available, counted=self.of, total=sum(self.counts.values()),
            per_class={name: self._of_class(i) for i, name in enumerate(self.classes)},
            box_sizes={name: int(((sizes >= least) & (sizes < most)).sum()) for name, (least, most) in SIZES.items()},
            box_size_in_pixels=_summary(sizes, _logarithmic), aspect_ratio_width_over_height=_summary(self.aspects, _logarithmic),
            per_image=_summary(np.array(self.per_image), _linear),
            image_width_in_pixels=_summary(np.array([width for width, _ in self.sizes]), _linear),
            image_height_in_pixels=_summary(np.array([height for _, height in self.sizes]), _linear))
        if self.pixels or self.ignored_pixels:
            numbers['ignored_pixels'] = self.ignored_pixels
        return numbers

    def _of_class(self, label: int) -> dict:
        numbers = {self.of: self.counts[label], 'images': self.seen_in[label]}
        if self.of == 'regions':
            numbers['pixels'] = self.pixels[label]
        return numbers


def _summary(values: np.ndarray, bins: Callable[[np.ndarray], np.ndarray]) -> dict:
    """Mean, quantiles and a histogram; {} of nothing."""
    if not len(values):
        return {}
    edges = bins(values)
    return dict(mean=float(np.mean(values)),
                quantiles={f'{share:g}': float(np.quantile(values, share)) for share in _QUANTILES},
                histogram=dict(edges=edges.tolist(), counts=np.histogram(values, edges)[0].tolist()))


def _linear(values: np.ndarray) -> np.ndarray:
    """Edges of whole numbers, at most `_BINS` bins."""
    least, most = int(np.min(values)), int(np.max(values))
    step = -(-(most - least + 1) // _BINS)
    return np.arange(least, most + step + 1, step) - 0.5


def _logarithmic(values: np.ndarray) -> np.ndarray:
    """Edges that grow by a constant factor."""
    positive = values[values > 0]
    least, most = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    return np.geomspace(least * 0.999, most * 1.001 + 1e-9, _BINS + 1)


def count_data(config: Config, dataset: Dataset, number: int) -> Statistics:
    """Counts up to `number` images of a data set, spread evenly over it, and shows progress."""
    segments = is_segmentation(config)
    chosen = spread(number, len(dataset))
    statistics = Statistics(tuple(dataset.metainfo['classes']), 'regions' if segments else 'objects', available=len(dataset))
    print(f'Counting {len(chosen)} of {len(dataset)} images', flush=True)
    progress = Progress('counting', len(chosen))
    for index in chosen:
        if segments:
            statistics.add_mask(_read_mask(dataset, index))
        else:
            info = _information(dataset, index)
            instances = [one for one in info.get('instances') or [] if not one.get('ignore_flag')]
            boxes = [(one['bbox'][2] - one['bbox'][0], one['bbox'][3] - one['bbox'][1]) for one in instances]
            statistics.add_image(info['width'], info['height'], [one['bbox_label'] for one in instances], boxes)
        progress.advance(1)
    progress.end()
    return statistics


def draw_sheets(config: Config, dataset: Dataset, number: int, versions: int, folder: Path) -> list[Path]:
    """Writes sheets `images_1.png`, …: a row for each image, as it is and as the pipeline makes it.

    Args:
        config: the data set's.
        dataset: see `build_dataset`.
        number: how many images, spread evenly over the data set.
        versions: how often the pipeline is run on each.
        folder: where to write.
    """
    rows, paths = [], []
    chosen = spread(number, len(dataset))
    print(f'Drawing {len(chosen)} images', flush=True)
    progress = Progress('drawing', len(chosen))
    for index in chosen:
        rows.append(_draw_row(dataset, index, versions, is_segmentation(config)))
        progress.advance(1)
    progress.end()
    for first in range(0, len(rows), ROWS):
        part = [image for row in rows[first:first + ROWS] for image in row]
        paths.append(folder / f'images_{first // ROWS + 1}.png')
        _write_image(paths[-1], tile(part, versions + 1))
    return paths


def _draw_row(dataset: Dataset, index: int, versions: int, segments: bool) -> list[np.ndarray]:
    """RGB images `[h, w, 3]` with captions."""
    classes, palette = dataset.metainfo['classes'], palette_of(dataset.metainfo)
    info = _information(dataset, index)
    row = []
    for i in range(versions + 1):
        if i == 0:
            image, annotated = _original(dataset, index, info, segments)
            original = image
            text = f'{Path(info["img_path"]).name}, {image.shape[1]}×{image.shape[0]}'
        else:
            sample = _sample(dataset, index, info)
            image, annotated = _transformed(sample, segments)
            text = f'{i}: {image.shape[1]}×{image.shape[0]}'
            if (shown_path := sample['data_samples'].get('img_path')) and shown_path != info['img_path']:
                text = f'{i}: of another, {Path(shown_path).name}'  # short enough for a narrow image
        shown = resize(image, SIDE)
        if not segments:
            annotated_side = max((original if _keeps_annotations(dataset) else image).shape[:2])
            boxes = annotated.boxes * (max(shown.shape[:2]) / annotated_side)
            shown = draw_objects(shown, boxes, annotated.labels, classes, palette, masks=annotated.rles)
        elif annotated is not None:
            shown = draw_areas(shown, annotated, classes, palette)
        row.append(caption(shown, text))
    return row


def _sample(dataset: Dataset, index: int, info: dict) -> dict:
    """What the pipeline makes of an image; of another one, drawn at random, if it drops that one, as in training."""
    try:
        return dataset[index]
    except Exception as error:
        if not any(text in str(error) for text in _NOTHING_LEFT):
            raise
        raise UserError(f'the pipeline makes nothing of {info["img_path"]}: nothing of it is left after its transforms, nor of '
                        'others that were tried in its place') from error


def _transforms(dataset: Dataset) -> list:
    while not isinstance(getattr(dataset, 'pipeline', None), Compose):  # those that join images have a list of their own
        dataset = (getattr(dataset, 'datasets', None) or [dataset.dataset])[0]
    return dataset.pipeline.transforms


def _keeps_annotations(dataset: Dataset) -> bool:
    """Whether the pipeline resizes before it loads annotations, as for evaluation; boxes are in pixels of the file then."""
    names = [type(transform).__name__ for transform in _transforms(dataset)]
    loaded = max((i for i, name in enumerate(names) if name.startswith('Load')), default=0)  # the last one: of the annotations
    return any('Resize' in name for name in names[:loaded])


def _information(dataset: Dataset, index: int) -> dict:
    """What the annotations say about an image; data sets that join images stand for their own first one."""
    while not hasattr(dataset, 'get_data_info'):
        dataset = dataset.dataset
    return dataset.get_data_info(index)


def _loaded(dataset: Dataset, info: dict, wanted: Sequence[str]) -> dict:
    """What those transforms that read files make of an image."""
    for transform in _transforms(dataset):
        name = type(transform).__name__
        if name.startswith('Load') and any(word in name for word in wanted):
            info = transform(info)
    return info


def _read_mask(dataset: Dataset, index: int) -> np.ndarray:
    """`[h, w]`, classes."""
    loaded = _loaded(dataset, _information(dataset, index), ['Annotations', 'Mask'])
    if 'gt_seg_map' not in loaded:
        raise UserError('the pipeline has no LoadAnnotations and nothing to count: choose another split with --part')
    return loaded['gt_seg_map']


def _original(dataset: Dataset, index: int, info: dict, segments: bool) -> tuple[np.ndarray, Objects | np.ndarray]:
    """The image's file, RGB, and its annotations."""
    loaded = _loaded(dataset, dict(info), ['Image'])
    image = _as_rgb(loaded['img'])
    if segments:
        return image, _read_mask(dataset, index)
    instances = info.get('instances') or []
    rles = None
    if instances and all('mask' in one for one in instances):
        rles = [compressed(one['mask'], *image.shape[:2]) for one in instances]
    return image, Objects([one['bbox'] for one in instances], [one['bbox_label'] for one in instances], rles=rles)


def _transformed(sample: dict, segments: bool) -> tuple[np.ndarray, Objects | np.ndarray | None]:
    """What the pipeline hands to the model, RGB, and the annotations that go with it."""
    image = _as_rgb(sample['inputs'].permute(1, 2, 0).numpy())
    annotated: BaseDataElement = sample['data_samples']
    if segments:
        labels = annotated.gt_sem_seg.data[0].numpy().astype(np.uint8) if 'gt_sem_seg' in annotated else None
        return image, labels
    found = annotated.gt_instances
    boxes = getattr(found.bboxes, 'tensor', found.bboxes)
    rles = None
    if 'masks' in found and len(found):
        rles = list(map(encode, found.masks.to_ndarray()))
    return image, Objects(boxes.numpy(), found.labels.numpy(), rles=rles)


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 RGB of what a pipeline holds: BGR, normalized or not."""
    if image.dtype != np.uint8 and (image.min() < 0 or image.max() <= 1):
        image = (image - image.min()) / max(np.ptp(image), 1e-6) * 255
    return np.ascontiguousarray(image[..., ::-1].clip(0, 255).astype(np.uint8))


def write_statistics(statistics: Statistics, palette: Sequence[tuple[int, int, int]], title: str, folder: Path) -> list[Path]:
    """Writes `statistics.json`, `statistics.png` and `classes.png`.

    Args:
        statistics: what was counted.
        palette: a color for each class.
        title: of the images.
        folder: where to write.
    """
    paths = [folder / name for name in ('statistics.json', 'statistics.png', 'classes.png')]
    text = json.dumps(statistics.as_numbers(), indent=1, ensure_ascii=False)
    atomic_write(paths[0], lambda file: file.write_text(text, encoding='utf-8'))
    for path, figure in zip(paths[1:], (_histograms(statistics, title), _class_bars(statistics, palette, title)), strict=True):
        atomic_write(path, lambda file, figure=figure: figure.savefig(file, dpi=110, format='png'))
    return paths


def _histograms(statistics: Statistics, title: str) -> Figure:
    figure = Figure(figsize=(11, 7.6), layout='constrained')
    (sizes, aspects), (amounts, images) = figure.subplots(2, 2)
    numbers, of = statistics.as_numbers(), statistics.of
    _draw_histogram(sizes, numbers['box_size_in_pixels'], logarithmic=True)
    shares = [f'{name} {count:,} ({count / max(numbers["total"], 1):.0%})' for name, count in numbers['box_sizes'].items()]
    for least, _ in list(SIZES.values())[1:]:
        sizes.axvline(least, color=COLORS[1], linestyle='--', linewidth=1)
    sizes.set(title=f'size of the boxes: {", ".join(shares)}',
              xlabel='square root of the box area, pixels (lines: COCO, 32 and 96)')
    _draw_histogram(aspects, numbers['aspect_ratio_width_over_height'], logarithmic=True)
    aspects.set(title='aspect ratio of the boxes', xlabel='width / height')
    aspects.axvline(1, color=COLORS[1], linestyle='--', linewidth=1)
    _draw_histogram(amounts, numbers['per_image'])
    mean = numbers['per_image'].get('mean', 0)
    amounts.set(title=f'{of} per image: {mean:.1f} on average', xlabel=f'{of} in an image', ylabel='images')
    for axes in (sizes, aspects):
        axes.set_ylabel(of)
    widths, heights = np.array(statistics.sizes).T
    images.scatter(widths, heights, s=14, alpha=0.35, color=COLORS[0], linewidths=0)
    images.set(title=f'size of {statistics.images:,} images', xlabel='width, pixels', ylabel='height, pixels',
                 xlim=(0, widths.max() * 1.1), ylim=(0, heights.max() * 1.1))
    for axes in (sizes, aspects, amounts, images):
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.title.set_fontsize(10)
    figure.suptitle(title)
    return figure


def _draw_histogram(axes: Axes, summary: dict, logarithmic: bool = False) -> None:
    if not summary:
        axes.text(0.5, 0.5, 'nothing', transform=axes.transAxes, ha='center')
        return
    axes.stairs(summary['histogram']['counts'], summary['histogram']['edges'], fill=True, color=COLORS[0])
    if logarithmic:
        axes.set_xscale('log', base=2)
        axes.xaxis.set_major_formatter('{x:g}')


def _class_bars(statistics: Statistics, palette: Sequence[tuple[int, int, int]], title: str) -> Figure:
    """The commonest classes' objects or pixels, with the number of images that show them."""
    amounts, unit = (statistics.pixels, 'pixels') if statistics.of == 'regions' else (statistics.counts, 'objects')
    order = sorted(range(len(statistics.classes)), key=lambda label: -amounts[label])[:_MOST_BARS]
    figure = Figure(figsize=(9, 1.4 + 0.26 * len(order)), layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(range(len(order)), [amounts[label] for label in order],
                     color=[tuple(value / 255 for value in palette[label]) for label in order], edgecolor='#666', linewidth=0.5)
    total = max(sum(amounts.values()), 1)
    axes.bar_label(bars, [f'{amounts[label]:,} ({amounts[label] / total:.1%}), in {statistics.seen_in[label]:,} images'
                          for label in order], padding=3, fontsize=8)
    axes.set_yticks(range(len(order)), [statistics.classes[label] for label in order], parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.4)
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    more = f', the {len(order)} commonest of {len(statistics.classes)}' if len(order) < len(statistics.classes) else ''
    axes.set(title=f'{unit} per class{more}', xlabel=unit)
    axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title)
    return figure


def _write_image(path: Path, image: np.ndarray) -> None:
    content = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    atomic_write(path, lambda file: file.write_bytes(content))
