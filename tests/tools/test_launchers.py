"""The launchers: what they refuse, what Slurm is given, and that signals and exit codes pass through."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from tool_modules import load_tool

from ralamala_mm.engine.elastic import exit_code
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/launch.py as a module."""
    monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))
    monkeypatch.syspath_prepend(str(ROOT))
    for name in list(os.environ):
        if name in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'JOIN_TIMEOUT') or name.startswith('PET_'):
            monkeypatch.delenv(name)
    return load_tool('launch')


@pytest.mark.parametrize(('arguments', 'expected'), [
    (['config.py', '--amp'], (0, ['config.py', '--amp'])),
    (['config.py', '--max-restarts', '0'], (0, ['config.py'])),
    (['config.py', '--max-restarts=2', '--cfg-options', 'a=b c'], (2, ['config.py', '--cfg-options', 'a=b c', '--resume'])),
    (['config.py', '--resume', '--max-restarts', '2', '--amp'], (2, ['config.py', '--resume', '--amp'])),
])
def test_restarts_resume(launch: ModuleType, arguments: list[str], expected: tuple):
    assert launch.take_restarts('train.py', arguments) == expected


@pytest.mark.parametrize(('script', 'arguments', 'sentence'), [
    ('train.py', ['--max-restarts', '2', '--resume', 'a.pth'], '--resume PATH: give --resume alone'),
    ('train.py', ['--resume=a.pth', '--max-restarts=2'], '--resume PATH: give --resume alone'),
    ('train.py', ['--max-restarts', '-1'], '--max-restarts must be 0 or more, not -1'),
    ('test.py', ['--max-restarts', '1'], '--max-restarts is for training'),
])
def test_restarts_that_are_refused(launch: ModuleType, script: str, arguments: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        launch.take_restarts(script, ['config.py', *arguments])


@pytest.mark.parametrize(('nodes', 'rank', 'variables', 'sentence'), [
    (2, 0, {}, 'NNODES=2 needs MASTER_ADDR'),
    (2, 2, dict(MASTER_ADDR='127.0.0.1'), 'numbered from 0 to 1'),
    (2, 0, dict(MASTER_ADDR='127.0.0.1', PORT='a'), 'PORT must be an integer of at least 0, got a'),
    (2, 1, dict(MASTER_ADDR='no-such-node.invalid'), 'MASTER_ADDR=no-such-node.invalid is not known on this node'),
])
def test_nodes_that_cannot_meet(launch: ModuleType, monkeypatch: pytest.MonkeyPatch, nodes: int, rank: int, variables: dict,
                                sentence: str):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        launch.rendezvous(nodes, rank, restarts=0)


def test_where_nodes_meet(launch: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    options = launch.rendezvous(2, 1, restarts=0)
    assert options == ['--nnodes', '2', '--node-rank', '1', '--master-addr', '127.0.0.1', '--master-port', '29500']
    both = [launch.rendezvous(2, rank, restarts=1) for rank in range(2)]
    settings = [options[options.index('--rdzv-conf') + 1] for options in both]
    assert [text.split(',')[0] for text in settings] == ['is_host=1', 'is_host=0']
    names = [options[options.index('--rdzv-id') + 1] for options in both]
    assert names[0] == names[1]
    alone = [launch.rendezvous(1, 0, restarts=1) for _ in range(2)]
    assert all('127.0.0.1:0' in options for options in alone)  # a free port
    assert alone[0] != alone[1]


def test_where_nodes_without_numbers_meet(launch: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """torchrun finds out by itself which one is node 0, and only c10d's rendezvous numbers nodes."""
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    options = launch.rendezvous(2, None, restarts=0)
    assert options[options.index('--rdzv-backend') + 1] == 'c10d'
    assert 'is_host' not in options[options.index('--rdzv-conf') + 1]


def test_restarts_that_the_job_allows(launch: ModuleType):
    assert launch.take_restarts('train.py', ['config.py'], 3) == (3, ['config.py', '--resume'])
    assert launch.take_restarts('train.py', ['config.py', '--max-restarts', '1'], 3) == (1, ['config.py', '--resume'])
    assert launch.take_restarts('test.py', ['config.py', 'a.pth'], 3) == (0, ['config.py', 'a.pth'])


@pytest.mark.parametrize(('script', 'words', 'variables', 'expected'), [
    ('dist_train.sh', ['c.py'], dict(PET_NPROC_PER_NODE='auto'), ['train.py', 'auto', 'c.py']),
    ('dist_train.sh', ['c.py', '--amp'], dict(PET_NPROC_PER_NODE='8'), ['train.py', '8', 'c.py', '--amp']),
    ('dist_train.sh', ['c.py', '4', '--amp'], dict(PET_NPROC_PER_NODE='8'), ['train.py', '4', 'c.py', '--amp']),
    ('dist_test.sh', ['c.py', 'a.pth'], dict(PET_NPROC_PER_NODE='8'), ['test.py', '8', 'c.py', 'a.pth']),
    ('dist_test.sh', ['c.py', 'a.pth', '2', '--tta'], {}, ['test.py', '2', 'c.py', 'a.pth', '--tta']),
    ('dist_train.sh', ['c.py'], {}, None), ('dist_test.sh', ['c.py', 'a.pth'], {}, None), ('dist_train.sh', [], {}, None),
])
def test_processes_of_a_node_may_come_from_the_job(script: str, words: list[str], variables: dict, expected: list[str] | None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith('PET_')}
    result = subprocess.run([TOOLS / script, *words], env=environment | dict(PYTHON='echo') | variables, capture_output=True,
                            text=True, check=False)
    if expected is None:
        assert result.returncode == 2
        assert 'GPUS' in result.stderr
    else:
        assert result.stdout.split()[1:] == expected


def test_what_is_overruled_is_named():
    environment = dict(os.environ, PET_NNODES='2', PET_NPROC_PER_NODE='4', NNODES='1', PYTHON=sys.executable)
    result = subprocess.run([TOOLS / 'dist_train.sh', 'no_such_config.py', '1'], env=environment, capture_output=True, text=True,
                            check=False)
    assert result.returncode == 1
    notes = [line for line in result.stderr.splitlines() if line.startswith('note: ')]
    assert notes == ['note: NNODES=1 is used, not 2 of PET_NNODES.',
                     'note: 1 processes are started on this node, not 4 of PET_NPROC_PER_NODE.']
    assert 'config no_such_config.py does not exist' in result.stderr


@pytest.mark.parametrize(('codes', 'expected'), [
    ([], 0), ([75, 75], 75), ([143, -15], 143), ([1, 143], 1), ([143, 1, -15], 1), ([-15, 75], 75), ([-9, 143], 137), ([-10], 75),
])
def test_exit_code_of_a_node(codes: list[int], expected: int):
    assert exit_code(codes) == expected


@pytest.mark.parametrize(('codes', 'expected'), [
    ([143, 1], 143), ([1, 143], 143), ([1, 75], 75), ([-9, 143], 143), ([1, 1], 1), ([1, -15], 1), ([-15, -15], 143),
])
def test_exit_code_of_a_node_that_was_told(codes: list[int], expected: int):
    """Processes that wait for one that has ended in order fail; that a checkpoint was not written is another thing."""
    assert exit_code(codes, signal.SIGTERM) == expected


# In train.py's place: saves on a signal, like it, and resumes. Rank 1 fails once when it is told to.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
rank = os.environ['RANK']
for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 75)):
    def stop(received, frame, code=code):
        time.sleep(1)
        (folder / f'saved{rank}').touch()
        os._exit(code)
    signal.signal(number, stop)
with (folder / f'started{rank}').open('a') as file:
    print(sys.argv[2:], file=file)
if 'fail once' in sys.argv:
    if (folder / 'failed').exists():
        sys.exit()
    if rank == '1':
        (folder / 'failed').touch()
        sys.exit(3)
if 'fail' in sys.argv:
    sys.exit(4)
time.sleep(60)
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """A copy of launch.py beside a stand-in for train.py."""
    tools = tmp_path / 'some tools'
    tools.mkdir()
    for name in ('launch.py', 'dist_train.sh'):
        shutil.copy(TOOLS / name, tools)
    (tools / 'train.py').write_text(STAND_IN)
    return tools / 'dist_train.sh'


def start(launcher: Path, folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([launcher, folder, '2', *arguments], stderr=subprocess.PIPE, text=True, cwd=folder,
                            env=dict(os.environ, PYTHON=sys.executable, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))


def started(folder: Path) -> list[str]:
    return [line for file in sorted(folder.glob('started*')) for line in file.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_reaches_the_processes(launcher: Path, tmp_path: Path, number: signal.Signals, code: int):
    """They save, the exit code passes through, and nothing is started again."""
    process = start(launcher, tmp_path, 'with a space', '--max-restarts', '3')
    while len(started(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert sorted(path.name for path in tmp_path.glob('saved*')) == ['saved0', 'saved1']
    assert started(tmp_path) == [str(['with a space', '--resume', '--launcher', 'pytorch'])] * 2


@pytest.mark.slow
def test_restarts(launcher: Path, tmp_path: Path):
    process = start(launcher, tmp_path, 'fail once', '--max-restarts', '1')
    assert process.wait(timeout=60) == 0
    assert len(started(tmp_path)) >= 3  # rank 1 twice; rank 0 may have been ended before it began
    assert all("'--resume'" in line for line in started(tmp_path))


@pytest.mark.slow
def test_an_exit_code_passes_through(launcher: Path, tmp_path: Path):
    process = start(launcher, tmp_path, 'fail')
    assert process.wait(timeout=60) == 4
    assert all('--resume' not in line for line in started(tmp_path))
    assert 'Traceback' not in process.stderr.read()


# In Slurm's place. Each writes down what it was given and runs it.
SLURM = {
    'srun': 'printf "%s\\n" "$@" >"$SEEN/srun"; while [[ $1 == -* ]]; do [[ $1 == -p ]] && shift; shift; done\nexec "$@"',
    'sbatch': 'printf "%s\\n" "$@" >"$SEEN/sbatch"; cat >"$SEEN/job"; export SLURM_JOB_ID=17\nbash "$SEEN/job"',
    'scontrol': 'printf "%s\\n" "$@" >"$SEEN/scontrol"',
    'python-stand-in': 'printf "%s\\n" "$@" >"$SEEN/python"; [[ ${WAITS:-} ]] && { trap "exit ${CODE:-75}" USR1 TERM; '
                       'echo $$ >"$SEEN/pid"; while :; do sleep 0.05; done; }\nexit "${CODE:-0}"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which each of the stand-ins leaves its arguments, one a line."""
    programs, seen = tmp_path / 'bin', tmp_path / 'seen'
    programs.mkdir()
    seen.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(f'#!/usr/bin/env bash\n{text}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
    monkeypatch.setenv('SEEN', str(seen))
    monkeypatch.setenv('PYTHON', 'python-stand-in')
    for name in ('SBATCH', 'SBATCH_ARGS', 'SRUN_ARGS', 'GRES', 'GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK'):
        monkeypatch.delenv(name, raising=False)
    return seen


def submit(script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run([TOOLS / script, *map(str, arguments)], env=dict(os.environ, **variables), capture_output=True,
                          text=True, timeout=60, check=False)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_slurm_in_the_terminal(slurm: Path):
    result = submit('slurm_train.sh', 'gpu', 'a job', 'my config.py', 'work dir', '--cfg-options', 'a=b c',
                    GPUS='16', SRUN_ARGS='--quotatype=auto  --nodes=2', CODE='75')
    assert result.returncode == 75, result.stderr
    assert lines(slurm / 'srun')[:10] == [
        '--ntasks=16', '--ntasks-per-node=8', '--cpus-per-task=5', '--gres=gpu:8', '--kill-on-bad-exit=1', '-p', 'gpu',
        '--job-name=a job', '--quotatype=auto', '--nodes=2']
    assert lines(slurm / 'python') == ['-u', str(TOOLS / 'train.py'), 'my config.py', '--cfg-options', 'a=b c',
                                       '--launcher', 'slurm', '--work-dir=work dir']


def test_slurm_on_nodes_without_gpus(slurm: Path):
    assert submit('slurm_test.sh', 'cpu', 'job', 'config.py', 'a b.pth', '--out', 'c d', GPUS='2', GRES='').returncode == 0
    assert lines(slurm / 'srun')[:2] == ['--ntasks=2', '--ntasks-per-node=2']
    assert not any(word.startswith('--gres') for word in lines(slurm / 'srun'))
    assert lines(slurm / 'python') == [
        '-u', str(TOOLS / 'test.py'), 'config.py', 'a b.pth', '--out', 'c d', '--launcher', 'slurm']


@pytest.mark.parametrize(('code', 'requeued'), [('0', False), ('1', False), ('75', True), ('143', False)])
def test_a_batch_job_is_queued_again(slurm: Path, code: str, requeued: bool):
    result = submit('slurm_train.sh', 'gpu', 'job', 'my $config.py', 'work "dir', '--amp', SBATCH='1', CODE=code,
                    SBATCH_ARGS='--time=1:00:00')
    assert result.returncode == int(code), result.stderr
    given = lines(slurm / 'sbatch')
    assert {'--requeue', '--open-mode=append', '--signal=B:USR1@180', '--time=1:00:00', '--gres=gpu:8'} <= set(given)
    assert lines(slurm / 'python') == ['-u', str(TOOLS / 'train.py'), 'my $config.py', '--amp', '--launcher', 'slurm',
                                       '--work-dir=work "dir', '--resume']
    assert (slurm / 'scontrol').exists() == requeued
    if requeued:
        assert lines(slurm / 'scontrol') == ['requeue', '17']


def start_job(slurm: Path, code: int) -> subprocess.Popen:
    """The batch script that was submitted, whose training waits for a signal and then ends with a code."""
    job = subprocess.Popen(['bash', slurm / 'job'], env=dict(os.environ, SLURM_JOB_ID='17', WAITS='1', CODE=str(code)))
    deadline = time.monotonic() + 30
    while not (slurm / 'pid').exists() or not (slurm / 'pid').read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job


@pytest.mark.parametrize(('name', 'requeued'), [('USR1', True), ('TERM', False)])
def test_a_signal_to_a_batch_job(slurm: Path, name: str, requeued: bool):
    """USR1 to the batch script reaches the training; on TERM it waits for the training, which Slurm signals itself."""
    submit('slurm_train.sh', 'gpu', 'job', 'config.py', 'work', SBATCH='1')  # leaves the job's script
    code = 75 if requeued else 143
    job = start_job(slurm, code)
    job.send_signal(getattr(signal, f'SIG{name}'))
    if name == 'TERM':
        time.sleep(0.3)
        assert job.poll() is None
        os.kill(int((slurm / 'pid').read_text()), signal.SIGTERM)
    assert job.wait(timeout=30) == code
    assert (slurm / 'scontrol').exists() == requeued


@pytest.mark.parametrize('options', [[], ['--cfg-options', 'model.backbone.with_cp=True', 'x=1']])
def test_each_task_of_an_array_is_a_training(slurm: Path, options: list[str]):
    result = submit('slurm_train.sh', 'gpu', 'job', 'config.py', 'work dir', *options, SBATCH='1', SBATCH_ARGS='--array=0-4',
                    SLURM_ARRAY_TASK_ID='3')
    assert result.returncode == 0, result.stderr
    words = lines(slurm / 'python')
    assert '--work-dir=work dir/3' in words
    assert words.count('--cfg-options') == 1
    i = words.index('--cfg-options')
    assert words[i + 1:i + 4] == ['randomness.seed=3', *(options[1:] or ['--work-dir=work dir/3', '--resume'])]


def test_a_task_of_an_array_is_queued_again_alone(slurm: Path):
    """The first task's job has the array's own number, which stands for all tasks."""
    result = submit('slurm_train.sh', 'gpu', 'job', 'config.py', 'work', SBATCH='1', CODE='75', SLURM_JOB_ID='17',
                    SLURM_ARRAY_JOB_ID='17', SLURM_ARRAY_TASK_ID='0')
    assert result.returncode == 75, result.stderr
    assert lines(slurm / 'scontrol') == ['requeue', '17_0']


def test_a_failure_after_the_signal_is_not_queued_again(slurm: Path):
    submit('slurm_train.sh', 'gpu', 'job', 'config.py', 'work', SBATCH='1')
    job = start_job(slurm, 1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == 1
    assert not (slurm / 'scontrol').exists()


def test_what_slurm_launchers_refuse(slurm: Path):
    for script, shown in (('slurm_train.sh', 'CONFIG WORK_DIR'), ('slurm_test.sh', 'CONFIG CHECKPOINT')):
        result = submit(script, 'gpu', 'job', 'config.py')
        assert result.returncode == 2
        assert shown in result.stderr
    for words in (['--resume', 'a.pth'], ['--resume=a.pth'], ['--resum', 'a.pth']):
        result = submit('slurm_train.sh', 'gpu', 'job', 'config.py', 'work', *words, SBATCH='1')
        assert re.fullmatch(r'error: SBATCH=1 continues from the newest checkpoint.*\.\n', result.stderr)
        assert result.returncode == 1
    result = submit('slurm_train.sh', 'gpu', 'job', 'config.py', 'work', GPUS='eight')
    assert result.stderr == 'error: GPUS must be an integer of at least 1, got eight.\n'
