"""Results of inspections in the work directory, read again as long as nothing that they depend on has changed.

A result has a key: the arguments, the config's settings of data and model, and the versions of this package, of its code that
inspects, and of the libraries that read files. It holds while name, size, modification time and change time of every file below
the data's folders are the same (the change time cannot be set, so that an edit with the old size and time is noticed too), and
those of what was written into the work directory.

Not noticed: a data set class of the user's own that changed; files in the work directory, if that lies within the data's folder.
"""

import ast
import functools
import hashlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import cv2
import mmcv
import mmengine
import msgspec
import numpy as np
import PIL
from mmengine.config import Config
from msgspec import Raw, Struct
from msgspec.structs import asdict

from ralamala_mm import version
from ralamala_mm.files import UNFINISHED, atomic_write

from .config import MODES
from .report import Problem, Report

Result = TypeVar('Result')
# What an inspection reads of a config, and sets.
_SETTINGS = ('default_scope', 'custom_imports', 'data_root', 'model',
             *(f'{mode}_{part}' for mode in MODES for part in ('dataloader', 'evaluator')))
_KEPT = 6  # results of a file: of train.py, test.py, check_data.py, with other options
# Seconds. Of a file that changed just now, another change may bear the same time; FAT counts two by two.
_SETTLED = 2
_SUFFIX = '.inspected.json'
_NO_LITERALS = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)  # of `ast.literal_eval`


class _Entry(Struct):
    key: str
    data: str  # digest of the state of the data's files
    written: str  # digest of the state of WORK_DIR/data
    date: str
    settings: str  # `_SETTINGS` as Python literals, whose tuples JSON does not have
    result: Raw


class _KeptReport(Struct):
    """What is printed of a `Report`."""

    root: str
    layout: str
    splits: list[tuple[str, str]]
    classes: list[tuple[str, str]]
    problems: list[Problem]


class InspectionCache:
    """The results of one kind of inspection in WORK_DIR/data. What it reads is stated when it is made: make it before inspecting.

    Args:
        config: as it is before the inspection.
        kind: of inspection, the name of the file.
        arguments: what the result depends on besides; its `repr` says it all.
        folders: all files that are read lie in them, or are among them.
    """

    def __init__(self, config: Config, kind: str, arguments: object, folders: Sequence[Path | str]):
        self.folder = Path(config.work_dir, 'data').absolute()
        self.file = self.folder / f'{kind}{_SUFFIX}'
        settings = {name: _plain(config[name]) for name in _SETTINGS if name in config}
        self._key = _digest(repr((kind, arguments, os.getcwd(), str(self.folder), settings, _versions(config))))
        self._state, newest = _state(folders, self.folder.parent)
        self._is_settled = newest < time.time() - _SETTLED

    def read(self, kind: type[Result]) -> tuple[Result, dict, str] | None:
        """The result, the settings that it has left, and a sentence that says where it is from; None if none holds."""
        try:
            entry = next((entry for entry in self._entries() if entry.key == self._key and entry.data == self._state), None)
            if entry is None or entry.written != self._written():
                return None
            settings = dict(ast.literal_eval(entry.settings))
            text = f'unchanged since the inspection of {entry.date}: read from {self.file}; delete it to inspect anew'
            return msgspec.json.decode(entry.result, type=kind), settings, text
        except _NO_LITERALS as error:  # msgspec's among them
            logging.getLogger(__name__).debug('%s is of another kind, and written anew: %s', self.file, error)
            return None

    def write(self, result: object, config: Config) -> None:
        """Keeps a result, with the settings that the inspection has left; not if it cannot be told from a later change's."""
        settings = {name: _plain(config[name]) for name in _SETTINGS if name in config}
        text = repr(settings)
        try:
            if not self._is_settled or ast.literal_eval(text) != settings:
                return
            date = datetime.now().strftime('%Y-%m-%d %H:%M:%S')
            entry = _Entry(self._key, self._state, self._written(), date, text, Raw(msgspec.json.encode(result)))
            others = [other for other in self._entries() if other.key != self._key]
            content = msgspec.json.encode([entry, *others[:_KEPT - 1]])
            atomic_write(self.file, lambda unfinished: unfinished.write_bytes(content))
        except _NO_LITERALS + (OSError,) as error:  # settings that are no literals, names that are no text; no place on the disk
            logging.getLogger(__name__).debug('the result is not kept in %s: %s', self.file, error)

    def _entries(self) -> list[_Entry]:
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=list[_Entry])
        except (OSError, msgspec.DecodeError, ValueError):
            return []

    def _written(self) -> str:
        return _state([self.folder], self.folder.parent)[0]


