"""The installer's sentences when something is missing; its success is what every other test runs on."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / 'requirements'


@pytest.fixture(scope='module')
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location('install', REQUIREMENTS / 'install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(('log', 'sentence'), [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device', 'the disk is full'),
    ('Failed to establish a new connection: [Errno 111] Connection refused\nNo matching distribution found for torch==2.13.0',
     'the package index could not be reached'),
    ('ERROR: No matching distribution found for torch==9.9.9', 'torch==9.9.9 is not to be had'),
    ('something else', 'its messages are in install.log'),
])
def test_what_went_wrong_with_pip(install: ModuleType, log: str, sentence: str):
    assert sentence in install.explain_pip(log, 'torch', Path('install.log'))


def test_an_unsupported_python(install: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install.sys, 'version_info', (3, 8, 1))
    monkeypatch.setattr(install.shutil, 'which', lambda name: None)
    with pytest.raises(install.InstallError, match=r'Python 3.8 is not supported: install Python 3.10 to 3.12, or name one'):
        install.suitable_python()


def test_a_full_disk(install: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(install.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(install.InstallError, match='GiB are free'):
        install.Installer('upstream', tmp_path / 'venv', None).run()
    assert not (tmp_path / 'venv').exists()


def test_both_stacks_in_one_environment(install: ModuleType, monkeypatch: pytest.MonkeyPatch):
    installer = install.Installer('onedl', Path(sys.prefix), None)
    monkeypatch.setattr(installer, 'installed_version', lambda package: '0.10.7' if package == 'mmengine' else None)
    with pytest.raises(install.InstallError, match='holds mmengine, of the other stack'):
        installer.check_other_stack()


def test_a_finished_installation_is_recognised(install: ModuleType, tmp_path: Path):
    import json

    installer = install.Installer('upstream', tmp_path, None)
    assert not installer.is_done()
    installer.python.parent.mkdir()
    installer.python.touch()
    (tmp_path / install.MARKER).write_text(json.dumps(dict(installer.fingerprint(), torch='2.9.1')))
    assert installer.is_done()
    assert not install.Installer('onedl', tmp_path, None).is_done()
    assert not install.Installer('upstream', tmp_path, '2.8.0').is_done()


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
