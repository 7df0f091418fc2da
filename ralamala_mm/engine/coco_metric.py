"""COCO's box and mask metrics computed several times faster, by the library faster-coco-eval, with the numbers of pycocotools."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import numpy as np
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from ralamala_mm.errors import OptionError, UserError

LIBRARY = 'faster-coco-eval==1.8.0'  # other versions were not compared with pycocotools; requirements/optional.txt has it too
STATISTICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l',
              'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')  # in pycocotools' order
_NOT_SERVED = ('classwise', 'format_only', 'use_mp_eval', 'outfile_prefix')


class FasterCOCOeval(COCOeval):
    """pycocotools' evaluation whose matching and accumulation are compiled; what it sums up, and how, is pycocotools' own.

    Ground truth and detections are objects of `faster_coco_eval.COCO`.
    """

    def evaluate(self) -> None:
        """Matches detections with ground truth, and accumulates precision and recall too."""
        from faster_coco_eval import COCOeval_faster

        compiled = COCOeval_faster(self.cocoGt, self.cocoDt, self.params.iouType)
        for name in ('imgIds', 'catIds', 'iouThrs', 'recThrs', 'maxDets', 'areaRng', 'areaRngLbl', 'useCats'):
            setattr(compiled.params, name, getattr(self.params, name))
        compiled.evaluate()
        compiled.accumulate()
        self.params.maxDets = compiled.params.maxDets  # sorted
        self.eval = compiled.eval

    def accumulate(self, p=None) -> None:
        """Nothing is left to do after `evaluate`."""


@METRICS.register_module()
class FasterCocoMetric(CocoMetric):
    """MMDetection's `CocoMetric` for boxes and masks.

    Args:
        ann_file: annotations in COCO's format.
        metric: 'bbox', 'segm' or both.
        options: those of `CocoMetric`, but for `classwise`, `format_only`, `use_mp_eval` and `outfile_prefix`.

    Raises:
        UserError: faster-coco-eval is not installed.
        OptionError: something is asked for that only `CocoMetric` does.
    """

    def __init__(self, ann_file: str, metric: str | list[str] = 'bbox', **options):
        if find_spec('faster_coco_eval') is None:
            raise UserError(f'FasterCocoMetric needs a library: run `pip install {LIBRARY}`, or take CocoMetric, which gives the '
                            'same numbers')
        super().__init__(ann_file, metric, **options)
        asked = [name for name in _NOT_SERVED if options.get(name)] + [name for name in self.metrics if 'proposal' in name]
        if asked:
            raise OptionError(f'FasterCocoMetric does not do {asked[0]}: take CocoMetric for it')
        unknown = set(self.metric_items or ()) - set(STATISTICS)
        if unknown:
            raise OptionError(f'metric_items names {min(unknown)}, which is none of {", ".join(STATISTICS)}')

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """The metrics by name, rounded to three digits as in `CocoMetric`.

        Args:
            results: (ground truth, prediction) of each image, as `process` collects them.
        """
        from faster_coco_eval import COCO

        logger = MMLogger.get_current_instance()
        ground_truth = COCO(self._coco_api.dataset)
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        metrics = {}
        for kind in self.metrics:
            logger.info(f'Evaluating {kind}...')
            detections = list(self._detections([prediction for _, prediction in results], kind))
            if not detections:
                logger.error('The testing results of the whole dataset is empty.')
                break
            evaluation = FasterCOCOeval(ground_truth, ground_truth.loadRes(detections), kind)
            evaluation.params.catIds = self.cat_ids
            evaluation.params.maxDets = self.proposal_nums
            evaluation.params.iouThrs = self.iou_thrs
            evaluation.evaluate()
            evaluation.summarize()
            statistics = dict(zip(STATISTICS, evaluation.stats.tolist(), strict=True))
            for name in self.metric_items or STATISTICS[:6]:
                metrics[f'{kind}_{name}'] = round(statistics[name], 3)
            logger.info(f'{kind}_mAP_copypaste: {" ".join(f"{statistics[name]:.3f}" for name in STATISTICS[:6])}')
        return metrics

    def _detections(self, predictions: Sequence[dict], kind: str) -> Iterator[dict]:
        """COCO's result entries; those of masks without boxes, as their areas are to be the masks'."""
        for prediction in predictions:
            if kind == 'bbox':
                key, scores = 'bbox', prediction['scores']
                boxes = prediction['bboxes'].astype(np.float64)  # [N, 4], x1 y1 x2 y2
                boxes[:, 2:] -= boxes[:, :2]  # x y width height
                regions = boxes.tolist()
            else:
                key, scores = 'segmentation', prediction.get('mask_scores', prediction['scores'])
                regions = prediction['masks']  # run-length encoded
            for region, score, label in zip(regions, scores.tolist(), prediction['labels'].tolist(), strict=True):
                yield {'image_id': prediction['img_id'], 'category_id': self.cat_ids[label], 'score': score, key: region}
