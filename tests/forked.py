"""Runs many command lines quickly: each in a process forked from one that has imported the stack and done nothing else.

    outcomes = run_all([Call(['tools/train.py', 'a.py'], folder)])
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


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
    """Runs the calls, so many at a time; one that takes more than `limit` seconds is killed."""
    # One thread: a process that has used several cannot be forked safely.
    environment = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    request = json.dumps(dict(limit=limit, at_once=at_once, calls=[asdict(call) for call in calls]))
    server = subprocess.run([sys.executable, __file__], input=request, cwd=ROOT, env=environment, capture_output=True, text=True,
                            timeout=120 + limit * len(calls), check=False)
    assert server.returncode == 0, server.stderr[-3000:]
    results = json.loads(server.stdout.splitlines()[-1])
    return [Outcome(code, seconds, *(Path(call.folder, name).read_text(errors='replace') for name in ('stdout', 'stderr')))
            for call, (code, seconds) in zip(calls, results, strict=True)]


def _become_tool(call: Call) -> None:
    """Turns a forked process into the tool; never returns."""
    code = 0
    os.setsid()
    for name, descriptor in (('stdout', 1), ('stderr', 2)):
        os.dup2(os.open(Path(call.folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(call.variables)
    os.chdir(call.cwd)
    sys.argv = call.arguments
    try:
        runpy.run_path(call.arguments[0], run_name='__main__')
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    import mmdet.apis
    import mmseg.apis

    import ralamala_mm.datasets
    import ralamala_mm.engine

    assert all((mmdet, mmseg, ralamala_mm))
    assert len(os.listdir('/proc/self/task')) == 1, 'a process of several threads is not to be forked'
    request = json.load(sys.stdin)
    waiting = [(i, Call(**call)) for i, call in enumerate(request['calls'])]
    results: list[tuple[int | None, float]] = [(None, 0.0)] * len(waiting)
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < request['at_once']:
            i, call = waiting.pop(0)
            child = os.fork()
            if child == 0:
                _become_tool(call)
            running[child] = (i, time.monotonic())
        for child, (i, started) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            seconds = time.monotonic() - started
            if not ended and seconds > request['limit']:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            if ended:
                results[i] = (os.waitstatus_to_exitcode(status), seconds)
            if ended or seconds > request['limit']:
                results[i] = (results[i][0], seconds)
                del running[child]
        time.sleep(0.01)
    print(json.dumps(results))


if __name__ == '__main__':
    _serve()
