"""Builds an mmcv wheel with its operators, quickly, and keeps it for the next environment.

Runs under the target environment's Python, which must hold torch and requirements/build.txt:

    python requirements/mmcv_wheel.py 'mmcv==2.1.0'

The last line printed is the path of the wheel. A wheel is kept per Python, torch, CUDA and mmcv version.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from torch.utils import cpp_extension

# mmcv's C++ files spend nearly all of their time reading torch's headers, and <torch/types.h> is the
# part that they use: precompiled once, it makes the build some ten times shorter.
HEADER = '#include <torch/types.h>\n'
COMPILE_FLAGS = ['-O2', '-g0', '-DNDEBUG', '-w']
# What torch's BuildExtension adds to each compilation; a precompiled header is refused if these differ.
EXTENSION_FLAGS = ['-fPIC', '-std=c++17', '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']
PREBUILT_SITE = 'https://download.openmmlab.com/mmcv/dist/{cuda}/torch{torch}/index.html'


class BuildError(Exception):
    """A failure that the user can mend; the text says how."""


def builds_for_gpu() -> bool:
    """mmcv's own rule: there is a GPU, or FORCE_CUDA=1 asks for its operators, as on a login node without one."""
    return torch.cuda.is_available() or os.environ.get('FORCE_CUDA', '0') == '1'


def gpu_architectures() -> list[str]:
    """What the GPU operators are compiled for."""
    if chosen := os.environ.get('TORCH_CUDA_ARCH_LIST'):
        return sorted(re.findall(r'[\w.+]+', chosen))
    return sorted({'sm{}{}'.format(*torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())})


def cache_dir(requirement: str) -> Path:
    """Where the wheel for this requirement and this environment is kept."""
    base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    device = f'cuda{torch.version.cuda}-{"_".join(gpu_architectures())}' if builds_for_gpu() else 'cpu'
    name = '-'.join([requirement.replace('==', '-'), python, f'torch{torch.__version__}', device,
                     sysconfig.get_platform()])
    return base / 'ralamala_mm' / 'wheels' / name


def newest_wheel(folder: Path) -> Path | None:
    wheels = sorted(folder.glob('*.whl'), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    return wheels[-1] if wheels else None


def prebuilt_index(requirement: str) -> str | None:
    """OpenMMLab's own wheels, which end with torch 2.1 and Python 3.11."""
    release = torch.__version__.split('+')[0].split('.')
    if not requirement.startswith('mmcv==') or (int(release[0]), int(release[1])) > (2, 1) or sys.version_info >= (3, 12):
        return None
    cuda = f'cu{torch.version.cuda.replace(".", "")}' if torch.version.cuda else 'cpu'
    return PREBUILT_SITE.format(cuda=cuda, torch=f'{release[0]}.{release[1]}')


def fetch_prebuilt(requirement: str, folder: Path) -> Path | None:
    index = prebuilt_index(requirement)
    if index is None:
        return None
    print(f'Looking for a ready wheel of {requirement} for torch {torch.__version__}', flush=True)
    subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--retries', '1', '--no-deps', '--no-index',
                    '--only-binary=:all:', '--find-links', index, '--dest', str(folder), requirement],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return newest_wheel(folder)


def compiler() -> str:
    """The C++ compiler, proved to compile against Python's headers.

    Raises:
        BuildError: there is none, or Python's headers are missing.
    """
    command = os.environ.get('CXX', 'g++')
    if shutil.which(shlex.split(command)[0]) is None:
        raise BuildError(f'no C++ compiler ({command}) was found: install one '
                         '(Debian, Ubuntu: apt-get install build-essential) and run this again')
    include = sysconfig.get_paths()['include']
    if not Path(include, 'Python.h').exists():
        raise BuildError(f'Python.h is not in {include}: install the headers of this Python '
                         f'(Debian, Ubuntu: apt-get install python3.{sys.version_info.minor}-dev) and run this again')
    return command


def check_cuda_toolkit() -> None:
    """nvcc of torch's CUDA major version must be there when there is a GPU to build for.

    Raises:
        BuildError: nvcc is missing or of another major version.
    """
    wanted = torch.version.cuda
    if not builds_for_gpu() or torch.version.hip:
        return
    if wanted is None:
        raise BuildError('FORCE_CUDA=1 was set, but this torch was built without CUDA: install another torch')
    remedy = (f'install the CUDA {wanted} toolkit and set CUDA_HOME, or hide the GPU with CUDA_VISIBLE_DEVICES= '
              'for an installation that uses the CPU only')
    nvcc = Path(cpp_extension.CUDA_HOME or '', 'bin', 'nvcc')
    if cpp_extension.CUDA_HOME is None or not nvcc.exists():
        raise BuildError(f'there is a GPU but no nvcc to build mmcv for it: {remedy}')
    text = subprocess.run([str(nvcc), '--version'], capture_output=True, text=True, check=True).stdout
    found = re.search(r'release (\d+)\.(\d+)', text)
    if found and found.group(1) != wanted.split('.')[0]:
        raise BuildError(f'nvcc is of CUDA {found.group(1)}.{found.group(2)} but torch was built with CUDA {wanted}: {remedy}')


