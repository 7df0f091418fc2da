"""From a config and a checkpoint to predictions for images, in order: batches of one shape, tiles, and what is left out."""

import copy
import itertools
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ralamala_mm.checkpoints import find_weights, load_weights, read_checkpoint, recorded_backbone, recorded_classes
from ralamala_mm.datasets import use_checked_loading
from ralamala_mm.datasets.config import (
    config_classes,
    dataset_class,
    datasets_of,
    is_segmentation,
    reduces_zero_label,
    set_classes,
    values_under,
)
from ralamala_mm.engine import build_model, load_config, use_test_time_augmentation
from ralamala_mm.errors import OptionError, UserError, did_you_mean

from .drawing import is_palette, palette_of
from .tiling import check_tiles, detect_in_tiles, memory_of, segment_in_tiles, windows_of

_TAKEN = 'paths are taken, and arrays [H, W, 3] of uint8 in the order blue, green, red, or grey [H, W]'
_READER = dict(type='ralamala_mm.datasets.LoadCheckedImage')
_IGNORED = {torch.uint8: 255, torch.int32: 65535}  # pixels of classes that were not asked for, as in MMSegmentation's masks
_SEARCHED_BATCHES = 4  # batches' worth of images among which those of one shape are looked for


def load_model(config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'auto',
               options: dict | None = None, fuse: bool = False) -> nn.Module:
    """Builds a config's detector or segmentor for inference.

    Args:
        config: path of a config file, or a config, which is copied.
        checkpoint: path or URL of the weights, of any form that `tools/test.py` takes. If it records other classes than the
            config's, the heads get as many outputs. None leaves the weights random.
        device: 'cpu', 'cuda', 'cuda:1', …; 'auto' takes a GPU if there is one.
        options: settings to override in the config, such as `{'model.test_cfg.rcnn.max_per_img': 300}`.
        fuse: take the backbone's norms into its convolutions, which saves memory and changes results by rounding alone.

    Returns:
        The model in evaluation mode. `cfg` is its config, `dataset_meta` a dict of its `classes` and `palette`, as MMDetection's
        and MMSegmentation's own functions expect them, and of `reduce_zero_label`, whether 0 is no class in the data set's masks.

    Raises:
        UserError: config or checkpoint cannot be read or do not fit together, or there is no such device.
    """
    target = find_device(device)
    if isinstance(config, Config):
        config = copy.deepcopy(config)
        if options:
            config.merge_from_dict(options)
    else:
        config = load_config(str(config), options)
    _check_task(config)
    content = read_checkpoint(str(checkpoint)) if checkpoint else {}
    _use_classes(config, recorded_classes(content))
    use_checked_loading(config)
    if 'backbone' in config.model:
        config.model.backbone.init_cfg = None  # the checkpoint holds all weights
        if 'pretrained' in config.model.backbone:
            config.model.backbone.pretrained = None
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', category=UserWarning, module='mmseg')  # on losses, which inference does without
        model = build_model(config)
    if checkpoint:
        report = load_weights(model, find_weights(content, str(checkpoint)), str(checkpoint), complete=True,
                              recorded=recorded_backbone(content))
        print_log(str(report), 'current', logging.INFO if report.is_clean else logging.WARNING)
    else:
        print_log('no checkpoint: the weights are random, and so will be the predictions', 'current', logging.WARNING)
    if fuse and hasattr(getattr(model, 'backbone', None), 'fuse_for_inference'):
        model.backbone.fuse_for_inference()
    model.cfg = config
    model.dataset_meta = _dataset_meta(config, content)
    return model.to(target).eval()


