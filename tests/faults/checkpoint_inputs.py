"""Bad checkpoints, configs and arguments, each with the sentence that it ends in."""

import bz2
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from bad_input import BadInput

from ralamala_mm import MALA, RAVLT

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'tests/faults/configs/tiny_detector.py'
TINY = dict(embed_dims=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], mlp_ratio=2.0)
SMALL = ['train_dataloader.num_workers=0', 'train_cfg.max_epochs=1', 'custom_hooks=[]']


@cache
def weights() -> dict:
    """A detector's weights as far as the backbone goes, which a training may start from."""
    return {f'backbone.{key}': value for key, value in RAVLT(TINY).state_dict().items()}


@cache
def whole_weights() -> dict:
    """All of a detector's weights."""
    from ralamala_mm.engine import build_model, load_config

    return build_model(load_config(str(ROOT / CONFIG))).state_dict()


def changed(key: str, value: object) -> dict:
    """The weights with another entry."""
    return {'state_dict': {**weights(), f'backbone.{key}': value}}


def written(content: object, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def train(folder: Path, shapes_root: Path, *options: str, config: object = CONFIG, arguments: tuple[str, ...] = ()) -> list[str]:
    return ['tools/train.py', str(config), '--data', str(shapes_root), '--work-dir', str(folder / 'work'), '--no-validate',
            *arguments, '--cfg-options', *SMALL, *options]


def loaded(make: Callable[[], bytes] | None, route: str = 'load_from', name: str = 'a.pth') -> Callable:
    """A training or a test with a file of some content, or with none, on one of the routes by which a checkpoint comes."""

    def prepare(folder: Path, shapes_root: Path) -> list[str]:
        path = folder / name
        if make:
            path.write_bytes(make())
        if route == 'test':
            return ['tools/test.py', CONFIG, str(path), '--data', str(shapes_root), '--work-dir', str(folder / 'work'),
                    '--cfg-options', 'custom_hooks=[]']
        if route == 'resume':
            return train(folder, shapes_root, arguments=('--resume', str(path)))
        if route == 'convert':
            return ['tools/convert_checkpoint.py', str(path), str(folder / 'out.pth')]
        if route == 'neck':
            return train(folder, shapes_root, 'model.neck.init_cfg.type=Pretrained', f'model.neck.init_cfg.checkpoint={path}')
        return train(folder, shapes_root, f'{route}={path}')

    return prepare


def zipped(compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', compression) as archive:
        for name, content in files.items():
            archive.writestr(name.replace('__', '/').replace('DOT', '.'), content)
    return stream.getvalue()


def zip_bomb() -> bytes:
    """A few hundred kilobytes that PyTorch unpacks into 256 MiB."""
    with zipfile.ZipFile(io.BytesIO(written({'a': torch.zeros(2**26)}))) as archive:
        files = {name.split('/', 1)[1]: archive.read(name) for name in archive.namelist()}
    return zipped(zipfile.ZIP_DEFLATED, **{f'a/{name}': content for name, content in files.items()})


def training_state(**changes) -> bytes:
    """What a training continues from, with other entries."""
    return written(dict(dict(meta=dict(epoch=1, iter=3), state_dict=weights(), optimizer=dict(state={}, param_groups=[]),
                             message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={})), **changes))


def nested(depth: int) -> list:
    content: list = []
    for _ in range(depth):
        content = [content]
    return content


def pickled_deep() -> bytes:
    """Lists in lists, deeper than Python can walk, and than it can write by itself."""
    return zipped(a__dataDOTpkl=b'\x80\x02}X\x04\x00\x00\x00meta' + b']' * 100_000 + b'a' * 99_999 + b's.')


PICKLED = b'\x80\x02'
CHECKPOINTS = [
    BadInput('no file', loaded(None), r'a\.pth does not exist'),
    BadInput('empty file', loaded(lambda: b''), r'a\.pth is empty'),
    BadInput('empty file to test', loaded(lambda: b'', 'test'), r'a\.pth is empty'),
    BadInput('empty file to resume from', loaded(lambda: b'', 'resume'), r'a\.pth is empty'),
    BadInput('text', loaded(lambda: b'weights'), r'a\.pth is not a PyTorch checkpoint'),
    BadInput('web page', loaded(lambda: b'<!DOCTYPE html>\n<html>'), r'a\.pth is a web page'),
    BadInput('git-lfs pointer', loaded(lambda: b'version https://git-lfs.github.com/spec/v1\noid'), r'git-lfs pointer'),
    BadInput('safetensors', loaded(lambda: (2).to_bytes(8, 'little') + b'{"a": 1}'), r'is a safetensors file'),
    BadInput('numpy array', loaded(lambda: b'\x93NUMPY\x01\x00v'), r"an array of NumPy's"),
    BadInput('numpy archive', loaded(lambda: zipped(aDOTnpy=b'')), r"an archive of NumPy's"),
    BadInput('other zip archive', loaded(lambda: zipped(a=b'')), r'is a zip archive, but not a PyTorch checkpoint'),
    BadInput('gzip', loaded(lambda: b'\x1f\x8b\x08'), r'compressed with gzip'),
    BadInput('TorchScript', loaded(lambda: zipped(a__constantsDOTpkl=b'', a__dataDOTpkl=PICKLED + b'N.')),
             r'TorchScript archive'),
    BadInput('plain pickle', loaded(lambda: pickle.dumps({'a': 1}, 2)), r'is a pickle, but not a PyTorch checkpoint'),
    BadInput('cut short', loaded(lambda: written({'state_dict': weights()})[:9000]), r'damaged or cut short'),
    BadInput('cut short, legacy', loaded(lambda: written(weights(), _use_new_zipfile_serialization=False)[:-9]),
             r'damaged or cut'),
    BadInput('bytes changed', loaded(lambda: written(weights(), _use_new_zipfile_serialization=False).replace(
        b'FloatStorage', b'egarotStaolF')), r'holds more than data'),
    BadInput('checksum', loaded(lambda: flipped(written(weights()))), r'damaged or cut short'),
    BadInput('zip bomb', loaded(zip_bomb), r'has compressed parts'),
    BadInput('memory bomb', loaded(lambda: zipped(a__dataDOTpkl=PICKLED + b'cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.')),
             r'damaged or cut short'),
    BadInput('deep nesting', loaded(pickled_deep), r'damaged or cut short'),
    BadInput('a list', loaded(lambda: written([1])), r'holds a list, not a state dict'),
    BadInput('a tensor', loaded(lambda: written(torch.ones(1))), r'holds a Tensor, not a state dict'),
    BadInput('no weights', loaded(lambda: written({'epoch': 1})), r'holds no weights; its entries are epoch'),
    BadInput('nothing', loaded(lambda: written({}), 'test'), r'holds no weights'),
    BadInput('meta of numbers', loaded(lambda: written({'state_dict': weights(), 'meta': 3})), r'its entry `meta` is a int'),
    BadInput('classes that are a number, incomplete', loaded(lambda: written({'state_dict': weights(), 'meta': {
        'dataset_meta': {'classes': 3}}}), 'test'), r'lacks \d+ of the \d+ entries'),
    BadInput('a line break in a name', loaded(lambda: written({'error: a\nerror: b\x1b[2J': torch.ones(1)})),
             r'nothing in \S+ fits'),
    BadInput('another model', loaded(lambda: written({'conv1.weight': torch.ones(2)})), r'it looks like another model'),
    BadInput('another size',
             loaded(lambda: written({f'backbone.{key}': value for key, value in RAVLT('t').state_dict().items()})),
             r'does not fit MaskRCNN: it looks like RAVLT or MALA of size t'),
    BadInput('the other backbone', loaded(lambda: written({'meta': {'ralamala_mm': {'backbone': 'MALA'}}, 'state_dict': {
        f'backbone.{key}': value for key, value in MALA(TINY).state_dict().items()}})), r'its backbone is a MALA, not a RAVLT'),
    BadInput('whole numbers as weights', loaded(lambda: written({'state_dict': {key: value.long() for key, value in
                                                                                weights().items()}})), r'is of torch\.int64'),
    BadInput('weight without dimensions', loaded(lambda: written(changed('patch_embed.proj.0.weight', torch.ones(())))),
             r'patch_embed.proj.0.weight is \(\) instead of'),
    BadInput('sparse weight', loaded(lambda: written(changed('patch_embed.proj.0.weight', torch.eye(3).to_sparse()))),
             r'holds sparse'),
    BadInput('meta weight', loaded(lambda: written(changed('patch_embed.proj.0.weight', torch.ones(3, device='meta')))),
             r'holds empty'),
    BadInput('object array', loaded(lambda: written({'a': np.array([{}], dtype=object)})),
             r'holds more than data \(numpy\.dtype'),
    BadInput('a class of its own', loaded(lambda: written({'a': BadInput('a', print, 'a')})),
             r'holds more than data \(bad_input\.Bad'),
    BadInput('weights alone to resume from', loaded(lambda: written({'state_dict': weights()}), 'resume'),
             r'no training state to resume'),
    BadInput('negative iteration', loaded(lambda: training_state(meta=dict(epoch=1, iter=-3)), 'resume'),
             r'no training state to resume'),
    BadInput('backbone alone to resume from', loaded(training_state, 'resume'), r'lacks \d+ of the \d+ entries of MaskRCNN'),
    BadInput('no optimizer of this model', loaded(lambda: training_state(state_dict=whole_weights()), 'resume'),
             r'training state in \S+ does not fit this training \(ValueError: .*parameter group'),
    BadInput('optimizer that is a list', loaded(lambda: training_state(state_dict=whole_weights(), optimizer=[1]), 'resume'),
             r'training state in \S+ does not fit this training \(TypeError'),
    BadInput('empty message hub', loaded(lambda: training_state(state_dict=whole_weights(), message_hub={}), 'resume'),
             r'training state in \S+ does not fit this training \(AssertionError: .*`MessageHub`'),
    BadInput('containers shared without end', loaded(lambda: zipped(a__dataDOTpkl=PICKLED + b'}X\x04\x00\x00\x00metaN'
                                                                     + b'q\x01h\x01\x86' * 60 + b's.')), r'damaged or cut short'),
    BadInput('many entries of one hash', loaded(lambda: zipped(a__dataDOTpkl=PICKLED + b'}(' + b''.join(
        b'\x8a\x09' + (i * (2**61 - 1)).to_bytes(9, 'little') + b'N' for i in range(1000)) + b'u.')), r'holds more than data'),
    BadInput('bzip2', loaded(lambda: bz2.compress(b'weights')), r'compressed with bzip2'),
    BadInput('xz', loaded(lambda: lzma.compress(b'weights')), r'compressed with xz'),
    BadInput('tar archive', loaded(lambda: tarfile.TarInfo('a').tobuf() + bytes(1024)), r'a tar archive'),
    BadInput('a home of nobody', lambda folder, _: ['tools/convert_checkpoint.py', '~nobody_at_all/a.pth',
                                                    str(folder / 'out.pth')], r'there is no home of that user'),
    BadInput('text for the neck', loaded(lambda: b'weights', 'neck'), r'a\.pth is not a PyTorch checkpoint'),
    BadInput('text for the backbone', loaded(lambda: b'weights', 'model.backbone.pretrained'),
             r'a\.pth is not a PyTorch checkpoint'),
    BadInput('text to convert', loaded(lambda: b'weights', 'convert'), r'a\.pth is not a PyTorch checkpoint'),
    BadInput('another model to convert', loaded(lambda: written({'conv1.weight': torch.ones(2)}), 'convert'),
             r'no RAVLT or MALA'),
    BadInput('weights of no size to convert', loaded(lambda: written(weights()), 'convert'), r'no RAVLT or MALA'),
]


def flipped(content: bytes) -> bytes:
    """One bit of the last weights changed."""
    place = content.rindex(b'PK\x03\x04') - 200
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]


