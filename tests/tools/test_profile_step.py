"""profile_step.py as a user calls it, on a detector and on a segmentor."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
FASTER_METRIC = 'val_evaluator.type=ralamala_mm.engine.coco_metric.FasterCocoMetric'
EXPECTED = {  # options, what must take time in training and in evaluation, and what loads annotations
    'maskrcnn_ravlt_t': (
        [FASTER_METRIC],
        ['neck: forward', 'neck: backward', 'RPN head: forward', 'RPN head: targets', 'RPN head: losses', 'RPN head: predictions',
         'box head: targets', 'box head: RoI features', 'box head: forward', 'box head: losses',
         'mask head: targets', 'mask head: RoI features', 'mask head: forward', 'mask head: losses'],
        ['RPN head: predictions', 'box head: predictions'], 'LoadCheckedInstances'),
    'upernet_ravlt_t': (
        [],
        ['decode head: forward', 'decode head: losses', 'auxiliary head: forward', 'auxiliary head: losses'],
        ['decode head: forward', 'decode head: predictions'], 'LoadCheckedMask'),
}
ALWAYS = ['waiting for data', 'data preprocessor', 'backbone: forward', 'backbone: backward', 'losses and heads: backward',
          'optimizer', 'hooks: schedule, log', 'rest of the step']

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('name', EXPECTED)
def test_the_parts_of_a_step(call: Callable, shapes_root: Path, tmp_path: Path, name: str):
    options, in_training, in_evaluation, loads_annotations = EXPECTED[name]
    file = tmp_path / 'step.json'
    result = call('python', 'tools/analysis_tools/profile_step.py', f'configs/demo/{name}_shapes.py', '--data', shapes_root,
                  '--work-dir', tmp_path / 'w', '--iterations', 2, '--val-images', 3, '--json', file, '--cfg-options', *SMALL,
                  *options)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(file.read_text())
    assert set(report['training']['parts']) == {*ALWAYS, *in_training}
    assert {*in_evaluation, 'metric: taking in predictions', 'metric: computing'} <= set(report['evaluation']['parts'])
    assert {'LoadCheckedImage', loads_annotations, 'RandomFlip'} < set(report['worker']['parts'])
    for measured in (report['training'], report['worker'], report['evaluation']):
        # Every reading of the clock ends one part and begins the next, so that only the rounding of fp64 is between parts
        # and whole: of less than 1e4 sums below 100 s, each off by 1e-14 s at most.
        assert sum(measured['parts'].values()) == pytest.approx(measured['seconds'], rel=0, abs=1e-10)
        assert all(seconds > 0 for seconds in measured['parts'].values())
    assert (report['iterations'], report['batch_size']) == (2, 2)
    assert (report['evaluation']['images'], report['worker']['images']) == (3, 12)
    for text in ('| part | seconds per iteration | share |', 'The backbone takes', 'one worker makes', 'Evaluation of 3 images'):
        assert text in result.stdout
    assert not list((tmp_path / 'w').rglob('*.pth'))


def test_more_iterations_than_the_training_has(call: Callable, shapes_root: Path, tmp_path: Path):
    result = call('python', 'tools/analysis_tools/profile_step.py', 'configs/demo/semanticfpn_ravlt_t_shapes.py', '--data',
                  shapes_root, '--work-dir', tmp_path / 'w', '--iterations', 2, '--cfg-options', *SMALL, 'train_cfg.max_iters=2')
    assert result.returncode == 1
    assert 'error: the training ends after 2 iterations, and 7 are needed: give fewer by --iterations' in result.stderr
    assert 'Traceback' not in result.stderr
