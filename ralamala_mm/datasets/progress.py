"""How far a long inspection is, on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from mmengine.utils import ProgressBar

Item = TypeVar('Item')
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


def with_progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items, and how far it is with them; nothing is printed where the total is 0."""
    progress = Progress(what, total) if total else None
    try:
        for item in items:
            yield item
            if progress:
                progress.advance(1)
    finally:
        if progress:
            progress.end()
