"""How many objects of which class, size and shape a data set holds, or how many pixels and regions of which class."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

SIZES = dict(small=(0, 32), medium=(32, 96), large=(96, float('inf')))  # COCO's: square roots of areas in pixels
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
_SMALLEST_REGION = 16  # pixels; smaller specks are no objects
_BINS = 40


@dataclass
class Statistics:
    """What is counted of a data set.

    Args:
        classes: names.
        of: 'objects', or 'regions' for segmentation: the connected parts of a class of at least 16 pixels.
        pictures: how many were counted.
        available: how many there are.
        counts: objects or regions per class.
        seen_in: pictures per class.
        pixels: per class, for segmentation.
        ignored_pixels: of no class, for segmentation.
        boxes: (width, height) in pixels of each object or region.
        per_picture: objects or regions.
        sizes: (width, height) of each picture.
    """

    classes: tuple[str, ...]
    of: str
    available: int = 0
    pictures: int = 0
    counts: Counter = field(default_factory=Counter)
    seen_in: Counter = field(default_factory=Counter)
    pixels: Counter = field(default_factory=Counter)
    ignored_pixels: int = 0
    boxes: list[tuple[float, float]] = field(default_factory=list)
    per_picture: list[int] = field(default_factory=list)
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

    def add_picture(self, width: int, height: int, labels: Iterable[int], boxes: Iterable[tuple[float, float]],
                    present: Iterable[int] | None = None) -> None:
        """Counts one picture's objects.

        Args:
            width: of the picture, in pixels.
            height: of the picture, in pixels.
            labels: the class of each object.
            boxes: (width, height) of each object.
            present: the classes that are seen in it; by default those of the objects.
        """
        labels = [int(label) for label in labels]
        self.pictures += 1
        self.counts.update(labels)
        self.seen_in.update(set(labels if present is None else present))
        self.boxes.extend(boxes)
        self.per_picture.append(len(labels))
        self.sizes.append((width, height))

    def add_mask(self, mask: np.ndarray) -> None:
        """Counts one picture's classes and their regions.

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
        self.add_picture(mask.shape[1], mask.shape[0], labels, boxes, present)

    def as_numbers(self) -> dict:
        """Everything as what JSON holds; keys name units."""
        sizes = self.box_sizes
        numbers = dict(
            pictures=self.pictures, pictures_available=self.available, counted=self.of, total=sum(self.counts.values()),
            per_class={name: self._of_class(i) for i, name in enumerate(self.classes)},
            box_sizes={name: int(((sizes >= least) & (sizes < most)).sum()) for name, (least, most) in SIZES.items()},
            box_size_in_pixels=_summary(sizes, _logarithmic), aspect_ratio_width_over_height=_summary(self.aspects, _logarithmic),
            per_picture=_summary(np.array(self.per_picture), _linear),
            picture_width_in_pixels=_summary(np.array([width for width, _ in self.sizes]), _linear),
            picture_height_in_pixels=_summary(np.array([height for _, height in self.sizes]), _linear))
        if self.pixels or self.ignored_pixels:
            numbers['ignored_pixels'] = self.ignored_pixels
        return numbers

    def _of_class(self, label: int) -> dict:
        numbers = {self.of: self.counts[label], 'pictures': self.seen_in[label]}
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
