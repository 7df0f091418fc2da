"""Writing whole files under names of any length, and tidying what killed processes left."""

from pathlib import Path

import pytest

from ralamala_mm.files import UNFINISHED, atomic_write, remove_unfinished


@pytest.mark.parametrize('name', ['a' * 255, 'ä' * 127, '图' * 85], ids=['1 byte', '2 bytes', '3 bytes'])
def test_the_longest_names(name: str, tmp_path: Path):
    atomic_write(tmp_path / name, lambda unfinished: unfinished.write_text('whole'))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == 'whole'


def test_folders_that_a_killed_process_left(tmp_path: Path):
    folder, kept = tmp_path / f'.predictions.abc{UNFINISHED}', tmp_path / 'kept'
    for path in (folder, kept):
        path.mkdir()
        (path / 'images').touch()
    (tmp_path / f'.link{UNFINISHED}').symlink_to(kept)
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['kept']
    assert (kept / 'images').exists()
