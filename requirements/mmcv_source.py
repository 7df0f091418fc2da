"""mmcv's source, unpacked by pip with the user's index settings, and fixed where a newer Python or torch needs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Fix(NamedTuple):
    """A replacement in mmcv's setup.py, made wherever the pattern is found."""

    pattern: str
    replacement: str


FIXES = (
    # Since Python 3.13 exec() no longer writes into locals(): KeyError '__version__'.
    # Open upstream: github.com/open-mmlab/mmengine/issues/1616 (the same lines stand in mmcv).
    Fix(r"(\n\s+)exec\(compile\((.+), 'exec'\)\)(\n\s+)return locals\(\)\['__version__'\]",
        r"\1names = {}\1exec(compile(\2, 'exec'), names)\3return names['__version__']"),
    # The headers of torch 2.13 and newer are C++20. Without a standard of mmcv's own, BuildExtension takes that of the
    # torch that is installed, for C++ and CUDA (torch/utils/cpp_extension.py, append_std17_if_no_std_present).
    Fix(r"(, )?'-std=c\+\+1[47]'", ''),
)


class SourceError(Exception):
    """The source could not be fetched; holds pip's output."""


def fix(setup: str) -> str:
    """The text of mmcv's setup.py with every fix that applies to it."""
    for pattern, replacement in FIXES:
        setup = re.sub(pattern, replacement, setup)
    return setup


def fetch(requirement: str, folder: Path) -> Path:
    """Downloads and unpacks a source distribution below `folder`, and returns its fixed root.

    pip asks setup.py for its metadata before it hands a source distribution over, which is what fails on Python 3.13:
    `--no-clean` leaves the unpacked source there, whether the question was answered or not.

    Raises:
        SourceError: pip could not fetch it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'pip', 'download', '--no-clean', '--no-deps', '--no-build-isolation', '--no-binary',
               requirement.split('==')[0], '--dest', str(folder / 'downloaded'), requirement]
    result = subprocess.run(command, env=dict(os.environ, TMPDIR=str(folder)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, errors='replace', check=False)
    unpacked = [path.parent for path in folder.glob('pip-download-*/*/setup.py') if (path.parent / 'mmcv').is_dir()]
    if not unpacked:
        raise SourceError(result.stdout)
    setup = unpacked[0] / 'setup.py'
    setup.write_text(fix(setup.read_text(encoding='utf-8')), encoding='utf-8')
    return unpacked[0]
