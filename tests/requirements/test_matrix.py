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


def test_the_readme_has_the_table(matrix: ModuleType):
    readme = (ROOT / 'README.md').read_text()
    assert readme.count(matrix.BEGIN) == readme.count(matrix.END) == 1
    assert matrix.merge(readme, []) == readme


def test_this_python_is_found(matrix: ModuleType):
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert version in matrix.PYTHONS
    assert matrix.interpreter('9.9') is None
