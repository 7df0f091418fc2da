"""What a user can fix: exceptions whose text is one sentence, which the tools print instead of frames."""

import difflib
import re
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake in a command, a config or a file; the text names it and says what to do."""

    @property
    def sentence(self) -> str:
        """The text without what data loader workers and registries put around it."""
        text = str(self).rpartition('UserError: ')[2].strip()
        return re.sub(r'^(class `\w+` in \S+: )+', '', text)


class OptionError(UserError, ValueError):
    """An argument out of range; a ValueError for those who call from Python."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6,
                 shown: Callable[[str], str] = str) -> str:
    """'; did you mean a or b?' with the known names that resemble one, or ''.

    Args:
        name: as the user wrote it.
        known: the names that there are.
        count: how many are named at most.
        cutoff: the least resemblance, from 0 to 1, as in difflib.
        shown: what is printed for a known name.
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return f'; did you mean {" or ".join(map(shown, near))}?' if near else ''
