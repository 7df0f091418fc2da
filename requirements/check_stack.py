"""Proves that the environment works: imports the stack and runs mmcv's operators forward and backward.

Where operators were asked for by FORCE_CUDA or TORCH_CUDA_ARCH_LIST, it looks into their library for code of the architectures
that were named. `--operators-only` leaves the stack out, which may not be installed yet.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

warnings.filterwarnings('ignore')

import torch  # noqa: E402


def check_operators(device: str) -> None:
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1]
    assert kept.tolist() == [0, 2], f'nms kept {kept.tolist()}'
    image = torch.ones(1, 2, 8, 8, device=device, requires_grad=True)
    pooled = roi_align(image, torch.tensor([[0.0, 0, 0, 4, 4]], device=device), (2, 2))
    pooled.sum().backward()
    assert torch.allclose(pooled, torch.ones_like(pooled)), 'roi_align is wrong'
    assert torch.isclose(image.grad.sum(), torch.tensor(8.0, device=device)), 'the gradient of roi_align is wrong'


def find_cuobjdump() -> str | None:
    """NVIDIA's reader of compiled device code: the toolkit's, or the one that Triton brings."""
    triton = importlib.util.find_spec('triton')
    folders = [Path(os.environ['CUDA_HOME'], 'bin')] if 'CUDA_HOME' in os.environ else []
    folders += os.environ['PATH'].split(os.pathsep)
    folders += [Path(triton.origin).parent / 'backends' / 'nvidia' / 'bin'] if triton else []
    return shutil.which('cuobjdump', path=os.pathsep.join(map(str, folders)))


def missing_architectures(library: Path, wanted: Iterable[str]) -> list[str]:
    """Those of `wanted`, such as '8.6' or '9.0+PTX', that a library has no code for.

    Code for a compute capability runs on higher ones of the same major version, PTX on all higher ones.

    Raises:
        FileNotFoundError: there is no cuobjdump.
    """
    if not (wanted := list(wanted)):
        return []
    compiled, portable = (_listed(library, kind) for kind in ('elf', 'ptx'))

    def runs_on(number: int) -> bool:
        return any(number // 10 == held // 10 and held <= number for held in compiled) or any(held <= number for held in portable)

    return [name for name in wanted if (found := re.match(r'(\d+)\.(\d)', name)) and not runs_on(int(''.join(found.groups())))]


def architectures(library: Path) -> list[str]:
    """Those that a library holds compiled code for, such as ['8.0', '9.0']; raises as `missing_architectures` does."""
    return [f'{number // 10}.{number % 10}' for number in sorted(_listed(library, 'elf'))]


def _listed(library: Path, kind: str) -> set[int]:
    command = find_cuobjdump()
    if command is None:
        raise FileNotFoundError('cuobjdump, which lists the code in a library, is not on this machine '
                                '(pip install nvidia-cuda-cuobjdump)')
    text = subprocess.run([command, f'--list-{kind}', str(library)], capture_output=True, text=True,
                          check=False).stdout  # it fails where there is no such code
    return set(map(int, re.findall(r'\.sm_(\d+)', text)))


def check_devices() -> str:
    """Checks each device, and says on which the operators work or for which they were compiled."""
    kinds = {torch.cuda.get_device_capability(i): f'cuda:{i}' for i in reversed(range(torch.cuda.device_count()))}
    for device in ['cpu', *kinds.values()]:
        check_operators(device)
    text = 'cpu and cuda' if kinds else 'cpu'
    wanted = os.environ.get('TORCH_CUDA_ARCH_LIST', '')
    asked_for_code = os.environ.get('FORCE_CUDA', '0') == '1'
    if torch.version.cuda and (asked_for_code if not kinds else wanted):
        from mmcv import _ext

        library = Path(_ext.__file__)
        held, missing = architectures(library), missing_architectures(library, re.findall(r'[\w.+]+', wanted))
        assert held, 'the library of mmcv\'s operators has no code for GPUs'
        assert not missing, f'the library of mmcv\'s operators has no code for compute capability {" ".join(missing)}'
        text += f', with code for compute capability {" ".join(held)}{"" if kinds else ", which no GPU here has run"}'
    return text


if __name__ == '__main__':
    works_on = check_devices()
    if '--operators-only' in sys.argv:
        print(f'yes, on {works_on} (torch {torch.__version__})')
    else:
        import mmcv
        import mmdet
        import mmengine
        import mmseg

        import ralamala_mm

        ralamala_mm.RAVLT('t')
        print(f'yes, on {works_on} (torch {torch.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__}, '
              f'mmdet {mmdet.__version__}, mmseg {mmseg.__version__})')
