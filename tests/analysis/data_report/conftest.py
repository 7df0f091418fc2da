"""Pages of data sets with and without defects."""

import shutil
from pathlib import Path

import pytest
from data_pages import DETECTOR, SEGMENTOR, check, spoil


@pytest.fixture(scope='session')
def data_pages(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name, the pages of a clean detector, of one with defects, of a segmentor, and of one with damaged files."""
    pages = {}
    for name, config in (('detector', DETECTOR), ('defects', DETECTOR), ('segmentor', SEGMENTOR), ('damaged', SEGMENTOR)):
        folder = tmp_path_factory.mktemp(name)
        root = Path(shutil.copytree(shapes_root, folder / 'data'))
        if name == 'defects':
            spoil(root)
        if name == 'damaged':
            (root / 'train/00001.png').write_bytes((root / 'train/00001.png').read_bytes()[:500])
            (root / 'semantic/val/00001.png').write_bytes(b'x')
        pages[name], _ = check(config, root, folder, by_data=name != 'damaged')
    return pages


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may spoil."""
    return Path(shutil.copytree(shapes_root, tmp_path / 'data'))
