"""A checkpoint that would run code, in every form and on every route to it: refused, named, and nothing is executed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Call, run_all
from malicious import WRITERS

from ralamala_mm.checkpoints import read_checkpoint, read_safely_everywhere
from ralamala_mm.errors import UserError

CONFIG = 'tests/faults/configs/tiny_detector.py'
# Ordinary unpickling must run these, or the tests would show nothing; others only try what it, or PyTorch, also refuses.
ROUTES = ('pretrained', 'init_cfg', 'load_from', 'resume', 'resume auto', 'test', 'test without data', 'convert', 'neck',
          'detector', 'ResNet', 'infer', 'export', 'attention map', 'report')
HARMLESS = ('getattr of what', 'BUILD of a class', 'statistics of', 'numpy.load', 'persistent id', 'EXT', '__setstate__',
            'second pickle', 'NEWOBJ', 'first pickle')


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """For each malicious checkpoint its path, and the path of the witness that it would make."""
    folder = tmp_path_factory.mktemp('malicious')
    made = {}
    for i, (name, write) in enumerate(WRITERS.items()):
        path, witness = folder / f'{i}.pth', folder / f'executed_{i}'
        write(path, f'touch {witness}')
        made[name] = (path, witness)
    assert len(made) > 50
    return made


def test_they_are_malicious(files: dict, tmp_path: Path):
    """Python's own unpickling executes them; otherwise a refusal would mean nothing."""
    program = ('import pickle, sys, torch\n'
               'for path in sys.argv[1:]:\n'
               '    for load in (lambda path: torch.load(path, weights_only=False),\n'
               '                 lambda path: pickle.load(open(path, "rb"))):\n'
               '        try: load(path)\n'
               '        except Exception: continue\n')
    names = [name for name in files if not name.startswith(HARMLESS)]
    assert len(names) > 30
    copies = {name: tmp_path / f'{i}.pth' for i, name in enumerate(names)}
    for name, copy in copies.items():
        WRITERS[name](copy, f'touch {copy.with_suffix(".executed")}')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', program, *map(str, copies.values())], cwd=tmp_path, check=True,
                   capture_output=True, timeout=300)
    assert [name for name, copy in copies.items() if not copy.with_suffix('.executed').exists()] == []


def through_mmengine(path: str) -> None:
    from mmengine.runner import load_checkpoint

    load_checkpoint(torch.nn.Conv2d(1, 1, 1), path)


def through_init_cfg(path: str) -> None:
    from mmengine.model import BaseModule

    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


@pytest.fixture
def _safe_routes():
    """MMEngine's own loaders come back afterwards."""
    from mmengine.runner.checkpoint import CheckpointLoader

    before = dict(CheckpointLoader._schemes)
    read_safely_everywhere()
    yield
    CheckpointLoader._schemes = before


@pytest.mark.usefixtures('_safe_routes')
@pytest.mark.parametrize('variables', [{}, {'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'}])
@pytest.mark.parametrize('read', [read_checkpoint, through_mmengine, through_init_cfg])
@pytest.mark.parametrize('name', WRITERS)
def test_refused_by_every_reader(files: dict, name: str, read: Callable, variables: dict, monkeypatch: pytest.MonkeyPatch):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    path, witness = files[name]
    with pytest.raises(UserError, match=f'{path}.*--trust-checkpoint'):
        read(str(path))
    assert not witness.exists()