def precompile_header(folder: Path, cxx: str) -> list[str]:
    """Precompiles torch's headers; returns the compiler flags that make use of them."""
    header = folder / 'torch_types.h'
    header.write_text(HEADER)
    includes = [f'-I{path}' for path in [*cpp_extension.include_paths(), sysconfig.get_paths()['include']]]
    command = [*shlex.split(cxx), '-x', 'c++-header', *COMPILE_FLAGS, *EXTENSION_FLAGS, *includes, str(header),
               '-o', f'{header}.gch']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        # clang and others name precompiled headers differently; the build is then only slower.
        print('The compiler could not precompile torch\'s headers; the build goes on without and takes longer.')
        return COMPILE_FLAGS
    return [*COMPILE_FLAGS, '-include', str(header)]


def show_progress(line: str, started: float) -> None:
    """Turns ninja's `[12/77] …` into a share done and the time left."""
    match = re.match(r'\s*\[(\d+)/(\d+)\]', line)
    if not match:
        return
    done, total = int(match.group(1)), int(match.group(2))
    elapsed = time.monotonic() - started
    text = f'Building mmcv: {done}/{total} files, {elapsed:.0f} s, about {elapsed / done * (total - done):.0f} s left'
    if sys.stdout.isatty():
        print(f'\r{text}  ', end='' if done < total else '\n', flush=True)
    elif done == total or done % max(1, total // 6) == 0:
        print(text, flush=True)


def build(requirement: str, folder: Path) -> Path:
    """Builds the wheel into `folder`.

    Raises:
        BuildError: with the log's place when the build failed.
    """
    cxx = compiler()
    check_cuda_toolkit()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'build.log'
    jobs = os.environ.get('MAX_JOBS') or str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix='mmcv-build-') as scratch:
        print('Precompiling torch\'s headers', flush=True)
        flags = ' '.join(precompile_header(Path(scratch), cxx))
        environment = dict(os.environ, CFLAGS=flags, CXXFLAGS=flags, MAX_JOBS=jobs, MMCV_WITH_OPS='1')
        command = [sys.executable, '-m', 'pip', 'wheel', '-v', '--no-deps', '--no-build-isolation', '--no-cache-dir',
                   '--no-binary', requirement.split('==')[0], '--wheel-dir', scratch, requirement]
        started = time.monotonic()
        with log.open('w') as record, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                                                       stderr=subprocess.STDOUT, text=True, errors='replace') as process:
            for line in process.stdout:
                record.write(line)
                show_progress(line, started)
        wheel = newest_wheel(Path(scratch))
        if process.returncode != 0 or wheel is None:
            raise BuildError(f'building {requirement} failed; {explain(log)}')
        if 'linux' not in wheel.name:
            raise BuildError(f'{requirement} was built without its operators; the log is {log}')
        # Written beside and moved, so that an interrupted copy is never taken for a wheel.
        partial = folder / f'{wheel.name}.partial'
        shutil.copyfile(wheel, partial)
        return partial.replace(folder / wheel.name)


def explain(log: Path) -> str:
    """What went wrong in a build log, in a sentence."""
    text = log.read_text(errors='replace')
    if 'No space left on device' in text:
        return f'the disk is full (the build needs 2 GB in {tempfile.gettempdir()}; TMPDIR chooses another place)'
    if 'Killed signal' in text or 'cc1plus: out of memory' in text:
        return 'the compiler ran out of memory: run it again with MAX_JOBS=1'
    if 'No matching distribution' in text or ('Connection' in text and 'error:' not in text.lower()):
        return 'its source could not be downloaded: check the network and pip\'s index settings'
    return f'the compiler\'s messages are in {log}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('requirement', help='mmcv==VERSION or onedl-mmcv==VERSION')
    requirement = parser.parse_args().requirement
    folder = cache_dir(requirement)
    wheel = newest_wheel(folder)
    if wheel is not None:
        print(f'Taking the {requirement} wheel built before', flush=True)
    else:
        try:
            wheel = fetch_prebuilt(requirement, folder) or build(requirement, folder)
        except BuildError as error:
            print(f'error: {error}.', file=sys.stderr)
            return 1
    print(wheel)
    return 0


if __name__ == '__main__':
    sys.exit(main())
