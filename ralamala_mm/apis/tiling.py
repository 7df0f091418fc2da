"""Large images: tiles, detections merged and logits blended over their overlap, in limited memory."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ralamala_mm.errors import OptionError

from .masks import RunLengths, encode, encode_at, union

_GROUPS = Path('/sys/fs/cgroup')
SMALLEST = 32  # pixels of a tile: the coarsest stride of the backbones
CONTAINED = 0.8  # share of a cut box that has to lie within another for it to be a piece of that one
SAME = 0.5  # intersection over union from which on two boxes are one object
_BORDER = 0.02  # of a tile: a box that comes so near to its border is taken for cut


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has in all; of the CPU what this process may have, in a container or a job too."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[1]
    return min([os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'), *_group_limits()])


def _group_limits() -> list[int]:
    """Limits of the control groups, of version 2, that Linux has this process in; none elsewhere."""
    listed = Path('/proc/self/cgroup')
    lines = listed.read_text().splitlines() if listed.is_file() else []
    group = next((line.partition('::')[2] for line in lines if line.startswith('0::')), None)
    if group is None:
        return []
    folder = _GROUPS / group.lstrip('/')
    files = [parent / 'memory.max' for parent in (folder, *folder.parents) if parent.is_relative_to(_GROUPS)]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdigit()]


Infer = Callable[[Sequence[np.ndarray]], list[BaseDataElement]]  # predicts images as a whole


@dataclass(frozen=True)
class Window:
    """A tile's place in the image; y1 and x1 are the first row and column after it."""

    y0: int
    x0: int
    y1: int
    x1: int

    def of(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(image[self.y0:self.y1, self.x0:self.x1])


def check_tiles(tile: int | None, overlap: int | None) -> int:
    """The overlap in pixels, a quarter of the tile by default.

    Raises:
        OptionError: a tile that is too small, or an overlap that is not within it.
    """
    if tile is None:
        if overlap is not None:
            raise OptionError('--overlap is the overlap of tiles: give --tile SIZE too')
        return 0
    if not isinstance(tile, int) or tile < SMALLEST:
        raise OptionError(f'--tile must be an integer of at least {SMALLEST} pixels, got {tile}')
    overlap = tile // 4 if overlap is None else overlap
    if not isinstance(overlap, int) or not 0 <= overlap < tile:
        raise OptionError(f'--overlap must be an integer from 0 to {tile - 1}, less than the tile size, got {overlap}')
    return overlap


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side; the last one ends with the side."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def windows_of(height: int, width: int, tile: int, overlap: int) -> list[Window]:
    """The tiles of an image, row by row."""
    return [Window(y, x, min(y + tile, height), min(x + tile, width))
            for y in starts(height, tile, overlap) for x in starts(width, tile, overlap)]


def predict_windows(infer: Infer, image: np.ndarray, windows: Sequence[Window], size: int) -> Iterator[BaseDataElement]:
    """What is predicted in each window, so many at a time."""
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        yield from infer([window.of(image) for window in batch])


@dataclass
class Pieces:
    """What the tiles found, in coordinates of the image."""

    boxes: Tensor  # [N, 4] x1, y1, x2, y2
    scores: Tensor  # [N]
    labels: Tensor  # [N]
    is_cut: Tensor  # [N] bool: ends where its tile ends, and the image does not
    windows: Tensor  # [N, 4] of the tile, as boxes
    masks: list[RunLengths] | None = None  # N; None for a detector without them

    def __getitem__(self, indices: Tensor) -> 'Pieces':
        return Pieces(self.boxes[indices], self.scores[indices], self.labels[indices], self.is_cut[indices],
                      self.windows[indices], None if self.masks is None else [self.masks[i] for i in indices.tolist()])


def concatenate(parts: list[Pieces]) -> Pieces:
    """The pieces of all tiles."""
    tensors = [torch.cat([getattr(part, name) for part in parts]) for name in ('boxes', 'scores', 'labels', 'is_cut', 'windows')]
    masks = None if parts[0].masks is None else [mask for part in parts for mask in part.masks]
    return Pieces(*tensors, masks)


def merge(pieces: Pieces) -> Pieces:
    """Each object once, the highest score first.

    1. A cut box that lies within one of another tile is dropped.
    2. Of boxes of different tiles that are the same, whole ones win over cut ones, then the higher score.
    3. Cut boxes that continue in one another, of an object that is whole in no tile, are joined.

    Only boxes of one class are compared, and of different tiles: within a tile the model has decided.
    """
    merged = []
    for label in pieces.labels.unique():
        ours = pieces[torch.nonzero(pieces.labels == label).flatten()]
        ours = ours[torch.nonzero(~_is_within_another(ours)).flatten()]
        merged.append(_joined(ours[_suppressed(ours)]))
    if not merged:
        return pieces
    whole = concatenate(merged)
    return whole[whole.scores.argsort(descending=True, stable=True)]


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and over the area of the first, of every two boxes `[N, 4]`, `[M, 4]`: `[N, M]` each."""
    from mmdet.structures.bbox import bbox_overlaps  # segmentors are tiled without MMDetection

    return bbox_overlaps(boxes, others), bbox_overlaps(boxes, others, mode='iof')


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def _of_other_windows(pieces: Pieces) -> Tensor:
    return (pieces.windows[:, None] != pieces.windows[None]).any(-1)  # [N, N]


def _is_within_another(pieces: Pieces) -> Tensor:
    contained = overlaps(pieces.boxes, pieces.boxes)[1] >= CONTAINED
    areas = _areas(pieces.boxes)
    other_is_better = ~pieces.is_cut[None] | (areas[None] > areas[:, None])
    return (contained & _of_other_windows(pieces) & other_is_better).any(1) & pieces.is_cut


def _suppressed(pieces: Pieces) -> Tensor:
    """The indices that are left when of the same boxes only the best stays, best first."""
    order = sorted(range(len(pieces.scores)), key=lambda i: (bool(pieces.is_cut[i]), -float(pieces.scores[i])))
    rivals = (overlaps(pieces.boxes, pieces.boxes)[0] > SAME) & _of_other_windows(pieces)
    is_kept = torch.zeros(len(order), dtype=torch.bool)
    for i in order:
        is_kept[i] = not (rivals[i] & is_kept).any()
    return torch.tensor([i for i in order if is_kept[i]], dtype=torch.long)


def _joined(pieces: Pieces) -> Pieces:
    """Cut boxes that are one object's: what both show of the area that their tiles share is the same."""
    group_of = {i: [i] for i in range(len(pieces.scores))}
    cut = torch.nonzero(pieces.is_cut).flatten()
    for position, a in enumerate(cut.tolist()):
        later = cut[position + 1:]
        for b in later[_continues(pieces, a, later)].tolist():
            if group_of[a] is not group_of[b]:
                group_of[a] += group_of[b]
                group_of.update(dict.fromkeys(group_of[b], group_of[a]))
    groups = list({id(group): group for group in group_of.values()}.values())
    first = pieces[torch.tensor([max(group, key=lambda i: float(pieces.scores[i])) for group in groups], dtype=torch.long)]
    for i, group in enumerate(groups):
        if len(group) > 1:
            first.boxes[i] = torch.cat([pieces.boxes[group, :2].amin(0), pieces.boxes[group, 2:].amax(0)])
            if first.masks is not None:
                first.masks[i] = union([pieces.masks[j] for j in group])
    return first


def _continues(pieces: Pieces, a: int, others: Tensor) -> Tensor:
    """Which of the others, `[K]` bool, show the same as piece `a` of what their tiles share."""
    zones = _shared(pieces.windows[a], pieces.windows[others])
    ours, theirs = (_shared(boxes, zones) for boxes in (pieces.boxes[a], pieces.boxes[others]))
    areas, shared = _areas(ours) + _areas(theirs), _areas(_shared(ours, theirs))
    is_other = (pieces.windows[others] != pieces.windows[a]).any(-1)
    return is_other & (shared > 0) & (shared >= SAME * (areas - shared))


def _shared(boxes: Tensor, others: Tensor) -> Tensor:
    """Where boxes overlap, `[K, 4]`; of no area where they do not."""
    return torch.cat([torch.maximum(boxes[..., :2], others[:, :2]), torch.minimum(boxes[..., 2:], others[:, 2:])], -1)


def detect_in_tiles(infer: Infer, image: np.ndarray, tile: int, overlap: int, batch_size: int) -> BaseDataElement:
    """A detector's data sample for an image of any size, with run-length encoded masks.

    Args:
        infer: predicts images as a whole.
        image: `[H, W, 3]`.
        tile: pixels of a tile's sides.
        overlap: pixels that neighbours share.
        batch_size: tiles at a time.
    """
    height, width = image.shape[:2]
    windows = windows_of(height, width, tile, overlap)
    if len(windows) == 1:
        sample = infer([image])[0]
        if 'masks' in sample.pred_instances:
            sample.pred_instances.masks = [encode(mask.numpy()) for mask in sample.pred_instances.masks]
        return sample
    sample, found = _in_small(infer, image, tile, overlap)
    parts = [found]
    predicted = predict_windows(infer, image, windows, batch_size)
    parts += [_pieces(piece, window, height, width, tile) for piece, window in zip(predicted, windows, strict=True)]
    merged = merge(concatenate(parts))
    instances = InstanceData(bboxes=merged.boxes, scores=merged.scores, labels=merged.labels)
    if merged.masks is not None:
        instances.masks = merged.masks
    sample.pred_instances = instances
    sample.set_metainfo(dict(ori_shape=(height, width)))
    return sample


def _pieces(sample: BaseDataElement, window: Window, height: int, width: int, tile: int) -> Pieces:
    """What was found in a tile, in the image's coordinates."""
    found = sample.pred_instances
    boxes = found.bboxes.float() + torch.tensor([window.x0, window.y0, window.x0, window.y0])
    near = _BORDER * tile
    is_cut = ((boxes[:, 0] < window.x0 + near) & (window.x0 > 0) | (boxes[:, 1] < window.y0 + near) & (window.y0 > 0)
              | (boxes[:, 2] > window.x1 - near) & (window.x1 < width) | (boxes[:, 3] > window.y1 - near) & (window.y1 < height))
    masks = [encode_at(mask.numpy(), window.y0, window.x0, height, width) for mask in found.masks] if 'masks' in found else None
    place = torch.tensor([window.x0, window.y0, window.x1, window.y1], dtype=boxes.dtype)
    return Pieces(boxes, found.scores, found.labels, is_cut, place.expand(len(boxes), 4), masks)


def _in_small(infer: Infer, image: np.ndarray, tile: int, overlap: int) -> tuple[BaseDataElement, Pieces]:
    """The image made as small as a tile: its data sample, and the objects that are larger than the overlap, which may be
    whole in no tile."""
    height, width = image.shape[:2]
    scale = tile / max(height, width)
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    sample = infer([small])[0]
    found = sample.pred_instances
    boxes = found.bboxes.float() * torch.tensor([width / small.shape[1], height / small.shape[0]] * 2)
    large = torch.nonzero((boxes[:, 2:] - boxes[:, :2]).amax(1) > overlap).flatten()
    masks = [_enlarged(found.masks[i].numpy(), height, width) for i in large.tolist()] if 'masks' in found else None
    place = torch.tensor([0, 0, width, height], dtype=boxes.dtype)
    is_cut = torch.zeros(len(large), dtype=torch.bool)
    return sample, Pieces(boxes[large], found.scores[large], found.labels[large], is_cut, place.expand(len(large), 4), masks)


def _enlarged(mask: np.ndarray, height: int, width: int) -> RunLengths:
    """A small image's mask in the large one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return encode_at(mask, 0, 0, height, width)
    y0, y1 = (round(edge * height / mask.shape[0]) for edge in (rows[0], rows[-1] + 1))
    x0, x1 = (round(edge * width / mask.shape[1]) for edge in (columns[0], columns[-1] + 1))
    part = mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].astype(np.float32)
    larger = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 0.5
    return encode_at(larger, y0, x0, height, width)


def segment_in_tiles(infer: Infer, model: nn.Module, image: np.ndarray, tile: int, overlap: int,
                     batch_size: int) -> BaseDataElement:
    """A segmentor's data sample for an image of any size.

    Args:
        infer: predicts images as a whole, with their logits.
        model: a segmentor of MMSegmentation.
        image: `[H, W, 3]`.
        tile: pixels of a tile's sides.
        overlap: pixels that neighbours share.
        batch_size: tiles at a time.
    """
    from mmseg.structures import SegDataSample

    height, width = image.shape[:2]
    windows = windows_of(height, width, tile, overlap)
    if len(windows) == 1:
        sample = infer([image])[0]
        if 'seg_logits' in sample:
            del sample.seg_logits
        return sample

    logits = (_logits(sample, model) for sample in predict_windows(infer, image, windows, batch_size))
    labels = blend(logits, windows, height, width)
    return SegDataSample(pred_sem_seg=PixelData(data=labels[None]), metainfo=dict(ori_shape=(height, width)))


def blend(logits: Iterable[Tensor], windows: Sequence[Window], height: int, width: int) -> Tensor:
    """The class of each pixel where the tiles' logits, weighted less towards inner borders, are largest in sum.

    Held at a time are the logits of a tile and of a strip of classes × overlap × width; other pixels are settled.

    Args:
        logits: `[C, h, w]` of each window, which is changed; of a single class it is above 0 where the class is.
        windows: of `windows_of`, row by row.
        height: of the image.
        width: of the image.

    Returns:
        `[H, W]`, uint8, or int32 for more than 255 classes.
    """
    labels = strip = None
    remaining = iter(logits)
    rows = [list(row) for _, row in itertools.groupby(windows, key=lambda window: window.y0)]
    tops = _Side([row[0].y0 for row in rows], [row[0].y1 for row in rows])
    lefts = _Side([window.x0 for window in rows[0]], [window.x1 for window in rows[0]])
    for i, row in enumerate(rows):
        before, settled = tops.shared_before(i), tops.settled(i)
        aside = None  # the columns that the next tile shares, the strip above them included
        for j, window in enumerate(row):
            part = next(remaining)
            if labels is None:
                labels = torch.empty(height, width, dtype=torch.uint8 if len(part) <= 255 else torch.int32)
                strip = part.new_zeros(len(part), max(map(tops.shared_before, range(len(rows)))), width)
            part = part.mul_(tops.weights(i).to(part)[:, None]).mul_(lefts.weights(j).to(part))
            shared, columns = lefts.shared_before(j), lefts.settled(j)
            if shared:
                part[:, :, :shared] += aside
            part[:, :before, shared:] += strip[:, :before, window.x0 + shared:window.x1]
            decided = part[:, :settled, :columns]
            decided = decided.argmax(0) if len(part) > 1 else decided[0] > 0
            labels[window.y0:window.y0 + settled, window.x0:window.x0 + columns] = decided.to(labels.dtype)
            strip[:, :part.shape[1] - settled, window.x0:window.x0 + columns] = part[:, settled:, :columns]
            aside = part[:, :, columns:]
    return labels


@dataclass
class _Side:
    """Tiles along one side: where they begin and end."""

    starts: list[int]
    ends: list[int]

    def shared_before(self, i: int) -> int:
        """Pixels that tile i shares with the one before."""
        return self.ends[i - 1] - self.starts[i] if i else 0

    def shared_after(self, i: int) -> int:
        """Pixels that tile i shares with the next."""
        return self.shared_before(i + 1) if i + 1 < len(self.starts) else 0

    def settled(self, i: int) -> int:
        """Pixels from its start that no later tile has."""
        return self.ends[i] - self.starts[i] - self.shared_after(i)

    def weights(self, i: int) -> Tensor:
        """1 within, falling towards the borders that other tiles go beyond: `[length]`."""
        weights = torch.ones(self.ends[i] - self.starts[i])
        before, after = self.shared_before(i), self.shared_after(i)
        weights[:before] *= (torch.arange(before) + 0.5) / max(before, 1)
        weights[len(weights) - after:] *= 1 - (torch.arange(after) + 0.5) / max(after, 1)
        return weights


def _logits(sample: BaseDataElement, model: nn.Module) -> Tensor:
    """A sample's logits `[C, h, w]`; test-time augmentation leaves labels alone, which then vote."""
    labels = sample.pred_sem_seg.data
    if 'seg_logits' not in sample:
        return one_hot(labels[0].long(), model.out_channels).movedim(-1, 0).float() if model.out_channels > 1 else labels - 0.5
    logits = sample.seg_logits.data
    # Of a single class MMSegmentation gives the sigmoid.
    return logits if len(logits) > 1 else logits - model.decode_head.threshold
