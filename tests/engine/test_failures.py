"""What is told when the machine fails: what the tool at hand can do about it, and nothing else."""

import errno
import os
import subprocess
import sys
from argparse import Namespace

import pytest
from torch.utils.data import DataLoader

from ralamala_mm.engine.cli import explain_failure

TRAIN = Namespace(resume=None, launcher='none', cfg_options=None)
INFER = Namespace(batch_size=4, tile=None, device='auto')
FAILURES = [
    RuntimeError('DataLoader worker (pid 12) is killed by signal: Killed.'), RuntimeError('CUDA out of memory. Tried …'),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("DefaultCPUAllocator: can't allocate memory: …"),
    MemoryError(), BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
    ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), RuntimeError('gloo: Timed out waiting'),
    NotImplementedError("\"deformable_im2col_gpu\" not implemented for 'BFloat16'")]


@pytest.mark.parametrize('failure', FAILURES, ids=lambda failure: str(failure)[:20] or 'MemoryError')
def test_remedies_are_the_tools_own(failure: Exception):
    in_training, elsewhere = explain_failure(failure, TRAIN), explain_failure(failure, INFER)
    assert in_training.endswith('; --resume continues from the newest checkpoint')
    for word in ('resume', 'train', 'with_cp', '--amp', 'env_cfg'):
        assert word not in elsewhere
    for option in ('--batch-size', '--tile', '--device'):
        assert option not in in_training
    assert in_training.split(':')[0] == elsewhere.split(':')[0]


def test_sentences():
    assert explain_failure(FAILURES[1], INFER) == (
        "the GPU's memory is full: lower --batch-size, or predict smaller tiles with --tile, or take --device cpu, "
        'or take smaller images')
    assert explain_failure(FAILURES[1]) == "the GPU's memory is full: take smaller images"
    assert 'train_dataloader.batch_size' in explain_failure(FAILURES[1], TRAIN)
    assert explain_failure(FAILURES[2], INFER) == 'the disk that is written to, /tmp or /dev/shm is full: free disk space there'
    assert explain_failure(FAILURES[4], INFER).startswith('the memory is full: lower --batch-size')
    assert explain_failure(FAILURES[5], INFER).startswith('a pipe broke')


@pytest.mark.parametrize('error', [RuntimeError('mat1 and mat2 cannot be multiplied'), ValueError('CUDA out of memory')])
def test_anything_else_is_shown_with_its_frames(error: Exception):
    assert explain_failure(error, TRAIN) is None


@pytest.mark.parametrize('text', [
    # PyTorch's own, of 2.13: a worker that touched memory that is not there, and one that was refused it.
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared "
    'memory. Please try to raise your shared memory limit.',
    'Caught RuntimeError in DataLoader worker process 0.\nunable to allocate shared memory(shm) for file </torch_1_2_3>: No '
    'space left on device (28)',
    'unable to write to file </torch_1_2_3>: No space left on device (28)',
    'unable to mmap 16777216 bytes from file </torch_1_2_3>: Cannot allocate memory (12)',
])
def test_shared_memory_is_named(text: str):
    sentence = explain_failure(RuntimeError(text), TRAIN)
    assert sentence.startswith('the shared memory of the data loader workers, /dev/shm, is full: lower train_dataloader.')
    assert '--shm-size=8g' in sentence
    assert 'emptyDir' in sentence


def test_a_tool_tells_its_own():
    code = """
import argparse
from ralamala_mm.engine import run

def fill_the_memory(args):
    raise MemoryError

parser = argparse.ArgumentParser()
parser.add_argument('--batch-size')
parser.add_argument('--traceback', action='store_true')
run(parser, fill_the_memory)
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == 'error: the memory is full: lower --batch-size, or give the job more.'


@pytest.mark.parametrize('error', [ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), EOFError()])
def test_a_worker_that_ends_while_it_is_read_from(error: Exception, monkeypatch: pytest.MonkeyPatch):
    """What a data loader raises before PyTorch has seen that the worker is gone; elsewhere it means another thing."""
    def cut_off(*_, **__):
        raise error

    iterator = iter(DataLoader(range(4), num_workers=1))
    monkeypatch.setattr(iterator._data_queue, 'get', cut_off)
    with pytest.raises(type(error)) as caught:
        next(iterator)
    assert explain_failure(caught.value, TRAIN).startswith('a data loader worker died')
    assert 'data loader' not in (explain_failure(error.with_traceback(None), TRAIN) or '')
