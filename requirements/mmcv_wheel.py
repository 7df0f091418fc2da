"""Builds an mmcv wheel with its operators, quickly, and keeps it for the next environment.

Runs under the target environment's Python, which must hold torch and requirements/build.txt:

    python requirements/mmcv_wheel.py 'mmcv==2.1.0'

The last line printed is the path of the wheel. A wheel is kept per Python, torch, CUDA and mmcv version.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import check_stack
import cuda_toolkit
import mmcv_source
import pip_errors
import torch
from torch.utils import cpp_extension

# mmcv's C++ files spend nearly all of their time reading torch's headers, and <torch/types.h> is the
# part that they use: precompiled once, it makes the build some ten times shorter.
HEADER = '#include <torch/types.h>\n'
COMPILE_FLAGS = ['-O2', '-g0', '-DNDEBUG', '-w']
# What torch's BuildExtension adds to each compilation; a precompiled header is refused if these differ.
EXTENSION_FLAGS = ['-fPIC', '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext']
OLDEST_STANDARD = 'c++17'
# Ready wheels, by requirement: their page, for a torch release and a CUDA version.
PREBUILT_PAGES = {
    'mmcv': 'https://download.openmmlab.com/mmcv/dist/{cuda}/torch{major}.{minor}/index.html',
    'onedl-mmcv': 'https://mmwheels.onedl.ai/{cuda}-torch{major}{minor}0/simple/onedl-mmcv/index.html',
}
# The newest torch and Python that each has wheels for.
NEWEST_PREBUILT = {'mmcv': ((2, 1), (3, 11)), 'onedl-mmcv': ((2, 12), (3, 12))}


class BuildError(Exception):
    """A failure that the user can fix; the text says how."""


def builds_for_gpu() -> bool:
    """mmcv's own rule: there is a GPU, or FORCE_CUDA=1 asks for its operators, as on a login node without one."""
    return torch.cuda.is_available() or os.environ.get('FORCE_CUDA', '0') == '1'


def gpu_architectures() -> list[str]:
    """The compute capabilities that the GPU operators are compiled for, such as '9.0'."""
    if chosen := os.environ.get('TORCH_CUDA_ARCH_LIST'):
        return sorted(re.findall(r'[\w.+]+', chosen))
    if torch.cuda.is_available():
        return sorted({'{}.{}'.format(*torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())})
    # Those that torch itself holds code for. torch.cuda.get_arch_list() has none without a GPU in older releases.
    flags = torch._C._cuda_getArchFlags() if torch.version.cuda else ''
    return [f'{int(number) // 10}.{int(number) % 10}' for number in re.findall(r'sm_(\d+)', flags or '')]


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


def prebuilt_page(requirement: str) -> str | None:
    """Where OpenMMLab or OneDL would have a ready wheel for this Python and torch; None if they have none."""
    name = requirement.split('==')[0]
    major, minor = map(int, torch.__version__.split('.')[:2])
    newest_torch, newest_python = NEWEST_PREBUILT[name]
    if (major, minor) > newest_torch or sys.version_info[:2] > newest_python:
        return None
    cuda = f'cu{torch.version.cuda.replace(".", "")}' if torch.version.cuda else 'cpu'
    return PREBUILT_PAGES[name].format(cuda=cuda, major=major, minor=minor)


def fetch_prebuilt(requirement: str, folder: Path) -> Path | None:
    """A ready wheel whose operators load here, None if there is none."""
    page = prebuilt_page(requirement)
    if page is None:
        return None
    print(f'Looking for a ready wheel of {requirement} for torch {torch.__version__}', flush=True)
    with tempfile.TemporaryDirectory(prefix='mmcv-prebuilt-') as scratch:
        subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--retries', '1', '--timeout', '15', '--no-deps',
                        '--no-index', '--only-binary=:all:', '--find-links', page, '--dest', scratch, requirement],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        wheel = newest_wheel(Path(scratch))
        if wheel is None:
            return None
        if problem := load_problem(wheel, gpu_architectures() if builds_for_gpu() and torch.version.cuda else ()):
            print(f'The ready wheel is not taken: {problem}', flush=True)
            return None
        return keep(wheel, folder)


