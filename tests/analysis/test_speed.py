"""The benchmark: what it builds, exponents of known data, and the command line on small images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ralamala_mm import ops
from ralamala_mm.analysis.roofline import Rates
from ralamala_mm.analysis.speed import (
    Measurement,
    Result,
    as_growth_table,
    as_json,
    as_table,
    draw_growth,
    exponent,
    floor_of,
    growths,
    in_own_process,
    ratios,
    subject_ops,
)
from ralamala_mm.analysis.workloads import Task, is_hybrid, load_subject, prepare
from ralamala_mm.errors import UserError

TOOL = 'tools/analysis_tools/benchmark.py'
SMALL = ['--shape', 64, 64, '--runs', 1, '--device', 'cpu', '--paths', 'eager']
RESNET = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def result(subject: str = 'ravlt_t', size: int = 64, backend: str = 'naive', mode: str = 'forward', seconds: float | None = 1.0,
           memory: int = 8192) -> Result:
    measurement = seconds and Measurement(seconds, seconds, seconds, memory)
    return Result(Task(subject, mode, (1, 3, size, size), backend, 'cpu', 'float32', 1), measurement, None)


def test_exponents_of_known_growth(tmp_path: Path):
    sizes = (64, 128, 256)
    results = [result(size=size, seconds=1e-6 * (size * size) ** 1.5, memory=7 * size * size) for size in sizes]
    results += [result(size=size, backend='eager', seconds=None) for size in sizes]  # out of memory
    (growth,) = growths(results)
    assert (growth.title, growth.mode, growth.way) == ('RAVLT-T', 'forward', 'naive')
    assert growth.time == pytest.approx(1.5)
    assert growth.memory == pytest.approx(1.0)
    assert '| 1.50 | 1.00 |' in as_growth_table(results)
    draw_growth(results, tmp_path / 'new' / 'growth.png', 'known growth')
    assert (tmp_path / 'new' / 'growth.png').stat().st_size > 10_000


def test_the_exponent_is_a_least_squares_fit():
    assert exponent([1, 10, 100], [2, 40, 200]) == pytest.approx(1.0)


def test_ratios_are_to_naive_or_to_the_first_row():
    results = [result(), result(backend='eager', seconds=0.5, memory=4096), result('mmdet::swin', backend='-', seconds=3.0),
               result('mala_t', backend='eager', seconds=None)]
    assert [ratios(results, row) for row in results] == [(1, 1), (0.5, 0.5), (3, 1), None]
    assert '| MALA-T | 1×3×64×64 | float32 | forward | eager | out of memory | –' in as_table(results, 'cpu', None)
    assert 'median' not in json.loads(as_json(results, 'cpu', None))['results'][-1]


def test_names_of_configs():
    assert is_hybrid(load_subject('mala_b'))
    assert load_subject('mmdet::mask-rcnn_r50_fpn_1x_coco').model == load_subject(RESNET).model
    assert not is_hybrid(load_subject(RESNET))
    assert Task(RESNET, 'forward', (1, 3, 64, 64), '-', 'cpu', 'float32', 1).title == 'mask-rcnn_r50_fpn_1x_coco'
    with pytest.raises(UserError, match='did you mean configs/maskrcnn_ravlt_s'):
        load_subject('configs/maskrcn_ravlt_s.py')
    with pytest.raises(UserError, match=r'swin/nothing\.py does not exist'):
        load_subject('mmdet::swin/nothing.py')
    with pytest.raises(UserError, match='foo is not installed'):
        load_subject('foo::bar')


@pytest.mark.parametrize('kind', ['rala', 'mala', 'softmax_attention'])
def test_an_attention_alone(kind: str):
    task = Task(kind, 'forward+backward', (2, 3, 35, 16), 'eager', 'cpu', 'float32', 1)
    workload = prepare(task)
    with pytest.MonkeyPatch.context() as patch:
        used = []
        attend = ops.attend
        patch.setattr(ops, 'attend', lambda *args, backend: used.append(backend) or attend(*args, backend=backend))
        workload = prepare(task)
        workload.run(workload.fresh_data())
    assert used == ['eager']
    maps = {'rala': 5 + 9, 'mala': 4 + 7, 'softmax_attention': 4 + 8}[kind]
    assert floor_of(task, Rates(1.0, 100.0)) == maps * 2 * 3 * 35 * 16 * 4 / 100


@pytest.mark.parametrize(('stage', 'map_shape'), [(0, (1, 64, 17, 25)), (2, (1, 256, 5, 7))])
def test_a_stage_alone(stage: int, map_shape: tuple[int, ...]):
    task = Task('ravlt_t', 'forward+backward', (1, 3, 65, 97), 'eager', 'cpu', 'float32', 1, stage=stage)
    workload = prepare(task)
    data = workload.fresh_data()
    assert data.shape == map_shape
    workload.run(data)
    assert data.grad.abs().sum() > 0
    names = [op.name for op in subject_ops('ravlt_t', task.shape, 4, stage)]
    assert 'pos' in names
    assert 'downsample' not in names


@pytest.mark.parametrize('config', ['configs/demo/retinanet_ravlt_t_shapes.py', 'configs/demo/semanticfpn_ravlt_t_shapes.py'])
def test_a_training_step_changes_the_weights(config: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    workload = prepare(Task(config, 'train', (2, 3, 64, 64), 'eager', 'cpu', 'float32', 1))
    model = next(cell.cell_contents for cell in workload.run.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
    assert model.backbone.backend == 'eager'
    before = model.backbone.patch_embed.proj[0].weight.clone()
    workload.run(workload.fresh_data())
    assert not torch.equal(before, model.backbone.patch_embed.proj[0].weight)


def test_what_cannot_be_measured():
    with pytest.raises(UserError, match='train needs the config of a complete detector or segmentor'):
        prepare(Task('ravlt_t', 'train', (1, 3, 64, 64), 'eager', 'cpu', 'float32', 1))
    with pytest.raises(UserError, match=r'PyramidVisionTransformerV2 in \S+ has no with_cp'):
        prepare(Task('mmdet::retinanet_pvtv2-b0_fpn_1x_coco', 'forward', (1, 3, 64, 64), '-', 'cpu', 'float32', 1, with_cp=True))
    with pytest.raises(UserError, match='known for RAVLT or MALA, not for ResNet'):
        subject_ops(RESNET, (1, 3, 64, 64), 4)


def run_out_of_memory() -> None:
    torch.empty(2 ** 60)


def test_running_out_of_memory_is_a_result():
    assert in_own_process(run_out_of_memory) is None


@pytest.mark.slow
def test_backbones(call: Callable, tmp_path: Path):
    options = ['--modes', 'forward+backward', *SMALL, '--json', tmp_path / 'b.json']
    done = call('python', TOOL, 'backbone', 'mala_t', RESNET, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '2/2 mask-rcnn_r50_fpn_1x_coco' in done.stdout
    content = json.loads((tmp_path / 'b.json').read_text())
    ours, baseline = content['results']
    assert (ours['title'], ours['backend'], ours['time_ratio']) == ('MALA-T', 'eager', 1)
    assert (baseline['backend'], baseline['floor']) == ('-', None)
    assert baseline['time_ratio'] == pytest.approx(baseline['median'] / ours['median'])
    assert 0 < ours['share_of_floor'] < 1
    for row in (ours, baseline):
        assert 0 < row['fastest'] <= row['median'] <= row['slowest'] < 10
        assert row['per_second'] == pytest.approx(1 / row['median'])
        assert 1e6 < row['peak_memory'] < 1e9
    assert content['rates']['flops'] > 1e8


@pytest.mark.slow
@pytest.mark.parametrize('command', ['train', 'infer'])
def test_whole_models(command: str, call: Callable, tmp_path: Path):
    done = call('python', TOOL, command, 'configs/demo/maskrcnn_ravlt_t_shapes.py', *SMALL, '--json', tmp_path / 'w.json')
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads((tmp_path / 'w.json').read_text())['results']
    assert (row['title'], row['mode'], row['backend']) == ('maskrcnn_ravlt_t_shapes', command, 'eager')
    assert row['median'] > 0


@pytest.mark.slow
@pytest.mark.parametrize(('options', 'message'), [
    (['backbone', 'mala_t', '--fuse', '--modes', 'forward+backward'], '--fuse is for inference: give --modes forward with it'),
    (['backbone', 'mala_t', '--picture', 'growth.png', '--modes', 'forward'], '--picture draws time against resolution'),
])
def test_options_that_do_not_go_together(options: list[str], message: str, call: Callable):
    done = call('python', TOOL, *options)
    assert done.returncode == 1
    assert f'error: {message}' in done.stderr
    assert 'Traceback' not in done.stderr
