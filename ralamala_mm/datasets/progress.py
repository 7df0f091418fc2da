"""How far a long inspection is, on stderr."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from mmengine.utils import ProgressBar

Item = TypeVar('Item')
Result = TypeVar('Result')
_THREADS = 16
_SHORT = 1  # seconds after which a bar is worth it
_SECONDS = 15  # between two lines where stderr is no terminal


class Progress:
    """How far it is and how long it still takes, on stderr: MMEngine's bar on a terminal, a line now and then elsewhere.

    Nothing is printed of what is short.
    """

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.begun = self.reported = time.monotonic()
        self.bar: ProgressBar | None = None

    def advance(self, count: int) -> None:
        now = time.monotonic()
        if self.bar is None and sys.stderr.isatty() and now - self.begun >= _SHORT:
            self.bar = ProgressBar(self.total, file=sys.stderr)
            self.bar.completed = self.done
        self.done += count
        if self.bar:
            self.bar.update(count)
        elif now - self.reported >= _SECONDS:
            self.reported = now
            left = timedelta(seconds=round((now - self.begun) / self.done * (self.total - self.done)))
            print(f'  {self.what}: {self.done}/{self.total}, {left} left', file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Prints a line of its own."""
        print(f'\n{text}' if self.bar else text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.bar:
            print(file=sys.stderr)


def in_threads(function: Callable[[Item], Result], items: Collection[Item], what: str, show: bool) -> Iterator[Result]:
    """What a function returns for each item, in order, computed in a few threads.

    Args:
        function: it reads or writes files, for which threads wait.
        items: what it is called with.
        what: is done, for the progress.
        show: whether progress is printed.
    """
    progress = Progress(what, len(items)) if show else None
    with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:
        try:
            for result in pool.map(function, items):
                yield result
                if progress:
                    progress.advance(1)
        finally:
            if progress:
                progress.end()
