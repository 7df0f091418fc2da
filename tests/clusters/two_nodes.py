"""Two nodes with two CPU processes each against one process: gradients, evaluation, and a node that dies and comes back.

    python tests/clusters/two_nodes.py [gradients] [evaluation] [rejoin]

It needs root, or whoever may make network namespaces; a minute or two each on two cores.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from namespaces import ADDRESSES, TwoNodes, why_not

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = ROOT / 'configs' / 'demo'
# One step on all 8 images at once, whoever has which: then the learning rate of 1 leaves the gradient as the difference of
# the weights. Class weights would make the loss an average over each process's own pixels.
TRAINING = """
_base_ = '{demo}/semanticfpn_ravlt_t_shapes.py'
custom_imports = dict(imports=['ralamala_mm', 'plain_convolutions'])
model = dict(data_preprocessor=dict(size=(64, 64)), decode_head=dict(dropout_ratio=0, loss_decode=dict(class_weight=None)))
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                  dict(type='Resize', scale=(64, 64)), dict(type='PackSegInputs')]
train_dataloader = dict(batch_size={images}, num_workers=0, persistent_workers=False,
                        dataset=dict(data_root='{data}', pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}'))
test_dataloader = val_dataloader
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr={lr}))
param_scheduler = []
train_cfg = dict(max_iters={iterations}, val_interval=1000)
load_from = {begin!r}
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=3))
env_cfg = dict(dist_cfg=dict(timeout=120))
"""


def write_config(folder: Path, data: Path, name: str, begin: Path | None = None, **settings: object) -> Path:
    path = folder / f'{name}.py'
    path.write_text(TRAINING.format(demo=DEMO, data=data, begin=begin and str(begin), **settings))
    return path


def alone(*command: object) -> str:
    """A tool in one process; its output."""
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS='1'),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def start(nodes: TwoNodes, node: int, log: Path, script: str, *arguments: object) -> subprocess.Popen:
    """One node's part of a distributed run."""
    return nodes.start(node, log, ROOT / 'tools' / script, *arguments, NNODES='2', MASTER_ADDR=ADDRESSES[0], PORT='29531',
                       PYTHONPATH=str(HERE), PYTHON=sys.executable, OMP_NUM_THREADS='1', JOIN_TIMEOUT='120')


def together(folder: Path, script: str, *arguments: object) -> str:
    """A tool on both nodes; the output of the first."""
    logs = [folder / f'node{node}.log' for node in range(2)]
    with TwoNodes() as nodes:
        processes = [start(nodes, node, logs[node], script, *arguments) for node in range(2)]
        codes = [process.wait(timeout=600) for process in processes]
    outputs = [log.read_text() for log in logs]
    for log in logs:
        log.unlink()
    assert codes == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    return outputs[0]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location='cpu', weights_only=True)['state_dict']


def whole_batch(config: Path, before: dict, dtype: torch.dtype) -> tuple[dict, dict]:
    """Gradients and running statistics of one training step on all images in this process.

    Args:
        config: its training data set and model.
        before: the model's state dict.
        dtype: of parameters and images.
    """
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS, DefaultScope

    from ralamala_mm.engine import build_model, load_config

    config = load_config(str(config))
    model = build_model(config)
    model.load_state_dict(before)
    model.train().to(dtype)
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(config.train_dataloader.dataset)
        batch = model.data_preprocessor(pseudo_collate(list(dataset)), True)
        losses = model(batch['inputs'].to(dtype), batch['data_samples'], mode='loss')
    losses['decode.loss_ce'].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients, {name: value for name, value in model.named_buffers() if 'running_' in name}


def distance(values: dict, reference: dict) -> float:
    """The largest difference in parts of the largest value of `reference`."""
    assert reference
    largest = max(value.abs().max().item() for value in reference.values())
    return max((values[name].double() - value.double()).abs().max().item() for name, value in reference.items()) / largest


def show_gradients(folder: Path, data: Path) -> None:
    """The gradients of 4 × 2 images are those of 8 in one process, batch norm included."""
    before = make_checkpoint(folder, DEMO / 'semanticfpn_ravlt_t_shapes.py')
    config = write_config(folder, data, 'step', images=2, lr=1.0, iterations=1, begin=before)
    output = together(folder, 'dist_train.sh', config, 2, '--work-dir', folder / 'step', '--no-validate')
    assert '4 processes train on the CPU over gloo' in output
    before, after = weights(before), weights(folder / 'step' / 'iter_1.pth')
    gradients, statistics = whole_batch(config, before, torch.float64)
    assert len(gradients) > 100
    assert len(statistics) > 10
    four = distance({name: before[name] - after[name] for name in gradients}, gradients), distance(after, statistics)
    one = [distance(*pair) for pair in zip(whole_batch(config, before, torch.float32), (gradients, statistics), strict=True)]
    for what, of_four, of_one in zip(('gradients', 'running statistics'), four, one, strict=True):
        print(f'{what}: off the exact ones of the whole batch by {of_four:.1e} of the largest in 2 + 2 processes, '
              f'{of_one:.1e} in one', flush=True)
        assert of_four < 1e-5


