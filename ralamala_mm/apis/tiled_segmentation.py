"""Segmentation of large pictures: tiles whose logits are blended over the overlap, in memory that does not grow with height."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn
from torch.nn.functional import one_hot

from .tiling import Infer, Window, predict_windows, windows_of


def segment_in_tiles(infer: Infer, model: nn.Module, picture: np.ndarray, tile: int, overlap: int,
                     batch_size: int) -> BaseDataElement:
    """A segmentor's data sample for a picture of any size.

    Args:
        infer: predicts pictures as a whole, with their logits.
        model: a segmentor of MMSegmentation.
        picture: `[H, W, 3]`.
        tile: pixels of a tile's sides.
        overlap: pixels that neighbours share.
        batch_size: tiles at a time.
    """
    from mmseg.structures import SegDataSample

    height, width = picture.shape[:2]
    windows = windows_of(height, width, tile, overlap)
    if len(windows) == 1:
        sample = infer([picture])[0]
        if 'seg_logits' in sample:
            del sample.seg_logits
        return sample

    logits = (_logits(sample, model) for sample in predict_windows(infer, picture, windows, batch_size))
    labels = blend(logits, windows, height, width)
    return SegDataSample(pred_sem_seg=PixelData(data=labels[None]), metainfo=dict(ori_shape=(height, width)))


def blend(logits: Iterable[Tensor], windows: Sequence[Window], height: int, width: int) -> Tensor:
    """The class of each pixel where the tiles' logits, weighted less towards inner borders, are largest in sum.

    Held at a time are the logits of a tile and of a strip of classes × overlap × width; other pixels are settled.

    Args:
        logits: `[C, h, w]` of each window, which is changed; of a single class it is above 0 where the class is.
        windows: of `windows_of`, row by row.
        height: of the picture.
        width: of the picture.

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
