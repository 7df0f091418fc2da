"""The command lines as a user calls them: on the built-in data, with good input and with bad."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/demo/maskrcnn_ravlt_t_shapes.py'
PALETTE = [(220, 60, 60), (60, 120, 220), (60, 190, 90), (230, 180, 40)]  # of its data
# Two iterations an epoch, and a backbone of one block per stage: what is tested is the way, not the result.
SMALL = ['--cfg-options', 'train_dataloader.batch_size=4', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(call: Callable, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of one epoch of training."""
    work_dir = tmp_path_factory.mktemp('work')
    result = call('python', 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', work_dir, *SMALL)
    assert result.returncode == 0, result.stderr[-3000:]
    return work_dir


def scalars(work_dir: Path) -> list[dict]:
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.parent.parent.name)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def test_training_leaves_what_it_should(trained: Path):
    assert (trained / 'epoch_1.pth').exists()
    assert (trained / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    entries = scalars(trained)
    assert len([entry for entry in entries if 'loss' in entry]) == 3  # 12 images in batches of 4
    assert any('coco/bbox_mAP' in entry and 'coco/segm_mAP' in entry for entry in entries)


def test_resume_goes_on(trained: Path, call: Callable, shapes_root: Path):
    options = [option.replace('max_epochs=1', 'max_epochs=2') for option in SMALL]
    result = call('python', 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', trained, '--resume',
                  '--no-validate', *options)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'resumed epoch: 1, iter: 3' in result.stdout
    assert (trained / 'epoch_2.pth').exists()
    epochs = [entry['epoch'] for entry in scalars(trained) if 'loss' in entry]
    assert epochs == [2, 2, 2]


def test_evaluation(trained: Path, call: Callable, shapes_root: Path, tmp_path: Path):
    result = call('python', 'tools/test.py', CONFIG, trained / 'epoch_1.pth', '--data', shapes_root, '--work-dir', tmp_path,
                  '--show-dir', 'drawn', '--out', tmp_path / 'predictions.pkl', *SMALL)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count('Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all') == 2  # boxes and masks
    drawn = [cv2.imread(str(path))[..., ::-1] for path in tmp_path.glob('*/drawn/*.png')]
    assert len(drawn) == 4
    for image in drawn:  # annotated left, predicted right, each below a title
        assert image.shape[0] > 128
        assert image.shape[1] > 256
        assert any((image[:, :128] == color).all(axis=-1).any() for color in PALETTE)
    assert (tmp_path / 'predictions.pkl').stat().st_size > 0


def test_test_time_augmentation(trained: Path, call: Callable, shapes_root: Path, tmp_path: Path):
    """MMDetection merges boxes only; the detector without its mask head shows that."""
    test = ['python', 'tools/test.py', CONFIG, trained / 'epoch_1.pth', '--data', shapes_root, '--work-dir', tmp_path, '--tta']
    fails(call, '--tta: MMDetection merges boxes, but not masks', *test, *SMALL)
    boxes_only = tmp_path / 'boxes.py'
    boxes_only.write_text(f"_base_ = '{ROOT / CONFIG}'\n"
                          "model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))\n"
                          "test_evaluator = dict(metric='bbox')\n")
    test[2] = boxes_only
    result = call(*test, *SMALL)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'bbox_mAP_copypaste' in result.stdout


def test_two_processes_over_gloo(call: Callable, shapes_root: Path, tmp_path: Path):
    result = call(ROOT / 'tools' / 'dist_train.sh', ROOT / CONFIG, 2, '--data', shapes_root, '--work-dir', tmp_path / 'a b',
                  *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    entries = scalars(tmp_path / 'a b')
    # Two processes with 4 images each see the 12 in two steps; the 4 of the validation are counted once.
    assert len([entry for entry in entries if 'loss' in entry]) == 2
    assert any('coco/bbox_mAP' in entry for entry in entries)
    checkpoint = tmp_path / 'a b' / 'epoch_1.pth'
    alone = call('python', 'tools/test.py', CONFIG, checkpoint, '--data', shapes_root, '--work-dir', tmp_path / 'one', *SMALL)
    together = call(ROOT / 'tools' / 'dist_test.sh', ROOT / CONFIG, checkpoint, 2, '--data', shapes_root,
                    '--work-dir', tmp_path / 'two', *SMALL, cwd=tmp_path)
    pattern = r'bbox_mAP_copypaste: (.*)'
    assert re.search(pattern, alone.stdout).group(1) == re.search(pattern, together.stdout).group(1)


def broken(shapes_root: Path, tmp_path: Path, name: str, content: bytes | None) -> Path:
    """A copy of the data whose file `name` has other content, or is missing."""
    import shutil

    root = tmp_path / 'shapes'
    shutil.copytree(shapes_root, root)
    if content is None:
        (root / name).unlink()
    else:
        (root / name).write_bytes(content)
    return root


def fails(call: Callable, message: str, *command: object, **keywords) -> None:
    """Asserts that a command ends in one sentence and a non-zero exit, without frames."""
    result = call(*command, **keywords)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1, result.stderr[-3000:]
    assert re.search(message, errors[0]), errors[0]
    assert 'Traceback' not in result.stderr, result.stderr[-3000:]


def test_a_config_that_is_not_there(call: Callable):
    fails(call, r'config configs/maskrcn_ravlt_s.py does not exist; did you mean .*configs/maskrcnn_ravlt_s.py',
          'python', 'tools/train.py', 'configs/maskrcn_ravlt_s.py')


def test_traceback_shows_the_frames(call: Callable):
    result = call('python', 'tools/train.py', 'configs/nothing.py', '--traceback')
    assert result.returncode != 0
    assert 'Traceback' in result.stderr


def test_a_data_root_that_is_not_there(call: Callable, tmp_path: Path):
    fails(call, r'folder .*nowhere/ does not exist: --data DIR sets the folder; COCO 2017 can be downloaded from',
          'python', 'tools/train.py', 'configs/maskrcnn_mala_t.py', '--data', tmp_path / 'nowhere')
    fails(call, r'data/coco/ does not exist.*COCO 2017 can be downloaded from https://cocodataset.org',
          'python', ROOT / 'tools/train.py', ROOT / 'configs/maskrcnn_mala_t.py', cwd=tmp_path)


def test_an_annotation_file_that_is_not_there(call: Callable, shapes_root: Path, tmp_path: Path):
    root = broken(shapes_root, tmp_path, 'annotations/instances_train.json', None)
    fails(call, r'has no data for train and val: looked for COCO annotations .*; found val only',
          'python', 'tools/train.py', CONFIG, '--data', root, '--work-dir', tmp_path / 'w')


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'is empty'),
    (b'{"images": [', 'is not valid JSON'),
    (b'[]', 'holds a list'),
    (b'{"images": [], "annotations": []}', 'has no list "categories"'),
    (b'{"images": [{"id": 0, "file_name": "00000.png", "height": 128, "width": 128}], "annotations": [], '
     b'"categories": [{"id": 1, "name": "circle"}]}', 'has no instances'),
])
def test_annotations_that_cannot_be_used(call: Callable, shapes_root: Path, tmp_path: Path, content: bytes, message: str):
    root = broken(shapes_root, tmp_path, 'annotations/instances_train.json', content)
    fails(call, message, 'python', 'tools/train.py', CONFIG, '--data', root, '--work-dir', tmp_path / 'w', *SMALL)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(('cut', 'message'), [(0, 'is empty'), (5000, 'damaged or cut short')])
