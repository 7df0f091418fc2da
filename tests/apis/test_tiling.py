"""Large images in tiles: against sums and detections over the whole image, by means that know nothing of tiles."""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from ralamala_mm.apis.masks import decode, encode_at, union
from ralamala_mm.apis.tiling import Pieces, blend, check_tiles, detect_in_tiles, merge, windows_of
from ralamala_mm.errors import OptionError

GRIDS = [(50, 70, 32, 8), (100, 33, 32, 0), (97, 131, 40, 25), (64, 64, 64, 16), (65, 40, 64, 63), (33, 300, 32, 1)]


@pytest.mark.parametrize('grid', GRIDS)
def test_tiles_cover_every_pixel_and_overlap(grid: tuple[int, int, int, int]):
    height, width, tile, overlap = grid
    covered = np.zeros((height, width), int)
    windows = windows_of(*grid)
    for window in windows:
        assert 0 <= window.y0 < window.y1 <= height
        assert 0 <= window.x0 < window.x1 <= width
        assert (window.y1 - window.y0, window.x1 - window.x0) == (min(tile, height), min(tile, width))
        covered[window.y0:window.y1, window.x0:window.x1] += 1
    assert covered.min() >= 1
    assert all(a.x1 - b.x0 >= overlap for a, b in itertools.pairwise(windows) if a.y0 == b.y0)
    rows = windows[::len({window.x0 for window in windows})]
    assert all(a.y1 - b.y0 >= overlap for a, b in itertools.pairwise(rows))


@pytest.mark.parametrize(('tile', 'overlap'), [(8, None), (64, 64), (64, -1), (None, 10)])
def test_tiles_that_cannot_be(tile: int | None, overlap: int | None):
    with pytest.raises(OptionError):
        check_tiles(tile, overlap)


@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize('grid', GRIDS)
def test_blended_classes_are_those_of_the_weighted_sum(grid: tuple[int, int, int, int], classes: int):
    height, width, _, _ = grid
    generator = torch.Generator().manual_seed(0)
    windows = windows_of(*grid)
    parts = [torch.randn(classes, window.y1 - window.y0, window.x1 - window.x0, generator=generator) for window in windows]
    whole = torch.zeros(classes, height, width, dtype=torch.float64)
    for part, window in zip(parts, windows, strict=True):
        weights = _ramp(window.y0, window.y1, sorted({(w.y0, w.y1) for w in windows}))[:, None] \
            * _ramp(window.x0, window.x1, sorted({(w.x0, w.x1) for w in windows}))
        whole[:, window.y0:window.y1, window.x0:window.x1] += part * weights
    expected = whole.argmax(0) if classes > 1 else (whole[0] > 0).long()
    labels = blend(iter([part.clone() for part in parts]), windows, height, width)
    assert labels.dtype == torch.uint8
    assert (labels.long() != expected).float().mean() < 1e-3  # ties in another order of summation


def _ramp(start: int, end: int, tiles: list[tuple[int, int]]) -> torch.Tensor:
    """Each pixel's weight, one by one: the share of the way from a border that another tile goes beyond."""
    i = tiles.index((start, end))
    before = tiles[i - 1][1] - start if i else 0
    after = end - tiles[i + 1][0] if i + 1 < len(tiles) else 0
    values = []
    for k in range(end - start):
        weight = 1.0
        if k < before:
            weight *= (k + 0.5) / before
        if end - start - 1 - k < after:
            weight *= (end - start - 1 - k + 0.5) / after
        values.append(weight)
    return torch.tensor(values, dtype=torch.float64)


def test_a_part_is_encoded_as_the_whole_mask_is():
    generator = np.random.default_rng(0)
    for _ in range(50):
        height, width = generator.integers(1, 40, 2)
        h, w = generator.integers(1, height + 1), generator.integers(1, width + 1)
        y, x = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
        part = generator.random((h, w)) < generator.choice([0.0, 0.5, 1.0])
        whole = np.zeros((height, width), np.uint8)
        whole[y:y + h, x:x + w] = part
        encoded = encode_at(part, y, x, height, width)
        assert encoded == coco_mask.encode(np.asfortranarray(whole))
        assert (decode(encoded) == whole.astype(bool)).all()


def pieces(*rows: tuple) -> Pieces:
    """Rows of box, score, label, is_cut, window."""
    boxes, scores, labels, cut, windows = zip(*rows, strict=True)
    return Pieces(torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(labels), torch.tensor(cut),
                  torch.tensor(windows).float())


LEFT, RIGHT = (0, 0, 100, 100), (80, 0, 180, 100)


def test_a_cut_piece_gives_way_to_the_whole_object_whatever_its_score():
    merged = merge(pieces(((82, 10, 100, 30), 0.9, 0, True, LEFT), ((82, 10, 120, 30), 0.6, 0, False, RIGHT)))
    assert merged.boxes.tolist() == [[82, 10, 120, 30]]
    assert merged.scores.tolist() == pytest.approx([0.6])


def test_the_same_object_in_two_tiles_counts_once_and_two_classes_or_neighbours_twice():
    merged = merge(pieces(((84, 10, 96, 30), 0.9, 0, False, LEFT), ((84, 11, 96, 30), 0.8, 0, False, RIGHT)))
    assert merged.boxes.tolist() == [[84, 10, 96, 30]]
    assert len(merge(pieces(((84, 10, 96, 30), 0.9, 0, False, LEFT), ((84, 11, 96, 30), 0.8, 1, False, RIGHT))).scores) == 2
    # Within one tile the model has decided.
    assert len(merge(pieces(((84, 10, 96, 30), 0.9, 0, False, LEFT), ((84, 11, 96, 30), 0.8, 0, False, LEFT))).scores) == 2


