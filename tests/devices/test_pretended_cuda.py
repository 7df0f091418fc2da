"""Device code without a GPU: no tensor is made on the wrong device, forward or backward, in fp32, fp16 and bf16.

Tensors of a pretended cuda:0 have no data (FakeTensor): operators that mix devices raise, and none is computed. On a GPU the
same checks run on its device, still without computing. What depends on data cannot be followed, and is left out here:
- RoIAlign and NMS, which are MMCV's own code, and read their operands;
- assigning and sampling of anchors and proposals, and selecting boxes by score, by `nonzero` and boolean masks;
- one-hot targets of the focal loss and labels of binary cross entropy: losses get them as they are after that;
- the accuracy beside MMSegmentation's losses, which selects pixels;
- Triton's kernels themselves: their operators stand for them, with the shapes that they promise;
- `NonFiniteHook` ends with its look at the values.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from on_pretended_cuda import CHECKS

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
BROKEN = [name for name in CHECKS if name.startswith('broken')]
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """None or the error of each check; in a process of its own, as PyTorch has one idea of its devices in a process."""
    arguments = []
    if not torch.cuda.is_available():
        if torch.version.cuda:
            pytest.skip('a CUDA build of PyTorch has guards of its own, which follow no backward pass without a GPU')
        compiler = shutil.which('g++') or pytest.skip('the pretended device needs g++')
        headers, libraries = (Path(torch.__file__).parent / name for name in ('include', 'lib'))
        library = tmp_path_factory.mktemp('device') / 'pretended_cuda.so'
        subprocess.run([compiler, '-shared', '-fPIC', '-std=c++20', '-O1', f'-I{headers}', FOLDER / 'pretended_cuda.cpp', '-o',
                        library, f'-L{libraries}', f'-Wl,-rpath,{libraries}', '-lc10', '-ltorch_cpu'], check=True)
        arguments.append(library)
    result = subprocess.run([sys.executable, '-W', 'ignore', FOLDER / 'on_pretended_cuda.py', *arguments], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', [name for name in CHECKS if name not in BROKEN])
def test_devices(name: str, outcomes: dict[str, str | None]):
    assert outcomes[name] is None, outcomes[name]


@pytest.mark.parametrize('name', BROKEN)
def test_wrong_devices_are_found(name: str, outcomes: dict[str, str | None]):
    """So that the checks above can fail: a table, a kernel and a gradient on the CPU."""
    assert 'operands on several devices' in (outcomes[name] or ''), outcomes[name]


def test_the_checks_are_there():
    kinds = [name.split()[0] for name in CHECKS]
    assert {kind: kinds.count(kind) for kind in kinds} == dict(backbone=32, detector=9, segmentor=9, hook=2, broken=4)
