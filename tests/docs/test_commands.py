"""Every command in README and docs is run, in a folder where the names that they use stand for small things.

Configs of that name hold the same kind of model with 0.1 M parameters, the data sets are the built-in shapes, weights are
fresh, trainings come first. What needs a GPU is left out of a command, and what takes minutes is made smaller: see `SMALLER`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Call, Outcome, run_all
from pages import ROOT, Command, commands

COMMANDS = commands()
# What a command says, and what is run instead on a machine without a GPU and without hours.
SMALLER = {
    ' --amp': '', ' --device cuda': '',
    '--shape 800 1333': '--shape 64 64', '--shape 800 1280': '--shape 64 64',
    ' mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py': '',
    'compare_coco_metrics.py --images 1000': 'compare_coco_metrics.py --images 8',
    'RAVLT_S.pth --backbone-only': 'backbone.pth --backbone-only',
    '--shape 256 320': '--shape 64 96', '--tile 1024': '--tile 128',
    '--classes car truck': '--classes star circle', '--point 320 240': '--point 32 24',
}
ADDED = {
    'make_shapes.py': ' data/more --train 4 --val 2',
    'compare_coco_metrics.py': ' --images 9',
    'profile_step.py configs/maskrcnn_ravlt_s.py': ' --iterations 1 --val-images 1',
}


CLUSTERS = ('docker', 'kubectl', 'sky')  # what only a cluster or a daemon could run
WITHOUT_A_CAMERA = {'python tools/infer.py configs/retinanet_ravlt_s.py work_dirs/retinanet_ravlt_s/epoch_12.pth 0'}


def is_tool(command: Command) -> bool:
    return command.words[0] == 'python' and command.words[1].startswith('tools/')


def is_launcher(command: Command) -> bool:
    return bool(re.fullmatch(r'tools/(dist|slurm)_\w+\.sh', command.words[0]))


TOOLS = [command for command in COMMANDS if is_tool(command)]
LAUNCHERS = [command for command in COMMANDS if is_launcher(command)]
OTHERS = [command for command in COMMANDS if not is_tool(command) and not is_launcher(command)]


def made_smaller(command: Command) -> list[str]:
    """The tool and its arguments as they are run."""
    line = command.line + next((more for end, more in ADDED.items() if command.line.endswith(end)), '')
    for text, smaller in SMALLER.items():
        line = line.replace(text, smaller)
    return Command('', line).words[1:]


@pytest.fixture(scope='module')
def outcomes(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How each tool's command ended."""
    def run(chosen: list[Command], at_once: int) -> dict[str, Outcome]:
        calls = [Call(made_smaller(command), str(tmp_path_factory.mktemp('streams')), command.variables, str(workplace))
                 for command in chosen]
        return {command.line: outcome for command, outcome in zip(chosen, run_all(calls, 240, at_once), strict=True)}

    trainings = [command for command in TOOLS if command.words[1] == 'tools/train.py']
    found = run(trainings, at_once=1)  # several use the same work directory
    trained = workplace / 'work_dirs' / 'maskrcnn_ravlt_s'
    shutil.copytree(trained, workplace / 'work_dirs' / 'demo', dirs_exist_ok=True)  # as make demo leaves it
    (workplace / 'work_dirs' / 'demo' / 'maskrcnn_ravlt_s.py').replace(
        workplace / 'work_dirs' / 'demo' / 'maskrcnn_ravlt_t_shapes.py')
    return found | run([command for command in TOOLS if command not in trainings], at_once=2)


def test_there_are_commands():
    assert len(TOOLS) >= 12
    assert len(LAUNCHERS) >= 6
    assert {'make', 'source', 'pip', *CLUSTERS} <= {command.words[0] for command in OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize('command', TOOLS, ids=lambda command: command.line)
def test_tools(command: Command, outcomes: dict[str, Outcome]):
    outcome = outcomes[command.line]
    if command.line in WITHOUT_A_CAMERA:
        assert outcome.code == 1
        assert 'camera 0 cannot be opened' in outcome.stderr, outcome.stderr
        return
    assert outcome.code == 0, f'{command.page}: {command.line}\n{outcome.stdout[-2000:]}\n{outcome.stderr[-3000:]}'


@pytest.mark.slow
@pytest.mark.parametrize('command', LAUNCHERS, ids=lambda command: command.line)
def test_launchers(command: Command, workplace: Path, tmp_path: Path):
    """Up to what they start, which is as in the commands of train.py and test.py; tests/clusters starts it."""
    for name in ('python', 'srun', 'sbatch', 'scontrol'):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n{"cat" if name == "sbatch" else ""}\n')
        (tmp_path / name).chmod(0o755)
    environment = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON='python', **command.variables)
    result = subprocess.run(['bash', *command.words], cwd=workplace, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    script = re.sub(r'.*_(\w+)\.sh', r'\1.py', command.words[0])
    config = next(word for word in command.words if word.startswith('configs/'))
    assert script in result.stdout
    assert config in result.stdout
    for option in [word for word in command.words if word.startswith('--')]:
        assert option in result.stdout
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
    elif program in CLUSTERS:
        files = [word for word in words if re.match(r'(docs|tools|configs)/', word)]
        assert [file for file in files if not (ROOT / file).exists()] == []
        assert files or words[0] == 'build'
    elif program == 'source':
        assert words == ['.venv/bin/activate']
    else:
        assert program == 'python' or program.startswith('tools/'), command.line
        assert (ROOT / (words[0] if program == 'python' else program)).exists()