def load_problem(wheel: Path, architectures: Sequence[str] = ()) -> str | None:
    """Why a wheel's operators cannot be loaded beside this torch, or lack code for an architecture; None if all is well."""
    with tempfile.TemporaryDirectory(prefix='mmcv-check-') as scratch:
        with zipfile.ZipFile(wheel) as archive:
            libraries = [name for name in archive.namelist() if re.fullmatch(r'mmcv/_ext\..*so', name)]
            if not libraries:
                return 'it holds no operators'
            library = archive.extract(libraries[0], scratch)
        code = ('import sys, torch, importlib.util as u; s = u.spec_from_file_location("_ext", sys.argv[1]); '
                'u.module_from_spec(s)')
        result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, library], check=False, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            return f'its operators do not load ({(result.stdout.strip().splitlines() or ["no message"])[-1]})'
        try:
            missing = check_stack.missing_architectures(Path(library), architectures)
        except FileNotFoundError as error:
            return str(error)
        return f'it has no code for compute capability {" ".join(missing)}' if missing else None


def keep(wheel: Path, folder: Path) -> Path:
    """Puts a wheel into the cache; written beside and moved, so that an interrupted copy is never taken for a wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f'{wheel.name}.partial'
    shutil.copyfile(wheel, partial)
    return partial.replace(folder / wheel.name)


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


def cuda_variables() -> dict[str, str]:
    """Environment variables for the GPU operators; none for an installation that uses the CPU only.

    Raises:
        BuildError: torch has no CUDA, there is no compiler for it, or the GPU is newer than the compiler.
    """
    if not builds_for_gpu() or torch.version.hip:
        return {}
    if torch.version.cuda is None:
        raise BuildError(f'FORCE_CUDA=1 was set, but torch {torch.__version__} was built without CUDA: install another torch')
    try:
        found = cuda_toolkit.environment()
    except cuda_toolkit.ToolkitError as error:
        without = ('hide the GPU with CUDA_VISIBLE_DEVICES=' if torch.cuda.is_available() else 'leave FORCE_CUDA away')
        raise BuildError(f'{error}; or {without} for an installation that uses the CPU only') from None
    architectures = gpu_architectures()
    oldest, newest = cuda_toolkit.architectures(Path(found['CUDA_HOME']))
    for name in architectures:
        numbers = re.fullmatch(r'(\d+)\.(\d)\D*', name)
        capability = tuple(map(int, numbers.groups())) if numbers else oldest  # a name, such as 'Ampere', is for torch to read
        if capability > newest:
            raise BuildError(f'compute capability {name} is newer than nvcc in {found["CUDA_HOME"]}, which compiles up to '
                             f'{newest[0]}.{newest[1]}: take a newer torch (TORCH=VERSION) or a newer CUDA toolkit (CUDA_HOME), '
                             f'or build for TORCH_CUDA_ARCH_LIST="{newest[0]}.{newest[1]}+PTX"')
        if capability < oldest:
            raise BuildError(f'compute capability {name} is older than nvcc in {found["CUDA_HOME"]} compiles for, which is '
                             f'{oldest[0]}.{oldest[1]} and newer: take torch for an older CUDA, such as TORCH=2.9.1+cu126, and '
                             'its toolkit (CUDA_HOME)')
    print(f'The operators are compiled for compute capability {" ".join(architectures)}', flush=True)
    if len(architectures) > 2:
        print('Each takes several minutes; TORCH_CUDA_ARCH_LIST="8.0;9.0" chooses', flush=True)
    return dict(found, TORCH_CUDA_ARCH_LIST=';'.join(architectures))


def standard_flag() -> str:
    """The C++ standard that torch's BuildExtension compiles with, such as '-std=c++20'."""
    found = re.findall(r"cpp_flag_prefix \+ '(c\+\+\d+)'", inspect.getsource(cpp_extension.BuildExtension))
    return f'-std={found[-1] if found else OLDEST_STANDARD}'


