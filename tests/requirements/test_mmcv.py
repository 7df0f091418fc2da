"""mmcv's source is fetched and fixed on any Python; the compiler for its GPU operators is found, completed or installed."""

import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

# As it stands in mmcv 2.1.0, shortened.
SETUP = '''import os

def get_version():
    version_file = 'mmcv/version.py'
    with open(version_file, encoding='utf-8') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']

extra_compile_args = {'nvcc': [os.sep, '-std=c++14'] if os.sep == '?' else ['-std=c++14'], 'cxx': ['-std=c++14']}
extra_compile_args['cxx'] = ['-Wall', '-std=c++17']
extra_compile_args['nvcc'] += ['-std=c++17']
VERSION = get_version()
'''


@pytest.fixture
def mmcv_source(requirements: dict[str, ModuleType]) -> ModuleType:
    return requirements['mmcv_source']


def test_fixed_source_gives_its_version_and_leaves_the_standard_to_torch(mmcv_source: ModuleType, tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / 'version.py').write_text("__version__ = '7.8.9'\n")
    fixed = mmcv_source.fix(SETUP)
    names: dict = {}
    exec(compile(fixed, 'setup.py', 'exec'), names)
    assert names['VERSION'] == '7.8.9'
    assert names['extra_compile_args'] == {'nvcc': [], 'cxx': ['-Wall']}
    assert 'locals()' not in fixed
    assert mmcv_source.fix(fixed) == fixed


def test_a_source_whose_setup_fails_is_fetched_all_the_same(mmcv_source: ModuleType, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch):
    """As mmcv 2.1.0's does on Python 3.13: pip then hands nothing over by itself."""
    root = tmp_path / 'mmcv-2.1.0'
    (root / 'mmcv').mkdir(parents=True)
    (root / 'mmcv' / 'version.py').write_text("__version__ = '2.1.0'\n")
    (root / 'setup.py').write_text(SETUP + "raise KeyError('__version__')\n")
    (root / 'PKG-INFO').write_text('Metadata-Version: 2.1\nName: mmcv\nVersion: 2.1.0\n')
    (tmp_path / 'links').mkdir()
    with tarfile.open(tmp_path / 'links' / 'mmcv-2.1.0.tar.gz', 'w:gz') as archive:
        archive.add(root, 'mmcv-2.1.0')
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path / 'links'))
    source = mmcv_source.fetch('mmcv==2.1.0', tmp_path / 'scratch')
    assert "return names['__version__']" in (source / 'setup.py').read_text()
    assert (source / 'mmcv' / 'version.py').is_file()
    with pytest.raises(mmcv_source.SourceError, match=r'No matching distribution found for mmcv==9\.9'):
        mmcv_source.fetch('mmcv==9.9', tmp_path / 'another')


def test_the_standard_is_the_one_that_torch_compiles_with(requirements: dict[str, ModuleType]):
    """Seen in the command that torch's own build would run."""
    from torch.utils import cpp_extension

    source = Path(cpp_extension.__file__).read_text()
    standards = set(re.findall(r'-std=(c\+\+\d+)', source))
    assert requirements['mmcv_wheel'].standard_flag().removeprefix('-std=') in standards


