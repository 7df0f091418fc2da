"""The script for GPUs that one has for minutes, on a CPU: that it runs to its end, that rows may fail, that it can be stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tool_modules import load_tool

from ralamala_mm.analysis.roofline import Rates
from ralamala_mm.analysis.speed import Measurement
from ralamala_mm.analysis.workloads import Task

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'analysis_tools' / 'measure_gpu.sh'
ON_CPU = ['--device', 'cpu', '--size', '64', '96', '--runs', '1']


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, 'path', sys.path.copy())
    return load_tool('analysis_tools/measure_gpu')


@pytest.mark.slow
def test_every_part_runs_to_its_end(call: Callable, tmp_path: Path):
    parts = ['kernels', 'backbones', 'attention', 'growth', 'train']
    done = call('bash', SCRIPT, tmp_path / 'results', *ON_CPU, '--quick', '--parts', *parts, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'On a CPU: this shows that the script runs, and says nothing about GPUs.' in done.stdout
    contents = {part: json.loads((tmp_path / 'results' / f'{part}.json').read_text()) for part in parts}
    for part, content in contents.items():
        assert f'\n{part}: complete' in done.stdout
        assert (tmp_path / 'results' / f'{part}.md').read_text().count('\n| ') > 1
        assert content['results'], part
        assert 'threads' in content['machine']['device']
    assert {row['verdict'] for row in contents['kernels']['results']} == {'agree'}
    attentions, dtypes = ('rala', 'mala', 'softmax_attention'), ('torch.float32', 'torch.float16', 'torch.bfloat16')
    assert {(row['attention'], row['dtype']) for row in contents['kernels']['results']} == set(product(attentions, dtypes))
    assert {row['backend'] for row in contents['backbones']['results']} >= {'eager', 'naive'}
    assert {growth['title'] for growth in contents['growth']['growth']} >= {'RAVLT-S', 'RAVLT-S, layers.0'}
    assert all(row['median'] > 0 for row in contents['train']['results'])


@pytest.mark.parametrize('attention', ['rala', 'mala', 'softmax_attention'])
def test_odd_shapes_have_gradients_to_compare(script: ModuleType, attention: str):
    """Correct kernels agree on each of them; of a single token, say, the exact gradients of q and k are zero."""
    assert len(script.ODD_SHAPES) >= 3
    for shape, dtype in product(script.ODD_SHAPES[1:], (torch.float32, torch.float16, torch.bfloat16)):
        results = script.compare(attention, torch.device('cpu'), dtype, 16, shape)
        assert all(result.holds for result in results), (shape, dtype, results)


@pytest.mark.slow
def test_a_script_that_is_stopped_leaves_complete_rows_and_no_process(tmp_path: Path):
    process = subprocess.Popen(
        ['bash', SCRIPT, tmp_path, '--device', 'cpu', '--size', '320', '320', '--runs', '1', '--parts', 'growth', 'train'],
        env=dict(os.environ, PYTHON=sys.executable), start_new_session=True, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / 'growth.json').exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f'results are in {tmp_path}' in output
    assert json.loads((tmp_path / 'growth.json').read_text())['results']
    assert not (tmp_path / 'train.txt').exists()
    deadline = time.monotonic() + 30  # what multiprocessing keeps beside its processes ends a moment after them
    while is_alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(group: int) -> bool:
    """Whether a process of a group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_row_that_fails_leaves_the_others(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                            capsys: pytest.CaptureFixture):
    def measure(task: Task) -> Measurement:
        if task.backend == 'triton':
            raise RuntimeError('CUDA error')
        if task.backend == 'naive':
            raise torch.cuda.OutOfMemoryError
        return Measurement(2.0, 1.0, 3.0, 10 ** 9)

    monkeypatch.setattr(script, 'measure', measure)
    monkeypatch.setattr(script, 'measured_rates', lambda *_: Rates(1e12, 1e9))
    request = script.Request(tmp_path, 'cpu', (64, 64), 1, quick=True)
    log = script.Log('backbones', request)
    tasks = [Task('ravlt_t', 'forward', (1, 3, 64, 64), backend, 'cpu', 'float32', 1) for backend in ('triton', 'naive', 'eager')]
    script.time_tasks(tasks, request, log)
    assert log.failures == 1
    output = capsys.readouterr().out
    assert '1/3 RAVLT-T, 1×3×64×64, float32, forward, triton: FAILED: RuntimeError: CUDA error' in output
    assert 'naive: out of memory' in output
    assert output == (tmp_path / 'backbones.txt').read_text()
    lost, found = json.loads((tmp_path / 'backbones.json').read_text())['results']
    assert (lost['backend'], 'median' in lost) == ('naive', False)
    assert (found['backend'], found['median']) == ('eager', 2.0)


def test_parts_that_fail_or_take_too_long_leave_the_next(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Process:
        """Of a part: its exit code, None while it runs."""

        def __init__(self, target: Callable, args: tuple, daemon: bool):
            self.exitcode = {'kernels': 1, 'backbones': None, 'attention': 0}[args[0]]

        def start(self) -> None:
            """Does nothing."""

        def join(self, seconds: float | None = None) -> None:
            """Ends at once."""

        def terminate(self) -> None:
            self.exitcode = -15

        def kill(self) -> None:
            assert self.exitcode == -15

    monkeypatch.setattr(script.multiprocessing.get_context('spawn'), 'Process', Process, raising=False)
    ends = []
    monkeypatch.setattr('builtins.print', lambda text, **_: ends.append(text))
    good = script.measure_parts(['kernels', 'backbones', 'attention'], script.Request(tmp_path, 'cuda', (64, 64), 1, quick=False))
    assert not good
    assert [end for end in ends if 'at most' not in end] == [
        'kernels: something failed (exit code 1), see above, 0 s',
        'backbones: stopped at its limit; the rows so far are kept, 0 s', 'attention: complete, 0 s']


def test_the_whole_takes_less_than_eight_minutes(script: ModuleType):
    assert len(script.PARTS) == 5
    assert sum(part.limit for part in script.PARTS.values()) < 480
    assert sum(part.quick_limit or 0 for part in script.PARTS.values()) <= 120


def test_without_a_gpu_a_sentence_says_so(call: Callable, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    done = call('bash', SCRIPT, tmp_path)
    assert done.returncode == 1
    assert done.stderr == 'error: torch sees no GPU here (--device cpu --size 64 96 --runs 1 shows that the script runs).\n'
