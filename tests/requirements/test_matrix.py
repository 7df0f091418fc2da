"""The table of tested versions: rows replace those of the same stack and Python, in order, and nothing else changes."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def matrix(requirements: dict[str, ModuleType]) -> ModuleType:
    return requirements['matrix']


def test_rows_are_merged(matrix: ModuleType):
    text = f'above\n{matrix.BEGIN}\n{matrix.HEADER}\n{matrix.END}\nbelow'
    text = matrix.merge(text, ['| onedl | 3.11 | 2.13.0 | 5 passed | a |', '| upstream | 3.12 | 2.13.0 | 6 passed | a |'])
    text = matrix.merge(text, ['| upstream | 3.10 | 2.13.0 | 7 passed | b |', '| onedl | 3.11 | 2.13.0 | 8 passed | b |',
                               '| upstream | 3.12 | 2.15.0 | 9 passed | b |'])
    assert text.splitlines() == [
        'above', matrix.BEGIN, *matrix.HEADER.splitlines(), '| upstream | 3.10 | 2.13.0 | 7 passed | b |',
        '| upstream | 3.12 | 2.13.0 | 6 passed | a |', '| upstream | 3.12 | 2.15.0 | 9 passed | b |',
        '| onedl | 3.11 | 2.13.0 | 8 passed | b |', matrix.END, 'below']


@pytest.mark.parametrize(('text', 'code', 'result'), [
    ('== 7 passed, 2 skipped, 51 warnings in 908.51s (0:15:08) ==\n', 0, '7 passed, 2 skipped'),
    ('1 failed, 7 passed in 9.5s\n', 2, '1 failed, 7 passed'), ('7 passed, 1 warning in 9.5s\n', 2, '7 passed, exit code 2'),
    ('Making .venv\nmake: *** [Makefile:16: install] Error 1\n', 2, 'make failed: make: *** [Makefile:16: install] Error 1'),
    ('', 2, 'make failed: no output')])
def test_what_a_run_came_to(matrix: ModuleType, text: str, code: int, result: str):
    assert matrix.summary(text, code) == result


def test_the_readme_has_the_table(matrix: ModuleType):
    readme = (ROOT / 'README.md').read_text()
    assert readme.count(matrix.BEGIN) == readme.count(matrix.END) == 1
    assert matrix.merge(readme, []) == readme


def test_this_python_is_found(matrix: ModuleType):
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert version in matrix.PYTHONS
    assert matrix.interpreter('9.9') is None
