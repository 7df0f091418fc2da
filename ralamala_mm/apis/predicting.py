"""Predictions for pictures, in order: batches of one shape, tiles, and what is left out of them."""

import difflib
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ralamala_mm.errors import OptionError, UserError

from .loading import is_segmentor
from .memory import memory_of
from .pipeline import Preparation, augmented_model
from .tiled_detection import detect_in_tiles
from .tiled_segmentation import segment_in_tiles
from .tiling import check_tiles, windows_of

Predicted = BaseDataElement | UserError  # a data sample, or why there is none
OnFailure = Callable[[object, UserError], None]  # a picture's name, and why it cannot be predicted
OnTiles = Callable[[int, int], None]  # how many tiles were predicted just then, and how many the picture has

_IGNORED = {torch.uint8: 255, torch.int32: 65535}  # pixels of classes that were not asked for, as in MMSegmentation's masks
_SEARCHED = 4  # batches' worth of pictures among which those of one shape are looked for


def predict(model: nn.Module, images: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], batch_size: int = 1,
            score_threshold: float = 0.0, classes: Sequence[str] | None = None, tile: int | None = None,
            overlap: int | None = None, tta: bool = False) -> BaseDataElement | list[BaseDataElement]:
    """Predicts one picture or several.

    Args:
        model: of `load_model`.
        images: paths, or pictures `[H, W, 3]` BGR uint8 as OpenCV reads them; one, or a list of them.
        batch_size: pictures at a time. Only pictures of one shape share a batch, so that none is padded for another.
        score_threshold: detections below it are left out.
        classes: names of the classes that are kept, all by default; a segmentor's pixels of others become 255
            (65535 for more than 255 classes).
        tile: predict in tiles of so many pixels, for pictures that are larger. Instance masks are then COCO's run-length
            encodings, as MMDetection's metrics take them, instead of a tensor.
        overlap: pixels that neighbouring tiles share; a quarter of the tile by default. Objects up to this size are whole in
            a tile, larger ones are looked for in the picture as a whole, made small.
        tta: test-time augmentation, as the config has it, or flips for detectors.

    Returns:
        MMDetection's `DetDataSample` with `pred_instances`, or MMSegmentation's `SegDataSample` with `pred_sem_seg` `[1, H, W]`
        (the logits are dropped), on the CPU: one for one picture, a list for a list.

    Raises:
        UserError: a picture cannot be read, or an option does not fit; `OptionError` for numbers out of range.
    """
    predictor = Predictor(model, batch_size, score_threshold, classes, tile, overlap, tta)
    is_one = isinstance(images, str | Path | np.ndarray)
    named = ((image, predictor.read(image)) for image in ([images] if is_one else images))
    samples = [sample for _, _, sample in predictor(named)]
    return samples[0] if is_one else samples


