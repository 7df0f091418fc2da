"""Where --resume continues, what it passes over, and what it refuses."""

import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from toy_training import run_toy, run_two, toy_config

from ralamala_mm.checkpoints import read_checkpoint
from ralamala_mm.checkpoints.integrity import damage, newest_complete, training_progress
from ralamala_mm.engine import claim_folders, claim_work_dir, use_resume
from ralamala_mm.engine.checkpointing import DependableCheckpointHook, checkpoint_folder
from ralamala_mm.errors import UserError
from ralamala_mm.files import UNFINISHED


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with four checkpoints."""
    folder = tmp_path_factory.mktemp('trained')
    run_toy(toy_config(folder))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, whose files' times say nothing."""
    shutil.copytree(trained, tmp_path / 'copy', copy_function=shutil.copyfile)
    return tmp_path / 'copy'


def config_of(folder: Path, **settings) -> Config:
    return Config(dict(work_dir=str(folder), **settings))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def flip_a_bit(path: Path) -> None:
    """Within a tensor, which PyTorch does not notice."""
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=False)['state_dict']['layers.0.weight'].numpy().tobytes()
    content[bytes(content).index(weights) + 3] ^= 4
    path.write_bytes(content)
    torch.load(path, weights_only=False)


DAMAGES = dict(cut_short=cut_short, flip_a_bit=flip_a_bit, empty=lambda path: path.write_bytes(b''),
               zeros=lambda path: path.write_bytes(bytes(path.stat().st_size)))
assert DAMAGES


def test_without_resume(folder: Path):
    config = config_of(folder)
    assert use_resume(config, None) == []
    assert 'load_from' not in config


def test_the_newest(folder: Path):
    config = config_of(folder, randomness=dict(seed=99, deterministic=True))
    notes = use_resume(config, 'auto')
    assert notes == [f'resuming from {folder / "epoch_4.pth"} at iteration 20']
    assert (config.resume, config.load_from) == (True, str(folder / 'epoch_4.pth'))
    assert config.randomness == dict(seed=3, deterministic=True)  # the run's, not the config's


def test_a_config_that_says_resume(folder: Path):
    config = config_of(folder, resume=True)
    use_resume(config, None)
    assert config.load_from == str(folder / 'epoch_4.pth')


def test_nothing_to_resume(tmp_path: Path):
    config = config_of(tmp_path)
    (note,) = use_resume(config, 'auto')
    assert 'there is no checkpoint in' in note
    assert not config.resume


def test_the_pointer_is_not_needed(folder: Path):
    """A kill between checkpoint and pointer leaves it behind, and one while it is written must not matter either."""
    for content in (str(folder / 'epoch_3.pth'), '', str(folder / 'gone.pth')):
        (folder / 'last_checkpoint').write_text(content)
        assert newest_complete(folder)[0] == folder / 'epoch_4.pth'


@pytest.mark.parametrize('break_it', DAMAGES.values(), ids=DAMAGES)
def test_damaged_ones_are_passed_over(folder: Path, break_it):
    break_it(folder / 'epoch_4.pth')
    config = config_of(folder)
    notes = use_resume(config, 'auto')
    assert config.load_from == str(folder / 'epoch_3.pth')
    assert any(f'{folder / "epoch_4.pth"} is passed over' in note for note in notes), notes
    with pytest.raises(UserError, match=r'epoch_4.pth .*(damaged|empty)'):
        use_resume(config_of(folder), str(folder / 'epoch_4.pth'))


def test_no_whole_one(folder: Path):
    for path in folder.glob('*.pth'):
        cut_short(path)
    with pytest.raises(UserError, match=r'no checkpoint in .* is complete .*epoch_1.pth.*move them away'):
        use_resume(config_of(folder), 'auto')


def test_newest_by_what_the_checkpoints_say(folder: Path):
    """A second training in the same folder: its first epoch is newer than the last one of the first."""
    second = torch.load(folder / 'epoch_1.pth', weights_only=False)
    second['meta']['saved_at'] += 1e6
    torch.save(second, folder / 'epoch_1.pth')
    assert newest_complete(folder)[0] == folder / 'epoch_1.pth'


def test_checkpoints_that_only_mmengine_dated(folder: Path):
    for epoch, text in ((1, '20990101_000000'), (2, '20990101_000000'), (3, 'yesterday'), (4, 4)):
        checkpoint = torch.load(folder / f'epoch_{epoch}.pth', weights_only=False)
        checkpoint['meta'].pop('saved_at', None)
        checkpoint['meta']['time'] = text
        torch.save(checkpoint, folder / f'epoch_{epoch}.pth')
    assert newest_complete(folder)[0] == folder / 'epoch_2.pth'