def own_config(text: str, name: str = 'own.py') -> Callable:
    """A training by a config of some text, on top of the tiny detector's unless it names another base."""

    def prepare(folder: Path, shapes_root: Path) -> list[str]:
        path = folder / name
        path.write_text(text if '_base_' in text else f"_base_ = '{ROOT / CONFIG}'\n{text}")
        return train(folder, shapes_root, config=path)

    return prepare


def two_bases(folder: Path, shapes_root: Path) -> list[str]:
    """Configs that are the base of one another."""
    (folder / 'a.py').write_text("_base_ = './b.py'\n")
    (folder / 'b.py').write_text("_base_ = './a.py'\n")
    return train(folder, shapes_root, config=folder / 'a.py')


def set_to(*options: str, arguments: tuple[str, ...] = ()) -> Callable:
    """A training with settings."""
    return lambda folder, shapes_root: train(folder, shapes_root, *options, arguments=arguments)


def validated(*options: str) -> Callable:
    """A training with its validation."""
    return lambda folder, shapes_root: [word for word in train(folder, shapes_root, *options) if word != '--no-validate']


CONFIGS = [
    BadInput('no config', lambda folder, _: ['tools/train.py', str(folder / 'maskrcnn_ravlt.py')],
             r'does not exist; did you mean'),
    BadInput('folder as config', lambda folder, _: ['tools/train.py', str(folder)], r'config \S+ does not exist'),
    BadInput('syntax error', own_config('model = dict('), r'not valid Python: .* in line'),
    BadInput('binary config', own_config('_base_ = "\x00"'), r'cannot contain null bytes'),
    BadInput('config that divides by zero', own_config('a = 1 / 0'), r'own\.py cannot be read \(ZeroDivisionError'),
    BadInput('config of nothing', own_config("_base_ = []\n"), r'has no model'),
    BadInput('config as JSON that is none', own_config('{"_base_": ', 'own.json'), r'own\.json cannot be read'),
    BadInput('config as text file', own_config('_base_', 'own.txt'), r'own\.txt cannot be read'),
    BadInput('missing base', own_config("_base_ = './nowhere.py'"), r'a base of config .* does not exist'),
    BadInput('missing package of a base', own_config("_base_ = 'nowhere::a.py'"), r'cannot be read \(\w+: .*package'),
    BadInput('recursive bases', two_bases, r'a\.py cannot be read: its _base_ leads back to itself'),
    BadInput('own base', own_config("_base_ = './own.py'"), r'its _base_ leads back to itself'),
    BadInput('unknown name', own_config('a = b'), r"own\.py cannot be read \(NameError: name 'b'"),
    BadInput('missing module', own_config("custom_imports = dict(imports=['nowhere_at_all'], allow_failed_imports=False)"),
             r'nowhere_at_all'),
    BadInput('unknown model', own_config("model = dict(type='MaskRCNNN')"), r'MaskRCNNN'),
    BadInput('unknown backbone', own_config("model = dict(backbone=dict(type='RAVTL'))"), r'RAVTL'),
    BadInput('unknown hook', own_config("default_hooks = dict(extra=dict(type='NowhereHook'))"), r'NowhereHook'),
    BadInput('hook without a type', own_config('default_hooks = dict(extra=dict(momentum=1))'), r'must contain the key "type"'),
    BadInput('unknown transform', set_to("train_dataloader.dataset.pipeline.0.type=LoadNothing"), r'LoadNothing'),
    BadInput('unknown optimizer', set_to('optim_wrapper.optimizer.type=AdamWW'), r'AdamWW'),
    BadInput('unknown schedule', set_to('param_scheduler.0.type=CosineLR'), r'CosineLR'),
    BadInput('unknown data set', set_to('train_dataloader.dataset.type=CocoData'), r'CocoData'),
    BadInput('unknown metric', validated('val_evaluator.type=Coco'), r'Coco is not in'),
    BadInput('unknown size', own_config("model = dict(backbone=dict(_delete_=True, type='RAVLT', arch='xl'))"),
             r"arch='xl' is not known"),
    BadInput('unknown argument', set_to('model.backbone.depth=50'), r"an unexpected keyword argument 'depth'"),
    BadInput('unknown argument of the neck', set_to('model.neck.outchannels=5'),
             r"FPN an unexpected keyword argument 'outchannels'"),
    BadInput('stages beyond the last', set_to('model.backbone.out_indices=0,4'), r'out_indices must name stages from 0 to 3'),
    BadInput('stages as text', set_to('model.backbone.out_indices=all'), r"out_indices must name stages .* not \('a'"),
    BadInput('frozen stages', set_to('model.backbone.frozen_stages=9'), r'frozen_stages must lie between -1 and 4'),
    BadInput('odd heads', set_to('model.backbone.arch.num_heads=3,1,2,2'), r'to be a multiple of 4'),
]
VALUES = [
    BadInput('batch of none', set_to('train_dataloader.batch_size=0'), r'batch_size should be a positive integer'),
    BadInput('batch as text', set_to('train_dataloader.batch_size=many'), r'batch_size should be a positive integer'),
    BadInput('negative workers', set_to('train_dataloader.num_workers=-1'), r'num_workers .*non-negative'),
    BadInput('learning rate as text', set_to('optim_wrapper.optimizer.lr=fast'), r"can't multiply sequence .*'lr': 'fast'"),
    BadInput('negative learning rate', set_to('optim_wrapper.optimizer.lr=-1.0'), r'Invalid learning rate: -1'),
    BadInput('negative epochs', set_to('train_cfg.max_epochs=-1'), r'max_epochs must be a positive integer, got -1'),
    BadInput('no epochs', set_to('train_cfg.max_epochs=0'), r'max_epochs must be a positive integer, got 0'),
    BadInput('epochs as text', set_to('train_cfg.max_epochs=many'), r"max_epochs must be a positive integer, got 'many'"),
    BadInput('epochs and iterations', set_to('train_cfg.max_iters=4'), r"unexpected keyword argument 'max_iters'"),
    BadInput('seed as text', set_to('randomness.seed=today'), r"Cannot cast .* in the part 'today'"),
    BadInput('setting of a setting', set_to('train_cfg.max_epochs.a=1'), r'--cfg-options do not fit'),
    BadInput('place in a list', set_to('param_scheduler.9.type=PolyLR'), r'--cfg-options do not fit'),
    BadInput('mistyped setting', set_to('train_dataloder.batch_size=4'), r'did you mean train_dataloader'),
    BadInput('mixed precision on the CPU', set_to(arguments=('--amp',)), r'--amp needs a GPU'),
]


