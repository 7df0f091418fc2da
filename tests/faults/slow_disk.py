"""For configs of the tests (`custom_imports`): a disk that takes its time, so that a kill meets a checkpoint half-written."""

import time
from pathlib import Path

from mmengine.fileio import register_backend

from ralamala_mm.engine.checkpointing import DurableBackend
from ralamala_mm.files import atomic_write

PARTS = 20
SECONDS = 0.6


class SlowDurableBackend(DurableBackend):
    """Writes a file in parts, with a pause after each."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        step = len(obj) // PARTS + 1

        def write(unfinished: Path) -> None:
            with unfinished.open('wb') as file:
                for begin in range(0, len(obj), step):
                    file.write(obj[begin:begin + step])
                    file.flush()
                    time.sleep(SECONDS / PARTS)

        atomic_write(filepath, write, durable=True)


register_backend('durable', SlowDurableBackend, force=True)
