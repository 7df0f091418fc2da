"""Whether a checkpoint is complete, and how far the training had come that it is of, without reading all of it into memory."""

import math
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ralamala_mm.errors import UserError

from .container import is_zip
from .reading import RefusedFileError, UnreadableFileError, read_checkpoint, unreadable

RESUME_KEYS = {'meta', 'message_hub', 'optimizer'}  # without which a checkpoint holds no training state


def damage(path: Path) -> str | None:
    """What is wrong with a file that PyTorch wrote, found by the checksums of its parts; None if it is complete.

    Files in PyTorch's format from before 1.6 bear no checksums and count as complete.

    Raises:
        UnreadableFileError: the system does not give the file.
    """
    try:
        with path.open('rb') as file:
            if not (start := file.read(2)):
                return 'it is empty'
            if not is_zip(file):
                return None if start[:1] == b'\x80' else 'it is cut short, or no checkpoint'
            with zipfile.ZipFile(file) as archive:
                part = archive.testzip()
    except FileNotFoundError:
        return 'it is gone'
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, OSError) and (found := unreadable(path, error)):
            raise found from error
        return f'it cannot be read ({error})'
    return f'its part {part} does not match its checksum' if part else None


def training_progress(location: str | Path, trusted: bool | None = None) -> Mapping | None:
    """The `meta` of a checkpoint that a training can continue from; None if it is not one.

    Args:
        location: path, or URL of any store that `read_checkpoint` knows.
        trusted: as in `read_checkpoint`.

    Raises:
        UserError: the file cannot be read.
    """
    content = read_checkpoint(str(location), trusted, tensors=False)
    meta = content.get('meta')
    if not content.keys() >= RESUME_KEYS or not isinstance(meta, Mapping):
        return None
    counts = [meta.get('epoch'), meta.get('iter')]
    return meta if all(isinstance(count, int) and count >= 0 for count in counts) else None


def newest_complete(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in a work directory from which a training can continue, and what is told of others.

    Newest by the time that the checkpoints themselves record, as copying a folder changes the files' times, and of the same
    time by the iterations behind it. No code is run from any of them, whatever the command line says: nobody has named them.

    Returns:
        Its path or None, and a sentence for each file that is passed over.

    Raises:
        UnreadableFileError: the system does not give one of them, which may be the newest.
    """
    found, notes = [], []
    for path in sorted(folder.glob('*.pth')):
        try:
            meta = training_progress(path, trusted=False)
        except UnreadableFileError:
            raise
        except RefusedFileError as error:
            notes.append(f'{path} is passed over, as only a file that is named is ever trusted: {error.sentence}')
            continue
        except UserError as error:
            notes.append(f'{path} is passed over: {error.sentence}')
            continue
        if meta:
            found.append((_saved_at(meta), meta['iter'], path))
    for *_, path in sorted(found, reverse=True):
        problem = damage(path)
        if not problem:
            return path, notes
        notes.append(f'{path} is passed over: {problem}')
    return None, notes


def _saved_at(meta: Mapping) -> float:
    """When a checkpoint was written, in seconds since 1970; 0 if it does not say."""
    saved_at = meta.get('saved_at')
    if isinstance(saved_at, float) and math.isfinite(saved_at):
        return saved_at
    told = meta.get('time')
    try:  # MMEngine's, by the local clock
        return time.mktime(time.strptime(told, '%Y%m%d_%H%M%S')) if isinstance(told, str) else 0.0
    except (ValueError, OverflowError):
        return 0.0