def test_the_newest_when_clocks_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in autumn, or with a node whose clock is behind."""
    clock = itertools.count(1_900_000_000, -60)
    local_time = time.localtime
    monkeypatch.setattr('time.time', lambda: float(next(clock)))
    monkeypatch.setattr('time.localtime', lambda seconds=None: local_time(time.time() if seconds is None else seconds))
    run_toy(toy_config(tmp_path, length=2))
    assert newest_complete(tmp_path)[0] == tmp_path / 'epoch_2.pth'
    clock = itertools.count(1_800_000_000, -60)
    run_toy(toy_config(tmp_path, length=4), 'auto')
    assert newest_complete(tmp_path)[0] == tmp_path / 'epoch_4.pth'


@pytest.mark.parametrize('out_dir', [None, 'other', 'work', 'absolute'])
def test_where_checkpoints_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out_dir: str | None):
    monkeypatch.chdir(tmp_path)
    out_dir = str(tmp_path / 'work') if out_dir == 'absolute' else out_dir
    config = toy_config('work', **{'default_hooks.checkpoint.out_dir': out_dir})
    runner = run_toy(config)
    hook = next(hook for hook in runner.hooks if isinstance(hook, DependableCheckpointHook))
    assert Path(checkpoint_folder(config)).resolve() == Path(hook.out_dir).resolve()
    use_resume(config, 'auto')
    assert Path(config.load_from).resolve() == Path(hook.out_dir, 'epoch_4.pth').resolve()


def test_checkpoints_elsewhere(tmp_path: Path):
    settings = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'disk')}
    run_toy(toy_config(tmp_path / 'work', length=2, **settings))
    assert not list((tmp_path / 'work').glob('*.pth'))
    resumed = run_toy(toy_config(tmp_path / 'work', length=4, **settings), 'auto')
    assert len(resumed.model.numbers) == 10  # the second half
    with pytest.raises(UserError, match=r'no checkpoint in .*work, but .*last_checkpoint names .*disk/work/epoch_4.pth.*out_dir'):
        use_resume(toy_config(tmp_path / 'work'), 'auto')
    shutil.rmtree(tmp_path / 'disk')  # as of a disk that is not mounted; with the option it is no other place than before
    assert 'starts at its beginning' in use_resume(toy_config(tmp_path / 'work', **settings), 'auto')[0]


def test_checkpoints_in_a_store(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Which cannot be looked through: what the pointer names counts."""
    stored = 's3://bucket/runs/copy/epoch_3.pth'
    (folder / 'last_checkpoint').write_text(stored)
    monkeypatch.setattr('ralamala_mm.engine.checkpointing.training_progress',
                        lambda path: training_progress(folder / 'epoch_3.pth') if path == stored else None)
    config = config_of(folder, default_hooks=dict(checkpoint=dict(type='CheckpointHook', out_dir='s3://bucket/runs')))
    assert use_resume(config, 'auto') == [f'resuming from {stored} at iteration 15']
    assert config.load_from == stored
    (folder / 'last_checkpoint').unlink()
    config = config_of(folder, default_hooks=dict(checkpoint=dict(type='CheckpointHook', out_dir='s3://bucket/runs')))
    assert 'no checkpoint in s3://bucket/runs/copy; the training starts' in use_resume(config, 'auto')[0]
    assert len(claim_folders(config)) == 1


def test_folders_of_checkpoints_are_claimed_and_tidied(tmp_path: Path):
    config = toy_config(tmp_path / 'work', **{'default_hooks.checkpoint.out_dir': str(tmp_path / 'disk')})
    left = tmp_path / 'disk' / 'work' / f'.epoch_3.pth.abc{UNFINISHED}'
    left.parent.mkdir(parents=True)
    left.touch()
    claims = claim_folders(config)
    assert not left.exists()
    assert {Path(claim.name).parent for claim in claims} == {tmp_path / 'work', left.parent}
    for claim in claims:
        claim.close()


def test_two_processes_do_what_the_first_one_finds(folder: Path, tmp_path: Path):
    """Whatever the second one sees: the checkpoint, an error that ends both, and whether a validation was done."""
    code = """
from types import SimpleNamespace
from ralamala_mm.engine import checkpointing as resuming
folder, empty = sys.argv[1:]
made = config(folder)
if rank:
    resuming.newest_complete = lambda path: (path / 'epoch_2.pth', [])
notes = use_resume(made, 'auto')
assert made.load_from == f'{folder}/epoch_4.pth', made.load_from
assert notes == [f'resuming from {folder}/epoch_4.pth at iteration 20'], notes

if not rank:
    resuming.newest_complete = lambda path: (None, ['epoch_4.pth is passed over'])
try:
    use_resume(made, 'auto')
except UserError as error:
    assert 'is complete (epoch_4.pth is passed over)' in error.sentence
    print('refused')

done = []
for first, second in ((folder, empty), (empty, folder)):
    resuming.ValidationHook().before_train(SimpleNamespace(
        work_dir=second if rank else first, iter=20, val_loop=SimpleNamespace(run=lambda: done.append(first)),
        train_loop=SimpleNamespace(iter=20, max_iters=20, val_begin=1, val_interval=10), logger=SimpleNamespace(info=print)))
assert done == [empty], done
"""
    for found, text in run_two(code, folder, tmp_path / 'empty'):
        assert found == 0, text[-3000:]
        assert 'refused' in text


