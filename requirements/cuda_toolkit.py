"""A CUDA toolkit that fits the installed torch: the system's, or NVIDIA's packages from the index, put beside torch's own.

Runs under the target environment's Python, which must hold a torch built with CUDA.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pip_errors
import torch

# What torch's and mmcv's CUDA files include; Debian's and partial toolkits lack some of them.
HEADERS = ('cuda_runtime.h', 'cusparse.h', 'cublas_v2.h', 'cusolverDn.h', 'thrust/version.h', 'crt/host_config.h')


class ToolkitError(Exception):
    """There is no toolkit to build with; the text says what to do."""


def nvcc_release(home: Path) -> str | None:
    """'13.2' for the nvcc in `home`, None without one that runs."""
    try:
        text = subprocess.run([str(home / 'bin' / 'nvcc'), '--version'], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    found = re.search(r'release (\d+\.\d+)', text)
    return found.group(1) if found else None


def missing_headers(home: Path) -> list[str]:
    # Since CUDA 13 Thrust lies below include/cccl, where nvcc looks by itself.
    return [name for name in HEADERS if not any((home / 'include' / part / name).exists() for part in ('', 'cccl'))]


def system_homes() -> list[Path]:
    """Where a toolkit may be, the user's choice first."""
    nvcc = shutil.which('nvcc')
    # Not resolved: Debian's /usr/bin/nvcc and alternatives lead to the right root as they are.
    places = [os.environ.get('CUDA_HOME'), os.environ.get('CUDA_PATH'), nvcc and Path(nvcc).parent.parent, '/usr/local/cuda',
              *sorted(Path('/usr/local').glob('cuda-*'), reverse=True)]
    return [Path(place) for place in places if place]


def packaged_home() -> Path:
    """Where NVIDIA's packages of torch's CUDA major version put their files, from CUDA 13 on."""
    return Path(sysconfig.get_paths()['purelib'], 'nvidia', 'cu{}'.format(torch.version.cuda.split('.')[0]))


def environment() -> dict[str, str]:
    """Environment variables to build with; installs the compiler into this environment where the system has none that fits.

    Raises:
        ToolkitError: there is none, and none can be installed.
    """
    major = torch.version.cuda.split('.')[0]
    partial = None
    for home in system_homes():
        release = nvcc_release(home)
        if release is None:
            continue
        missing = missing_headers(home)
        if release.split('.')[0] != major:
            print(f'nvcc {release} in {home} is not used: torch {torch.__version__} was built with CUDA {torch.version.cuda}')
        elif missing:
            partial = partial or home
            print(f'The CUDA toolkit in {home} is incomplete: {", ".join(missing)} missing')
        else:
            return variables(home)
    if int(major) >= 13:
        return variables(install())
    if partial is not None:  # its nvcc, and the headers of the libraries that torch brought
        places = [*map(str, torch_headers()), *filter(None, [os.environ.get('CPATH')])]
        return dict(variables(partial), CPATH=os.pathsep.join(places))
    raise ToolkitError(f'torch {torch.__version__} needs nvcc of CUDA {major}, which the package index does not have: install '
                       f'the CUDA {torch.version.cuda} toolkit and set CUDA_HOME, or take a torch built with CUDA 13 '
                       '(2.11 or newer)')


def variables(home: Path) -> dict[str, str]:
    print(f'Compiling with nvcc {nvcc_release(home)} in {home}', flush=True)
    return {'CUDA_HOME': str(home), 'PATH': f'{home / "bin"}{os.pathsep}{os.environ.get("PATH", "")}'}


def torch_headers() -> list[Path]:
    return sorted(Path(sysconfig.get_paths()['purelib'], 'nvidia').glob('*/include'))


def install() -> Path:
    """NVIDIA's compiler, of the release that torch was built with, beside the libraries that torch brought.

    Raises:
        ToolkitError: pip could not install it.
    """
    home = packaged_home()
    if nvcc_release(home) is None or missing_headers(home):
        print(f'Installing NVIDIA\'s CUDA {torch.version.cuda} compiler from the package index into this environment '
              '(some 250 MB)', flush=True)
        pip(f'cuda-toolkit[nvcc,cccl]=={toolkit_version()}')
    # Releases of cuda-toolkit before 13.2 name no version of these two, and ptxas refuses the output of a newer cicc.
    release = importlib.metadata.version('nvidia-cuda-nvcc')
    parts = [part for part in ('nvidia-nvvm', 'nvidia-cuda-crt') if importlib.metadata.version(part) != release]
    if parts:
        pip(*(f'{part}=={release}' for part in parts))
    # What a toolkit's own installer makes, and torch's build looks for.
    link(home / 'lib64', 'lib')
    for library in sorted((home / 'lib').glob('libcudart.so.*'))[:1]:
        link(home / 'lib' / 'libcudart.so', library.name)
    if missing := missing_headers(home):
        raise ToolkitError(f'NVIDIA\'s packages in {home} lack {", ".join(missing)}: install the CUDA {torch.version.cuda} '
                           'toolkit and set CUDA_HOME')
    return home


def toolkit_version() -> str:
    """That of the `cuda-toolkit` package that torch required, else any of its CUDA release."""
    try:
        return importlib.metadata.version('cuda-toolkit')
    except importlib.metadata.PackageNotFoundError:
        return f'{torch.version.cuda}.*'


def pip(*requirements: str) -> None:
    result = subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-input', *requirements], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors='replace', check=False)
    if result.returncode == 0:
        return
    last = ([line for line in result.stdout.splitlines() if line.startswith('ERROR')] or ['no message'])[-1]
    raise ToolkitError(f'NVIDIA\'s compiler could not be installed: {pip_errors.explain(result.stdout, last)}; or install the '
                       f'CUDA {torch.version.cuda} toolkit and set CUDA_HOME')


def link(path: Path, target: str) -> None:
    if not path.exists():
        path.symlink_to(target)


def architectures(home: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """The lowest and the highest compute capability that nvcc compiles for."""
    text = subprocess.run([str(home / 'bin' / 'nvcc'), '--list-gpu-arch'], capture_output=True, text=True, check=True).stdout
    found = [int(number) for number in re.findall(r'compute_(\d+)', text)]
    return divmod(min(found), 10), divmod(max(found), 10)
