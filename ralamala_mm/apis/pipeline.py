"""From a picture to what a model takes: the config's own test pipeline, without what reads files and annotations."""

import copy
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from torch import nn

from ralamala_mm.datasets.walking import datasets_of
from ralamala_mm.engine import use_test_time_augmentation
from ralamala_mm.errors import UserError

_TAKEN = 'paths are taken, and arrays [H, W, 3] of uint8 in the order blue, green, red, or grey [H, W]'
_READER = dict(type='ralamala_mm.datasets.LoadCheckedImage')


class Preparation:
    """Reads pictures and prepares them for a model.

    Args:
        config: of a detector or segmentor, its images read by `LoadCheckedImage`.
        tta: prepare several views of a picture, as the config's test-time augmentation wants them.
    """

    def __init__(self, config: Config, tta: bool):
        pipeline = _test_pipeline(config)
        reader = next((transform for transform in pipeline if _is_loader(transform)), _READER)
        if tta:
            pipeline = _test_pipeline(augmented(config))
        with DefaultScope.overwrite_default_scope(config.default_scope):
            self._reader = TRANSFORMS.build(reader)
            self._pipeline = Compose(_without_loaders(pipeline))

    def read(self, image: str | Path | np.ndarray) -> np.ndarray:
        """A picture `[H, W, 3]`, BGR.

        Args:
            image: a path, or a picture, grey ones `[H, W]` too.

        Raises:
            UserError: the file is missing or damaged, or the array is no picture.
        """
        if isinstance(image, str | Path):
            if not Path(image).is_file():
                raise UserError(f'image {image} does not exist')
            return self._reader(dict(img_path=str(image)))['img']
        if not isinstance(image, np.ndarray):
            raise UserError(f'a {type(image).__name__} is no picture: {_TAKEN}')
        if image.dtype != np.uint8 or not image.size or (image.ndim != 2 and image.shape[2:] != (3,)):
            raise UserError(f'an array of {image.dtype} and shape {image.shape} is no picture: {_TAKEN}')
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image

    def prepare(self, picture: np.ndarray, path: str | None = None) -> dict:
        """The model's `inputs` and `data_samples`; lists of them, one entry a view, for test-time augmentation.

        Raises:
            UserError: the pipeline cannot do it, as where a picture of 3000×1 pixels would be made so small that nothing is left.
        """
        height, width = shape = picture.shape[:2]
        try:
            return self._pipeline(dict(img=picture, img_path=path, img_id=0, img_shape=shape, ori_shape=shape, height=height,
                                       width=width, seg_fields=[], sample_idx=0))
        except cv2.error as error:
            what, why = f'image {path} of' if path else 'a picture of', ' '.join(str(error).split())
            raise UserError(f'{what} {width}×{height} pixels does not go through the test pipeline: {why}') from error


def augmented(config: Config) -> Config:
    """A copy of a config with test-time augmentation around its model and in its test pipeline.

    Raises:
        UserError: the config or the kind of model does not allow it.
    """
    config = copy.deepcopy(config)
    use_test_time_augmentation(config)
    return config


def augmented_model(config: Config, model: nn.Module) -> nn.Module:
    """A model within the config's model for test-time augmentation, which merges its predictions."""
    wrapper = dict(augmented(config).model, module=model)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(wrapper)


def _test_pipeline(config: Config) -> list[ConfigDict]:
    _, dataset = next(datasets_of(config, ['test']))
    return dataset.get('pipeline') or []


def _is_loader(transform: ConfigDict) -> bool:
    return str(transform.get('type')).split('.')[-1].startswith('Load')


def _without_loaders(transforms: list) -> list:
    """The transforms without those that read files, within TestTimeAug too, whose empty alternatives go."""
    kept = []
    for transform in transforms:
        if isinstance(transform, list | tuple):
            transform = _without_loaders(transform)
        elif _is_loader(transform):
            continue
        elif 'transforms' in transform:
            transform = ConfigDict(transform, transforms=_without_loaders(transform['transforms']))
        if transform:
            kept.append(transform)
    return kept
