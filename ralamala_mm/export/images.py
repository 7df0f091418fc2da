"""A detector or segmentor as a module that takes images as they are: normalization, padding and results within."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ralamala_mm.errors import UserError

from . import detection, segmentation


def read_image(path: Path) -> np.ndarray:
    """An image `[H, W, 3]`, RGB, read as the pipelines of data do.

    Raises:
        UserError: the file is missing or damaged.
    """
    from ralamala_mm.datasets import LoadCheckedImage

    if not path.is_file():
        raise UserError(f'image {path} does not exist')
    return LoadCheckedImage()(dict(img_path=str(path)))['img'][..., ::-1].copy()


class Normalization(nn.Module):
    """Images `[B, 3, H, W]`, RGB, 0 to 255 → what a model takes: the order of channels, mean and deviation of its config."""

    def __init__(self, preprocessor: nn.Module):
        super().__init__()
        self.reversed = not _reverses(preprocessor)  # a model without channel conversion was trained on OpenCV's BGR
        self.register_buffer('mean', preprocessor.mean.clone() if _normalizes(preprocessor) else torch.zeros(3, 1, 1))
        self.register_buffer('std', preprocessor.std.clone() if _normalizes(preprocessor) else torch.ones(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = image.flip(1) if self.reversed else image
        return (x.float() - self.mean) / self.std


class ImageModel(nn.Module):
    """Images `[B, 3, H, W]`, RGB, 0 to 255 → the results of `core`, in the pixels of the image that came in."""

    def __init__(self, core: nn.Module, preprocessor: nn.Module, divisor: int):
        super().__init__()
        self.core = core
        self.outputs = core.outputs
        self.normalization = Normalization(preprocessor)
        self.divisor = divisor
        self.pad_value = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = (torch.as_tensor(length) for length in image.shape[2:])
        x = self.normalization(image)
        if self.divisor > 1:
            x = detection.padded(x, self.divisor, self.pad_value)
        return self.core(x, height, width)


def image_model(model: nn.Module) -> tuple[ImageModel, Callable[[Tensor], dict[str, Tensor]], bool]:
    """A model of mmdet's or mmseg's for export.

    Returns:
        the module; a function that gives the libraries' own results for the same images, by the module's names of outputs; and
        whether it takes more than one image at a time.

    Raises:
        UserError: some part of the model's inference is not written for a graph; it is named.
    """
    preprocessor = model.data_preprocessor
    library = type(model).__module__.split('.')[0]
    if library == 'mmseg':
        segmentation.check_segmentor(model)
        core, own = segmentation.Segmentor(model), segmentation.predict
        divisor = (getattr(preprocessor, 'test_cfg', None) or {}).get('size_divisor', 1)
    elif library == 'mmdet':
        detection.check_detector(model)
        core = (detection.TwoStageDetector if hasattr(model, 'roi_head') else detection.DenseDetector)(model)
        own, divisor = detection.predict, preprocessor.pad_size_divisor
    else:
        raise UserError(f"{type(model).__name__} is neither MMDetection's nor MMSegmentation's: give --backbone-only")
    module = ImageModel(core, preprocessor, divisor).eval()
    return module, lambda image: own(model, image.flip(1)), library == 'mmseg'


def _reverses(preprocessor: nn.Module) -> bool:
    """Whether it turns BGR into what the model takes."""
    return bool(getattr(preprocessor, 'channel_conversion', getattr(preprocessor, '_channel_conversion', False)))


def _normalizes(preprocessor: nn.Module) -> bool:
    return bool(getattr(preprocessor, '_enable_normalize', False))
