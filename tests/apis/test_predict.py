"""load_model and predict from Python: order, batches, choices, tiles, augmentation, and mistakes told in a sentence."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from ralamala_mm.apis import load_model, predict
from ralamala_mm.apis.masks import decode
from ralamala_mm.apis.predictor import Predictor
from ralamala_mm.errors import OptionError, UserError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'demo'
MASKS, BOXES, AREAS = (str(CONFIGS / f'{name}_ravlt_t_shapes.py') for name in ('maskrcnn', 'retinanet', 'semanticfpn'))
WITHOUT_PIPELINE = Config(dict(default_scope='mmdet', model={}, test_dataloader=dict(dataset=dict(type='CocoDataset'))))
FEW = {'model.test_cfg.rcnn.max_per_img': 20}


def make_image(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(noise, (width, height))


IMAGES = [make_image(96, 128, 0), make_image(128, 128, 1), make_image(96, 128, 2), make_image(60, 100, 3)]


@pytest.fixture(scope='module')
def detector() -> nn.Module:
    torch.manual_seed(0)
    return load_model(MASKS, device='cpu', options=FEW)


@pytest.fixture(scope='module')
def segmentor() -> nn.Module:
    torch.manual_seed(0)
    return load_model(AREAS, device='cpu')


def objects(sample) -> torch.Tensor:
    found = sample.pred_instances
    return torch.cat([found.bboxes, found.scores[:, None], found.labels[:, None]], 1)


def test_the_model_is_ready_for_mmdetections_own_function_which_sees_the_same(detector: nn.Module, tmp_path: Path):
    from mmdet.apis import inference_detector

    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), IMAGES[0])
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs = inference_detector(detector, str(path))
    ours = predict(detector, path)
    assert type(ours) is type(theirs)
    assert len(ours.pred_instances) > 5
    torch.testing.assert_close(objects(ours), objects(theirs))
    assert torch.equal(ours.pred_instances.masks, theirs.pred_instances.masks)
    assert ours.img_path == str(path)
    assert detector.dataset_meta['classes'] == ('circle', 'square', 'triangle', 'star')
    assert detector.dataset_meta['palette'][1] == (60, 120, 220)


def test_the_model_is_ready_for_mmsegmentations_own_function_which_sees_the_same(segmentor: nn.Module):
    from mmseg.apis import inference_model

    with DefaultScope.overwrite_default_scope('mmseg'):
        theirs = inference_model(segmentor, IMAGES[3])
    ours = predict(segmentor, IMAGES[3])
    assert type(ours) is type(theirs)
    assert ours.pred_sem_seg.data.shape == (1, 60, 100)
    assert torch.equal(ours.pred_sem_seg.data.long(), theirs.pred_sem_seg.data.cpu())
    assert len(ours.pred_sem_seg.data.unique()) > 1


@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_order_and_results_do_not_depend_on_the_batch(kind: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue(kind)
    alone = [predict(model, image) for image in IMAGES]
    together = predict(model, IMAGES, batch_size=3)
    assert len(together) == len(IMAGES)
    for one, other, image in zip(alone, together, IMAGES, strict=True):
        assert other.ori_shape == image.shape[:2]
        if kind == 'detector':
            torch.testing.assert_close(objects(one), objects(other), rtol=1e-3, atol=1e-3)
        else:
            assert (one.pred_sem_seg.data == other.pred_sem_seg.data).float().mean() > 0.999


def test_threshold_and_classes_select_objects(detector: nn.Module):
    everything = objects(predict(detector, IMAGES[0]))
    threshold = float(everything[:, 4].median())
    chosen = objects(predict(detector, IMAGES[0], score_threshold=threshold))
    assert 0 < len(chosen) < len(everything)
    torch.testing.assert_close(chosen, everything[everything[:, 4] >= threshold])
    label = int(everything[0, 5])
    of_class = objects(predict(detector, IMAGES[0], classes=[detector.dataset_meta['classes'][label]]))
    torch.testing.assert_close(of_class, everything[everything[:, 5] == label])


def test_pixels_of_other_classes_are_ignored(segmentor: nn.Module):
    everything = predict(segmentor, IMAGES[0]).pred_sem_seg.data
    label = int(everything.flatten().mode().values)
    chosen = predict(segmentor, IMAGES[0], classes=[segmentor.dataset_meta['classes'][label]]).pred_sem_seg.data
    assert torch.equal(chosen == label, everything == label)
    assert set(chosen.unique().tolist()) <= {label, 255}


def test_an_image_that_fits_in_a_tile_is_predicted_as_without(detector: nn.Module, segmentor: nn.Module):
    whole, tiled = predict(detector, IMAGES[0]), predict(detector, IMAGES[0], tile=128)
    assert torch.equal(objects(whole), objects(tiled))
    masks = [decode(mask) for mask in tiled.pred_instances.masks]
    assert len(masks) > 5
    assert (np.array(masks) == whole.pred_instances.masks.numpy()).all()
    whole, tiled = predict(segmentor, IMAGES[0]), predict(segmentor, IMAGES[0], tile=128)
    assert torch.equal(whole.pred_sem_seg.data, tiled.pred_sem_seg.data)


def test_larger_images_go_through_the_model_in_tiles(detector: nn.Module, segmentor: nn.Module):
    large = make_image(200, 300, 4)
    found = predict(detector, large, tile=128, batch_size=2).pred_instances
    assert len(found) > 20
    assert (found.bboxes[:, 2] > 200).any()
    assert all(mask['size'] == [200, 300] for mask in found.masks)
    tiled = predict(segmentor, large, tile=128, batch_size=2)
    assert tiled.pred_sem_seg.data.shape == (1, 200, 300)
    # The upper left corner, up to where the next tiles begin, is seen by one tile alone.
    corner = predict(segmentor, np.ascontiguousarray(large[:128, :128])).pred_sem_seg.data
    assert torch.equal(tiled.pred_sem_seg.data[:, :72, :96], corner[:, :72, :96])


def test_test_time_augmentation(segmentor: nn.Module, detector: nn.Module):
    torch.manual_seed(0)
    boxes = load_model(BOXES, device='cpu')
    mirrored = np.ascontiguousarray(IMAGES[0][:, ::-1])
    found = predict(boxes, [IMAGES[0], mirrored], tta=True)
    # What sees an image and its mirror image sees the same in both, mirrored.
    straight, turned = (objects(sample)[:10] for sample in found)
    assert len(straight) == 10
    turned[:, [0, 2]] = 128 - turned[:, [2, 0]]
    torch.testing.assert_close(turned[:, 4], straight[:, 4], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(turned[0], straight[0], rtol=1e-2, atol=0.1)
    small = make_image(48, 64, 5)
    areas = [predict(segmentor, image, tta=True).pred_sem_seg.data for image in (small, np.ascontiguousarray(small[:, ::-1]))]
    assert (areas[0] == areas[1].flip(2)).float().mean() > 0.99
    assert predict(segmentor, small, tta=True, tile=48).pred_sem_seg.data.shape == (1, 48, 64)
    with pytest.raises(UserError, match='merges boxes, but not masks'):
        predict(detector, IMAGES[0], tta=True)


def test_fusing_changes_results_by_rounding_alone(detector: nn.Module, tmp_path: Path):
    torch.save(dict(state_dict=detector.state_dict(), meta={}), tmp_path / 'weights.pth')
    plain, fused = (load_model(MASKS, tmp_path / 'weights.pth', 'cpu', FEW, fuse=fuse) for fuse in (False, True))
    ours, theirs = predict(plain, IMAGES[0]), predict(fused, IMAGES[0])
    torch.testing.assert_close(objects(ours), objects(theirs), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(objects(ours), objects(predict(detector, IMAGES[0])))


def test_weights_for_other_classes_bring_theirs_along(tmp_path: Path):
    model = load_model(Config.fromfile(BOXES), options={'model.bbox_head.num_classes': 2})
    meta = dict(dataset_meta=dict(classes=('cat', 'dog'), palette=[(1, 2, 3), (4, 5, 6)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'weights.pth')
    loaded = load_model(BOXES, tmp_path / 'weights.pth')
    assert loaded.dataset_meta == dict(classes=('cat', 'dog'), palette=[(1, 2, 3), (4, 5, 6)], reduce_zero_label=False)
    assert loaded.bbox_head.num_classes == 2
    assert set(predict(loaded, IMAGES[0]).pred_instances.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize(('mistake', 'sentence'), [
    (lambda model: predict(model, 'nowhere.jpg'), 'image nowhere.jpg does not exist'),
    (lambda model: predict(model, IMAGES[0], classes=['circel']), '--classes circel: .* did you mean circle?'),
    (lambda model: predict(model, IMAGES[0], classes=['zebra']), 'it knows circle, square, triangle, star'),
    (lambda model: predict(model, [np.zeros((3, 4, 5, 6))]), r'shape \(3, 4, 5, 6\) is no image'),
    (lambda model: predict(model, [np.zeros((3, 4, 4), np.uint8)]), r'of uint8 and shape \(3, 4, 4\) is no image'),
    (lambda model: predict(model, [np.zeros((3, 4, 3))]), 'of float64 and shape'),
    (lambda model: predict(model, [np.zeros((0, 5), np.uint8)]), 'is no image'),
    (lambda model: predict(model, [np.zeros((3000, 1, 3), np.uint8)]), '1×3000 pixels does not go through the test pipeline'),
    (lambda model: predict(model, [None]), 'a NoneType is no image'),
    (lambda model: predict(model, IMAGES[0], classes='zebra'), '--classes zebra'),
    (lambda model: predict(model, IMAGES[0], batch_size=1.5), 'must be a positive integer, got 1.5'),
    (lambda model: predict(model, IMAGES[0], tile=200.0), 'must be an integer of at least'),
    (lambda model: load_model(WITHOUT_PIPELINE), 'whose pipeline prepares'),
    (lambda model: predict(model, IMAGES[0], batch_size=0), 'must be a positive integer, got 0'),
    (lambda model: predict(model, IMAGES[0], score_threshold=50), 'must be between 0 and 1, got 50'),
    (lambda model: predict(model, IMAGES[0], tile=100, overlap=100), 'must be an integer from 0 to 99'),
    (lambda model: load_model(MASKS, 'nowhere.pth'), 'checkpoint nowhere.pth does not exist'),
    (lambda model: load_model('nowhere.py'), 'config nowhere.py does not exist'),
    (lambda model: load_model(MASKS, device='abacus'), 'device abacus is not available; available: cpu'),
    (lambda model: load_model(MASKS, device='cuda:63'), 'device cuda:63 is not available; available: cpu'),
    (lambda model: load_model(Config(dict(model=dict(type='RAVLT')))), 'default_scope None'),
])
def test_mistakes_are_told_in_a_sentence(detector: nn.Module, mistake: Callable, sentence: str):
    with pytest.raises(UserError, match=sentence):
        mistake(detector)
    assert issubclass(OptionError, ValueError)


def test_what_cannot_be_predicted_is_passed_over(detector: nn.Module):
    told = []
    predictor = Predictor(detector, batch_size=4)
    items = list(enumerate([IMAGES[0], np.zeros((3000, 1, 3), np.uint8), IMAGES[1]]))
    assert [name for name, *_ in predictor(items, lambda name, error: told.append((name, error.sentence)))] == [0, 2]
    assert [name for name, _ in told] == [1]
    with pytest.raises(UserError, match='does not go through'):
        list(predictor(items))


def test_tiles_are_told_as_they_are_predicted(detector: nn.Module, segmentor: nn.Module):
    for model, count in ((detector, 7), (segmentor, 6)):  # a detector also inspects the image made small
        told = []
        predictor = Predictor(model, tile=128, batch_size=4)
        list(predictor([('large', make_image(200, 300, 4))], on_tiles=lambda *tiles, told=told: told.append(tiles)))
        assert sum(predicted for predicted, _ in told) == count
        assert {total for _, total in told} == {count}


def test_a_batch_is_as_large_as_the_memory_allows(segmentor: nn.Module, monkeypatch: pytest.MonkeyPatch):
    sizes = []
    step = segmentor.test_step
    monkeypatch.setattr(segmentor, 'test_step', lambda data: sizes.append(len(data['inputs'])) or step(data))
    one = 4 * segmentor.out_channels * 96 * 128
    monkeypatch.setattr('ralamala_mm.apis.predictor.memory_of', lambda device: 2 * 2 * one)
    predict(segmentor, [IMAGES[0]] * 5, batch_size=4)
    assert sizes == [2, 2, 1]


def test_logits_that_no_memory_holds_are_refused(segmentor: nn.Module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('os.sysconf', {'SC_PAGE_SIZE': 1, 'SC_PHYS_PAGES': 100_000}.get)
    with pytest.raises(UserError, match='--tile 1024'):
        predict(segmentor, IMAGES[0])
    assert predict(segmentor, IMAGES[0], tile=64).pred_sem_seg.data.shape == (1, 96, 128)
