"""tools/export.py as a user calls it."""

from pathlib import Path

import pytest

TINY = 'tests/faults/configs/tiny_segmentor.py'


def test_a_segmentor_is_written_and_checked(call, tmp_path: Path):
    out = tmp_path / 'model.onnx'
    done = call('python', 'tools/export.py', TINY, '--format', 'onnx', '--out', out, '--shape', 64, 96, '--time', 1)
    assert done.returncode == 0, done.stderr
    assert '64×96' in done.stdout
    assert 'largest difference from PyTorch' in done.stdout
    assert 'times as fast' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['model.onnx']


@pytest.mark.parametrize(('options', 'told'), [
    (['--format', 'torchscript'], 'give --backbone-only'),
    (['--format', 'onnx', '--image', 'missing.jpg'], '--image missing.jpg does not exist'),
    (['--format', 'onnx', '--shape', '8', '8'], 'at least 64 64'),
    (['--format', 'onnx', '--cfg-options', 'model.test_cfg.mode=slide'], "'slide' cuts pictures"),
])
def test_mistakes_are_told_in_a_sentence(call, tmp_path: Path, options: list[str], told: str):
    done = call('python', 'tools/export.py', TINY, '--out', tmp_path / 'out', *options)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.startswith('error: ')
    assert not list(tmp_path.iterdir())
