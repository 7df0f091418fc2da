"""A second inspection of unchanged data is read from the first one's result; what could change the verdict leads to a new one."""

import argparse
import copy
import functools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from mmengine.config import Config
from PIL import Image
from tool_modules import load_tool

from ralamala_mm import version
from ralamala_mm.datasets import inspection_cache, set_data_root, use_data
from ralamala_mm.datasets.report import Report
from ralamala_mm.datasets.user_data import inspect_data
from ralamala_mm.engine import load_config
from ralamala_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
MODES = ['train', 'val']
AGAIN = 'unchanged since the inspection of '


@pytest.fixture(autouse=True)
def fresh_data_is_settled(monkeypatch: pytest.MonkeyPatch):
    """The data of a test are made just before it: results would not be kept."""
    monkeypatch.setattr(inspection_cache, '_SETTLED', 0)


@pytest.fixture(scope='module')
def load() -> Callable[[str], Config]:
    """Reads each config once."""
    return functools.cache(lambda name: load_config(f'configs/{name}.py'))


@pytest.fixture
def config(load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """A config by its name, with a work directory that the test's looks share."""

    def own(name: str) -> Config:
        monkeypatch.chdir(ROOT)
        copied = copy.deepcopy(load(name))
        copied.work_dir = str(tmp_path / 'work')
        return copied

    return own


@pytest.fixture
def look(config: Callable) -> Callable[..., tuple[Report, Config]]:
    """An inspection, as of a new process."""

    def inspect(root: Path, name: str = 'maskrcnn_ravlt_t', modes: list[str] = MODES, **arguments) -> tuple[Report, Config]:
        own = config(name)
        return inspect_data(own, str(root), modes, show=False, **arguments), own

    return inspect


@pytest.mark.parametrize(('layout', 'name'), [
    ('coco', 'maskrcnn_ravlt_t'),
    ('cvat', 'retinanet_mala_t'),  # which is divided
    ('reordered', 'cascade_maskrcnn_ravlt_t_3x'),  # which has to be corrected
    ('roboflow', 'maskrcnn_ravlt_t'),
    ('ade', 'upernet_mala_t'),
    ('pair', 'semanticfpn_ravlt_t'),
    ('voc', 'upernet_ravlt_t'),  # whose masks are converted
])
def test_the_second_look_is_that_of_the_first(layout: str, name: str, look: Callable, request: pytest.FixtureRequest):
    root = request.getfixturevalue(layout)
    first, made = look(root, name)
    second, read = look(root, name)
    assert not first.read_from
    assert second.read_from.startswith(AGAIN)
    assert str(second) == f'{first}\n  {second.read_from}'
    assert read.pretty_text == made.pretty_text
    assert read.to_dict() == made.to_dict()  # tuples too
    written = Path(second.read_from.partition('read from ')[2].partition(';')[0])
    written.unlink()  # as the sentence says
    assert not look(root, name)[0].read_from


def test_it_is_printed_and_returned(config: Callable, coco: Path, capsys: pytest.CaptureFixture):
    own = [config('maskrcnn_ravlt_t') for _ in range(2)]
    reports = [use_data(one, str(coco), MODES) for one in own]
    assert AGAIN in str(reports[1])
    assert capsys.readouterr().out.count(AGAIN) == 1


def test_errors_are_not_kept(coco: Path, look: Callable, config: Callable):
    path = coco / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        annotation['category_id'] += 1
    path.write_text(json.dumps(content))
    reports = [look(coco) for _ in range(2)]
    assert reports[0][0].errors == reports[1][0].errors != []
    assert not reports[1][0].read_from
    assert not Path(reports[1][1].work_dir).exists()
    with pytest.raises(UserError, match='cannot be used as it is'):
        use_data(config('maskrcnn_ravlt_t'), str(coco), MODES)


def same_size_and_time(root: Path) -> None:
    """Another number in the annotations; size and modification time as they were."""
    path = root / 'annotations/instances_train.json'
    state, text = path.stat(), path.read_text()
    path.write_text(text.replace('"iscrowd": 0', '"iscrowd": 1', 1))
    assert path.read_text() != text
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def image(root: Path) -> Path:
    return sorted((root / 'train').iterdir())[0]


CHANGES = {
    'annotations of the same size and time': same_size_and_time,
    'an image written anew': lambda root: Image.new('RGB', (128, 128)).save(image(root)),
    'an image replaced by another': lambda root: os.replace(shutil.copy(image(root), root / 'copy'), image(root)),
    'an image added': lambda root: shutil.copy(image(root), root / 'train/another.png'),
    'an image removed': lambda root: image(root).unlink(),
    'an image renamed': lambda root: image(root).rename(root / 'train/renamed.png'),
    'a link to an image': lambda root: (root / 'train/link.png').symlink_to(image(root)),
    'another annotation file': lambda root: shutil.copy(root / 'annotations/instances_val.json',
                                                        root / 'annotations/instances_test.json'),
    'a folder renamed': lambda root: (root / 'val').rename(root / 'valid'),
}


@pytest.mark.parametrize('change', CHANGES)
def test_changed_data_are_inspected_anew(change: str, coco: Path, look: Callable):
    look(coco)
    assert look(coco)[0].read_from
    CHANGES[change](coco)
    assert not look(coco)[0].read_from
    assert look(coco)[0].read_from


@pytest.mark.parametrize('arguments', [
    dict(modes=['val']), dict(crowds='ignored'), dict(weights_classes=('circle', 'square', 'triangle', 'star')),
    dict(name='retinanet_ravlt_t')])
def test_other_arguments_lead_to_another_look(arguments: dict, coco: Path, look: Callable):
    look(coco)
    assert not look(coco, **arguments)[0].read_from
    assert look(coco)[0].read_from  # both are kept
    assert look(coco, **arguments)[0].read_from


def test_another_setting_leads_to_another_look(coco: Path, config: Callable):
    for smallest, is_known in ((32, False), (32, True), (64, False)):
        own = config('maskrcnn_ravlt_t')
        own.train_dataloader.dataset.filter_cfg.min_size = smallest
        assert bool(inspect_data(own, str(coco), MODES, show=False).read_from) == is_known


def test_other_settings_stay_as_they_are(coco: Path, config: Callable):
    for rate in (0.1, 0.2):
        own = config('maskrcnn_ravlt_t')
        own.optim_wrapper.optimizer.lr = rate
        report = inspect_data(own, str(coco), MODES, show=False)
        assert own.optim_wrapper.optimizer.lr == rate
    assert report.read_from


def test_another_version_looks_anew(coco: Path, look: Callable, monkeypatch: pytest.MonkeyPatch):
    look(coco)
    monkeypatch.setattr(version, '__version__', '99')
    assert not look(coco)[0].read_from


@pytest.mark.parametrize('change', [
    lambda path: path.unlink(),
    lambda path: path.write_text(path.read_text().replace('"iscrowd":0', '"iscrowd":1')),
])
def test_a_copy_that_was_changed_is_written_anew(change: Callable, reordered: Path, look: Callable):
    _, own = look(reordered)
    copy = Path(own.val_evaluator.ann_file)
    content = copy.read_text()
    change(copy)
    report, own = look(reordered)
    assert not report.read_from
    assert Path(own.val_evaluator.ann_file).read_text() == content


def kept_file(own: Config) -> Path:
    return next(Path(own.work_dir, 'data').glob('*.inspected.json'))


@pytest.mark.parametrize('spoil', [
    lambda path: path.write_bytes(b''),
    lambda path: path.write_bytes(b'\x80\x04\x95'),
    lambda path: path.write_bytes(path.read_bytes()[:-20]),
    lambda path: path.write_text('{"key": 1}'),
    lambda path: path.write_bytes(msgspec.json.encode([
        dict(entry, settings='__import__("os").abort()') for entry in msgspec.json.decode(path.read_bytes())])),
    lambda path: path.write_bytes(msgspec.json.encode([
        dict(entry, result=dict(root=3)) for entry in msgspec.json.decode(path.read_bytes())])),
])
def test_a_broken_file_is_written_anew(spoil: Callable, coco: Path, look: Callable):
    first, own = look(coco)
    spoil(kept_file(own))
    report, own = look(coco)
    assert (report.read_from, str(report)) == ('', str(first))
    assert look(coco)[0].read_from


def test_it_is_kept_as_json(coco: Path, look: Callable):
    _, own = look(coco)
    assert json.loads(kept_file(own).read_text())


def test_a_folder_in_the_way_is_no_error(coco: Path, look: Callable):
    _, own = look(coco)
    path = kept_file(own)
    path.unlink()
    path.mkdir()
    assert not look(coco)[0].read_from


def test_data_that_change_while_they_are_inspected(coco: Path, look: Callable, monkeypatch: pytest.MonkeyPatch):
    """What was inspected is the state before."""
    inspect = inspection_cache.InspectionCache.write

    def write(*arguments) -> None:
        same_size_and_time(coco)
        inspect(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(inspection_cache.InspectionCache, 'write', write)
        look(coco)
    assert not look(coco)[0].read_from


def test_data_of_the_last_moments_are_inspected_anew(coco: Path, look: Callable, monkeypatch: pytest.MonkeyPatch):
    """A change within the same tick of a file system's clock has the same time."""
    monkeypatch.setattr(inspection_cache, '_SETTLED', 2)
    image(coco).touch()
    for _ in range(2):
        assert not look(coco)[0].read_from
    time.sleep(2.1)
    look(coco)
    assert look(coco)[0].read_from


def test_images_elsewhere_are_inspected_anew(coco: Path, look: Callable, tmp_path: Path):
    """Nothing says whether they have changed."""
    (coco / 'train').rename(tmp_path / 'elsewhere')
    path = coco / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    for entry in content['images']:
        entry['file_name'] = str(tmp_path / 'elsewhere' / entry['file_name'])
    path.write_text(json.dumps(content))
    for _ in range(2):
        report, _ = look(coco)
        assert not report.errors
        assert not report.read_from


def test_a_work_directory_within_the_data(coco: Path, config: Callable):
    for is_known in (False, True):
        own = config('maskrcnn_ravlt_t')
        own.work_dir = str(coco / 'work')
        assert bool(inspect_data(own, str(coco), MODES, show=False).read_from) == is_known
        (coco / 'work/log.txt').write_text('a')


def check(own: Config, root: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
          splits: list[str] = MODES) -> tuple[int, dict, str]:
    """tools/check_data.py: its exit status, and what it writes."""
    tool, out = load_tool('check_data'), tmp_path / 'out/report.json'
    args = argparse.Namespace(workers=2, out=str(out), data=root and str(root), iscrowd=None, splits=splits, config='c.py')
    monkeypatch.setattr(tool, 'prepare_config', lambda _: own)
    try:
        tool.main(args)
        status = 0
    except UserError:
        status = 1
    return status, json.loads(out.read_text()), out.with_suffix('.html').read_text()


@pytest.mark.parametrize(('layout', 'images', 'name'), [
    ('coco', 'train', 'maskrcnn_ravlt_t'), ('reordered', 'images/train', 'retinanet_ravlt_t'),
    ('voc', 'JPEGImages', 'upernet_ravlt_t')])
def test_files_are_not_opened_again(layout: str, images: str, name: str, config: Callable, request: pytest.FixtureRequest,
                                    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    root = request.getfixturevalue(layout)
    damaged = min((root / images).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-100])
    first = check(config(name), root, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert first[:1] == (1,)
    assert first[1]['bad_files'] == 1
    with monkeypatch.context() as patch:
        patch.setattr('ralamala_mm.datasets.validation.scan', lambda *_: pytest.fail('files are opened'))
        assert check(config(name), root, tmp_path, monkeypatch) == first
    again = [line for line in capsys.readouterr().out.splitlines() if AGAIN not in line]
    assert again == [line for line in printed.splitlines() if line.startswith((' ', 'Data', 'Open'))]
    check(config(name), root, tmp_path, monkeypatch, ['val'])
    assert AGAIN not in capsys.readouterr().out
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert check(config(name), root, tmp_path, monkeypatch)[0] == 1
    assert AGAIN not in capsys.readouterr().out


def test_files_of_the_config_s_own_paths(config: Callable, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture):
    def own() -> Config:
        loaded = config('demo/maskrcnn_ravlt_t_shapes')
        set_data_root(loaded, str(coco))
        return loaded

    first = check(own(), None, tmp_path, monkeypatch)
    assert AGAIN not in capsys.readouterr().out
    assert check(own(), None, tmp_path, monkeypatch) == first
    assert AGAIN in capsys.readouterr().out
    image(coco).write_bytes(b'')
    assert check(own(), None, tmp_path, monkeypatch)[1]['bad_files'] == 1


def test_an_incomplete_check_is_not_kept(config: Callable, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture):
    path = coco / 'annotations/instances_train.json'
    own = config('demo/maskrcnn_ravlt_t_shapes')
    set_data_root(own, str(coco))
    path.write_text(path.read_text()[:-40])
    for _ in range(2):
        status, content, _ = check(own, None, tmp_path, monkeypatch, ['train'])
        assert (status, content['complete']) == (1, False)
    assert AGAIN not in capsys.readouterr().out
