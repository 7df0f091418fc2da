"""Operators of detectors and segmentors in the words of ONNX; in PyTorch they compute what MMCV's and PyTorch's do."""

import torch
from torch import Tensor, nn

UNLIMITED = 2 ** 31 - 1


class _NonMaxSuppression(torch.autograd.Function):
    """MMCV's NMS in PyTorch, `NonMaxSuppression` in ONNX."""

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, threshold: float, limit: int) -> Tensor:
        from mmcv.ops import nms

        return nms(boxes, scores, threshold)[1][:limit]

    @staticmethod
    def symbolic(g, boxes, scores, threshold: float, limit: int):
        def constant(value: object, dtype: torch.dtype):
            return g.op('Constant', value_t=torch.tensor(value, dtype=dtype))

        first, second = constant([0], torch.int64), constant([0, 1], torch.int64)
        chosen = g.op('NonMaxSuppression', g.op('Unsqueeze', boxes, first), g.op('Unsqueeze', scores, second),
                      constant([limit], torch.int64), constant([threshold], torch.float32))  # [K, 3]: image, class, box
        return g.op('Gather', chosen, constant(2, torch.int64), axis_i=1)


class _RoIAlign(torch.autograd.Function):
    """MMCV's RoIAlign by averages in PyTorch, `RoiAlign` in ONNX."""

    @staticmethod
    def forward(ctx, features: Tensor, boxes: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
        from mmcv.ops import roi_align

        regions = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
        return roi_align(features, regions, size, scale, ratio, 'avg', aligned)

    @staticmethod
    def symbolic(g, features, boxes, size: tuple[int, int], scale: float, ratio: int, aligned: bool):
        column = g.op('Gather', boxes, g.op('Constant', value_t=torch.tensor(0)), axis_i=1)  # [K]
        zero = g.op('ConstantOfShape', g.op('Shape', column), value_t=torch.zeros(1, dtype=torch.int64))
        return g.op('RoiAlign', features, boxes, zero, output_height_i=size[0], output_width_i=size[1], spatial_scale_f=scale,
                    sampling_ratio_i=max(0, ratio), mode_s='avg',
                    coordinate_transformation_mode_s='half_pixel' if aligned else 'output_half_pixel')


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, limit: int = UNLIMITED) -> Tensor:
    """Non-maximum suppression within each group.

    Args:
        boxes: `[K, 4]`, corners.
        scores: `[K]`.
        groups: `[K]`, whole numbers; boxes of different groups leave each other alone.
        threshold: overlap (IoU) above which the box of the lower score goes.
        limit: how many are kept at most.

    Returns:
        Places of the boxes that are kept, highest score first.
    """
    span = torch.cat([boxes.new_zeros(1, 4), boxes]).max() + 1  # by which MMCV moves groups apart; there may be no boxes
    moved = boxes + (groups.to(boxes.dtype) * span)[:, None]
    return _NonMaxSuppression.apply(moved, scores, threshold, limit)


def roi_align(features: Tensor, boxes: Tensor, layer: nn.Module) -> Tensor:
    """`[1, C, H, W]` and `[K, 4]` → `[K, C, h, w]`, with the settings of an `mmcv.ops.RoIAlign`."""
    height, width = layer.output_size
    return _RoIAlign.apply(features, boxes, (height, width), layer.spatial_scale, layer.sampling_ratio, layer.aligned)


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of `[K]`, or all if there are fewer, in descending order, and their places."""
    ranked, order = scores.sort(dim=0, descending=True)
    return ranked[:count], order[:count]


def paste(masks: Tensor, boxes: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Masks `[K, h, w]` stretched over their boxes `[K, 4]` in an image: `[K, height, width]`.

    The bilinear sampling of MMDetection, written as a product of its rows and its columns.
    """
    rows = _hat_weights(boxes[:, 1], boxes[:, 3], height, masks.shape[1])  # [K, height, h]
    columns = _hat_weights(boxes[:, 0], boxes[:, 2], width, masks.shape[2])  # [K, width, w]
    return rows @ masks @ columns.transpose(1, 2)


def _hat_weights(start: Tensor, end: Tensor, length: Tensor, bins: int) -> Tensor:
    """How much each of `bins` cells between start and end, `[K]`, counts at each of `length` pixel centres."""
    centres = torch.arange(length, device=start.device).to(start.dtype) + 0.5
    positions = (centres - start[:, None]) / (end - start)[:, None] * bins - 0.5  # in cells, [K, length]
    cells = torch.arange(bins, device=start.device).to(start.dtype)
    return (1 - (positions[..., None] - cells).abs()).clamp(min=0)


class AdaptivePooling(nn.Module):
    """`nn.AdaptiveAvgPool2d` for maps whose size is known only when the graph runs: averages as matrix products."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._weights(x, dim) for dim in (2, 3))
        return rows @ x @ columns.transpose(0, 1)

    def _weights(self, x: Tensor, dim: int) -> Tensor:
        """`[size, length]`: cell i averages the pixels from ⌊i·length/size⌋ to before ⌈(i+1)·length/size⌉."""
        length = x.shape[dim]
        cells = torch.arange(self.size, device=x.device)[:, None]
        pixels = torch.arange(length, device=x.device)
        first = torch.div(cells * length, self.size, rounding_mode='floor')
        last = torch.div((cells + 1) * length + self.size - 1, self.size, rounding_mode='floor')
        inside = ((pixels >= first) & (pixels < last)).to(x.dtype)
        return inside / inside.sum(dim=1, keepdim=True)
