"""Makes the environment: torch, the OpenMMLab stack with mmcv's operators, and this package in editable form.

`make install` calls it; it needs nothing but Python's standard library and can be run again without harm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pip_errors
from machine import find_gpus, pytorch_index

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
STACKS = {'upstream': 'mm.txt', 'onedl': 'mm-onedl.txt'}
OLDEST_TORCH = (2, 1)
PYTHONS = ((3, 10), (3, 14))
# Free space that the environment, what pip fetches for it and the build of mmcv need: 6.4 + 3 GiB with CUDA.
CPU_GIB, CUDA_GIB = 5, 10
# The oldest torch that the index has with CUDA 13, and the oldest GPUs that CUDA 13 compiles for.
CUDA_13_TORCH, CUDA_13_CAPABILITY = (2, 11), (7, 5)
MARKER = 'ralamala-install.json'


class InstallError(Exception):
    """A failure that the user can fix; the text says how."""


def version_text(version: tuple) -> str:
    return '.'.join(map(str, version[:2]))


def default_torch(python: tuple) -> str:
    """The version in torch.txt, whose lines are for Pythons before and from 3.11 on."""
    found = re.findall(r'^torch==(\S+); python_version (<|>=) "(\d+)\.(\d+)"$', (REQUIREMENTS / 'torch.txt').read_text(),
                       re.MULTILINE)
    (version,) = [version for version, sign, *limit in found if (python < tuple(map(int, limit))) == (sign == '<')]
    return version


def suitable_python(chosen: bool) -> str:
    """This interpreter; if the user did not choose it and it does not fit, another one on the PATH.

    Args:
        chosen: the user named this interpreter.

    Raises:
        InstallError: it is of another version, or cannot make environments.
    """
    name = 'Python {} ({})'.format(version_text(sys.version_info), sys.executable)
    supported = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    if supported and (chosen or makes_environments(sys.executable)):
        return sys.executable
    # The newest first. Asked, not trusted: version managers put names on the PATH that then refuse to run.
    for minor in range(PYTHONS[1][1], PYTHONS[0][1] - 1, -1):
        command = None if chosen else shutil.which('python3.{}'.format(minor))
        if command and makes_environments(command):
            return command
    if supported:
        return sys.executable  # which says what it lacks
    raise InstallError('{} is not supported: install Python {} to {}{}'.format(
        name, version_text(PYTHONS[0]), version_text(PYTHONS[1]), '' if chosen else ', or name one with make install PYTHON=…'))


def makes_environments(python: str) -> bool:
    return subprocess.run([python, '-c', 'import venv, ensurepip'], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def last_line(result: subprocess.CompletedProcess) -> str:
    """What a command said last, or how it ended if it said nothing."""
    lines = result.stdout.strip().splitlines()
    return lines[-1] if lines else 'exit code {} and no message'.format(result.returncode)


class Installer:
    """The steps in order; each is skipped when its result is there."""

    def __init__(self, stack: str, venv: Path, torch: str | None, python_chosen: bool = False):
        self.stack = stack
        self.venv = venv
        self.torch = torch
        self.python_chosen = python_chosen
        self.python = venv / 'bin' / 'python'
        self.log = venv / 'ralamala-install.log'
        self.pins = ['setuptools<82']  # no later installation replaces these
        self.gpus = find_gpus()
        self.cuda = bool(self.gpus) or os.environ.get('FORCE_CUDA', '0') == '1'

    def run(self, dependencies_only: bool = False) -> None:
        """Installs all of it.

        Args:
            dependencies_only: leave this package out, for a container's layer that does not change with the code.
        """
        if self.is_done():
            print('{} is up to date'.format(self.venv), flush=True)
            return
        started = time.monotonic()
        self.check_disk(CPU_GIB)
        self.make_environment()
        self.check_python()
        self.check_other_stack()
        self.install_torch()
        self.pip('build tools', '--requirement', str(REQUIREMENTS / 'build.txt'))
        self.install_stack()
        tools = ['--requirement', str(REQUIREMENTS / 'tests.txt'), '--requirement', str(REQUIREMENTS / 'docs.txt')]
        if dependencies_only:
            self.pip('test tools', *tools)
            self.prove('--operators-only')
            return
        # By a path: a folder of this name, as a clone's, would hide a package that an import hook of setuptools stands for.
        self.pip('ralamala_mm and test tools', '--no-build-isolation', '--config-settings', 'editable_mode=compat',
                 '--editable', str(ROOT), *tools)
        self.prove()
        (self.venv / MARKER).write_text(json.dumps(self.fingerprint()))
        print('Done in {:.0f} s: {} holds everything.'.format(time.monotonic() - started, self.venv))

    def fingerprint(self) -> dict:
        """What this installation was made from; any change to it makes it again."""
        digest = hashlib.sha256()
        for path in sorted([*REQUIREMENTS.glob('*'), ROOT / 'pyproject.toml']):
            if path.is_file():
                digest.update(path.read_bytes())
        return {'stack': self.stack, 'torch': self.torch, 'files': digest.hexdigest(), 'root': str(ROOT), 'cuda': self.cuda,
                'architectures': os.environ.get('TORCH_CUDA_ARCH_LIST')}

    def is_done(self) -> bool:
        marker = self.venv / MARKER
        if not marker.exists() or not self.python.exists():
            return False
        held = json.loads(marker.read_text())
        wanted = self.fingerprint()
        # What was not asked for this time stays as it is: another torch, GPU operators, their architectures.
        wanted.update({name: held.get(name) for name in ('torch', 'cuda', 'architectures') if not wanted[name]})
        return held == wanted and (not self.python_chosen or self.environment_python() == sys.version_info[:2])

    def check_disk(self, needed: float) -> None:
        parent = next(path for path in [self.venv, *self.venv.parents] if path.exists())
        free = shutil.disk_usage(str(parent)).free / 2**30
        if free < needed and self.installed_version('torch') is None:
            raise InstallError('{:.1f} GiB are free in {}, but {} are needed: make room, or name another place with '
                               'make install VENV=DIR'.format(free, parent, needed))

    def make_environment(self) -> None:
        if self.python.exists():
            return
        print('Making {}'.format(self.venv), flush=True)
        is_new = not self.venv.exists()
        result = subprocess.run([suitable_python(self.python_chosen), '-m', 'venv', str(self.venv)], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            if is_new:  # a folder of the user's stays, whatever is in it
                shutil.rmtree(str(self.venv), ignore_errors=True)
            if 'No space left' in result.stdout:
                raise InstallError('the disk is full: {} GiB are needed for the environment'.format(CPU_GIB))
            raise InstallError('the environment could not be made ({}): on Debian and Ubuntu, apt-get install python3-venv'
                               .format(result.stdout.strip().splitlines()[-1] if result.stdout.strip() else 'no message'))

    def environment_python(self) -> tuple:
        code = 'import sys; print(*sys.version_info[:2])'
        return tuple(map(int, subprocess.check_output([str(self.python), '-c', code], universal_newlines=True).split()))

    def check_python(self) -> None:
        """The environment's own interpreter, which may not be the one that runs this."""
        found = self.environment_python()
        if self.python_chosen and found != sys.version_info[:2]:
            raise InstallError('{} was made with Python {}, not with {}: remove it, or choose another folder with VENV=DIR'
                               .format(self.venv, version_text(found), version_text(sys.version_info)))
        if not PYTHONS[0] <= found <= PYTHONS[1]:
            raise InstallError('{} has Python {}, but {} to {} is needed: choose another folder with VENV=DIR'.format(
                self.venv, version_text(found), version_text(PYTHONS[0]), version_text(PYTHONS[1])))

    def installed_version(self, package: str) -> str | None:
        if not self.python.exists():
            return None
        code = 'import importlib.metadata as m, sys; sys.stdout.write(m.version(sys.argv[1]))'
        result = subprocess.run([str(self.python), '-c', code, package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True)
        return result.stdout if result.returncode == 0 else None

    def check_other_stack(self) -> None:
        """Both stacks write the same import packages; one would half overwrite the other."""
        other = 'mmengine' if self.stack == 'onedl' else 'onedl-mmengine'
        if self.installed_version(other):
            raise InstallError('{} holds {}, of the other stack, and both in one environment break each other: choose '
                               'another folder with VENV=DIR'.format(self.venv, other))

    def pip(self, what: str, *arguments: str) -> None:
        """Runs pip install, quietly, with its output kept.

        Raises:
            InstallError: it failed; the text says why.
        """
        print('Installing {} … '.format(what), end='', flush=True)
        started = time.monotonic()
        constraints = self.venv / 'ralamala-constraints.txt'
        constraints.write_text('\n'.join(self.pins) + '\n')
        command = [str(self.python), '-m', 'pip', 'install', '--no-input', *arguments, '--constraint', str(constraints)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with self.log.open('a') as log:
            log.write('$ {}\n{}\n'.format(' '.join(command), result.stdout))
        if result.returncode != 0:
            print('failed')
            raise InstallError(pip_errors.explain(
                result.stdout, 'pip failed while installing {}; its messages are in {}'.format(what, self.log)))
        print('{:.0f} s'.format(time.monotonic() - started), flush=True)

    def install_torch(self) -> None:
        held = self.installed_version('torch')
        # A release alone, as in TORCH=2.15.0, is content with any build of it.
        if held and self.torch in (None, held, held.split('+')[0]):
            print('Keeping torch {}'.format(held))
        else:
            self.fetch_torch()
        installed = self.installed_version('torch')
        release = tuple(map(int, installed.split('.')[:2]))
        if release < OLDEST_TORCH:
            raise InstallError('{} holds torch {}, but {} or newer is needed: choose another environment with VENV=DIR, '
                               'or another torch with TORCH=VERSION'.format(self.venv, installed, version_text(OLDEST_TORCH)))
        self.pins.append('torch=={}'.format(installed))
        if release < (2, 3):
            self.pins.append('numpy<2')  # against which such a torch was compiled
        if self.cuda:
            self.check_cuda(installed)

    def fetch_torch(self) -> None:
        """Installs torch: for the CPU from PyTorch's own index if it can be reached, otherwise from pip's."""
        python = self.environment_python()
        release, _, label = (self.torch or default_torch(python)).partition('+')
        numbers = re.match(r'(\d+)\.(\d+)', release)
        if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_TORCH:
            raise InstallError('TORCH={} is not a version of torch from {} on, such as {}'.format(
                self.torch, version_text(OLDEST_TORCH), default_torch(python)))
        if self.gpus and not label:
            self.check_gpus(release)
        label = label or ('' if self.cuda else 'cpu')
        index = pytorch_index(label, release, python) if label else None
        if index:
            source = 'PyTorch\'s {} index'.format(label)
            arguments = ['torch=={}+{}'.format(release, label), '--extra-index-url', index]
        else:
            source, arguments = 'pip\'s default index', ['torch=={}'.format(self.torch or release)]
            if label == 'cpu':
                source += ', as PyTorch\'s CPU index cannot be reached or has no such build for this Python'
        cuda = label != 'cpu' if index else self.brings_cuda(arguments)
        size = {True: ': some 3 GB with CUDA\'s libraries', False: ': some 200 MB, without CUDA', None: ''}[cuda]
        print('torch {} comes from {}{}'.format(release, source, size), flush=True)
        if cuda:
            self.check_disk(CUDA_GIB)
        self.pip('torch', *arguments)

    def brings_cuda(self, arguments: list) -> bool | None:
        """Whether pip would fetch CUDA's libraries for these; None if it cannot tell, as without a network."""
        command = [str(self.python), '-m', 'pip', 'install', '--no-input', '--dry-run', '--quiet', '--report', '-', *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:  # before 22.2 pip has no such options; the index has builds with CUDA for Linux on x86-64
            return True if 'no such option' in result.stderr and platform.machine() == 'x86_64' else None
        return any(item['metadata']['name'].startswith('nvidia-') for item in json.loads(result.stdout)['install'])

    def check_gpus(self, release: str) -> None:
        """Raise if this machine's driver or a GPU is too old for the index's builds of torch, before they are fetched.

        Raises:
            InstallError: so it is; the text says what would do.
        """
        if tuple(map(int, release.split('.')[:2])) < CUDA_13_TORCH:
            return
        older = ('take torch for CUDA 12 and that toolkit (make install TORCH=2.9.1+cu126 CUDA_HOME=DIR), or set '
                 'CUDA_VISIBLE_DEVICES= for an installation that uses the CPU only')
        if self.gpus.driver_cuda and self.gpus.driver_cuda < (13, 0):
            raise InstallError('torch {} is built with CUDA 13, but this machine\'s NVIDIA driver is for CUDA {}: install driver '
                               '580 or newer, or {}'.format(release, version_text(self.gpus.driver_cuda), older))
        for name in self.gpus.capabilities:
            if tuple(map(int, name.split('.'))) < CUDA_13_CAPABILITY:
                raise InstallError('torch {} is built with CUDA 13, which has no code for this machine\'s GPU of compute '
                                   'capability {}, but from {} on: {}'.format(release, name, version_text(CUDA_13_CAPABILITY),
                                                                              older))

    def check_cuda(self, installed: str) -> None:
        """Raise if this torch cannot use the GPU: before mmcv is built for it, and not silently on the CPU.

        Raises:
            InstallError: it was built without CUDA, or the driver is older than its CUDA.
        """
        code = 'import torch; print(torch.version.cuda or torch.version.hip, torch.cuda.is_available())'
        result = subprocess.run([str(self.python), '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True)
        if result.returncode != 0:
            raise InstallError('torch {} in {} cannot be imported: {}'.format(installed, self.venv, last_line(result)))
        cuda, available = result.stdout.split()[-2:]
        without = 'hide the GPU with CUDA_VISIBLE_DEVICES= for an installation that uses the CPU only'
        if cuda == 'None':
            raise InstallError('{} holds torch {}, which was built without CUDA, but {}: remove the folder and run this again, '
                               'or {}'.format(self.venv, installed, 'there is a GPU' if self.gpus else 'FORCE_CUDA=1 is set',
                                              without))
        if self.gpus and available != 'True':
            driver = version_text(self.gpus.driver_cuda) if self.gpus.driver_cuda else 'an older CUDA'
            raise InstallError('torch {} was built with CUDA {}, but cannot use this machine\'s GPU, whose driver is for {}: '
                               'install a newer NVIDIA driver, choose another build, such as TORCH=2.9.1+cu126 (with a CUDA 12 '
                               'toolkit, CUDA_HOME=DIR), or {}'.format(installed, cuda, driver, without))

    def install_stack(self) -> None:
        """The stack's packages; mmcv from a wheel of our own making, for the index has it as source only."""
        requirements = (REQUIREMENTS / STACKS[self.stack]).read_text().splitlines()
        requirements = [line for line in requirements if line and not line.startswith('#')]
        (mmcv,) = [line for line in requirements if re.match(r'(onedl-)?mmcv==', line)]
        name, _, version = mmcv.partition('==')
        # Its operators are bound to one torch: a version number alone does not say that they load, or are for the GPU.
        check = [str(self.python), '-W', 'ignore', str(REQUIREMENTS / 'check_stack.py'), '--operators-only']
        loads = subprocess.run(check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        wheel = [] if loads and self.installed_version(name) == version else [self.build_mmcv(mmcv)]
        if wheel:
            self.pip(mmcv, '--force-reinstall', '--no-deps', *wheel)
        # Never compiled: OneDL's augmentations let pip choose an OpenCV whose NumPy has no wheel for the newest Python.
        self.pip('the {} stack'.format(self.stack), '--only-binary', 'numpy,scipy,opencv-python,opencv-python-headless',
                 *requirements)

    def build_mmcv(self, requirement: str) -> str:
        print('Building {}, the only part that takes minutes; it is kept for the next time'.format(requirement), flush=True)
        command = [str(self.python), '-u', '-W', 'ignore', str(REQUIREMENTS / 'mmcv_wheel.py'), requirement]
        wheel = None
        with subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True) as process:
            for line in map(str.strip, process.stdout):
                if line.endswith('.whl'):
                    wheel = line
                else:
                    print('  ' + line, flush=True)
        if process.returncode != 0 or wheel is None:
            raise InstallError('mmcv was not built, for the reason above')
        return wheel

    def prove(self, *options: str) -> None:
        """Runs mmcv's operators; replaces an OpenCV that wants a display by the one that does not.

        Args:
            options: of check_stack.py.

        Raises:
            InstallError: they do not work; the text says why.
        """
        print('Proving that mmcv\'s operators work … ', end='', flush=True)
        command = [str(self.python), str(REQUIREMENTS / 'check_stack.py'), *options]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if 'libGL' in result.stdout or 'libgthread' in result.stdout or 'libxcb' in result.stdout:
            print('OpenCV wants a display here; taking opencv-python-headless instead')
            subprocess.run([str(self.python), '-m', 'pip', 'uninstall', '--yes', '--quiet', 'opencv-python'], check=False)
            self.pip('opencv-python-headless', '--force-reinstall', '--no-deps', 'opencv-python-headless')
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with self.log.open('a') as log:
            log.write(result.stdout)
        if result.returncode != 0:
            print('failed')
            raise InstallError('mmcv was installed, but its operators do not work: {}; the messages are in {}'.format(
                last_line(result), self.log))
        print(result.stdout.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', choices=sorted(STACKS), default='upstream')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='environment to make, or one that exists')
    parser.add_argument('--torch', metavar='VERSION', help='torch to install; by default the one in torch.txt')
    parser.add_argument('--this-python', action='store_true', help='take the interpreter that runs this, and no other')
    parser.add_argument('--dependencies-only', action='store_true', help='all but ralamala_mm itself, for a layer of a container')
    args = parser.parse_args()
    try:
        Installer(args.stack, args.venv.absolute(), args.torch, args.this_python).run(args.dependencies_only)
    except InstallError as error:
        print('error: {}.'.format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; make install continues where it stopped', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    os.environ['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
    sys.exit(main())
