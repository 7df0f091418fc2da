"""The division of a detector's errors against cases worked out on paper, and its AP against pycocotools."""

import numpy as np
import pytest

from ralamala_mm.analysis.detections import KINDS, DetectedImage, Objects, average_precision, break_down_errors, compressed
from ralamala_mm.analysis.report.detection import measure_precision

# Boxes of 10×10: `SHIFTED` overlaps the first by 6/14 = 0.43, `BARELY` by 1/19 = 0.05.
FIRST, SECOND, SHIFTED, BARELY, AWAY = ((0, 0, 10, 10), (50, 0, 60, 10), (4, 0, 14, 10), (9, 0, 19, 10), (80, 80, 90, 90))


def image(truth: list[tuple], predicted: list[tuple]) -> DetectedImage:
    """(box, label) of the objects, (box, label, score) of the predictions."""
    boxes, labels, scores = zip(*predicted, strict=True) if predicted else ((), (), ())
    return DetectedImage('', 100, 100, Objects([box for box, _ in truth], [label for _, label in truth]),
                           Objects(boxes, labels, scores))


def check(images: list[DetectedImage], ap: float, **expected: tuple[int, float]) -> None:
    """AP, and (count, gain) of the kinds of error that there are."""
    found = break_down_errors(images)
    assert found.ap == pytest.approx(ap)
    assert found.counts == {kind: expected.get(kind, (0, 0))[0] for kind in KINDS}
    assert found.gains == pytest.approx({kind: expected.get(kind, (0, 0))[1] for kind in KINDS})


def test_localisation():
    # One of two objects found: precision 1 at the recalls 0, .01, …, .50, which are 51 of 101; corrected, at all.
    images = [image([(SECOND, 0), (FIRST, 0)], [(SECOND, 0, 0.9), (SHIFTED, 0, 0.8)])]
    check(images, 51 / 101, localisation=(1, 50 / 101))


def test_classification():
    # Class 0 has AP 1, as its wrong prediction comes after its last object; class 1 has none, and 1 when corrected.
    check([image([(FIRST, 0), (SECOND, 1)], [(FIRST, 0, 0.9), (SECOND, 0, 0.8)])], 0.5, classification=(1, 0.5))


@pytest.mark.parametrize(('kind', 'wrong'), [
    ('duplicate', (FIRST, 0, 0.8)), ('background', (AWAY, 0, 0.8)), ('background', (BARELY, 0, 0.8))])
def test_predictions_that_have_to_go(kind: str, wrong: tuple):
    # Right, wrong, right: precision 1 at 51 recalls, 2/3 at 50.
    images = [image([(FIRST, 0), (SECOND, 0)], [(FIRST, 0, 0.9), wrong, (SECOND, 0, 0.7)])]
    check(images, (51 + 50 * 2 / 3) / 101, **{kind: (1, 50 / 3 / 101)})


def test_both():
    # The shifted box lies on an object of class 1, which another prediction finds, and is of class 0.
    images = [image([(FIRST, 1), (SECOND, 0), (AWAY, 0)],
                        [(FIRST, 1, 0.9), (SECOND, 0, 0.9), (SHIFTED, 0, 0.8), (AWAY, 0, 0.7)])]
    check(images, (1 + (51 + 50 * 2 / 3) / 101) / 2, both=(1, 25 / 3 / 101))


def test_missed():
    # Two images without a prediction: the objects there leave the count.
    images = [image([(FIRST, 0)], [(FIRST, 0, 0.9)]), image([(FIRST, 0)], []), image([(SECOND, 0)], [])]
    check(images, 34 / 101, missed=(2, 67 / 101))  # recalls 0 to .33


def test_only_the_best_claim_on_an_object_is_mended():
    # Two boxes are too far from the one object: the better becomes right, the other has to go.
    images = [image([(FIRST, 0)], [(SHIFTED, 0, 0.9), ((0, 4, 10, 14), 0, 0.8)])]
    check(images, 0, localisation=(2, 1))


def test_a_claim_on_an_object_that_is_found_goes():
    images = [image([(FIRST, 0), (SECOND, 0)], [(FIRST, 0, 0.9), (SHIFTED, 0, 0.8), (SECOND, 0, 0.7)])]
    check(images, (51 + 50 * 2 / 3) / 101, localisation=(1, 50 / 3 / 101))


def test_predictions_in_a_crowd_count_neither_way():
    one = image([(FIRST, 0)], [(FIRST, 0, 0.9), (AWAY, 0, 0.95), (AWAY, 1, 0.9)])
    one.truth = Objects([FIRST, (70, 70, 100, 100)], [0, 0], crowd=[False, True])
    check([one], 1, background=(1, 0))  # the prediction of another class


def test_the_overlap_of_masks_decides_for_masks():
    # The boxes are the same; of the object the lower half alone belongs to the mask.
    half, whole = compressed([[0, 5, 10, 5, 10, 10, 0, 10]], 20, 20), compressed([[0, 0, 10, 0, 10, 10, 0, 10]], 20, 20)
    one = DetectedImage('', 20, 20, Objects([FIRST], [0], rles=[whole]), Objects([FIRST], [0], [0.9], rles=[half]))
    assert break_down_errors([one], 'bbox').counts == dict.fromkeys(KINDS, 0)
    assert break_down_errors([one], 'segm', foreground=0.6).counts['localisation'] == 1


def random_images(seed: int) -> list[DetectedImage]:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(30):
        corners = rng.uniform(0, 140, (rng.integers(0, 7), 2))
        truth = np.concatenate([corners, corners + rng.uniform(10, 60, corners.shape)], axis=1)
        labels = rng.integers(0, 3, len(truth))
        chosen = rng.integers(0, max(len(truth), 1), 12 if len(truth) else 0)
        boxes = truth[chosen] + rng.normal(0, 5, (len(chosen), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        guessed = np.where(rng.random(len(chosen)) < 0.7, labels[chosen], rng.integers(0, 3, len(chosen)))
        crowd = rng.random(len(truth)) < 0.1
        images.append(DetectedImage('', 200, 200, Objects(truth, labels, crowd=crowd),
                                        Objects(boxes, guessed, rng.random(len(chosen)).round(2))))
    return images


@pytest.mark.parametrize('seed', range(4))
def test_ap_is_that_of_pycocotools(seed: int):
    images = random_images(seed)
    found = break_down_errors(images)
    assert 0.05 < found.ap < 0.95
    assert found.ap == pytest.approx(measure_precision(images, 3, 'bbox').summary['AP50'], abs=1e-12)
    assert min(found.counts.values()) > 0
    assert all(gain >= 0 for gain in found.gains.values())


def test_no_objects_and_no_predictions():
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
    assert np.isnan(break_down_errors([image([], [(AWAY, 0, 0.5)])]).ap)
    check([image([(FIRST, 0)], [])], 0, missed=(1, 0))  # as in TIDE, a class without any object found stays at 0
