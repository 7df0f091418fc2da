"""Segmentors as one function from images to a class and a score for every pixel."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ralamala_mm.errors import UserError

from .detection import check_type
from .operators import AdaptivePooling


def check_segmentor(model: nn.Module) -> None:
    """Whether the segmentor's results come straight from its head.

    Raises:
        UserError: it names what does not.
    """
    check_type(model, ['EncoderDecoder'])
    if model.test_cfg.get('mode', 'whole') != 'whole':
        raise UserError(f"ONNX export supports test_cfg.mode='whole', not '{model.test_cfg.mode}', whose windows Python cuts and "
                        "merges: set model.test_cfg.mode='whole'")
    if model.decode_head.out_channels < 2:
        raise UserError('ONNX export does not support a segmentor with one output and a threshold: use num_classes=2')
    test_cfg = getattr(model.data_preprocessor, 'test_cfg', None) or {}
    if test_cfg.get('size'):
        raise UserError('ONNX export needs open sizes, and data_preprocessor.test_cfg.size pads every image to one: remove it '
                        'from the config')


class Segmentor(nn.Module):
    """Images `[B, 3, H, W]`, normalized and padded → class and score (its probability) of each pixel, `[B, height, width]`."""

    outputs = ('classes', 'scores')

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = with_open_sizes(model)

    def forward(self, image: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        head = self.model.decode_head
        logits = head(self.model.extract_feat(image))
        logits = F.interpolate(logits, size=image.shape[2:], mode='bilinear', align_corners=head.align_corners)
        scores, classes = logits[:, :, :height, :width].softmax(dim=1).max(dim=1)
        return classes, scores


def with_open_sizes(model: nn.Module) -> nn.Module:
    """A copy whose layers read the sizes of maps from the graph; MMSegmentation's `Upsample` makes constants of them."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                setattr(module, name, AdaptivePooling(child.output_size))
            elif type(child).__module__.startswith('mmseg.') and type(child).__name__ == 'Upsample' and not child.size:
                setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, mode=child.mode,
                                                  align_corners=child.align_corners))
    return model


def dummy_samples(count: int, shape: tuple[int, int]) -> list:
    """The metainfo of images that are their own size, as MMSegmentation expects it."""
    from mmseg.structures import SegDataSample

    return [SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))) for _ in range(count)]


def predict(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What MMSegmentation itself makes of images `[B, 3, H, W]`, with the names of `Segmentor.outputs`."""
    shape = tuple(image.shape[2:])
    with torch.no_grad():
        samples = model.test_step(dict(inputs=list(image), data_samples=dummy_samples(len(image), shape)))
    probabilities = torch.stack([sample.seg_logits.data for sample in samples]).softmax(dim=1)
    return dict(classes=torch.stack([sample.pred_sem_seg.data[0] for sample in samples]), scores=probabilities.amax(dim=1))
