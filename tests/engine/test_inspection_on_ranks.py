"""`--data` over several processes: rank 0 inspects the folder, the others open nothing of it and have the same config."""

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed, multiprocessing

from ralamala_mm.engine import load_config
from ralamala_mm.engine.preparation import prepare_data

ROOT = Path(__file__).resolve().parents[2]


def prepare(rank: int, data: Path, out: Path) -> None:
    """What one rank does, and writes: its config, and which files of the folder it has opened or listed."""
    touched: list[str] = []

    def note(event: str, arguments: tuple) -> None:
        if event in ('open', 'os.listdir', 'os.scandir') and str(arguments[0]).startswith(str(data)):
            touched.append(str(arguments[0]))

    distributed.init_process_group('gloo', rank=rank, world_size=2, init_method=f'file://{out}/meeting',
                                   timeout=timedelta(minutes=2))
    config = load_config(str(ROOT / 'configs/maskrcnn_ravlt_t.py'))
    config.work_dir = str(out / 'work')
    sys.addaudithook(note)
    report = prepare_data(config, ['train', 'val'], str(data))
    (out / f'{rank}.touched').write_text('\n'.join(touched))
    (out / f'{rank}.config').write_text(config.pretty_text)
    (out / f'{rank}.report').write_text(report)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_rank_0_alone_inspects(shapes_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    data = Path(shutil.copytree(shapes_root, tmp_path / 'data'))
    multiprocessing.spawn(prepare, (data, tmp_path), nprocs=2)
    touched = [(tmp_path / f'{rank}.touched').read_text().splitlines() for rank in range(2)]
    assert str(data / 'annotations/instances_train.json') in touched[0]
    assert touched[1] == []
    for what in ('config', 'report'):
        assert (tmp_path / f'0.{what}').read_text() == (tmp_path / f'1.{what}').read_text()
    assert capfd.readouterr().out.count(f'Data in {data}') == 1