def test_files_are_compiled_in_parallel_by_the_environments_own_ninja(requirements: dict[str, ModuleType],
                                                                       monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('PATH', '/usr/bin')
    monkeypatch.delenv('MAX_JOBS', raising=False)
    environment = requirements['mmcv_wheel'].build_environment({}, ['-O2', '-w'])
    ninja = shutil.which('ninja', path=environment['PATH'])
    assert Path(ninja).parent == Path(sys.executable).parent
    assert (environment['CXXFLAGS'], environment['FORCE_CUDA']) == ('-O2 -w', '0')
    assert int(environment['MAX_JOBS']) == len(os.sched_getaffinity(0))


@pytest.fixture
def toolkit(requirements: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """cuda_toolkit beside a torch of CUDA 13.2, on a machine without a toolkit."""
    module = requirements['cuda_toolkit']
    monkeypatch.setattr(module, 'torch', SimpleNamespace(__version__='2.15.0', version=SimpleNamespace(cuda='13.2')))
    monkeypatch.setattr(module, 'system_homes', list)
    monkeypatch.setattr(module, 'packaged_home', lambda: tmp_path / 'packaged')
    return module


def make_home(module: ModuleType, home: Path, release: str, without: tuple[str, ...] = ()) -> Path:
    """A toolkit: an nvcc that tells its release and architectures, and headers."""
    nvcc = home / 'bin' / 'nvcc'
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V{release}.86" ||'
                    ' printf "compute_75\\ncompute_121\\ncompute_90\\n"\n')
    nvcc.chmod(0o755)
    for name in module.HEADERS:
        if name not in without:
            (home / 'include' / name).parent.mkdir(parents=True, exist_ok=True)
            (home / 'include' / name).touch()
    return home


def test_a_complete_toolkit_is_used(toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = make_home(toolkit, tmp_path / 'system', '13.0')
    monkeypatch.setattr(toolkit, 'system_homes', lambda: [tmp_path / 'nothing', home])
    variables = toolkit.environment()
    assert variables['CUDA_HOME'] == str(home)
    assert variables['PATH'].startswith(f'{home}/bin:')


@pytest.mark.parametrize(('release', 'without', 'told'), [
    ('12.4', (), 'nvcc 12.4 in .* is not used: torch 2.15.0 was built with CUDA 13.2'),
    ('13.0', ('cusparse.h',), 'is incomplete: cusparse.h missing'),
])
def test_another_toolkit_is_passed_over_for_the_packaged_one(
        toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, release: str,
        without: tuple[str, ...], told: str):
    home = make_home(toolkit, tmp_path / 'system', release, without)
    monkeypatch.setattr(toolkit, 'system_homes', lambda: [home])
    monkeypatch.setattr(toolkit, 'install', lambda: make_home(toolkit, tmp_path / 'packaged', '13.2'))
    assert toolkit.environment()['CUDA_HOME'] == str(tmp_path / 'packaged')
    assert re.search(told, capsys.readouterr().out)


def test_cuda_12_has_no_compiler_on_the_index(toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toolkit.torch.version, 'cuda', '12.8')
    with pytest.raises(toolkit.ToolkitError, match=r'needs nvcc of CUDA 12, which the package index does not have: install the '
                                                   r'CUDA 12.8 toolkit and set CUDA_HOME, or take a torch built with CUDA 13'):
        toolkit.environment()
    partial = make_home(toolkit, tmp_path / 'system', '12.8', ('cusparse.h',))
    monkeypatch.setattr(toolkit, 'system_homes', lambda: [partial])
    monkeypatch.setattr(toolkit, 'torch_headers', lambda: [Path('/nvidia/cusparse/include'), Path('/nvidia/cublas/include')])
    variables = toolkit.environment()
    assert (variables['CUDA_HOME'], variables['CPATH']) == (str(partial), '/nvidia/cusparse/include:/nvidia/cublas/include')


@pytest.mark.parametrize(('versions', 'asked'), [
    ({'cuda-toolkit': '13.2.2', 'nvidia-cuda-nvcc': '13.2.86', 'nvidia-nvvm': '13.2.86', 'nvidia-cuda-crt': '13.2.86'},
     [('cuda-toolkit[nvcc,cccl]==13.2.2',)]),
    ({'cuda-toolkit': '13.0.2', 'nvidia-cuda-nvcc': '13.0.88', 'nvidia-nvvm': '13.5.37', 'nvidia-cuda-crt': '13.5.37'},
     [('cuda-toolkit[nvcc,cccl]==13.0.2',), ('nvidia-nvvm==13.0.88', 'nvidia-cuda-crt==13.0.88')]),
])
def test_the_parts_of_the_packaged_compiler_are_of_one_release(
        toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str],
        asked: list[tuple[str, ...]]):
    calls: list[tuple[str, ...]] = []

    def pip(*names: str) -> None:
        calls.append(names)
        if len(calls) == 1:
            make_home(toolkit, tmp_path / 'packaged', '13.2')
            (tmp_path / 'packaged' / 'lib').mkdir()
            (tmp_path / 'packaged' / 'lib' / 'libcudart.so.13').touch()

    monkeypatch.setattr(toolkit, 'pip', pip)
    monkeypatch.setattr(toolkit.importlib.metadata, 'version', versions.__getitem__)
    home = toolkit.install()
    assert calls == asked
    assert (home / 'lib64' / 'libcudart.so').resolve() == (home / 'lib' / 'libcudart.so.13').resolve()
    toolkit.install()  # again, without harm
    assert calls[len(asked):] == asked[1:]


def test_a_gpu_newer_than_the_compiler(requirements: dict[str, ModuleType], toolkit: ModuleType, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch):
    wheel = requirements['mmcv_wheel']
    home = make_home(toolkit, tmp_path / 'system', '13.2')
    monkeypatch.setattr(toolkit, 'system_homes', lambda: [home])
    monkeypatch.setattr(wheel, 'torch', SimpleNamespace(__version__='2.15.0', version=SimpleNamespace(cuda='13.2', hip=None)))
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setattr(wheel, 'builds_for_gpu', lambda: True)
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '9.0;13.0')
    with pytest.raises(wheel.BuildError, match=r'compute capability 13.0 is newer than nvcc in .*, which compiles up to 12.1: '
                                               r'take a newer torch .* or build for TORCH_CUDA_ARCH_LIST="12.1\+PTX"'):
        wheel.cuda_variables()
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '7.0;9.0')
    with pytest.raises(wheel.BuildError, match=r'compute capability 7.0 is older than nvcc in .* compiles for, which is 7.5 and'):
        wheel.cuda_variables()
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '12.0;9.0+PTX')
    assert wheel.cuda_variables()['TORCH_CUDA_ARCH_LIST'] == '12.0;9.0+PTX'


