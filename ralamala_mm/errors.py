"""What a user can mend: exceptions whose text is one sentence, which the tools print instead of frames."""

import re


class UserError(Exception):
    """A mistake in a command, a config or a file; the text names it and says what to do."""

    @property
    def sentence(self) -> str:
        """The text without what data loader workers and registries put around it."""
        text = str(self).rpartition('UserError: ')[2].strip()
        return re.sub(r'^(class `\w+` in \S+: )+', '', text)


class OptionError(UserError, ValueError):
    """An argument out of range; a ValueError for those who call from Python."""