def test_a_url(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('TORCH_HOME', str(folder / 'cache'))
    monkeypatch.setattr('torch.hub.download_url_to_file', lambda url, path, **_: shutil.copyfile(folder / Path(url).name, path))
    config = config_of(folder)
    (note,) = use_resume(config, 'https://example.org/runs/epoch_2.pth')
    assert config.load_from.startswith(str(folder / 'cache'))
    assert note.endswith('epoch_2.pth at iteration 10')
    cut_short(folder / 'epoch_3.pth')
    with pytest.raises(UserError, match=r'epoch_3.pth is damaged'):
        use_resume(config_of(folder), 'https://example.org/runs/epoch_3.pth')


def test_other_files_do_not_count(folder: Path):
    torch.save(dict(state_dict={}), folder / 'weights.pth')
    torch.save(torch.zeros(1), folder / 'tensor.pth')
    assert newest_complete(folder)[0] == folder / 'epoch_4.pth'
    with pytest.raises(UserError, match=r'weights.pth holds weights but no training state to resume'):
        use_resume(config_of(folder), str(folder / 'weights.pth'))


def test_files_of_the_old_format_count_as_whole(tmp_path: Path):
    torch.save(dict(a=1), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert damage(tmp_path / 'old.pth') is None


@pytest.mark.parametrize('change', [
    lambda checkpoint: checkpoint['optimizer'].pop('param_groups'),
    lambda checkpoint: checkpoint.update(optimizer=[1, 2]),
    lambda checkpoint: checkpoint['optimizer']['param_groups'][0].update(params=[0]),
    lambda checkpoint: checkpoint.update(message_hub=3),
    lambda checkpoint: checkpoint.update(param_schedulers=7),
    lambda checkpoint: checkpoint['meta'].update(batches='many'),
    lambda checkpoint: checkpoint.update(accumulated_gradients={'nothing': torch.zeros(1)}),
])
def test_a_state_that_does_not_fit(folder: Path, change):
    checkpoint = torch.load(folder / 'epoch_2.pth', weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, folder / 'odd.pth')
    with pytest.raises(UserError, match=r'odd.pth does not fit this training'):
        run_toy(toy_config(folder), str(folder / 'odd.pth'))


def test_one_training_a_work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Refused while the other lives, free when it is killed, whatever the lock's file says."""
    monkeypatch.setattr('ralamala_mm.engine.work_dir._PATIENCE', 0.5)
    code = 'import sys, time; from ralamala_mm.engine import claim_work_dir; claim = claim_work_dir(sys.argv[1]); ' \
           'print("mine", flush=True); time.sleep(60)'
    with subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(tmp_path / 'work')], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b'mine\n'
        with pytest.raises(UserError, match=rf'another training uses .*work \(process {other.pid} on .*--work-dir'):
            claim_work_dir(str(tmp_path / 'work'))
        other.kill()
    claim_work_dir(str(tmp_path / 'work')).close()


def test_a_work_directory_that_cannot_be(tmp_path: Path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written to'):
        claim_work_dir(str(tmp_path / 'file' / 'work'))


def test_the_progress_is_found_without_reading_the_tensors(folder: Path):
    content = read_checkpoint(str(folder / 'epoch_3.pth'), tensors=False)
    assert content['meta']['iter'] == training_progress(folder / 'epoch_3.pth')['iter'] == 15
    assert content['state_dict']['layers.0.weight'].shape == (8, 4)
    whole = read_checkpoint(str(folder / 'epoch_3.pth'))
    assert torch.equal(whole['state_dict']['layers.0.weight'],
                       torch.load(folder / 'epoch_3.pth', weights_only=False)['state_dict']['layers.0.weight'])


def test_weights_to_start_from_stay_without_a_checkpoint(tmp_path: Path):
    """Jobs that restart themselves always resume; at their first start they fine-tune."""
    config = config_of(tmp_path, load_from='weights.pth')
    use_resume(config, 'auto')
    assert (config.resume, config.load_from) == (False, 'weights.pth')