@pytest.fixture
def cuobjdump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds code for 8.0 and 9.0, and PTX of 9.0, in everything."""
    command = tmp_path / 'bin' / 'cuobjdump'
    command.parent.mkdir()
    command.write_text('#!/bin/sh\n[ "$1" = --list-ptx ] && echo "PTX file 1: a.1.sm_90.ptx" && exit\n'
                       'echo "ELF file 1: a.1.sm_80.cubin"\necho "ELF file 2: a.2.sm_90.cubin"\n')
    command.chmod(0o755)
    monkeypatch.setenv('PATH', str(command.parent))
    monkeypatch.delenv('CUDA_HOME', raising=False)


@pytest.mark.usefixtures('cuobjdump')
def test_architectures_in_a_library(requirements: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch):
    """Compiled code runs on higher minor versions, PTX on everything higher."""
    check = requirements['check_stack']
    assert check.architectures(Path('a.so')) == ['8.0', '9.0']
    assert check.missing_architectures(Path('a.so'), ['8.0', '8.6', '9.0a', '9.0+PTX', '12.0', 'Ampere']) == []
    assert check.missing_architectures(Path('a.so'), ['7.5', '8.9']) == ['7.5']
    monkeypatch.setenv('PATH', '')
    monkeypatch.setattr(check.importlib.util, 'find_spec', lambda name: None)
    assert check.missing_architectures(Path('a.so'), []) == []
    with pytest.raises(FileNotFoundError, match='cuobjdump, which lists the code in a library, is not on this machine'):
        check.architectures(Path('a.so'))


@pytest.mark.usefixtures('cuobjdump')
def test_a_wheel_without_code_for_the_gpu_is_not_taken(requirements: dict[str, ModuleType], tmp_path: Path):
    import mmcv._ext

    wheel, path = requirements['mmcv_wheel'], tmp_path / 'mmcv.whl'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('mmcv/__init__.py', '')
    assert wheel.load_problem(path) == 'it holds no operators'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.write(mmcv._ext.__file__, 'mmcv/_ext.so')
    assert wheel.load_problem(path) is None
    assert wheel.load_problem(path, ['9.0', '12.0']) is None
    assert wheel.load_problem(path, ['7.5', '9.0']) == 'it has no code for compute capability 7.5'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('mmcv/_ext.so', 'not a library')
    assert wheel.load_problem(path).startswith('its operators do not load (')


@pytest.mark.parametrize(('requirement', 'torch', 'cuda', 'python', 'page'), [
    ('mmcv==2.1.0', '2.1.2+cu121', '12.1', (3, 11), 'https://download.openmmlab.com/mmcv/dist/cu121/torch2.1/index.html'),
    ('mmcv==2.1.0', '2.15.0+cpu', None, (3, 13), None),
    ('onedl-mmcv==2.3.6', '2.11.0', '13.0', (3, 12), 'https://mmwheels.onedl.ai/cu130-torch2110/simple/onedl-mmcv/index.html'),
    ('onedl-mmcv==2.3.6', '2.12.1+cpu', None, (3, 10), 'https://mmwheels.onedl.ai/cpu-torch2120/simple/onedl-mmcv/index.html'),
    ('onedl-mmcv==2.3.6', '2.15.0', '13.2', (3, 12), None),
])
def test_pages_of_ready_wheels(requirements: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, requirement: str,
                               torch: str, cuda: str | None, python: tuple[int, int], page: str | None):
    wheel = requirements['mmcv_wheel']
    monkeypatch.setattr(wheel, 'torch', SimpleNamespace(__version__=torch, version=SimpleNamespace(cuda=cuda)))
    monkeypatch.setattr(wheel, 'sys', SimpleNamespace(version_info=(*python, 0), executable=sys.executable))
    assert wheel.prebuilt_page(requirement) == page
