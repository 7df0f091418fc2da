"""Runs command lines of the tools quickly: each in a process forked from one that has imported the stack and done nothing else.

    outcomes = run_all([Call(['tools/train.py', 'a.py'], folder)])

What a tool imports by itself, and when, cannot be tested so.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')


@dataclass(frozen=True)
class Call:
    """A tool's arguments, beginning with the script as seen from `cwd`; its streams go to files in `folder`."""

    arguments: list[str]
    folder: str
    variables: dict[str, str] = field(default_factory=dict)
    cwd: str = str(ROOT)


@dataclass(frozen=True)
class Outcome:
    """How a call ended; `code` is None if it had to be killed."""

    code: int | None
    seconds: float
    stdout: str
    stderr: str


def run_all(calls: Sequence[Call], limit: float = 60, at_once: int = 2) -> list[Outcome]:
    """Runs the calls, so many at a time; one that takes more than `limit` seconds is killed.

    They get the environment variables of this process as they are now, and one thread: a process that has used several
    cannot be forked safely.
    """
    server = _server()
    variables = dict(os.environ, **_ONE_THREAD)
    server.stdin.write(json.dumps(dict(limit=limit, at_once=at_once, environment=variables,
                                       calls=[asdict(call) for call in calls])) + '\n')
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, 'the process that forks has ended; its messages are above'
    return [Outcome(code, seconds, *(Path(call.folder, name).read_text(errors='replace') for name in ('stdout', 'stderr')))
            for call, (code, seconds) in zip(calls, json.loads(answer), strict=True)]


@cache
def _server() -> subprocess.Popen:
    """The process that forks, of which each test process has one; it ends with its input."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                            env=dict(os.environ, **_ONE_THREAD))


def _become_tool(call: Call, environment: dict[str, str]) -> None:
    """Turns a forked process into the tool; never returns."""
    code = 0
    os.setsid()
    for name, descriptor in (('stdout', 1), ('stderr', 2)):
        os.dup2(os.open(Path(call.folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment | call.variables)
    os.chdir(call.cwd)
    sys.argv = call.arguments
    sys.path[0] = str(Path(call.arguments[0]).resolve().parent)
    try:
        runpy.run_path(call.arguments[0], run_name='__main__')
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(calls: Sequence[Call], limit: float, at_once: int, environment: dict[str, str]) -> list[tuple[int | None, float]]:
    """Exit code and seconds of each call."""
    waiting = list(enumerate(calls))
    results: list[tuple[int | None, float]] = [(None, 0.0)] * len(waiting)
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            i, call = waiting.pop(0)
            child = os.fork()
            if child == 0:
                _become_tool(call, environment)
            running[child] = (i, time.monotonic())
        for child, (i, started) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            seconds = time.monotonic() - started
            if ended:
                results[i] = (os.waitstatus_to_exitcode(status), seconds)
            elif seconds > limit:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                results[i] = (None, seconds)
            else:
                continue
            del running[child]
        time.sleep(0.01)
    return results


def _serve() -> None:
    answers = os.fdopen(os.dup(1), 'w')  # which children do not inherit as their output
    os.dup2(2, 1)  # libraries print while they are imported
    import mmdet.apis
    import mmseg.apis
    import torch._dynamo  # which every optimizer imports

    import ralamala_mm.datasets
    from ralamala_mm.engine import load_config

    assert all((mmdet, mmseg, torch, ralamala_mm))
    load_config('configs/demo/maskrcnn_ravlt_t_shapes.py')  # imports what MMEngine finds other packages' configs with
    assert len(os.listdir('/proc/self/task')) == 1, 'a process of several threads is not to be forked'
    for line in sys.stdin:
        request = json.loads(line)
        calls = [Call(**call) for call in request['calls']]
        print(json.dumps(_run(calls, request['limit'], request['at_once'], request['environment'])), file=answers, flush=True)


if __name__ == '__main__':
    _serve()
