"""The installer's sentences when something is missing; its success is what every other test runs on."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'


@pytest.mark.parametrize(('log', 'sentence'), [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device', 'the disk is full'),
    ('Failed to establish a new connection: [Errno 111] Connection refused\nNo matching distribution found for torch==2.13.0',
     'the package index could not be reached'),
    ('ERROR: No matching distribution found for torch==9.9.9', 'torch==9.9.9 is not available for this Python'),
    ('something else', 'its messages are in install.log'),
])
def test_what_went_wrong_with_pip(requirements: dict[str, ModuleType], log: str, sentence: str):
    assert sentence in requirements['pip_errors'].explain(log, 'its messages are in install.log')


@pytest.mark.parametrize('version', [(3, 8, 1), (3, 9, 0), (3, 15, 0)])
def test_an_unsupported_python(install: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple):
    monkeypatch.setattr(install.sys, 'version_info', version)
    monkeypatch.setattr(install.shutil, 'which', lambda name: None)
    with pytest.raises(install.InstallError, match=rf'Python 3.{version[1]} .*: install Python 3.10 to 3.14, or name one'):
        install.suitable_python(chosen=False)


def test_another_python_is_taken_only_if_none_was_chosen(install: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install.sys, 'version_info', (3, 9, 0))
    monkeypatch.setattr(install.shutil, 'which', lambda name: f'/somewhere/{name}')
    monkeypatch.setattr(install, 'makes_environments', lambda python: python.endswith(('3.13', '3.12')))
    assert install.suitable_python(chosen=False) == '/somewhere/python3.13'
    with pytest.raises(install.InstallError, match=r'Python 3.9 \(.*\) is not supported: install Python 3.10 to 3.14$'):
        install.suitable_python(chosen=True)


def test_make_takes_the_python_that_is_named_or_refuses(call: Callable, tmp_path: Path):
    missing = call('make', 'install', 'PYTHON=python3.99', f'VENV={tmp_path / "venv"}')
    assert missing.returncode == 2
    assert missing.stderr.startswith('error: python3.99 does not run here: install Python 3.10 to 3.14, or name one')
    old = tmp_path / 'python3.9'  # an interpreter whose version is another, to the installer's eyes
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} -c "import sys, runpy; '
                   'sys.version_info = (3, 9, 2, 0, 0); sys.argv = sys.argv[1:]; sys.path.insert(0, \'requirements\'); '
                   'runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n')
    old.chmod(0o755)
    refused = call('make', 'install', f'PYTHON={old}', f'VENV={tmp_path / "venv"}')
    assert refused.returncode == 2
    assert 'error: Python 3.9' in refused.stderr
    assert 'is not supported: install Python 3.10 to 3.14.' in refused.stderr
    assert not (tmp_path / 'venv').exists()


def test_an_environment_of_another_python_is_not_taken(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch):
    installer = install.Installer('upstream', Path(sys.prefix), None, python_chosen=True)
    monkeypatch.setattr(installer, 'environment_python', lambda: (3, 9))
    with pytest.raises(install.InstallError, match=r'was made with Python 3.9, not with 3.\d+: remove it, or choose another'):
        installer.check_python()


def test_a_full_disk(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(install.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(install.InstallError, match='GiB are free'):
        install.Installer('upstream', tmp_path / 'venv', None).run()
    assert not (tmp_path / 'venv').exists()


def test_both_stacks_in_one_environment(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch):
    installer = install.Installer('onedl', Path(sys.prefix), None)
    monkeypatch.setattr(installer, 'installed_version', lambda package: '0.10.7' if package == 'mmengine' else None)
    with pytest.raises(install.InstallError, match='holds mmengine, of the other stack'):
        installer.check_other_stack()


def test_a_finished_installation_is_recognised(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch,
                                               tmp_path: Path):
    installer = install.Installer('upstream', tmp_path, None)
    assert not installer.is_done()
    installer.python.parent.mkdir()
    installer.python.touch()
    marker = tmp_path / install.MARKER
    marker.write_text(json.dumps(dict(installer.fingerprint(), torch='2.9.1')))
    assert installer.is_done()
    assert not install.Installer('onedl', tmp_path, None).is_done()
    assert not install.Installer('upstream', tmp_path, '2.8.0').is_done()
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '9.0')
    for_gpus = install.Installer('upstream', tmp_path, None)
    assert not for_gpus.is_done()
    marker.write_text(json.dumps(for_gpus.fingerprint()))
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0;9.0')
    assert not install.Installer('upstream', tmp_path, None).is_done()
    monkeypatch.delenv('FORCE_CUDA')
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST')
    assert install.Installer('upstream', tmp_path, None).is_done()  # GPU operators work on a CPU too


def test_the_default_torch(install: ModuleType):
    assert [install.default_torch(python) for python in [(3, 10), (3, 11), (3, 14)]] == ['2.14.1', '2.15.0', '2.15.0']


@pytest.mark.parametrize(('gpu', 'asked', 'index_has', 'arguments', 'text'), [
    (False, None, True, ['torch==2.15.0+cpu', '--extra-index-url', 'index/cpu'], "from PyTorch's cpu index: some 200 MB"),
    (False, None, False, ['torch==2.15.0'], "from pip's default index, as PyTorch's CPU index cannot be reached"),
    (True, None, True, ['torch==2.15.0'], "from pip's default index: some 3 GB with CUDA's libraries"),
    (True, '2.9.1+cu126', True, ['torch==2.9.1+cu126', '--extra-index-url', 'index/cu126'], "from PyTorch's cu126 index"),
    (False, '2.9.1+cu126', False, ['torch==2.9.1+cu126'], "from pip's default index: some 3 GB"),
])
def test_where_torch_comes_from(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                capsys: pytest.CaptureFixture, gpu: bool, asked: str | None, index_has: bool, arguments: list,
                                text: str):
    installer = install.Installer('upstream', tmp_path / 'venv', asked)
    installer.cuda = gpu
    called = []
    monkeypatch.setattr(install, 'pytorch_index', lambda label, release, python: f'index/{label}' if index_has else None)
    monkeypatch.setattr(installer, 'environment_python', lambda: (3, 13))
    monkeypatch.setattr(installer, 'brings_cuda', lambda arguments: not any('cpu' in word for word in arguments))
    monkeypatch.setattr(installer, 'check_disk', lambda needed: None)
    monkeypatch.setattr(installer, 'pip', lambda what, *words: called.append(list(words)))
    installer.fetch_torch()
    assert called == [arguments]
    assert text in capsys.readouterr().out


@pytest.mark.parametrize('asked', ['2.0.1', '1.13.1+cu117', 'newest'])
def test_a_torch_that_is_too_old_is_not_fetched(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path, asked: str):
    installer = install.Installer('upstream', tmp_path, asked)
    monkeypatch.setattr(installer, 'environment_python', lambda: (3, 11))
    monkeypatch.setattr(installer, 'pip', lambda what, *words: pytest.fail('something was fetched'))
    with pytest.raises(install.InstallError, match=rf'TORCH={re.escape(asked)} is not a version of torch from 2\.1 on, such as'):
        installer.fetch_torch()


@pytest.mark.parametrize(('report', 'code', 'message', 'brings'), [
    ('torch nvidia-cublas', 0, '', True), ('torch sympy', 0, '', False),
    ('', 1, 'ERROR: No matching distribution found for torch==2.15.0', None), ('', 2, 'no such option: --dry-run', True)])
def test_what_pip_would_fetch(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: str,
                              code: int, message: str, brings: bool | None):
    installer = install.Installer('upstream', tmp_path, None)
    items = json.dumps(dict(install=[dict(metadata=dict(name=name)) for name in report.split()]))
    installer.python.parent.mkdir()
    installer.python.write_text(f"#!/bin/sh\necho '{items}'\necho '{message}' >&2\nexit {code}\n")
    installer.python.chmod(0o755)
    monkeypatch.setattr(install.platform, 'machine', lambda: 'x86_64')
    assert installer.brings_cuda(['torch==2.15.0']) is brings


def test_a_build_for_the_cpu_is_known_to_be_small(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch,
                                                  tmp_path: Path, capsys: pytest.CaptureFixture):
    """Also where pip is too old to be asked, or fails."""
    installer = install.Installer('upstream', tmp_path / 'venv', None)
    monkeypatch.setattr(install, 'pytorch_index', lambda label, release, python: f'index/{label}')
    monkeypatch.setattr(installer, 'environment_python', lambda: (3, 10))
    monkeypatch.setattr(installer, 'brings_cuda', lambda arguments: pytest.fail('pip was asked'))
    monkeypatch.setattr(installer, 'check_disk', lambda needed: pytest.fail('room for CUDA was asked for'))
    monkeypatch.setattr(installer, 'pip', lambda what, *words: None)
    installer.fetch_torch()
    assert capsys.readouterr().out == "torch 2.14.1 comes from PyTorch's cpu index: some 200 MB, without CUDA\n"


@pytest.mark.parametrize(('capability', 'driver', 'release', 'sentence'), [
    ('9.0', (12, 4), '2.15.0', r'driver is for CUDA 12\.4: install driver 580 or newer, or take torch for CUDA 12 and'),
    ('7.0', (13, 0), '2.15.0', r'no code for this machine.s GPU of compute capability 7\.0, but from 7\.5 on: take torch'),
    ('9.0', (13, 0), '2.15.0', None), ('7.0', (12, 4), '2.9.1', None), ('9.0', None, '2.15.0', None)])
def test_gpus_and_drivers_that_are_too_old(requirements: dict[str, ModuleType], install: ModuleType, no_gpu: None, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch, capability: str, driver: tuple | None, release: str,
                                           sentence: str | None):
    """Before anything is fetched; a build that was chosen by its label is taken."""
    installer = install.Installer('upstream', tmp_path, release)
    installer.gpus, installer.cuda = requirements['machine'].Gpus([capability], driver), True
    monkeypatch.setattr(installer, 'environment_python', lambda: (3, 13))
    monkeypatch.setattr(install, 'pytorch_index', lambda *_: None)
    monkeypatch.setattr(installer, 'brings_cuda', lambda arguments: False)
    called = []
    monkeypatch.setattr(installer, 'pip', lambda what, *words: called.append(what))
    if sentence is None:
        installer.fetch_torch()
    else:
        with pytest.raises(install.InstallError, match=sentence):
            installer.fetch_torch()
    assert called == (['torch'] if sentence is None else [])
    installer.torch = f'{release}+cu126'
    installer.fetch_torch()


def test_a_folder_of_the_users_is_not_removed(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Where venv fails, as on Debian without python3-venv."""
    (tmp_path / 'letters').write_text('')
    (tmp_path / 'python').write_text('#!/bin/sh\necho ensurepip is not available\nexit 1\n')
    (tmp_path / 'python').chmod(0o755)
    monkeypatch.setattr(install, 'suitable_python', lambda chosen: str(tmp_path / 'python'))
    for folder in (tmp_path, tmp_path / 'new'):
        with pytest.raises(install.InstallError, match='apt-get install python3-venv'):
            install.Installer('upstream', folder, None).make_environment()
    assert (tmp_path / 'letters').exists()
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(('cuda', 'available', 'gpu', 'sentence'), [
    ('None', 'False', True, 'which was built without CUDA, but there is a GPU: remove the folder and run this again, or hide'),
    ('None', 'False', False, 'which was built without CUDA, but FORCE_CUDA=1 is set: remove the folder'),
    ('13.2', 'False', True, r'cannot use this machine.s GPU, whose driver is for 12.4: install a newer NVIDIA driver'),
    ('13.2', 'False', False, None),
    ('13.2', 'True', True, None),
])
def test_a_torch_that_cannot_use_the_gpu(requirements: dict[str, ModuleType], install: ModuleType, no_gpu: None, tmp_path: Path,
                                         cuda: str, available: str, gpu: bool, sentence: str | None):
    installer = install.Installer('upstream', tmp_path, None)
    installer.gpus = requirements['machine'].Gpus(['9.0'], (12, 4)) if gpu else None
    installer.python.parent.mkdir()
    installer.python.write_text(f'#!/bin/sh\necho {cuda} {available}\n')
    installer.python.chmod(0o755)
    if sentence is None:
        installer.check_cuda('2.15.0')
        return
    with pytest.raises(install.InstallError, match=sentence):
        installer.check_cuda('2.15.0')


