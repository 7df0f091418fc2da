"""What a bad input is: files and arguments that a user may well have, and the sentence that he must get."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BadInput:
    """One case of the corpus.

    `make(folder, shapes_root)` prepares files in an empty folder from a small copy of the built-in data, which it leaves
    alone, and returns a tool's arguments, beginning with the script: 'tools/train.py', ….
    """

    name: str
    make: Callable[[Path, Path], list[str]]
    sentence: str  # a regular expression, found in the line that begins with `error: `
    listed_skip: bool = False  # the tool continues, exits with 0, and lists what it left out: `sentence` is found in its output
