"""Every command in README and docs is run, in a folder where the names that they use stand for small things.

Configs of that name hold the same kind of model with 0.1 M parameters, the data sets are the built-in shapes, the weights are
fresh. What needs a GPU is left out of a command, and what takes minutes is made smaller: see `SMALLER`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import Call, Outcome, run_all
from pages import ROOT, Command, commands

from ralamala_mm import RAVLT

COMMANDS = commands()
# What a command says, and what is run instead on a machine without a GPU and without hours.
SMALLER = {
    ' --amp': '', ' --device cuda': '',
    '--shape 800 1333': '--shape 64 64', '--shape 800 1280': '--shape 64 64',
    ' mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py': '',
    'compare_coco_metrics.py --images 1000': 'compare_coco_metrics.py --images 8',
}
ADDED = {
    'compare_coco_metrics.py': ' --images 9',
    'profile_step.py configs/maskrcnn_ravlt_s.py': ' --iterations 1 --val-images 1',
}
SEGMENTORS = ('semanticfpn', 'upernet')


def is_tool(command: Command) -> bool:
    return command.words[0] == 'python' and command.words[1].startswith('tools/')


def is_launcher(command: Command) -> bool:
    return bool(re.fullmatch(r'tools/(dist|slurm)_\w+\.sh', command.words[0]))


TOOLS = [command for command in COMMANDS if is_tool(command)]
LAUNCHERS = [command for command in COMMANDS if is_launcher(command)]
OTHERS = [command for command in COMMANDS if not is_tool(command) and not is_launcher(command)]


def named(pattern: str) -> set[str]:
    return {word for command in COMMANDS for word in command.words if re.fullmatch(pattern, word)}


def base_of(name: str) -> Path:
    """The small config that stands for one of this name."""
    return ROOT / 'tests/faults/configs' / ('tiny_segmentor.py' if name.startswith(SEGMENTORS) else 'tiny_detector.py')


def make_configs(folder: Path) -> None:
    """A small stand-in for each config that is named."""
    for name in named(r'configs/.*\.py'):
        assert (ROOT / name).is_file(), f'{name} does not exist'
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'''_base_ = {str(base_of(path.stem))!r}
data_root = 'data/shapes'
train_cfg = dict({'max_iters=2' if path.stem.startswith(SEGMENTORS) else 'max_epochs=1'}, val_interval=1)
''')


def make_weights(folder: Path) -> None:
    """Fresh weights under each name."""
    from mmengine.config import Config

    from ralamala_mm.engine import build_model

    for name in named(r'.*\.pth'):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if 'RAVLT' in name:
            torch.save(RAVLT(arch=name[6].lower()).state_dict(), path)
            continue
        config = Config.fromfile(base_of(path.parent.name), lazy_import=False)
        torch.save(dict(state_dict=build_model(config).state_dict(), meta=dict()), path)


@pytest.fixture(scope='module')
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are run."""
    from ralamala_mm.datasets.shapes import make_shapes

    folder = tmp_path_factory.mktemp('workplace')
    for name in ('tools', 'ralamala_mm', 'requirements', 'pyproject.toml'):
        (folder / name).symlink_to(ROOT / name)
    make_shapes(folder / 'data' / 'shapes', train=6, val=3, size=64)
    (folder / 'data' / 'ade').mkdir()
    for name in ('my_images', 'data/coco', 'data/ade/ADEChallengeData2016'):
        (folder / name).symlink_to(folder / 'data' / 'shapes')
    make_configs(folder)
    make_weights(folder)
    return folder


def made_smaller(command: Command) -> list[str]:
    """The tool and its arguments as they are run."""
    line = command.line + next((more for end, more in ADDED.items() if command.line.endswith(end)), '')
    for text, smaller in SMALLER.items():
        line = line.replace(text, smaller)
    return Command('', line).words[1:]


@pytest.fixture(scope='module')
def outcomes(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How each tool's command ended."""
    calls = []
    for command in TOOLS:
        streams = tmp_path_factory.mktemp('streams')
        calls.append(Call(made_smaller(command), str(streams), command.variables, str(workplace)))
    return {command.line: outcome for command, outcome in zip(TOOLS, run_all(calls, limit=240), strict=True)}


def test_there_are_commands():
    assert len(TOOLS) >= 12
    assert len(LAUNCHERS) >= 6
    assert {'make', 'source', 'pip'} <= {command.words[0] for command in OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize('command', TOOLS, ids=lambda command: command.line)
def test_tools(command: Command, outcomes: dict[str, Outcome]):
    outcome = outcomes[command.line]
    assert outcome.code == 0, f'{command.page}: {command.line}\n{outcome.stdout[-2000:]}\n{outcome.stderr[-3000:]}'


@pytest.mark.slow
@pytest.mark.parametrize('command', LAUNCHERS, ids=lambda command: command.line)
def test_launchers(command: Command, workplace: Path, tmp_path: Path):
    """Up to what they start, which is as in the commands of train.py and test.py; tests/clusters starts it."""
    for name in ('python', 'srun', 'sbatch', 'scontrol'):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', **command.variables)
    result = subprocess.run(['bash', *command.words], cwd=workplace, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    started = re.search(r'^(python|srun|sbatch) .*', result.stdout, re.MULTILINE)
    script = re.sub(r'.*_(\w+)\.sh', r'\1.py', command.words[0])
    config = next(word for word in command.words if word.startswith('configs/'))
    assert script.removesuffix('.py') in started[0]
    assert config in started[0]
    for option in [word for word in command.words if word.startswith('--')]:
        assert option in started[0]
    options = [word for word in command.words if word.startswith('--') and word != '--max-restarts']  # launch.py's own
    helped = subprocess.run([sys.executable, ROOT / 'tools' / script, '--help'], capture_output=True, text=True, check=True)
    assert [option for option in options if option not in helped.stdout] == []


@pytest.mark.parametrize('command', OTHERS, ids=lambda command: command.line)
def test_others(command: Command):
    """Those that set up, which is done before any test, name things that exist."""
    program, *words = command.words
    if program == 'make':
        assert re.search(rf'^{words[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    elif program == 'pip':
        assert words[0] == 'install'
        assert all((ROOT / word).exists() for word in words if word.endswith('.txt') or word == '.')
    elif program == 'source':
        assert words == ['.venv/bin/activate']
    else:
        assert program == 'python' or program.startswith('tools/'), command.line
        assert (ROOT / (words[0] if program == 'python' else program)).exists()