def in_the_way(folder: Path, shapes_root: Path) -> list[str]:
    (folder / 'work').write_text('')
    return train(folder, shapes_root)


def below_a_file(folder: Path, shapes_root: Path) -> list[str]:
    (folder / 'file').write_text('')
    return [word.replace(str(folder / 'work'), str(folder / 'file/work')) for word in train(folder, shapes_root)]


def tested(*arguments: str) -> Callable:
    return lambda folder, shapes_root: ['tools/test.py', CONFIG, str(folder / 'a.pth'), '--work-dir', str(folder / 'work'),
                                        '--data', str(shapes_root), *arguments]


def converted(out: str, *arguments: str) -> Callable:
    """convert_checkpoint.py on a whole file, writing to what cannot be written."""

    def prepare(folder: Path, shapes_root: Path) -> list[str]:
        (folder / 'a.pth').write_bytes(written(RAVLT('t').state_dict()))
        (folder / 'file').write_text('')
        (folder / 'folder').mkdir()
        return ['tools/convert_checkpoint.py', str(folder / 'a.pth'), str(folder / out), *arguments]

    return prepare


ARGUMENTS = [
    BadInput('no arguments', lambda *_: ['tools/train.py'], r'the following arguments are required'),
    BadInput('unknown option', set_to(arguments=('--batch-size', '4')), r'unrecognized arguments: --batch-size'),
    BadInput('unknown launcher', set_to(arguments=('--launcher', 'k8s')), r'invalid choice'),
    BadInput('launcher without its variables', set_to(arguments=('--launcher', 'pytorch')), r'RANK is not set'),
    BadInput('slurm without its variables', set_to(arguments=('--launcher', 'slurm')), r'SLURM_PROCID is not set'),
    BadInput('settings without a value', set_to('batch_size'), r'KEY=VALUE'),
    BadInput('file as work directory', in_the_way, r'cannot be written to \(File exists\): --work-dir takes another'),
    BadInput('work directory below a file', below_a_file, r'cannot be written to \(Not a directory\): --work-dir takes'),
    BadInput('no data', lambda folder, _: train(folder, folder / 'nowhere'), r'nowhere/? does not exist'),
    BadInput('test without a file', tested(), r'a\.pth does not exist'),
    BadInput('predictions as JSON', tested('--out', 'a.json'), r'written to a \.pkl file'),
    BadInput('wait as text', tested('--wait-time', 'long'), r'invalid float value'),
    BadInput('conversion onto itself', converted('a.pth'), r'OUT is IN'),
    BadInput('conversion into a folder', converted('folder'), r'cannot be written .*Is a directory'),
    BadInput('conversion below a file', converted('file/out.pth'), r'cannot be written .*(File exists|Not a directory)'),
    BadInput('conversion to another backbone', converted('out.pth', '--backbone', 'swin'), r'invalid choice'),
]
CHECKPOINT_CASES: list[BadInput] = [*CHECKPOINTS, *CONFIGS, *VALUES, *ARGUMENTS]
