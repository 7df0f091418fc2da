"""Two nodes on one machine: network namespaces joined by a virtual cable."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ADDRESSES = ('10.213.77.1', '10.213.77.2')


def why_not() -> str | None:
    """Why this machine cannot have namespaces; None if it can."""
    if not shutil.which('ip'):
        return 'the command ip (iproute2) is not installed'
    name = f'rala-probe-{os.getpid()}'
    result = subprocess.run(['ip', 'netns', 'add', name], capture_output=True, text=True, check=False)
    if result.returncode:
        return f'network namespaces are not allowed here: {result.stderr.strip()}'
    subprocess.run(['ip', 'netns', 'delete', name], check=True)
    return None


class TwoNodes:
    """A context with two namespaces that reach each other under `ADDRESSES`; whatever runs in them ends with it."""

    def __init__(self) -> None:
        self.names = [f'rala-{os.getpid()}-{i}' for i in range(2)]
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> 'TwoNodes':
        try:
            cable = [f'rala{os.getpid() % 10**7}{end}' for end in 'ab']  # 15 characters at most
            for name in self.names:
                _ip('netns', 'add', name)
            _ip('link', 'add', cable[0], 'netns', self.names[0], 'type', 'veth', 'peer', 'name', cable[1],
                'netns', self.names[1])
            for name, device, address in zip(self.names, cable, ADDRESSES, strict=True):
                _ip('-n', name, 'address', 'add', f'{address}/24', 'dev', device)
                _ip('-n', name, 'link', 'set', device, 'up')
                _ip('-n', name, 'link', 'set', 'lo', 'up')
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for i, name in enumerate(self.names):
            self.kill(i)
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True, check=False)
        for process in self.processes:
            process.wait()

    def start(self, node: int, log: Path, *command: object, **variables: str) -> subprocess.Popen:
        """Starts a command on a node, with both streams into a file."""
        with log.open('a') as file:
            process = subprocess.Popen(['ip', 'netns', 'exec', self.names[node], *map(str, command)], stdout=file, stderr=file,
                                       env=dict(os.environ, NODE_RANK=str(node), **variables))
        self.processes.append(process)
        return process

    def kill(self, node: int) -> int:
        """Ends everything on a node with SIGKILL, as a power cut would; how many processes there were."""
        result = subprocess.run(['ip', 'netns', 'pids', self.names[node]], capture_output=True, text=True, check=False)
        pids = [int(pid) for pid in result.stdout.split()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


def _ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True)