class Predictor:
    """What `predict` does, for pictures that come one after the other; the arguments are those of `predict`.

    Raises:
        UserError: an option does not fit; `OptionError` for numbers out of range.
    """

    def __init__(self, model: nn.Module, batch_size: int = 1, score_threshold: float = 0.0, classes: Sequence[str] | None = None,
                 tile: int | None = None, overlap: int | None = None, tta: bool = False):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError(f'a batch of {batch_size} pictures: it takes a whole number from 1')
        if not 0 <= score_threshold <= 1:
            raise OptionError(f'a score threshold of {score_threshold}: scores lie between 0 and 1')
        self.model = model
        self.segments = is_segmentor(model)
        self.batch_size = batch_size
        self.score_threshold = score_threshold
        self.labels = labels_of(classes, model.dataset_meta['classes']) if classes else None
        self.tile, self.overlap = tile, check_tiles(tile, overlap)
        self._preparation = Preparation(model.cfg, tta)
        self.read = self._preparation.read
        self._stepper = augmented_model(model.cfg, model) if tta else model

    def __call__(self, items: Iterable[tuple[object, np.ndarray]], on_failure: OnFailure | None = None,
                 on_tiles: OnTiles | None = None) -> Iterator[tuple[object, np.ndarray, BaseDataElement]]:
        """Predicts pictures that `read` gave.

        Args:
            items: a name for the caller, and a picture `[H, W, 3]`. A path as a name is noted in the data sample.
            on_failure: told of pictures that cannot be predicted, which are passed over then; without it the error is raised.
            on_tiles: told of tiles as they are predicted.

        Yields:
            Name, picture and data sample, in order.
        """
        items = iter(items)
        # Pictures that need tiles are large: one at a time.
        size = 1 if self.tile or self.batch_size == 1 else self.batch_size * _SEARCHED
        while window := list(itertools.islice(items, size)):
            paths = [str(name) if isinstance(name, str | Path) else None for name, _ in window]
            pictures = [picture for _, picture in window]
            found = [self._in_tiles(pictures[0], paths[0], on_tiles)] if self.tile else self._infer(pictures, paths)
            for (name, picture), sample in zip(window, found, strict=True):
                if isinstance(sample, UserError):
                    if on_failure is None:
                        raise sample
                    on_failure(name, sample)
                else:
                    yield name, picture, self._selected(sample)

    @torch.no_grad()
    def _infer(self, pictures: Sequence[np.ndarray], paths: Sequence[str | None], keeps_logits: bool = False) -> list[Predicted]:
        """The model's predictions for pictures, each as a whole, on the CPU; or why there is none.

        Args:
            pictures: `[H, W, 3]` each.
            paths: of their files.
            keeps_logits: a segmentor's `seg_logits` `[C, H, W]` at the picture's size.
        """
        found: list = [None] * len(pictures)
        groups = defaultdict(list)
        with DefaultScope.overwrite_default_scope(self.model.cfg.default_scope):
            for i, picture in enumerate(pictures):
                try:
                    size = self.batch_size if keeps_logits else self._batch_size_for(picture)
                    prepared = self._preparation.prepare(picture, paths[i])
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
                            sample.set_metainfo(dict(ori_shape=pictures[i].shape[:2]))
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
            short = UserError(f'the memory does not suffice for {len(prepared)} of these pictures at a time: a smaller '
                              '--batch-size, or --tile SIZE, needs less')
            short.__cause__ = error
            return [short] * len(prepared)

    def _batch_size_for(self, picture: np.ndarray) -> int:
        """How many such pictures at a time: a segmentor's logits are as large as they are, and Linux would kill the process that
        lacks the memory for them.

        Raises:
            UserError: not even one.
        """
        if not self.segments:
            return self.batch_size
        height, width = picture.shape[:2]
        needed = 4 * self.model.out_channels * height * width
        fitting = int(memory_of(next(self.model.parameters()).device) / 2 / needed)
        if not fitting:
            raise UserError(f'a picture of {width}×{height} pixels has {needed / 2 ** 30:.1f} GiB of logits for '
                            f'{self.model.out_channels} classes: --tile 1024 segments it piece by piece')
        return min(self.batch_size, fitting)

    def _in_tiles(self, picture: np.ndarray, path: str | None, on_tiles: OnTiles | None) -> Predicted:
        count = len(windows_of(*picture.shape[:2], self.tile, self.overlap))
        count += count > 1 and not self.segments  # a detector looks at the picture made small, too

        def infer(parts: Sequence[np.ndarray]) -> list[BaseDataElement]:
            found = self._infer(parts, [path] * len(parts), keeps_logits=self.segments)
            if failure := next((sample for sample in found if isinstance(sample, UserError)), None):
                raise failure
            if on_tiles:
                on_tiles(len(parts), count)
            return found if self.segments else list(map(self._above_threshold, found))

        try:
            if self.segments:
                sample = segment_in_tiles(infer, self.model, picture, self.tile, self.overlap, self.batch_size)
            else:
                sample = detect_in_tiles(infer, picture, self.tile, self.overlap, self.batch_size)
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
            near = difflib.get_close_matches(name, classes, n=3, cutoff=0.6)
            known = ', '.join(classes[:10]) + ', …' * (len(classes) > 10)
            hint = f'did you mean {" or ".join(near)}?' if near else f'it knows {known}'
            raise UserError(f'--classes {name}: the model has no such class; {hint}')
    return [list(classes).index(name) for name in names]