def find_device(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU if there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = [f'cuda:{i}' for i in range(torch.cuda.device_count())]
        raise UserError(f'device {name} is not available; available: {", ".join(["cpu", *there])}') from error
    return device


def _check_task(config: Config) -> None:
    if not isinstance(config.get('model'), dict):
        raise UserError(f'config {config.filename} has no model')
    if config.get('default_scope') not in ('mmdet', 'mmseg'):
        raise UserError(f"config {config.filename} has default_scope {config.get('default_scope')!r}: inference is for "
                        "MMDetection's 'mmdet' and MMSegmentation's 'mmseg'")
    _, dataset = next(datasets_of(config, ['test']), (None, {}))
    if not dataset.get('pipeline'):
        raise UserError(f'config {config.filename} has no test_dataloader with a data set whose pipeline prepares the images')


def _use_classes(config: Config, recorded: Sequence[str] | None) -> None:
    """Gives the config the classes that the weights were trained on, if they are not as many as its own."""
    if recorded and len(recorded) != len(config_classes(config)):
        set_classes(config, recorded)


def _dataset_meta(config: Config, content: Mapping) -> dict:
    """Names and colors of the classes: of the checkpoint, else of the config's data set, else made up."""
    meta = content.get('meta') or {}
    recorded = meta.get('dataset_meta') if isinstance(meta.get('dataset_meta'), Mapping) else {}
    classes = recorded_classes(content) or config_classes(config)
    largest = max((count for count in values_under(config.model, 'num_classes') if isinstance(count, int)), default=0)
    classes = classes or tuple(f'class {i}' for i in range(largest))
    palettes = (recorded.get('palette'), meta.get('PALETTE'), _config_palette(config, classes))
    palette = next((palette for palette in palettes if is_palette(palette, len(classes))), None)
    _, dataset = next(datasets_of(config, ['test']))
    return dict(classes=classes, palette=palette_of(dict(classes=classes, palette=palette)),
                reduce_zero_label=bool(recorded.get('reduce_zero_label', reduces_zero_label(config, dataset))))


def _config_palette(config: Config, classes: Sequence[str]) -> object:
    _, dataset = next(datasets_of(config, ['test']))
    if tuple(config_classes(config)) != tuple(classes):
        return None
    own = (dataset.get('metainfo') or {}).get('palette')
    return own or getattr(dataset_class(config, dataset), 'METAINFO', {}).get('palette')


class Preparation:
    """Reads images and prepares them for a model.

    Args:
        config: of a detector or segmentor, its images read by `LoadCheckedImage`.
        tta: prepare several views of an image, as the config's test-time augmentation wants them.
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
        """An image `[H, W, 3]`, BGR.

        Args:
            image: a path, or an image, grey ones `[H, W]` too.

        Raises:
            UserError: the file is missing or damaged, or the array is no image.
        """
        if isinstance(image, str | Path):
            if not Path(image).is_file():
                raise UserError(f'image {image} does not exist')
            return self._reader(dict(img_path=str(image)))['img']
        if not isinstance(image, np.ndarray):
            raise UserError(f'a {type(image).__name__} is no image: {_TAKEN}')
        if image.dtype != np.uint8 or not image.size or (image.ndim != 2 and image.shape[2:] != (3,)):
            raise UserError(f'an array of {image.dtype} and shape {image.shape} is no image: {_TAKEN}')
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image

    def prepare(self, image: np.ndarray, path: str | None = None) -> dict:
        """The model's `inputs` and `data_samples`; lists of them, one entry a view, for test-time augmentation.

        Raises:
            UserError: the pipeline cannot do it, as where an image of 3000×1 pixels would be made so small that nothing is left.
        """
        height, width = shape = image.shape[:2]
        try:
            return self._pipeline(dict(img=image, img_path=path, img_id=0, img_shape=shape, ori_shape=shape, height=height,
                                       width=width, seg_fields=[], sample_idx=0))
        except cv2.error as error:
            what, why = f'image {path} of' if path else 'an image of', ' '.join(str(error).split())
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


Predicted = BaseDataElement | UserError  # a data sample, or why there is none
OnFailure = Callable[[object, UserError], None]  # an image's name, and why it cannot be predicted
OnTiles = Callable[[int, int], None]  # how many tiles were predicted just then, and how many the image has


def predict(model: nn.Module, images: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], batch_size: int = 1,
            score_threshold: float = 0.0, classes: Sequence[str] | None = None, tile: int | None = None,
            overlap: int | None = None, tta: bool = False) -> BaseDataElement | list[BaseDataElement]:
    """Predicts one image or several.

    Args:
        model: of `load_model`.
        images: paths, or images `[H, W, 3]` BGR uint8 as OpenCV reads them; one, or a list of them.
        batch_size: images at a time. Only images of one shape share a batch, so that none is padded for another.
        score_threshold: detections below it are left out.
        classes: names of the classes that are kept, all by default; a segmentor's pixels of others become 255
            (65535 for more than 255 classes).
        tile: predict in tiles of so many pixels, for images that are larger. Instance masks are then COCO's run-length
            encodings, as MMDetection's metrics take them, instead of a tensor.
        overlap: pixels that neighbouring tiles share; a quarter of the tile by default. Objects up to this size are whole in
            a tile, larger ones are looked for in the image as a whole, made small.
        tta: test-time augmentation, as the config has it, or flips for detectors.

    Returns:
        MMDetection's `DetDataSample` with `pred_instances`, or MMSegmentation's `SegDataSample` with `pred_sem_seg` `[1, H, W]`
        (the logits are dropped), on the CPU: one for one image, a list for a list.

    Raises:
        UserError: an image cannot be read, or an option does not fit; `OptionError` for numbers out of range.
    """
    predictor = Predictor(model, batch_size, score_threshold, classes, tile, overlap, tta)
    is_one = isinstance(images, str | Path | np.ndarray)
    named = ((image, predictor.read(image)) for image in ([images] if is_one else images))
    samples = [sample for _, _, sample in predictor(named)]
    return samples[0] if is_one else samples


class Predictor:
    """What `predict` does, for images that come one after the other; the arguments are those of `predict`.

    Raises:
        UserError: an option does not fit; `OptionError` for numbers out of range.
    """

    def __init__(self, model: nn.Module, batch_size: int = 1, score_threshold: float = 0.0, classes: Sequence[str] | None = None,
                 tile: int | None = None, overlap: int | None = None, tta: bool = False):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f'batch size must be a positive integer, got {batch_size}')
        if not 0 <= score_threshold <= 1:
            raise OptionError(f'score threshold must be between 0 and 1, got {score_threshold}')
        self.model = model
        self.segments = is_segmentation(model.cfg)
        self.batch_size = batch_size
        self.score_threshold = score_threshold
        self.labels = labels_of(classes, model.dataset_meta['classes']) if classes else None
        self.tile, self.overlap = tile, check_tiles(tile, overlap)
        self._preparation = Preparation(model.cfg, tta)
        self.read = self._preparation.read
        self._stepper = augmented_model(model.cfg, model) if tta else model

    def __call__(self, items: Iterable[tuple[object, np.ndarray]], on_failure: OnFailure | None = None,
                 on_tiles: OnTiles | None = None) -> Iterator[tuple[object, np.ndarray, BaseDataElement]]:
        """Predicts images that `read` gave.

        Args:
            items: a name for the caller, and an image `[H, W, 3]`. A path as a name is noted in the data sample.
            on_failure: called with images that cannot be predicted, which are skipped then; without it the error is raised.
            on_tiles: called as tiles are predicted.

        Yields:
            Name, image and data sample, in order.
        """
        items = iter(items)
        # Images that need tiles are large: one at a time.
        size = 1 if self.tile or self.batch_size == 1 else self.batch_size * _SEARCHED_BATCHES
        while window := list(itertools.islice(items, size)):
            paths = [str(name) if isinstance(name, str | Path) else None for name, _ in window]
            images = [image for _, image in window]
            found = [self._in_tiles(images[0], paths[0], on_tiles)] if self.tile else self._infer(images, paths)
            for (name, image), sample in zip(window, found, strict=True):
                if isinstance(sample, UserError):
                    if on_failure is None:
                        raise sample
                    on_failure(name, sample)
                else:
                    yield name, image, self._selected(sample)

    @torch.no_grad()
    def _infer(self, images: Sequence[np.ndarray], paths: Sequence[str | None], keeps_logits: bool = False) -> list[Predicted]:
        """The model's predictions for images, each as a whole, on the CPU; or why there is none.

        Args:
            images: `[H, W, 3]` each.
            paths: of their files.
            keeps_logits: a segmentor's `seg_logits` `[C, H, W]` at the image's size.
        """
        found: list = [None] * len(images)
        groups = defaultdict(list)
        with DefaultScope.overwrite_default_scope(self.model.cfg.default_scope):
            for i, image in enumerate(images):
                try:
                    size = self.batch_size if keeps_logits else self._batch_size_for(image)
                    prepared = self._preparation.prepare(image, paths[i])
                except UserError as error:
                    found[i] = error
                    continue
                inputs = prepared['inputs']
                views = [inputs] if isinstance(inputs, Tensor) else inputs
                groups[size, tuple(view.shape for view in views)].append((i, prepared))
            for (size, _), group in groups.items():
                for start in range(0, len(group), size):
                    batch = group[start:start + size]
                    for (i, _), sample in zip(batch, self._step([prepared for _, prepared in batch]), strict=True):
                        if isinstance(sample, BaseDataElement):
                            if not keeps_logits and 'seg_logits' in sample:
                                del sample.seg_logits
                            sample.set_metainfo(dict(ori_shape=images[i].shape[:2]))
                            sample = sample.cpu()
                        found[i] = sample
        return found

    def _step(self, prepared: list[dict]) -> list[Predicted]:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', message='The shape of value will convert')  # of MMSegmentation's own TTA
                return self._stepper.test_step(pseudo_collate(prepared))
        except RuntimeError as error:  # PyTorch has a class of its own for GPUs alone
            if 'out of memory' not in str(error) and "can't allocate memory" not in str(error):
                raise
            short = UserError(f'the memory does not suffice for {len(prepared)} of these images at a time: a smaller '
                              '--batch-size, or --tile SIZE, needs less')
            short.__cause__ = error
            return [short] * len(prepared)

    def _batch_size_for(self, image: np.ndarray) -> int:
        """How many such images at a time: a segmentor's logits are as large as they are, and Linux would kill the process that
        lacks the memory for them.

        Raises:
            UserError: not even one.
        """
        if not self.segments:
            return self.batch_size
        height, width = image.shape[:2]
        needed = 4 * self.model.out_channels * height * width
        fitting = int(memory_of(next(self.model.parameters()).device) / 2 / needed)
        if not fitting:
            raise UserError(f'an image of {width}×{height} pixels has {needed / 2 ** 30:.1f} GiB of logits for '
                            f'{self.model.out_channels} classes: --tile 1024 segments it piece by piece')
        return min(self.batch_size, fitting)

    def _in_tiles(self, image: np.ndarray, path: str | None, on_tiles: OnTiles | None) -> Predicted:
        count = len(windows_of(*image.shape[:2], self.tile, self.overlap))
        count += count > 1 and not self.segments  # a detector also runs on the downscaled image

        def infer(parts: Sequence[np.ndarray]) -> list[BaseDataElement]:
            found = self._infer(parts, [path] * len(parts), keeps_logits=self.segments)
            if failure := next((sample for sample in found if isinstance(sample, UserError)), None):
                raise failure
            if on_tiles:
                on_tiles(len(parts), count)
            return found if self.segments else list(map(self._above_threshold, found))

        try:
            if self.segments:
                sample = segment_in_tiles(infer, self.model, image, self.tile, self.overlap, self.batch_size)
            else:
                sample = detect_in_tiles(infer, image, self.tile, self.overlap, self.batch_size)
        except UserError as error:
            return error
        sample.set_metainfo(dict(img_path=path))
        return sample

    def _above_threshold(self, sample: BaseDataElement) -> BaseDataElement:
        """A detector's data sample without what is below the threshold or of other classes, in place."""
        instances = sample.pred_instances
        keep = instances.scores >= self.score_threshold
        if self.labels is not None:
            keep &= torch.isin(instances.labels, torch.tensor(self.labels))
        sample.pred_instances = instances[keep]
        return sample

    def _selected(self, sample: BaseDataElement) -> BaseDataElement:
        if not self.segments:
            return self._above_threshold(sample)
        pixels = sample.pred_sem_seg.data
        pixels = pixels.to(torch.uint8 if self.model.out_channels <= 255 else torch.int32)
        if self.labels is not None:
            wanted = torch.isin(pixels, torch.tensor(self.labels, dtype=pixels.dtype))
            pixels = pixels.masked_fill(~wanted, _IGNORED[pixels.dtype])
        sample.pred_sem_seg.data = pixels
        return sample


def labels_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of classes.

    Raises:
        UserError: the model does not know one; near names are given.
    """
    names = [names] if isinstance(names, str) else names
    for name in names:
        if name not in classes:
            known = ', '.join(classes[:10]) + ', …' * (len(classes) > 10)
            hint = did_you_mean(name, classes) or f'; it knows {known}'
            raise UserError(f'--classes {name}: the model has no such class{hint}')
    return [list(classes).index(name) for name in names]
