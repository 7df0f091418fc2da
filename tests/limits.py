"""A bound on time and memory for code that a file could keep busy for ever.

    with limited(seconds=10, memory=2**28):
        attempt(path)
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _OverdueError(BaseException):
    """Not an Exception: a reader takes those for damage of the file."""


@contextmanager
def limited(seconds: float, memory: int) -> Iterator[None]:
    """Fails if the block takes longer than so many seconds; allocating more than `memory` bytes on top raises within it."""

    def interrupt(*_) -> None:
        raise _OverdueError

    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, interrupt)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OverdueError as error:
        raise AssertionError(f'not done after {seconds} s') from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