@pytest.mark.parametrize(('dependencies_only', 'options'), [(True, ('--operators-only',)), (False, ())])
def test_what_is_installed_is_proved(install: ModuleType, no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                     dependencies_only: bool, options: tuple):
    """In a container's first layer too: with an OpenCV that wants a display the next one would take mmcv for broken."""
    installer, proved = install.Installer('upstream', tmp_path, None), []
    for step in ('check_disk', 'make_environment', 'check_python', 'check_other_stack', 'install_torch', 'pip', 'install_stack'):
        monkeypatch.setattr(installer, step, lambda *_: None)
    monkeypatch.setattr(installer, 'prove', lambda *given: proved.append(given))
    installer.run(dependencies_only)
    assert proved == [options]
    assert (tmp_path / install.MARKER).exists() != dependencies_only


def test_no_compiler(call: Callable, tmp_path: Path):
    result = call('python', REQUIREMENTS / 'mmcv_wheel.py', 'mmcv==2.1.0', CXX='no-such-compiler', XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.strip().endswith('install one (Debian, Ubuntu: apt-get install build-essential) and run this again.')


def test_a_folder_of_the_packages_name_does_not_hide_it(tmp_path: Path):
    """A clone has that name, and scripts may lie beside it."""
    (tmp_path / 'ralamala_mm').mkdir()
    (tmp_path / 'script.py').write_text('from ralamala_mm import MALA, RAVLT\n')
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    result = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, env=environment, capture_output=True, text=True,
                            check=False)
    assert result.returncode == 0, result.stderr
