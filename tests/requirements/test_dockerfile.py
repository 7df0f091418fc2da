"""The Dockerfile: what it copies and runs is there, its slow layer does not hang on the code, and it does not run as root."""

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, with continued lines joined."""
    text = '\n'.join(line for line in (ROOT / 'Dockerfile').read_text().splitlines() if not line.startswith('#'))
    lines = [line for line in re.sub(r'\\\n\s*', '', text).splitlines() if line.strip()]
    return [(name, words) for name, _, words in (line.partition(' ') for line in lines)]


INSTRUCTIONS = instructions()
RUNS = [words for name, words in INSTRUCTIONS if name == 'RUN']
SETUP = next(i for i, (name, words) in enumerate(INSTRUCTIONS) if name == 'RUN' and 'install.py' in words)


def arguments(name: str) -> list[str]:
    return [words for found, words in INSTRUCTIONS if found == name]


def copied(words: str) -> list[str]:
    return words.split()[:-1]


def test_it_starts_from_debian():
    """Not from an image of CUDA's: the installer brings what a GPU needs."""
    assert arguments('FROM') == ['debian:trixie-slim']


@pytest.mark.parametrize('command', RUNS)
def test_what_is_run(command: str):
    """It is valid shell, and what it names is copied before."""
    subprocess.run(['sh', '-n', '-c', command], check=True)
    position = INSTRUCTIONS.index(('RUN', command))
    sources = [source for name, words in INSTRUCTIONS[:position] if name == 'COPY' for source in copied(words)]
    for part in command.split(' && '):
        program, *words = part.split()
        if program == 'make':
            assert re.search(rf'^{words[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
            assert '.' in sources
        elif program == 'python3':
            assert (ROOT / words[0]).is_file()
            assert words[0].split('/')[0] in sources


def test_what_is_copied_is_there():
    ignored = (ROOT / '.dockerignore').read_text().split()
    sources = [source for words in arguments('COPY') for source in copied(words)]
    assert len(sources) >= 3
    for source in sources:
        assert (ROOT / source).exists()
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored)
    assert {'.git', '.venv*', 'data', 'work_dirs'} <= set(ignored)


def test_a_change_of_the_code_builds_no_operators():
    """Before they are built, nothing is copied but what says which ones."""
    before = [source for name, words in INSTRUCTIONS[:SETUP] if name == 'COPY' for source in copied(words)]
    assert before == ['pyproject.toml', 'requirements']
    assert ('COPY', '. .') in INSTRUCTIONS[SETUP:]


def test_options_of_the_installer_exist():
    command = [sys.executable, ROOT / 'requirements/install.py', '--help']
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    options = re.findall(r'--[a-z][\w-]+', INSTRUCTIONS[SETUP][1])
    assert len(options) >= 3
    assert [option for option in options if option not in shown.stdout] == []


def test_choices_are_build_arguments():
    """Those that the installer reads from the environment have no default: an empty one would be a choice."""
    before = [words for name, words in INSTRUCTIONS[:SETUP] if name == 'ARG']
    assert {'TORCH', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST'} <= set(before)
    assert 'STACK=upstream' in before


def test_it_does_not_run_as_root():
    users = arguments('USER')
    assert re.fullmatch(r'[1-9]\d*:[1-9]\d*', users[-1])  # Kubernetes cannot tell from a name
    last = max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == 'USER')
    assert not any(name in ('RUN', 'COPY') for name, _ in INSTRUCTIONS[last:])