def inspect_once(config: Config, folder: Path, arguments: object, inspect: Callable[[], Report | None],
                 anew: bool = False) -> Report | None:
    """What `inspect` reports and makes of the config, or what it did when it last inspected the same.

    Args:
        config: changed in place.
        folder: the data.
        arguments: what the result depends on besides config and data.
        inspect: the inspection.
        anew: whether it is done in any case.
    """
    cache = InspectionCache(config, 'data', arguments, [folder])
    if not anew and (found := cache.read(_KeptReport)):
        kept, settings, text = found
        for name, value in settings.items():
            config[name] = value
        return Report(**asdict(kept), read_from=text)
    report = inspect()
    if report and not report.errors and not report.reaches_outside:
        cache.write(_KeptReport(report.root, report.layout, report.splits, report.classes, report.problems), config)
    return report


def _plain(value: object) -> object:
    """A setting in Python's own dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()


def _versions(config: Config) -> tuple[str, ...]:
    scope = config.get('default_scope')
    library = import_module(scope).__version__ if scope in ('mmdet', 'mmseg') else ''
    modules = (version, cv2, mmcv, mmengine, msgspec, np, PIL)
    return sys.version, library, code_digest(), *(module.__version__ for module in modules)


@functools.cache
def code_digest() -> str:
    """Digest of the code that inspects."""
    return _digest('\0'.join(path.read_text(encoding='utf-8') for path in sorted(Path(__file__).parent.rglob('*.py'))))


def _state(places: Sequence[Path | str], work_dir: Path) -> tuple[str, float]:
    """A digest of names, sizes and times of all files in some folders, and when the last of them changed, in seconds.

    Args:
        places: folders, and files; links are followed.
        work_dir: is left out where it lies in one of them, and of the time what it holds.
    """
    digest, newest, seen = hashlib.blake2b(digest_size=16), 0, {_identity(work_dir)}
    waiting = [os.path.abspath(place) for place in reversed(places)]
    while waiting:
        place = waiting.pop()
        identity = _identity(place)
        is_folder = os.path.isdir(place)
        if is_folder and identity in seen:
            continue
        seen.add(identity)
        lines, folders, changed = _listing(place) if is_folder else _file(place)
        digest.update('\n'.join([place, *lines, '']).encode('utf-8', 'surrogateescape'))
        waiting += folders
        if not Path(place).is_relative_to(work_dir):
            newest = max(newest, changed)
    return digest.hexdigest(), newest / 1e9


def _file(path: str) -> tuple[list[str], list[str], float]:
    """As `_listing`, of one file; what is not there, as on a server, is never settled."""
    try:
        state = os.stat(path)
    except OSError:
        return [], [], math.inf
    return [state_line(path, state)], [], state.st_ctime_ns


def _listing(folder: str) -> tuple[list[str], list[str], int]:
    """A line for each thing in a folder, the folders among them, and the time of the latest change in nanoseconds; sorted."""
    lines, folders, newest = [], [], 0
    try:
        entries = os.scandir(folder)
    except OSError:  # nor can an inspection read it
        return [], [], 0
    with entries:
        for entry in entries:
            if entry.name.endswith((_SUFFIX, UNFINISHED)):
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                    continue
                state = entry.stat()
            except OSError:  # a link that leads nowhere
                lines.append(entry.name)
                continue
            lines.append(state_line(entry.name, state))
            newest = max(newest, state.st_ctime_ns)
    return sorted(lines), sorted(folders, reverse=True), newest


def state_line(name: str, state: os.stat_result) -> str:
    """By which a file's change is noticed: name, size, modification time and change time."""
    return f'{name}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}'


def _identity(path: Path | str) -> tuple[int, int] | None:
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino
