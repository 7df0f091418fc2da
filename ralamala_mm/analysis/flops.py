"""Parameters and multiply-adds of a model as test-time inference runs it.

Counted from the operators that really run, on tensors that have shapes but no memory: convolutions, matrix products and
PyTorch's fused attention kernels. Published tables count convolutions and linear layers only, because the counters of
mmcv 1.x do not see products of activations; here the products inside the attentions are counted too, and kept apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ralamala_mm.datasets.config import is_segmentation
from ralamala_mm.errors import UserError

DETECTION_SHAPE, SEGMENTATION_SHAPE = (800, 1280), (512, 2048)  # height, width; the papers' tables
BOX_REGIONS, MASK_REGIONS = 1000, 100  # per image, as in MMDetection's counting and in its tests' settings


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds for one image.

    `published_kind` is what the papers' tables show: everything but the products inside the attentions.
    """

    parameters: int
    backbone: int  # convolutions
    heads: int  # neck and heads
    linear_attention: int  # products of activations, in its `linear_stages`
    softmax_attention: int  # in the others

    @property
    def published_kind(self) -> int:
        return self.backbone + self.heads

    @property
    def total(self) -> int:
        return self.published_kind + self.linear_attention + self.softmax_attention


def _fused_attention_on_cpu(query: torch.Size, key: torch.Size, value: torch.Size, *args, **options) -> int:
    """PyTorch counts its fused kernels for GPUs, but not the one for CPUs."""
    return sdpa_flop_count(query, key, value)


_KNOWN_BESIDE_PYTORCH_S = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_on_cpu}


def count(function: Callable, *args) -> tuple[object, dict[str, dict[str, int]]]:
    """Runs `function` without computing; returns what it returns and multiply-adds by module and operator.

    The module '' stands for the whole.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_KNOWN_BESIDE_PYTORCH_S)
    with counter, torch.no_grad():
        result = function(*args)
    counts = {'' if module == 'Global' else module: {str(operator): flops // 2 for operator, flops in by_operator.items()}
              for module, by_operator in counter.get_flop_counts().items()}  # PyTorch counts a multiply-add as two
    return result, counts


def default_shape(config: Config) -> tuple[int, int]:
    """Height and width at which the papers count this task."""
    return SEGMENTATION_SHAPE if is_segmentation(config) else DETECTION_SHAPE


def count_model(model: nn.Module, shape: tuple[int, int]) -> Cost:
    """Counts a detector or a segmentor for one image.

    Args:
        model: with `backbone` and, if it has them, `neck`, `rpn_head`, `bbox_head`, `roi_head`, `decode_head`. An auxiliary
            head only trains; it counts as parameters, not as multiply-adds.
        shape: height and width in pixels.

    Raises:
        UserError: it has none of these heads.
    """
    named = [getattr(model, name, None) for name in ('rpn_head', 'bbox_head', 'decode_head')]
    heads = [head for head in named if isinstance(head, nn.Module)]
    if not heads:
        raise UserError(f'{type(model).__name__} has no head that get_flops knows (rpn_head, bbox_head, roi_head, decode_head)')
    with FakeTensorMode(allow_non_fake_inputs=True):
        maps, in_backbone = count(model.backbone, torch.empty(1, 3, *shape))

        def neck_and_heads() -> None:
            features = model.neck(maps) if getattr(model, 'neck', None) is not None else maps
            for head in heads:
                head(features)
            if getattr(model, 'roi_head', None) is not None:
                _run_on_regions(model.roi_head)

        _, in_heads = count(neck_and_heads)
    products = {stage: sum(flops for operator, flops in operators.items() if 'convolution' not in operator)
                for stage in range(4) if (operators := in_backbone.get(f'{type(model.backbone).__name__}.layers.{stage}'))}
    linear = sum(flops for stage, flops in products.items() if stage in getattr(model.backbone, 'linear_stages', ()))
    softmax = sum(products.values()) - linear
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        backbone=sum(in_backbone[''].values()) - linear - softmax,
        heads=sum(in_heads[''].values()),
        linear_attention=linear,
        softmax_attention=softmax)


def _run_on_regions(roi_head: nn.Module) -> None:
    """Box and mask heads, one or one per stage of a cascade, on regions of the size that their extractors cut out."""
    for kind, regions in (('bbox', BOX_REGIONS), ('mask', MASK_REGIONS)):
        heads, extractors = getattr(roi_head, f'{kind}_head', None), getattr(roi_head, f'{kind}_roi_extractor', None)
        if heads is None:
            continue
        staged = isinstance(heads, nn.ModuleList)
        for head, extractor in zip(heads, extractors, strict=True) if staged else [(heads, extractors)]:
            head(_regions(extractor, regions))


def _regions(extractor: nn.Module, regions: int) -> Tensor:
    return torch.empty(regions, extractor.out_channels, *extractor.roi_layers[0].output_size)


def as_text(cost: Cost, shape: tuple[int, int]) -> str:
    """Both ways of counting, for a terminal."""
    def giga(number: int) -> str:
        return f'{number / 1e9:8.1f} G'

    return '\n'.join([
        f'parameters                               {cost.parameters / 1e6:8.1f} M',
        f'multiply-adds at {shape[0]}×{shape[1]} (height × width), one image',
        f'  backbone without attention products    {giga(cost.backbone)}',
        f'  neck and heads                         {giga(cost.heads)}',
        f'  sum, what published tables show        {giga(cost.published_kind)}',
        f'  products in the linear attentions      {giga(cost.linear_attention)}',
        f'  products in the softmax attentions     {giga(cost.softmax_attention)}',
        f'  all                                    {giga(cost.total)}'])
