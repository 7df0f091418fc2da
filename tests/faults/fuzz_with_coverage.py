"""Coverage-guided fuzzing of the reader of checkpoints; needs `pip install atheris`, and is not part of `make test`.

    python tests/faults/fuzz_with_coverage.py -runs=20000 -max_total_time=300

libFuzzer's options follow the script. What it finds is written to crash-… or timeout-… in the working directory.
"""

import argparse
import io
import itertools
import os
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=['ralamala_mm.checkpoints', 'pickle', 'zipfile']):
    import torch
    from mmengine.logging import HistoryBuffer

    from ralamala_mm.checkpoints import find_weights, read_checkpoint, recorded_backbone, recorded_classes
    from ralamala_mm.errors import UserError

FOLDER = Path(tempfile.mkdtemp(prefix='fuzz-'))
armed = False


def alarm(event: str, arguments: tuple) -> None:
    """Ends the process where something is executed; the reader would take an exception for damage of the file."""
    if armed and event in ('os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn', 'pickle.find_class', 'os.fork'):
        print(f'executed: {event} {arguments!r:.200}', file=sys.stderr, flush=True)
        os.abort()


def read_one(content: bytes) -> None:
    """The first byte says whether the rest is a file, or the pickle in an archive."""
    global armed
    path = FOLDER / 'a.pth'
    if content[:1] < b'\x80':
        path.write_bytes(content[1:])
    else:
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a/data.pkl', content[1:])
            archive.writestr('a/data/0', bytes(16))
    armed = True
    try:
        found = read_checkpoint(str(path))
        recorded_backbone(found)
        recorded_classes(found)
        find_weights(found, str(path))
    except UserError:
        return
    finally:
        armed = False


def seeds() -> Path:
    """Real files to begin with."""
    folder = FOLDER / 'corpus'
    folder.mkdir()
    shared = ('a',)
    for _ in range(5):
        shared = (shared, shared)
    content = dict(state_dict={'a': torch.zeros(4)}, meta=dict(epoch=1, classes=('a',), counts=Counter('aab'), shared=shared),
                   args=argparse.Namespace(lr=0.1), loss=HistoryBuffer([1.0], [1]), keys={(1, 2): 3, 2**61 - 1: 4, 5: {6, 7}})
    for legacy, protocol in itertools.product((False, True), (2, 5)):
        stream = io.BytesIO()
        torch.save(content, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
        (folder / f'file_{legacy}_{protocol}').write_bytes(b'\x00' + stream.getvalue())
        if not legacy:
            with zipfile.ZipFile(stream) as archive:
                name = next(name for name in archive.namelist() if name.endswith('data.pkl'))
                (folder / f'pickle_{protocol}').write_bytes(b'\xff' + archive.read(name))
    return folder


if __name__ == '__main__':
    sys.addaudithook(alarm)
    # Libfuzzer's own limits on an input: seconds, MiB, bytes. Options given by hand come later and count.
    atheris.Setup([sys.argv[0], '-timeout=10', '-rss_limit_mb=2048', '-max_len=20000', *sys.argv[1:], str(seeds())], read_one)
    atheris.Fuzz()
