"""Makes the environment: torch, the OpenMMLab stack with mmcv's operators, and this package in editable form.

`make install` calls it; it needs nothing but Python's standard library and can be run again without harm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
STACKS = {'upstream': 'mm.txt', 'onedl': 'mm-onedl.txt'}
DEFAULT_TORCH = '2.13.0'
OLDEST_TORCH = (2, 1)
PYTHONS = ((3, 10), (3, 12))
MIN_FREE_GIB = 10  # torch for CUDA brings 6 GiB of NVIDIA's libraries
MARKER = 'ralamala-install.json'


class InstallError(Exception):
    """A failure that the user can mend; the text says how."""


def version_text(version: tuple) -> str:
    return '.'.join(map(str, version[:2]))


def suitable_python() -> str:
    """This interpreter, or another one on the PATH, of a supported version.

    Raises:
        InstallError: there is none.
    """
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return sys.executable
    for minor in range(PYTHONS[1][1], PYTHONS[0][1] - 1, -1):
        command = shutil.which('python3.{}'.format(minor))
        # Asked, not trusted: version managers put names on the PATH that then refuse to run.
        if command and subprocess.run([command, '-c', 'import venv, ensurepip'], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL).returncode == 0:
            return command
    raise InstallError('Python {} is not supported: install Python {} to {}, or name one with make install PYTHON=…'.format(
        version_text(sys.version_info), version_text(PYTHONS[0]), version_text(PYTHONS[1])))


def explain_pip(log: str, what: str, log_file: Path) -> str:
    """What went wrong in pip's output, in a sentence."""
    if 'No space left on device' in log:
        return 'the disk is full; {} GiB are needed for the environment'.format(MIN_FREE_GIB)
    missing = re.search(r'No matching distribution found for (\S+)', log)
    if re.search(r'Failed to establish a new connection|Name or service not known|Temporary failure in name resolution'
                 r'|Network is unreachable|Connection refused|Read timed out|ConnectTimeout|ProxyError', log):
        return 'the package index could not be reached; check the network and pip\'s settings (pip config list)'
    if missing:
        return '{} is not to be had for this Python and platform from the package index'.format(missing.group(1))
    return 'pip failed while installing {}; its messages are in {}'.format(what, log_file)