def test_an_image_that_cannot_be_read(call: Callable, shapes_root: Path, tmp_path: Path, cut: int, message: str, workers: int):
    root = broken(shapes_root, tmp_path, 'train/00007.png', (shapes_root / 'train/00007.png').read_bytes()[:cut])
    options = [option.replace('train_dataloader.num_workers=0', f'train_dataloader.num_workers={workers}') for option in SMALL]
    fails(call, f'00007.png {message}|00007.png is {message}',
          'python', 'tools/train.py', CONFIG, '--data', root, '--work-dir', tmp_path / 'w', *options)


def test_checkpoints_that_do_not_fit(call: Callable, shapes_root: Path, tmp_path: Path):
    test = ['python', 'tools/test.py', CONFIG]
    options = ['--data', shapes_root, '--work-dir', tmp_path / 'w', *SMALL]
    fails(call, 'nothing.pth does not exist', *test, tmp_path / 'nothing.pth', *options)
    (tmp_path / 'empty.pth').touch()
    fails(call, 'empty.pth is empty', *test, tmp_path / 'empty.pth', *options)
    (tmp_path / 'text.pth').write_text('weights')
    fails(call, 'text.pth is not a PyTorch checkpoint', *test, tmp_path / 'text.pth', *options)
    from ralamala_mm import RAVLT

    weights = {f'backbone.{key}': value for key, value in RAVLT('s').state_dict().items()}
    torch.save({'state_dict': weights}, tmp_path / 'other.pth')
    fails(call, 'other.pth does not fit MaskRCNN: it looks like RAVLT or MALA of size s', *test, tmp_path / 'other.pth', *options)