def numbers(output: str, pattern: str) -> list[str]:
    found = re.findall(pattern, output)
    assert found, output[-3000:]
    return found


def show_evaluation(folder: Path, data: Path, tasks: tuple[str, ...]) -> None:
    """The numbers of 4 processes are those of one, on 7 images and on 3."""
    from mmengine.fileio import load

    for task in tasks:
        config = DEMO / {'segmentor': 'semanticfpn_ravlt_t_shapes.py', 'detector': 'retinanet_ravlt_t_shapes.py'}[task]
        pattern = {'segmentor': r'aAcc: .*?mAcc: [\d.]+', 'detector': r'bbox_mAP_copypaste: .*'}[task]
        checkpoint = make_checkpoint(folder, config)
        common = [config, checkpoint]
        options = ['--data', data, '--cfg-options', 'test_dataloader.batch_size=1', 'test_dataloader.num_workers=0']
        out = [[], []]
        if task == 'detector':
            out = [['--out', folder / f'{name}.pkl'] for name in ('one', 'four')]
        one = alone('tools/test.py', *common, '--work-dir', folder / 'one', *out[0], *options)
        four = together(folder, 'dist_test.sh', *common, 2, '--work-dir', folder / 'four', *out[1], *options)
        results = [numbers(output, pattern) for output in (one, four)]
        assert results[0] == results[1], results
        if task == 'detector':
            check_predictions(load(folder / 'one.pkl'), load(folder / 'four.pkl'))
        print(f'evaluation of the {task}: one process and 2 + 2 say {results[0][-1]}')


def make_checkpoint(folder: Path, config: Path) -> Path:
    """Random weights, saved as a training would."""
    from ralamala_mm.engine import build_model, load_config

    torch.manual_seed(0)
    path = folder / f'{config.stem}.pth'
    torch.save({'state_dict': build_model(load_config(str(config))).state_dict(), 'meta': {}}, path)
    return path


def check_predictions(one: list[dict], four: list[dict]) -> None:
    """Each image once, with the same boxes to the last bit."""
    assert one
    assert [sample['img_id'] for sample in one] == [sample['img_id'] for sample in four]
    boxes = 0
    for first, second in zip(one, four, strict=True):
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(first['pred_instances'][key], second['pred_instances'][key])
        boxes += len(first['pred_instances']['scores'])
    assert boxes


def wait_for(file: Path, log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline, f'no {file}: {log.read_text()[-3000:]}'
        time.sleep(0.1)


def show_rejoin(folder: Path, data: Path, iterations: int) -> None:
    """A node is killed, comes back, and the training continues from its checkpoint to its end on both."""
    config = write_config(folder, data, 'rejoin', images=2, lr=0.01, iterations=iterations)
    work_dir = folder / 'rejoin'
    logs = [folder / f'rejoin{node}.log' for node in range(2)]
    arguments = ['dist_train.sh', config, 2, '--max-restarts', 3, '--work-dir', work_dir, '--no-validate']
    with TwoNodes() as nodes:
        first, second = (start(nodes, node, logs[node], *arguments) for node in range(2))
        wait_for(work_dir / 'iter_2.pth', logs[0])
        killed = nodes.kill(1)
        assert killed >= 3  # the agent and its processes
        assert second.wait(timeout=10) != 0
        time.sleep(2)
        assert first.poll() is None  # waits
        second = start(nodes, 1, logs[1], *arguments)
        codes = [first.wait(timeout=300), second.wait(timeout=300)]
    output = logs[0].read_text() + logs[1].read_text()
    assert codes == [0, 0], output[-6000:]
    resumed = numbers(output, r'resuming from (\S+) at iteration (\d+)')
    # Rank 0 may be on the other node afterwards; it is the one that logs.
    done = [int(number) for number in numbers(output, rf'Iter\(train\) \[ *(\d+)/{iterations}\]')]
    assert int(resumed[-1][1]) >= 2  # which was saved before the node was killed
    assert sorted(set(done)) == list(range(1, iterations + 1))
    assert (work_dir / f'iter_{iterations}.pth').exists()
    print(f'rejoin: {killed} processes of one node were killed; continued from {Path(resumed[-1][0]).name}, iterations {done}')


def main(parts: list[str], short: bool) -> None:
    from ralamala_mm.datasets.shapes import make_shapes

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shapes(folder / 'data', train=8, val=7)
        if 'gradients' in parts:
            show_gradients(folder, folder / 'data')
        if 'evaluation' in parts:
            show_evaluation(folder, folder / 'data', ('segmentor',) if short else ('segmentor', 'detector'))
            if not short:
                make_shapes(folder / 'few', train=8, val=3)
                show_evaluation(folder, folder / 'few', ('segmentor',))
        if 'rejoin' in parts:
            show_rejoin(folder, folder / 'data', 4 if short else 12)


if __name__ == '__main__':
    PARTS = ['gradients', 'evaluation', 'rejoin']
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', choices=[*PARTS, []], help='what to show; all by default')
    parser.add_argument('--short', action='store_true', help='less of each')
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other are slow where other processes run too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are removed
    if reason := why_not():
        sys.exit(reason)
    main(args.parts or PARTS, args.short)
