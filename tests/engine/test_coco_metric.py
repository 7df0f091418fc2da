"""FasterCocoMetric against pycocotools and MMDetection's CocoMetric: every number, also where the data are odd."""

import json
from collections.abc import Callable
from pathlib import Path

import faster_coco_eval
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tool_modules import load_tool

from ralamala_mm.engine import coco_metric
from ralamala_mm.engine.coco_metric import LIBRARY, STATISTICS, FasterCOCOeval, FasterCocoMetric
from ralamala_mm.errors import OptionError, UserError

made_up = load_tool('analysis_tools/compare_coco_metrics')
build_metrics, make_annotations, make_results = made_up.build_metrics, made_up.make_annotations, made_up.make_results
Results = made_up.Results
KINDS = ('bbox', 'segm')
REQUIREMENTS = Path(__file__).resolve().parents[2] / 'requirements'


def as_made(content: dict) -> None:
    """Crowds, ties, images without objects or predictions, a class without objects, every size."""


def crowds_only(content: dict) -> None:
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1


def no_objects(content: dict) -> None:
    content['annotations'] = []


def small_objects_only(content: dict) -> None:
    content['annotations'] = [a for a in content['annotations'] if a['area'] < 32 ** 2]


def areas_that_differ_from_the_boxes(content: dict) -> None:
    for annotation in content['annotations']:
        annotation['area'] *= 0.3


def ignored_objects(content: dict) -> None:
    for annotation in content['annotations'][::3]:
        annotation['ignore'] = 1


def an_annotation_numbered_0(content: dict) -> None:
    """To pycocotools 0 also means unmatched; its numbers are kept, not corrected."""
    for annotation in content['annotations']:
        annotation['id'] -= 1


def unsorted_images_and_classes(content: dict) -> None:
    for part in ('images', 'categories', 'annotations'):
        content[part].reverse()


CASES = [as_made, crowds_only, no_objects, small_objects_only, areas_that_differ_from_the_boxes, ignored_objects,
         an_annotation_numbered_0, unsorted_images_and_classes]


def detections(metric: FasterCocoMetric, results: Results, kind: str) -> list[dict]:
    metric.cat_ids = metric._coco_api.get_cat_ids(cat_names=metric.dataset_meta['classes'])
    return list(metric._detections([prediction for _, prediction in results], kind))


def statistics(path: Path, found: list[dict], kind: str, library: type, evaluation: type,
               max_detections: list[int]) -> np.ndarray:
    """The twelve numbers, all precisions and recalls, by pycocotools or by ours, each with its own library's ground truth."""
    truth = library(str(path))
    computed = evaluation(truth, truth.loadRes([dict(entry) for entry in found]), kind)
    computed.params.maxDets = max_detections
    computed.evaluate()
    computed.accumulate()
    computed.summarize()
    return np.array([*computed.stats, *computed.eval['precision'].ravel(), *computed.eval['recall'].ravel()])


@pytest.mark.filterwarnings('ignore:Found annotation id 0')
@pytest.mark.parametrize('change', CASES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(('classes', 'count'), [(5, 40), (1, 130)])
def test_numbers_of_pycocotools(change: Callable, classes: int, count: int, tmp_path: Path):
    """Equal to 1e-12: values of at most 1 in fp64, each a mean of some thousand quotients that may differ by 1 ulp, 2e-16.

    With 130 predictions of one class, the limits of 100 and 300 an image give different numbers.
    """
    content = make_annotations(30, classes, seed=count)
    results = make_results(content, count)
    change(content)
    path = tmp_path / 'annotations.json'
    metric = build_metrics(path, content)['FasterCocoMetric']
    for kind in KINDS:
        found = detections(metric, results, kind)
        for max_detections in ([100, 300, 1000], [1, 10, 100]):
            plain = statistics(path, found, kind, COCO, COCOeval, max_detections)
            ours = statistics(path, found, kind, faster_coco_eval.COCO, FasterCOCOeval, max_detections)
            assert np.abs(ours - plain).max() <= 1e-12
            assert plain.max() > 0 or change in (crowds_only, no_objects)


@pytest.mark.filterwarnings('ignore:Found annotation id 0')
@pytest.mark.parametrize('change', CASES, ids=lambda change: change.__name__)
def test_metrics_of_mmdetection(change: Callable, tmp_path: Path):
    content = make_annotations(30, 4)
    results = make_results(content, 20)
    change(content)
    metrics = build_metrics(tmp_path / 'annotations.json', content, metric_items=list(STATISTICS))
    computed = metrics['FasterCocoMetric'].compute_metrics(results)
    assert len(computed) == 2 * len(STATISTICS)
    assert computed == metrics['CocoMetric'].compute_metrics(results)
    assert computed == metrics['FasterCocoMetric'].compute_metrics(results)  # as a training does, epoch after epoch


def test_predictions_of_other_kinds(tmp_path: Path):
    """Classes that are only some of the file's, mask scores of their own, and no prediction at all."""
    content = make_annotations(20, 5)
    metrics = build_metrics(tmp_path / 'annotations.json', content)
    for metric in metrics.values():
        metric.dataset_meta = dict(classes=('class 4', 'class 2'))
    results = make_results(content, 20)
    for _, prediction in results:
        prediction['labels'] = prediction['labels'] % 2
        prediction['mask_scores'] = prediction['scores'][::-1].copy()
    assert metrics['FasterCocoMetric'].compute_metrics(results) == metrics['CocoMetric'].compute_metrics(results)
    nothing = make_results(content, 0)
    assert metrics['FasterCocoMetric'].compute_metrics(nothing) == metrics['CocoMetric'].compute_metrics(nothing) == {}


def test_what_it_does_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(make_annotations(2, 2)))
    with pytest.raises(OptionError, match='does not do classwise: take CocoMetric'):
        FasterCocoMetric(str(path), classwise=True)
    with pytest.raises(OptionError, match='does not do proposal_fast'):
        FasterCocoMetric(str(path), metric=['bbox', 'proposal_fast'])
    with pytest.raises(OptionError, match='metric_items names AP, which is none of mAP'):
        FasterCocoMetric(str(path), metric_items=['AP'])
    monkeypatch.setattr(coco_metric, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='run `pip install faster-coco-eval'):
        FasterCocoMetric(str(path))


@pytest.mark.parametrize('name', ['optional.txt', 'tests.txt'])
def test_the_version_compared_is_the_one_that_is_asked_for(name: str):
    assert LIBRARY in (REQUIREMENTS / name).read_text().splitlines()
