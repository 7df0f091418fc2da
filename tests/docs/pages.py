"""What README and docs show: their fenced blocks, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
_BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line of a shell block: variables set in front of it, and its words."""

    page: str
    line: str

    @property
    def variables(self) -> dict[str, str]:
        words = shlex.split(self.line)
        return dict(word.split('=', 1) for word in words[:self._first(words)])

    @property
    def words(self) -> list[str]:
        words = shlex.split(self.line)
        return words[self._first(words):]

    @staticmethod
    def _first(words: list[str]) -> int:
        return next((i for i, word in enumerate(words) if not re.match(r'[A-Z_]+=', word)), len(words))


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def commands() -> list[Command]:
    """Every command of every page, once each."""
    found = {}
    for page in PAGES:
        for block in blocks(page, 'sh'):
            for line in block.replace('\\\n', ' ').splitlines():
                line = re.sub(r'(^|\s)#.*', '', line).strip()
                if line:
                    found.setdefault(' '.join(line.split()), Command(str(page.relative_to(ROOT)), line))
    return list(found.values())
