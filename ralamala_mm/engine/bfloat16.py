"""Training under bfloat16 autocast; MMCV's operators, which take fp32 and fp16 only, get fp32 inputs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmcv.ops import RoIAlign, RoIPool
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from mmengine.utils import apply_to
from torch import Tensor, nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs the forward pass under bfloat16 autocast, on any device that has it, with `keep_operators_in_fp32`.

    Unlike MMEngine's AmpOptimWrapper it has no loss scaler, as bfloat16 has the range of fp32: a gradient that is not finite is
    seen by `NonFiniteHook` rather than left out without a word. Arguments are those of OptimWrapper.
    """

    _prepared: nn.Module | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of the model, besides what OptimWrapper does for accumulated gradients."""
        if model is not self._prepared:
            keep_operators_in_fp32(model)
            self._prepared = model
        device = next(model.parameters()).device.type
        with super().optim_context(model), autocast(device, dtype=torch.bfloat16):
            yield


def keep_operators_in_fp32(model: nn.Module) -> None:
    """Has RoIAlign, NMS and focal losses of a model get fp32 under bfloat16 autocast; other dtypes pass as they are.

    By forward hooks, at three places:
    - RoI extractors: their maps become fp32 before they enter. At RoIAlign itself it would be too late, as the extractor gives
      its boxes the dtype of the maps, and bfloat16 is 4 or 8 pixels coarse beyond 512 or 1024.
    - Dense and box heads: their predictions become fp32 as they leave. NMS gets its boxes and scores from them, and anchors
      are made in their dtype.
    - Focal losses, wherever their predictions come from.

    Args:
        model: any module, also a wrapped one.
    """
    taking, giving = _operator_classes()
    for module in model.modules():
        if isinstance(module, taking):
            module.register_forward_pre_hook(_inputs_in_fp32, with_kwargs=True)
        if isinstance(module, giving):
            module.register_forward_hook(_outputs_in_fp32)


def _operator_classes() -> tuple[tuple[type, ...], tuple[type, ...]]:
    """Whose inputs, and whose outputs, are needed in fp32; of MMDetection and MMSegmentation as far as they are in use."""
    taking, giving = [RoIAlign, RoIPool], []
    if 'mmdet.models' in sys.modules:
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        from mmdet.models.losses import FocalLoss
        from mmdet.models.roi_heads.bbox_heads import BBoxHead
        from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor

        taking += [BaseRoIExtractor, FocalLoss]
        giving += [BaseDenseHead, BBoxHead]
    if 'mmseg.models' in sys.modules:
        from mmseg.models.losses import FocalLoss

        taking.append(FocalLoss)
    return tuple(taking), tuple(giving)


def _inputs_in_fp32(module: nn.Module, arguments: tuple, keywords: dict) -> tuple[tuple, dict]:
    return _in_fp32(arguments), _in_fp32(keywords)


def _outputs_in_fp32(module: nn.Module, arguments: tuple, outputs: object) -> object:
    return _in_fp32(outputs)


def _in_fp32(values: object) -> object:
    return apply_to(values, lambda value: isinstance(value, Tensor) and value.dtype == torch.bfloat16, Tensor.float)
