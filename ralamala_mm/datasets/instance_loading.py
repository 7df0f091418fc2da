"""Boxes and segmentations handed to MMDetection only if they fit their image: what does not would end a worker, or give NaN."""

import math

from mmdet.datasets.transforms import LoadAnnotations

from .images import BadFilePolicy, FileUserError
from .segmentations import cannot_be_evaluated, segmentation_problem


class LoadCheckedInstances(LoadAnnotations):
    """MMDetection's `LoadAnnotations` that refuses boxes and segmentations which it, or pycocotools, cannot read.

    Args:
        evaluated: whether metrics are computed on the data; then segmentations that are, or begin with, a polygon of fewer than
            three points, which training leaves out, are refused too, as the metric stumbles over them.
        bad_files: arguments of `BadFilePolicy`; by default the first bad annotation is an error.

    Raises:
        UserError: with the path of the image.
    """

    def __init__(self, *args, evaluated: bool = False, bad_files: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.evaluated = evaluated
        self.bad_files = BadFilePolicy(**(bad_files or {}))

    def transform(self, results: dict) -> dict | None:
        return self.bad_files.guard(self._load, results)

    def _load(self, results: dict) -> dict:
        for number, instance in enumerate(results.get('instances') or []):
            if problem := self._problem(instance, results):
                raise FileUserError(f'the annotations of image {results.get("img_path")} cannot be used: its instance {number} '
                                    f'{problem}', 'annotation')
        return super().transform(results)

    def _problem(self, instance: dict, results: dict) -> str | None:
        if not all(math.isfinite(value) for value in instance.get('bbox', ())):
            return 'has a box with values that are no finite numbers'
        if not self.with_mask:
            return None
        if 'mask' not in instance:
            return 'has a box but no mask, and this model needs masks: draw them, or train a RetinaNet (configs/retinanet_*)'
        height, width = results['ori_shape']
        if problem := segmentation_problem(instance['mask'], height, width):
            return f'{problem} (segmentation)'
        if self.evaluated and cannot_be_evaluated(instance['mask']):
            return ('has a segmentation that is, or begins with, a polygon of fewer than three points, which cannot be '
                    'evaluated: --data DIR leaves such parts out')
        return None
