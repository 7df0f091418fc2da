"""What the report says, against logs, boxes and masks whose numbers are known."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up_runs import CLASSES, PALETTE, random_detections, write_session, write_work_dir
from mmengine.config import Config

from ralamala_mm.analysis.charts import Line, bar_chart, line_chart
from ralamala_mm.analysis.detections import DetectedImage, Objects, count_confusions, image_quality
from ralamala_mm.analysis.report import make_report
from ralamala_mm.analysis.report.config_differences import differences_from_base, find_config
from ralamala_mm.analysis.report.detection import evaluate_detections
from ralamala_mm.analysis.report.examples import best_and_worst
from ralamala_mm.analysis.report.predicting import Predictions, SegmentedImage, checkpoints_of, choose_checkpoint
from ralamala_mm.analysis.report.runs import Run, best_point, read_run, to_percent
from ralamala_mm.analysis.report.segmentation import count_pixels, evaluate_segmentations
from ralamala_mm.apis.drawing import distinct_colors, palette_of, resize
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError


def test_a_resumed_run_is_one_curve(tmp_path: Path):
    run = read_run(write_work_dir(tmp_path / 'work', 'mmdet', 'coco/bbox_mAP'))
    assert [at for at, _ in run.training['loss']] == list(range(1, 21))  # 11 to 14 of the first start were done again
    assert run.metrics == {'coco/bbox_mAP': [(20, 0.3)]}  # the first start's came after iteration 14; -1 means no objects
    assert [session.started_from for session in run.sessions] == [0, 10]
    assert run.facts['time'] == '3 min 0 s'
    assert run.facts['seconds per iteration'] == '0.500 (median)'
    assert run.environment['GPU 0'] == 'Tested GPU'
    assert run.environment['seed'] == '3'


def test_a_training_that_was_begun_anew_stands_alone(tmp_path: Path):
    folder = write_work_dir(tmp_path / 'work', 'mmdet', 'coco/bbox_mAP')
    write_session(folder, '20260102_100000', 0, 5, 'coco/bbox_mAP')
    run = read_run(folder)
    assert [session.name for session in run.sessions] == ['20260102_100000']
    assert run.iterations == 5


def test_without_logs_the_first_iteration_tells_where_it_began(tmp_path: Path):
    folder = write_work_dir(tmp_path / 'work', 'mmseg', 'mIoU')
    for log in folder.glob('*/*.log'):
        log.unlink()
    assert [session.started_from for session in read_run(folder).sessions] == [0, 10]


def test_settings_and_who_set_them(tmp_path: Path):
    base, file = tmp_path / 'base.py', tmp_path / 'mine.py'
    base.write_text("model = dict(type='A', backbone=dict(arch='s', depth=[1, 2]))\nhelper = 1\ntrain_cfg = dict(max_epochs=12)")
    file.write_text("_base_ = 'base.py'\nhelper = 2\nmodel = dict(backbone=dict(arch='t'))")
    run = load_config(str(file), {'train_cfg.max_epochs': 3, 'model.backbone.depth': [1, 2, 3]})
    found = {name: (*difference.values, difference.source) for difference in differences_from_base(run, file)
             for name in difference.names}
    assert found == {'model.backbone.arch': ("'s'", "'t'", 'mine.py'),
                     'model.backbone.depth': ('[1, 2]', '[1, 2, 3]', 'when it was started'),
                     'train_cfg.max_epochs': ('12', '3', 'when it was started')}


@pytest.mark.parametrize('name', ['maskrcnn_ravlt_s.py', 'upernet_mala_t_shapes.py'])
def test_a_config_as_shipped_changes_nothing_when_started(name: str):
    path = find_config(name)
    found = differences_from_base(load_config(str(path)), path)
    assert found
    assert {difference.source for difference in found} == {name}


def test_confusions_and_quality():
    truth = Objects([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 90, 30)], [0, 1, 1, 0], crowd=[0, 0, 0, 1])
    predicted = Objects([(0, 0, 10, 8), (20, 0, 30, 10), (20, 0, 30, 9), (70, 10, 80, 20), (0, 50, 9, 59), (40, 0, 50, 10)],
                        [0, 0, 1, 0, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
    image = DetectedImage('', 100, 100, truth, predicted)
    # The box of class 0 takes the second object; the one of its class comes too late, and lies on nothing as does the fifth;
    # the fourth lies in the crowd; the third object's score is too low.
    assert count_confusions([image], 2, score=0.3, overlap=0.5).tolist() == [[1, 0, 0], [1, 0, 1], [0, 2, 0]]
    # Of its own class the third box has the second object: overlaps of .8 and .9, of four predictions and three objects.
    assert image_quality(image, score=0.3, overlap=0.5) == pytest.approx((0.8 + 0.9) / ((4 + 3) / 2))
    assert np.isnan(image_quality(DetectedImage('', 9, 9), 0.3, 0.5))


def test_segmentation_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 0, 0, 1], [0, 1, 1, 1]], np.uint8)
    pngs = [cv2.imencode('.png', labels)[1].tobytes() for labels in (truth, predicted)]
    found = evaluate_segmentations(Predictions(Path(), CLASSES, PALETTE, 1, images=[SegmentedImage('', *pngs)]))
    assert found.confusions.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(found.per_class['IoU'], [3 / 5, 2 / 4, np.nan])
    np.testing.assert_allclose(found.per_class['accuracy'], [3 / 4, 2 / 3, np.nan])
    assert found.summary == pytest.approx(dict(mIoU=0.55, mAcc=(3 / 4 + 2 / 3) / 2, aAcc=5 / 7))
    assert found.qualities == pytest.approx([0.55])


def test_charts_are_well_formed_and_share_no_id():
    charts = [line_chart('loss & more', 'x', 'y', [Line('a <b>', [(0, 1), (1, 2)]), Line('c', [(0, 3)])], marks=[0.5]),
              line_chart('other', 'x', 'y', [Line('a', [(i, i % 7) for i in range(5000)])]),
              bar_chart('bars', 'x', ['one', 'two'], dict(a=[1, 2], b=[0, 3]))]
    ids = []
    for chart in charts:
        root = ElementTree.fromstring(chart.svg)
        ids += [element.get('id') for element in root.iter() if element.get('id')]
        assert 'currentColor' in chart.svg
        assert '#010203' not in chart.svg
        assert len(list(root.iter('{http://www.w3.org/2000/svg}text'))) > 4
    assert len(set(ids)) == len(ids) > 50
    assert len(charts[1].svg) < 40_000  # 400 of the 5000 points


def test_pages_need_nothing_else(pages: dict[str, Path]):
    for path in pages.values():
        html = path.read_text()
        addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
        assert addresses
        assert all(address.startswith(('data:', '#')) for address in addresses)
        assert '@import' not in html
        assert '&lt;b&gt;&amp;' in html
        assert 'a long name <b>' not in html
    assert 'of 8 images' in pages['detector'].read_text()
    comparison = pages['comparison'].read_text()
    for text in ('optim_wrapper.optimizer.lr', '0.002', 'second − first', 'Where the runs differ most'):
        assert text in comparison


def test_a_page_says_what_is_missing(tmp_path: Path):
    folder = write_work_dir(tmp_path / 'work', 'mmdet', 'coco/bbox_mAP')
    notices = make_report([folder], tmp_path / 'report.html', images=10)
    assert any('holds no checkpoint' in notice for notice in notices)
    assert any('no made_up.py in configs/' in notice for notice in notices)
    html = (tmp_path / 'report.html').read_text()
    assert 'holds no checkpoint' in html
    assert 'training loss' in html


@pytest.mark.parametrize(('content', 'says'), [
    (None, 'does not exist'), ({}, 'holds no config'), ({'a.py': 'x = 1'}, 'has no model'),
    ({'a.py': 'model = dict(backbone=dict(type="RAVLT"))'}, 'holds neither logs of a training')])
def test_folders_without_a_training(tmp_path: Path, content: dict | None, says: str):
    folder = tmp_path / 'work'
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=says):
        make_report([folder], tmp_path / 'report.html', images=10)
    assert not list(tmp_path.glob('*report*'))


def test_the_best_checkpoint_comes_first(tmp_path: Path):
    import torch

    with pytest.raises(UserError, match='holds no checkpoint'):
        choose_checkpoint(tmp_path)
    torch.save(dict(state_dict={}), tmp_path / 'epoch_9.pth')
    assert choose_checkpoint(tmp_path).name == 'epoch_9.pth'
    torch.save(dict(state_dict={}), tmp_path / 'best_coco_bbox_mAP_epoch_3.pth')
    assert choose_checkpoint(tmp_path).name == 'best_coco_bbox_mAP_epoch_3.pth'
    (tmp_path / 'best_coco_bbox_mAP_epoch_3.pth').write_bytes(b'PK')
    assert choose_checkpoint(tmp_path).name == 'epoch_9.pth'


@pytest.mark.parametrize(('out_dir', 'expected'), [
    (None, 'moved'), ('disk', 'disk/run'), ('s3://bucket/runs', 'moved')])
def test_where_the_checkpoints_are(tmp_path: Path, out_dir: str | None, expected: str):
    config = Config(dict(work_dir=str(tmp_path / 'run'), default_hooks=dict(checkpoint=dict(
        type='CheckpointHook', out_dir=out_dir and (out_dir if '://' in out_dir else str(tmp_path / out_dir))))))
    assert checkpoints_of(Run(tmp_path / 'moved', config, 'config.py')) == tmp_path / expected
    assert checkpoints_of(Run(tmp_path / 'moved', Config({}), 'config.py')) == tmp_path / 'moved'


def test_half_a_line_is_no_entry(tmp_path: Path):
    folder = write_work_dir(tmp_path / 'work', 'mmseg', 'mIoU')
    path = next(folder.glob('*_11*/vis_data/scalars.json'))
    lines = path.read_text().splitlines()
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[-1])
    assert len(read_run(folder).training['loss']) == 20


def test_an_evaluation_afterwards_does_not_speak_for_the_training(tmp_path: Path):
    folder = write_work_dir(tmp_path / 'work', 'mmdet', 'coco/bbox_mAP')
    trained = Config(dict(default_scope='mmdet', model=dict(type='Trained')))
    (folder / '20260101_110000' / 'vis_data').mkdir(exist_ok=True)
    trained.dump(folder / '20260101_110000' / 'vis_data' / 'config.py')
    tested = folder / '20260101_120000' / 'vis_data'
    tested.mkdir(parents=True)
    Config(dict(default_scope='mmdet', model=dict(type='DetTTAModel'))).dump(tested / 'config.py')
    (tested / 'scalars.json').write_text('{"coco/bbox_mAP": 0.9, "step": 0}\n')
    run = read_run(folder)
    assert run.config.model.type == 'Trained'
    assert run.metrics == {'coco/bbox_mAP': [(20, 0.3)]}
    (folder / '20260101_110000' / 'vis_data' / 'config.py').unlink()
    assert read_run(folder).config.model.type == 'Detector'  # of the folder's own


@pytest.mark.parametrize(('metric', 'factor', 'best'), [
    ('coco/bbox_mAP', 100, 0.4), ('val/segm_mAP_50', 100, 0.4), ('pascal_voc/mAP', 100, 0.4), ('pascal_voc/AP50', 100, 0.4),
    ('lvis/bbox_APr', 100, 0.4), ('coco/car_precision', 100, 0.4), ('mIoU', 1, 0.4), ('mDice', 1, 0.4),
    ('coco_panoptic/PQ_th', 1, 0.4), ('crowdhuman/mMR', 100, 0.2), ('my/score', None, None), ('my/mAPE', None, None)])
def test_units_and_directions_of_metrics(metric: str, factor: float | None, best: float | None):
    assert to_percent(metric) == factor
    found = best_point(metric, [(1, 0.3), (2, 0.4), (3, 0.2)])
    assert (found and found[1]) == best


@pytest.mark.parametrize('metric', ['pascal_voc/mAP', 'val/bbox_mAP', 'my/score'])
def test_any_metric_has_its_curve_and_its_row(tmp_path: Path, metric: str):
    notices = make_report([write_work_dir(tmp_path / 'work', 'mmdet', metric)], tmp_path / 'page.html', images=0)
    assert len(notices) >= 1
    html = (tmp_path / 'page.html').read_text()
    name = metric.split('/')[1]
    if metric == 'my/score':
        assert f'{name} (as logged)' in html
        assert re.search(r'data-order="0\.3\d*"', html)
    else:
        assert re.search(r'data-order="30\.0*\d*"', html)
    assert 'validation' in html
    assert name in html


def test_names_are_drawn_as_they_are():
    chart = line_chart('title', 'x', 'y', [Line('_background_', [(0, 1)]), Line(r'a_b $\frac$', [(0, 2)])])
    bars = bar_chart('title', 'x', ['one', r'$\frac$'], dict(_hidden=[1, 2], other=[1, 2]))
    for svg, names in ((chart.svg, ['_background_', r'a_b $\frac$']), (bars.svg, ['_hidden', r'$\frac$'])):
        assert [name for name in names if name not in svg] == []


def test_a_class_that_the_data_set_does_not_have():
    with pytest.raises(UserError, match='the model predicts class 1, but the data set has 1'):
        count_pixels(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8), 1)


def test_a_single_image_is_shown_once(tmp_path: Path):
    found = random_detections(tmp_path, 1)
    found.images = found.images[:1]
    best, worst = best_and_worst(evaluate_detections(found), 6)
    assert (len(best), len(worst)) == (1, 0)


@pytest.mark.parametrize('shape', [(20000, 10), (10, 20000), (1, 1)])
def test_images_of_any_shape_are_shown(shape: tuple[int, int]):
    assert min(resize(np.zeros((*shape, 3), np.uint8), 300).shape[:2]) >= 1


def test_devices_that_are_not_there(tmp_path: Path):
    with pytest.raises(UserError, match='device abacus is not available'):
        make_report([write_work_dir(tmp_path / 'work', 'mmdet', 'coco/bbox_mAP')], tmp_path / 'page.html', 3, device='abacus')


def test_values_below_zero_are_drawn(tmp_path: Path):
    run = read_run(write_work_dir(tmp_path / 'work', 'mmdet', 'my/gain', scale=-1.0))
    assert run.metrics == {'my/gain': [(20, -0.3)]}  # -1 alone means that there is nothing
    lines = [Line('gain', [(0, -30), (9, 20)])]
    assert '−30' in line_chart('gain', 'x', 'y', lines).svg
    assert '−' not in line_chart('gain', 'x', 'y', [Line('gain', [(0, 30), (9, 20)])]).svg


def test_classes_without_a_palette_have_the_colors_of_inference():
    classes = ('a', 'b', 'c')
    for palette in (None, 'random', PALETTE[:2]):
        assert palette_of(dict(classes=classes, palette=palette)) == distinct_colors(3)
    assert palette_of(dict(classes=classes, palette=PALETTE)) == PALETTE