class Installer:
    """The steps in order; each is skipped when its result is there."""

    def __init__(self, stack: str, venv: Path, torch: str | None):
        self.stack = stack
        self.venv = venv
        self.torch = torch
        self.python = venv / 'bin' / 'python'
        self.log = venv / 'ralamala-install.log'
        self.pins = ['setuptools<82']  # named in every call, so that no dependency replaces them

    def run(self) -> None:
        if self.is_done():
            print('{} is up to date'.format(self.venv), flush=True)
            return
        started = time.monotonic()
        self.check_disk()
        self.make_environment()
        self.check_python()
        self.check_other_stack()
        self.install_torch()
        self.pip('build tools', '--requirement', str(REQUIREMENTS / 'build.txt'))
        self.install_stack()
        # By a path: a folder of this name, as a clone's, would hide a package that an import hook of setuptools stands for.
        self.pip('ralamala_mm and test tools', '--no-build-isolation', '--config-settings', 'editable_mode=compat',
                 '--editable', str(ROOT),
                 '--requirement', str(REQUIREMENTS / 'tests.txt'),
                 '--requirement', str(REQUIREMENTS / 'docs.txt'))
        self.prove()
        (self.venv / MARKER).write_text(json.dumps(self.fingerprint()))
        print('Done in {:.0f} s: {} holds everything.'.format(time.monotonic() - started, self.venv))

    def fingerprint(self) -> dict:
        """What this installation was made from; any change to it makes it again."""
        digest = hashlib.sha256()
        for path in sorted([*REQUIREMENTS.glob('*'), ROOT / 'pyproject.toml']):
            if path.is_file():
                digest.update(path.read_bytes())
        return {'stack': self.stack, 'torch': self.torch, 'files': digest.hexdigest(), 'root': str(ROOT)}

    def is_done(self) -> bool:
        marker = self.venv / MARKER
        if not marker.exists() or not self.python.exists():
            return False
        held = json.loads(marker.read_text())
        # No TORCH= given: whichever is there stays.
        return held == dict(self.fingerprint(), torch=self.torch or held['torch'])

    def check_disk(self) -> None:
        parent = next(path for path in [self.venv, *self.venv.parents] if path.exists())
        free = shutil.disk_usage(parent).free / 2**30
        if free < MIN_FREE_GIB and not self.python.exists():
            raise InstallError('{:.1f} GiB are free in {}, but {} are needed: make room, or name another place with '
                               'make install VENV=DIR'.format(free, parent, MIN_FREE_GIB))

    def make_environment(self) -> None:
        if self.python.exists():
            return
        print('Making {}'.format(self.venv), flush=True)
        result = subprocess.run([suitable_python(), '-m', 'venv', str(self.venv)], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            shutil.rmtree(str(self.venv), ignore_errors=True)
            if 'No space left' in result.stdout:
                raise InstallError(explain_pip(result.stdout, 'pip', self.log))
            raise InstallError('the environment could not be made ({}): on Debian and Ubuntu, apt-get install python3-venv'
                               .format(result.stdout.strip().splitlines()[-1] if result.stdout.strip() else 'no message'))

    def check_python(self) -> None:
        """The environment's own interpreter, which may not be the one that runs this."""
        code = 'import sys; print(*sys.version_info[:2])'
        found = tuple(map(int, subprocess.check_output([str(self.python), '-c', code], universal_newlines=True).split()))
        if not PYTHONS[0] <= found <= PYTHONS[1]:
            raise InstallError('{} has Python {}, but {} to {} is needed: choose another folder with VENV=DIR'.format(
                self.venv, version_text(found), version_text(PYTHONS[0]), version_text(PYTHONS[1])))

    def installed_version(self, package: str) -> str | None:
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
        command = [str(self.python), '-m', 'pip', 'install', '--no-input', *arguments, *self.pins]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with self.log.open('a') as log:
            log.write('$ {}\n{}\n'.format(' '.join(command), result.stdout))
        if result.returncode != 0:
            print('failed')
            raise InstallError(explain_pip(result.stdout, what, self.log))
        print('{:.0f} s'.format(time.monotonic() - started), flush=True)

    def install_torch(self) -> None:
        held = self.installed_version('torch')
        if held and (self.torch is None or held.split('+')[0] == self.torch.split('+')[0]):
            print('Keeping torch {}'.format(held))
        else:
            self.pip('torch {}'.format(self.torch or DEFAULT_TORCH), 'torch=={}'.format(self.torch or DEFAULT_TORCH))
        installed = self.installed_version('torch')
        release = tuple(map(int, installed.split('.')[:2]))
        if release < OLDEST_TORCH:
            raise InstallError('{} holds torch {}, but {} or newer is needed: choose another environment with VENV=DIR, '
                               'or another torch with TORCH=VERSION'.format(self.venv, installed, version_text(OLDEST_TORCH)))
        self.pins.append('torch=={}'.format(installed))
        if release < (2, 3):
            self.pins.append('numpy<2')  # against which such a torch was compiled

    def install_stack(self) -> None:
        """The stack's packages; mmcv from a wheel of our own making, for the index has it as source only."""
        requirements = (REQUIREMENTS / STACKS[self.stack]).read_text().splitlines()
        requirements = [line for line in requirements if line and not line.startswith('#')]
        (mmcv,) = [line for line in requirements if re.match(r'(onedl-)?mmcv==', line)]
        name, _, version = mmcv.partition('==')
        # Its operators are bound to one torch: a version number alone does not say that they load.
        loads = subprocess.run([str(self.python), '-W', 'ignore', '-c', 'import torch; from mmcv import _ext'],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        wheel = [] if loads and self.installed_version(name) == version else [self.build_mmcv(mmcv)]
        if wheel:
            self.pip(mmcv, '--force-reinstall', '--no-deps', *wheel)
        self.pip('the {} stack'.format(self.stack), *requirements)

    def build_mmcv(self, requirement: str) -> str:
        print('Building {}, the only part that takes minutes; it is kept for the next time'.format(requirement), flush=True)
        command = [str(self.python), '-u', '-W', 'ignore', str(REQUIREMENTS / 'mmcv_wheel.py'), requirement]
        last = ''
        with subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True) as process:
            for line in process.stdout:
                if last:
                    print('  ' + last, flush=True)
                last = line.strip()
        if process.returncode != 0:
            raise InstallError('mmcv was not built, for the reason above')
        return last

    def prove(self) -> None:
        """Runs mmcv's operators; replaces an OpenCV that wants a display by the one that does not."""
        print('Proving that mmcv\'s operators work … ', end='', flush=True)
        command = [str(self.python), str(REQUIREMENTS / 'check_stack.py')]
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
                result.stdout.strip().splitlines()[-1], self.log))
        print(result.stdout.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--stack', choices=sorted(STACKS), default='upstream')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='environment to make, or one that exists')
    parser.add_argument('--torch', metavar='VERSION', help='torch to install; {} by default'.format(DEFAULT_TORCH))
    args = parser.parse_args()
    try:
        Installer(args.stack, args.venv.absolute(), args.torch).run()
    except InstallError as error:
        print('error: {}.'.format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; make install goes on where it stopped', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    os.environ['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
    sys.exit(main())