def test_halves_of_an_object_that_is_whole_nowhere_are_joined():
    halves = pieces(((10, 10, 100, 30), 0.7, 0, True, LEFT), ((80, 11, 150, 30), 0.9, 0, True, RIGHT),
                    ((20, 60, 100, 70), 0.5, 0, True, LEFT), ((80, 80, 150, 90), 0.5, 0, True, RIGHT))

    def strip(x0: int, x1: int) -> dict:
        return encode_at(np.ones((20, x1 - x0), bool), 10, x0, 100, 180)

    halves.masks = [strip(10, 100), strip(80, 150), strip(0, 1), strip(0, 1)]
    merged = merge(halves)
    assert merged.boxes[0].tolist() == [10, 10, 150, 30]
    assert len(merged.scores) == 3  # the other two cut boxes lie at different heights
    assert (decode(merged.masks[0]) == decode(union([strip(10, 150)]))).all()


class ByColor:
    """A detector that finds areas of one color: it sees only what it is shown, and is never wrong about that."""

    def __init__(self):
        self.largest = 0

    def __call__(self, images: Sequence[np.ndarray]) -> list:
        from mmdet.structures import DetDataSample

        samples = []
        for image in images:
            self.largest = max(self.largest, image.shape[0] * image.shape[1])
            boxes, labels, masks = [], [], []
            for label in range(3):
                count, areas, statistics, _ = cv2.connectedComponentsWithStats((image[..., label] > 127).astype(np.uint8))
                for i in range(1, count):
                    x, y, w, h, _ = statistics[i]
                    boxes.append([x, y, x + w, y + h])
                    labels.append(label)
                    masks.append(areas == i)
            found = InstanceData(bboxes=torch.tensor(boxes).float().reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long),
                                 scores=torch.full((len(boxes),), 0.9),
                                 masks=torch.tensor(np.array(masks).reshape(-1, *image.shape[:2])))
            samples.append(DetDataSample(pred_instances=found, metainfo=dict(ori_shape=image.shape[:2])))
        return samples


def scattered(height: int, width: int, largest: int, seed: int) -> np.ndarray:
    """Ellipses and rectangles that do not touch, at seams and elsewhere, one of them larger than a tile."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    taken = np.zeros((height, width), np.uint8)
    sizes = [(200, 150), *(generator.integers(6, largest, 2) for _ in range(150))]
    for w, h in sizes:
        x, y = generator.integers(4, width - w - 4), generator.integers(4, height - h - 4)
        if taken[y - 4:y + h + 4, x - 4:x + w + 4].any():
            continue
        taken[y:y + h, x:x + w] = 1
        color = [0, 0, 0]
        color[generator.integers(3)] = 255
        if generator.random() < 0.5:
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), color, -1)
        else:
            cv2.ellipse(image, (x + w // 2, y + h // 2), (w // 2 - 1, h // 2 - 1), 0, 0, 360, color, -1)
    return image


def by_box(instances: InstanceData) -> list[tuple]:
    return sorted((int(label), *(round(value) for value in box))
                  for label, box in zip(instances.labels, instances.bboxes.tolist(), strict=True))


@pytest.mark.parametrize('batch_size', [1, 4])
@pytest.mark.parametrize('seed', range(4))
def test_objects_at_the_seams_are_found_exactly_once(seed: int, batch_size: int):
    image = scattered(400, 620, largest=38, seed=seed)
    expected = ByColor()([image])[0].pred_instances
    assert len(expected.scores) > 30
    detector = ByColor()
    found = detect_in_tiles(detector, image, tile=128, overlap=40, batch_size=batch_size).pred_instances
    assert detector.largest <= 128 * 128
    large = (expected.bboxes[:, 2:] - expected.bboxes[:, :2]).amax(1) > 40
    assert large.sum() == 1
    # The large one was seen small, so that its edges are known as well as that allows.
    largest_found = (found.bboxes[:, 2:] - found.bboxes[:, :2]).amax(1) > 40
    assert largest_found.sum() == 1
    assert (found.bboxes[largest_found] - expected.bboxes[large]).abs().max() <= 620 / 128 + 1
    assert by_box(found[~largest_found]) == by_box(expected[~large])
    masks = {box: decode(mask) for box, mask in zip(map(tuple, found.bboxes.round().int().tolist()), found.masks, strict=True)}
    for box, mask in zip(map(tuple, expected.bboxes.int().tolist()), expected.masks, strict=True):
        if box in masks:
            assert (masks[box] == mask.numpy()).all()


def test_an_image_of_one_tile_is_predicted_as_without():
    image = scattered(300, 300, largest=38, seed=0)
    expected = ByColor()([image])[0].pred_instances
    found = detect_in_tiles(ByColor(), image, tile=300, overlap=40, batch_size=1).pred_instances
    assert torch.equal(found.bboxes, expected.bboxes)
    assert torch.equal(found.scores, expected.scores)
    assert all((decode(mask) == other.numpy()).all() for mask, other in zip(found.masks, expected.masks, strict=True))


def test_an_empty_image_has_no_objects():
    found = detect_in_tiles(ByColor(), np.zeros((200, 300, 3), np.uint8), tile=128, overlap=32, batch_size=2).pred_instances
    assert len(found) == 0
    assert found.masks == []