def route_arguments(folder: Path, shapes_root: Path, path: Path) -> dict[str, list[str]]:
    """Every way by which a user hands a checkpoint to a tool."""
    train = ['tools/train.py', CONFIG, '--data', str(shapes_root), '--work-dir', str(folder / 'work')]
    options = [*train, '--cfg-options', 'train_dataloader.num_workers=0', 'train_cfg.max_epochs=1']
    resnet = folder / 'resnet.py'
    root = Path(__file__).resolve().parents[2]
    resnet.write_text(f"_base_ = '{root / CONFIG}'\nmodel = dict(backbone=dict(_delete_=True, type='ResNet', depth=18, "
                      f"init_cfg=dict(type='Pretrained', checkpoint='{path}')), neck=dict(in_channels=[64, 128, 256, 512]))\n")
    automatic = folder / 'automatic'
    automatic.mkdir()
    shutil.copy(path, automatic / 'epoch_9.pth')
    (automatic / 'last_checkpoint').write_text(str(automatic / 'epoch_9.pth'))
    reported = folder / 'reported'
    reported.mkdir()
    shutil.copy(path, reported / 'best_1.pth')
    (reported / 'own.py').write_text(f"_base_ = '{root / CONFIG}'\n")
    image = str(next((shapes_root / 'val').glob('*.*')))
    return {
        'pretrained': [*options, f'model.backbone.pretrained={path}'],
        'init_cfg': [*options, 'model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={path}'],
        'load_from': [*options, f'load_from={path}'],
        'resume': [*train, '--resume', str(path)],
        'resume auto': [*train[:-1], str(automatic), '--resume'],
        'test': ['tools/test.py', CONFIG, str(path), '--work-dir', str(folder / 'work'), '--data', str(shapes_root)],
        'test without data': ['tools/test.py', CONFIG, str(path), '--work-dir', str(folder / 'work'), '--cfg-options',
                              f'test_dataloader.dataset.data_root={shapes_root}',
                              f'test_evaluator.ann_file={shapes_root}/annotations/instances_val.json'],
        'convert': ['tools/convert_checkpoint.py', str(path), str(folder / 'out.pth')],
        'neck': [*options, 'model.neck.init_cfg.type=Pretrained', f'model.neck.init_cfg.checkpoint={path}'],
        'detector': [*options, 'model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={path}'],
        'infer': ['tools/infer.py', CONFIG, str(path), image, '--out-dir', str(folder / 'out')],
        'export': ['tools/export.py', CONFIG, str(path), '--format', 'pretrained', '--backbone-only', '--out',
                   str(folder / 'out')],
        'attention map': ['tools/analysis_tools/attention_map.py', CONFIG, str(path), image, '--point', '5', '5', '--out',
                          str(folder / 'out')],
        'report': ['tools/analysis_tools/report.py', str(reported), '--data', str(shapes_root)],
        'ResNet': ['tools/train.py', str(resnet), *train[2:], '--cfg-options', 'train_dataloader.num_workers=0'],
    }


@pytest.mark.slow
def test_refused_on_every_route(files: dict, shapes_root: Path, tmp_path: Path):
    """One of the checkpoints on each route; RALAMALA_ALL_ROUTES=1 takes all of them, a quarter of an hour."""
    names = list(WRITERS)
    taken = names if os.environ.get('RALAMALA_ALL_ROUTES') else None
    calls, told = [], []
    for i, route in enumerate(ROUTES):
        for name in taken or (names[7 * i % len(names)],):
            path, witness = files[name]
            folder = made(tmp_path / f'{len(calls)}')
            variables = {'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'} if i % 2 else {}
            calls.append(Call(route_arguments(folder, shapes_root, path)[route], str(folder), variables))
            shown = {'resume auto': 'epoch_9.pth', 'report': 'best_1.pth'}.get(route, str(path))
            told.append((route, name, shown, witness))
    assert len(calls) >= 15
    for outcome, (route, name, shown, witness) in zip(run_all(calls), told, strict=True):
        where = f'{name} through {route}: {outcome.stderr[-2000:]}'
        errors = [line for line in outcome.stderr.splitlines() if line.startswith('error: ')]
        assert outcome.code == 1, where
        assert len(errors) == 1, where
        assert shown in errors[0], where
        assert '--trust-checkpoint' in errors[0], where
        assert 'Traceback' not in outcome.stderr + outcome.stdout, where
        assert not witness.exists(), where


@pytest.mark.slow
def test_trust_is_for_what_is_named(shapes_root: Path, tmp_path: Path):
    """`--resume` alone inspects all checkpoints of the work directory: with the option it runs no code from them either."""
    path, witness = tmp_path / 'a.pth', tmp_path / 'executed'
    WRITERS['in meta'](path, f'touch {witness}')
    arguments = [*route_arguments(tmp_path, shapes_root, path)['resume auto'], '--trust-checkpoint']
    (outcome,) = run_all([Call(arguments, str(tmp_path))])
    assert outcome.code == 1
    assert 'only a file that is named is ever trusted' in outcome.stderr
    assert not witness.exists()


@pytest.mark.slow
def test_trust_is_said(shapes_root: Path, tmp_path: Path):
    """With the option the code runs, and stderr says which file it is."""
    calls, told = [], []
    for route in ('pretrained', 'resume', 'test', 'convert', 'neck', 'infer', 'export', 'attention map', 'report'):
        folder = made(tmp_path / f'{len(calls)}')
        path, witness = folder / 'a.pth', folder / 'executed'
        WRITERS['in meta'](path, f'touch {witness}')
        arguments = route_arguments(folder, shapes_root, path)[route]
        calls.append(Call([*arguments, '--trust-checkpoint'], str(folder)))
        told.append((route, folder / 'reported/best_1.pth' if route == 'report' else path, witness))
    for outcome, (route, path, witness) in zip(run_all(calls, limit=30), told, strict=True):
        assert f'WARNING: --trust-checkpoint: reading {path} WITH CODE ALLOWED' in outcome.stderr, (route, outcome.stderr[-2000:])
        assert witness.exists(), route


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
