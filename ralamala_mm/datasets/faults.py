"""A file of the data that cannot be used: told in a sentence, or skipped and listed as long as they are few."""

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import print_log

from ralamala_mm.errors import UserError

_LOGGED = 10  # skipped files that the log tells of; all are listed
_IN_A_ROW = 100  # so many without a good one between them are no exception any more


class FileUserError(UserError):
    """A file of the data that cannot be used.

    Data loader workers report an error by its class and text, in which `UserError.sentence` looks for "UserError: ": the
    class's name has to end so, and its text has to suffice to build it.

    Args:
        text: the sentence, which names the file.
        kind: the fault in a word or two, the same for all files that have it.
    """

    def __init__(self, text: str, kind: str = 'unusable'):
        super().__init__(text)
        self.kind = kind


class BadFiles:
    """What a transform does with files that it cannot use: raises, or leaves the sample out and lists its image.

    Args:
        limit: how many distinct images may be left out; None raises at the first.
        list_file: receives one line per image, from all processes.
    """

    def __init__(self, limit: int | None = None, list_file: str = ''):
        self.limit = limit
        self.list_file = Path(list_file)
        self._in_a_row = 0

    def guard(self, load: Callable[[dict], dict | None], results: dict) -> dict | None:
        """`load(results)`, or None for a sample that is left out, in whose place MMEngine's data sets draw another.

        Raises:
            UserError: nothing may be left out, or too much was.
        """
        named = results.get('img_path')
        try:
            loaded = load(results)
        except FileUserError as error:
            if self.limit is None:
                raise
            self._skip(str(named), error)
            return None
        self._in_a_row = 0
        return loaded

    def _skip(self, image: str, error: FileUserError) -> None:
        count, is_another = self._listed(image)
        if count > self.limit:
            raise UserError(f'{count} images cannot be used, and skip_bad_images allows {self.limit}: {self.list_file} lists '
                            f'them (delete it if they were mended); the last one: {error}') from error
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            raise UserError(f'{_IN_A_ROW} images in a row cannot be used; the last one: {error}') from error
        if is_another and count <= _LOGGED:
            end = '; from here on they are listed alone' if count == _LOGGED else ''
            level = logging.WARNING if os.environ.get('RANK', '0') == '0' else logging.ERROR  # the others show errors alone
            print_log(f'SKIPPED, {count} of {self.limit} allowed: {error}; listed in {self.list_file}{end}', 'current', level)

    def _listed(self, image: str) -> tuple[int, bool]:
        """Lists an image once; returns how many are listed, and whether this one was not yet."""
        line = image.replace('\n', '?').encode('utf-8', 'backslashreplace').decode() + '\n'
        self.list_file.parent.mkdir(parents=True, exist_ok=True)
        with self.list_file.open('a+', encoding='utf-8') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            except OSError:
                logging.getLogger(__name__).debug('%s is on a file system without locks: lines may be doubled', self.list_file)
            file.seek(0)
            listed = set(file)
            if line in listed:
                return len(listed), False
            file.write(line)
        return len(listed) + 1, True
