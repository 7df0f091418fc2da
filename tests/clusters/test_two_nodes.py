"""The short form of two_nodes.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from namespaces import why_not

SCRIPT = Path(__file__).with_name('two_nodes.py')


@pytest.mark.slow
@pytest.mark.parametrize(('part', 'shown'), [
    ('gradients', 'gradients: off the exact ones of the whole batch by'),
    ('evaluation', 'evaluation of the segmentor: one process and 2 + 2 say'),
    ('rejoin', 'rejoin: '),
])
def test_two_nodes(part: str, shown: str):
    if torch.cuda.is_available():
        pytest.skip('is about nodes without GPUs')
    if reason := why_not():
        pytest.skip(reason)
    command = [sys.executable, '-W', 'ignore', SCRIPT, part, '--short']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-6000:]
    assert shown in result.stdout