def precompile_header(folder: Path, cxx: str) -> list[str]:
    """Precompiles torch's headers; returns the compiler flags that make use of them."""
    header = folder / 'torch_types.h'
    header.write_text(HEADER)
    includes = [f'-I{path}' for path in [*cpp_extension.include_paths(), sysconfig.get_paths()['include']]]
    command = [*shlex.split(cxx), '-x', 'c++-header', *COMPILE_FLAGS, *EXTENSION_FLAGS, standard_flag(), *includes, str(header),
               '-o', f'{header}.gch']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        # clang and others name precompiled headers differently; the build is then only slower.
        print('The compiler could not precompile torch\'s headers; the build continues without and takes longer.')
        return COMPILE_FLAGS
    return [*COMPILE_FLAGS, '-include', shlex.quote(str(header))]


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


def build_environment(cuda: dict[str, str], flags: list[str]) -> dict[str, str]:
    """The environment variables that mmcv's setup.py and torch's BuildExtension read.

    Args:
        cuda: those of the CUDA toolkit; empty for an installation that uses the CPU only.
        flags: of the C++ compiler.
    """
    found = dict(os.environ, **cuda, CFLAGS=' '.join(flags), CXXFLAGS=' '.join(flags), MMCV_WITH_OPS='1',
                 FORCE_CUDA='1' if cuda else '0')
    found.setdefault('MAX_JOBS', str(len(os.sched_getaffinity(0))))
    # torch looks for ninja on the PATH, where an environment that is not activated has none of its own.
    found['PATH'] = f'{sysconfig.get_path("scripts")}{os.pathsep}{found.get("PATH", "")}'
    return found


def build(requirement: str, folder: Path) -> Path:
    """Builds the wheel into `folder`.

    Raises:
        BuildError: with the log's place when the build failed.
    """
    cxx = compiler()
    cuda = cuda_variables()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'build.log'
    with tempfile.TemporaryDirectory(prefix='mmcv-build-') as scratch:
        print(f'Downloading the source of {requirement}', flush=True)
        try:
            source = mmcv_source.fetch(requirement, Path(scratch))
        except mmcv_source.SourceError as error:
            log.write_text(str(error))
            raise BuildError(f'building {requirement} failed; {explain(log)}') from None
        print('Precompiling torch\'s headers', flush=True)
        environment = build_environment(cuda, precompile_header(Path(scratch), cxx))
        command = [sys.executable, '-m', 'pip', 'wheel', '-v', '--no-deps', '--no-build-isolation', '--no-cache-dir',
                   '--wheel-dir', scratch, str(source)]
        started = time.monotonic()
        with log.open('w') as record, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                                                       stderr=subprocess.STDOUT, text=True, errors='replace') as process:
            for line in process.stdout:
                record.write(line)
                show_progress(line, started)
        wheel = newest_wheel(Path(scratch))
        if process.returncode != 0 or wheel is None:
            raise BuildError(f'building {requirement} failed; {explain(log)}')
        if problem := load_problem(wheel):
            raise BuildError(f'{requirement} was built, but {problem}; the log is {log}')
        return keep(wheel, folder)


def explain(log: Path) -> str:
    """What went wrong in a build log, in a sentence."""
    text = log.read_text(errors='replace')
    if 'No space left on device' in text:
        return f'the disk is full (the build needs 2 GB in {tempfile.gettempdir()}; TMPDIR chooses another place)'
    if found := re.search(r'unsupported GNU version! (gcc versions later than \d+) are not supported', text):
        return (f'nvcc does not take this g++ ({found.group(1)} are too new for it): install an older one and set '
                'CC, CXX and NVCC_PREPEND_FLAGS="-ccbin g++-NN"')
    if 'Killed signal' in text or 'cc1plus: out of memory' in text:
        return 'the compiler ran out of memory: run it again with MAX_JOBS=1'
    return pip_errors.explain(text, f'the compiler\'s messages are in {log}')


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