def test_checkpoints_for_other_classes(trained: Path, call: Callable, shapes_root: Path, tmp_path: Path):
    """Testing with random heads would give a number that means nothing; training may start from other classes' weights."""
    options = ['--data', shapes_root, '--work-dir', tmp_path / 'w', *SMALL]
    fails(call, 'its backbone is a RAVLT, not a MALA', 'python', 'tools/test.py', CONFIG, trained / 'epoch_1.pth', *options,
          'model.backbone.type=MALA')
    options = ['--data', shapes_root, '--work-dir', tmp_path / 'w', *SMALL, 'model.roi_head.bbox_head.num_classes=7',
               'model.roi_head.mask_head.num_classes=7']
    fails(call, 'epoch_1.pth does not fit MaskRCNN', 'python', 'tools/test.py', CONFIG, trained / 'epoch_1.pth', *options)
    result = call('python', 'tools/train.py', CONFIG, '--no-validate', *options, f'load_from={trained / "epoch_1.pth"}')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'WARNING: of another shape, starting fresh: roi_head' in result.stdout


def test_what_a_checkpoint_says_is_not_run(trained: Path, call: Callable, shapes_root: Path, tmp_path: Path):
    """MMEngine keeps the config in its checkpoints, as Python, and would run it on resuming."""
    checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=True)
    checkpoint['meta']['config'] = f"open({str(tmp_path / 'executed')!r}, 'w')"
    torch.save(checkpoint, tmp_path / 'crafted.pth')
    options = ['--data', shapes_root, '--work-dir', tmp_path / 'w', '--no-validate', *SMALL]
    result = call('python', 'tools/train.py', CONFIG, '--resume', tmp_path / 'crafted.pth', *options)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not (tmp_path / 'executed').exists()
    torch.save({'state_dict': checkpoint['state_dict']}, tmp_path / 'weights.pth')
    fails(call, 'weights.pth holds weights but no training state', 'python', 'tools/train.py', CONFIG, '--resume',
          tmp_path / 'weights.pth', *options)


def test_an_error_in_two_processes(call: Callable, shapes_root: Path, tmp_path: Path):
    root = broken(shapes_root, tmp_path, 'train/00007.png', b'')
    result = call(ROOT / 'tools' / 'dist_train.sh', ROOT / CONFIG, 2, '--data', root, '--work-dir', tmp_path / 'w', *SMALL)
    assert result.returncode != 0
    assert re.search(r'error: (rank 1: )?image .*00007.png is empty', result.stderr), result.stderr[-3000:]
    assert 'Traceback' not in result.stderr


def test_options_that_the_machine_cannot_serve(call: Callable, shapes_root: Path, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip('needs a machine without a GPU')
    fails(call, '--amp needs a GPU', 'python', 'tools/train.py', CONFIG, '--data', shapes_root, '--amp')
    fails(call, '4096 GPUs were asked for', ROOT / 'tools' / 'dist_train.sh', CONFIG, 4096)
    train = ['python', 'tools/train.py', CONFIG, '--data', shapes_root, '--work-dir', tmp_path / 'w']
    fails(call, 'did you mean train_dataloader', *train, '--cfg-options', 'train_dataloder.batch_size=4')
    fails(call, "the config gives EpochBasedTrainLoop an unexpected keyword argument 'max_iters'", *train, *SMALL,
          'train_cfg.max_iters=4')
    fails(call, "unexpected keyword argument 'archh'", *train, *SMALL, 'model.backbone.archh=t')
    fails(call, 'nothing.pth does not exist', *train, '--resume', tmp_path / 'nothing.pth')
    result = call(*train, '--cfg-options', 'foo')
    assert result.returncode == 2
    assert '--cfg-options takes settings as KEY=VALUE' in result.stderr
    fails(call, "arch='xl' is not known", 'python', 'tools/train.py', CONFIG, '--data', shapes_root,
          '--work-dir', tmp_path / 'w', *SMALL, 'model.backbone.arch=xl')
    fails(call, 'written to a .pkl file', 'python', 'tools/test.py', CONFIG, 'a.pth', '--data', shapes_root, '--out', 'a.json')
