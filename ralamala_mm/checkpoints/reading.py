"""Checkpoints read from paths and URLs without running code from them, unless the user trusts them.

The command lines lead MMEngine's own ways to a checkpoint through here too (`read_safely_everywhere`: `Pretrained` of any
module, `load_checkpoint`, model zoos); importing the package alone does not, so that those who only take the backbones find
MMEngine as they know it.
"""

import errno
import fcntl
import hashlib
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlparse

import numpy
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from torch import Tensor

from ralamala_mm.errors import UserError, did_you_mean

from .container import NotACheckpointError, load_data
from .pickle_allowlist import RefusedError

_is_trusting = False
# Where the weights lie in files seen in the wild: mmengine and mmdet 2.x runs, ImageNet training, EMA-only files.
_WEIGHT_KEYS = ('state_dict', 'model', 'model_state_dict', 'model_ema', 'state_dict_ema')
# Put in front of every key by DataParallel, torch.compile and EMA wrappers.
_WRAPPER_PREFIXES = ('module.', '_orig_mod.')
# How files begin that people take for a checkpoint, and what they are.
_OTHER_FILES = {
    rb'version https://git-lfs': 'is a git-lfs pointer, not the weights themselves; run git lfs pull',
    rb'\s*<(!doctype|html|\?xml)': 'is a web page: the download gave a page, not the file; open it in a browser',
    rb'\x93NUMPY': "is an array of NumPy's, not a PyTorch checkpoint",
    rb'\x89HDF': 'is an HDF5 file, such as Keras writes',
    rb'\x1f\x8b': 'is compressed with gzip; unpack it',
    rb'BZh[1-9]1AY&SY': 'is compressed with bzip2; unpack it',
    rb'\xfd7zXZ\x00': 'is compressed with xz; unpack it',
}
# What the system says where a damaged file, not the disk, is the reason: a place before its beginning, or far beyond its end.
_DAMAGED = (errno.EINVAL, errno.EOVERFLOW)
_SAFETENSORS = rb'.{8}\{\s*"'
_FOLDERS_WEIGHTS = 'model.safetensors'  # in folders that save_pretrained writes
_UNUSUAL_TENSORS = {f'torch._utils._rebuild_{name}': kind for name, kind in dict(
    qtensor='quantised', sparse_tensor='sparse', meta_tensor_no_storage='empty (meta)', nested_tensor='nested',
    wrapper_subclass='wrapped').items()}
_PLACES = ('', 'http://', 'https://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')  # as MMEngine names them


def trust_checkpoints(trust: bool) -> None:
    """What the command line says, for every way of reading a checkpoint in this process: those that the config names too.

    Nothing else sets it, and no config can. A file that nobody named, as in a folder that is looked through, is not trusted.
    """
    global _is_trusting
    _is_trusting = trust


def is_trusting() -> bool:
    """Whether `--trust-checkpoint` was given."""
    return _is_trusting


def load_trusting(path: Path, reason: str) -> object:
    """Reads a checkpoint as Python's pickle does, running what it asks for, and says so on stderr.

    Args:
        path: the file.
        reason: what it holds beside data.
    """
    print(f'WARNING: --trust-checkpoint: reading {path} WITH CODE ALLOWED, as it holds more than data ({reason})',
          file=sys.stderr, flush=True)
    return torch.load(path, map_location='cpu', weights_only=False)


StateDict = dict[str, Tensor]


class UnreadableFileError(UserError):
    """The system does not give the file, which may be whole: a right, a disk or a network is wanting."""


class RefusedFileError(UserError):
    """The file may be whole, but holds more than data."""


def near_names(path: Path, pattern: str = '*') -> str:
    """'; did you mean a or b?' with files beside `path` whose names resemble it, or ''."""
    folder = path.parent
    names = [entry.name for entry in folder.glob(pattern)] if folder.is_dir() else []
    return did_you_mean(path.name, names, cutoff=0.5, shown=lambda name: str(folder / name))


def read_checkpoint(location: str, trusted: bool | None = None, tensors: bool = True) -> Mapping:
    """Reads a checkpoint from a path, a URL or any store that MMEngine's file backends know.

    Args:
        location: path or URL.
        trusted: let the file run code, as Python's pickle does, if it cannot be read without. Only for files from people you
            trust. None does what the command line says, see `trust_checkpoints`.
        tensors: False leaves their values unread, for those who want to know the rest of a large file.

    Returns:
        What the file holds, with tensors on the CPU.

    Raises:
        UnreadableFileError: the system does not give the file.
        RefusedFileError: the file would have to run code to be read.
        UserError: it is missing, empty, or not a checkpoint.
    """
    trusted = is_trusting() if trusted is None else trusted
    if location.startswith(('http://', 'https://')):
        path = fetch(location)
        return _read_file(path, f'{location} (kept as {path})', trusted, tensors)
    if '://' not in location:
        try:
            path = Path(location).expanduser()
        except RuntimeError as error:
            raise UserError(f'checkpoint {location} does not exist: there is no home of that user') from error
        return _read_file(path, location, trusted, tensors)
    try:
        store = get_file_backend(location)
    except (KeyError, ValueError, ImportError, TypeError, AssertionError) as error:
        raise UserError(f'checkpoint {location} lies in a store that cannot be reached here ({error})') from error
    with store.get_local_path(location) as path:
        return _read_file(Path(path), location, trusted, tensors)


def fetch(url: str) -> Path:
    """The file of a URL in PyTorch's cache; downloaded once, also when several processes of a machine ask for it.

    Raises:
        UserError: it cannot be downloaded.
    """
    # Different repositories use the same file names.
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(urlparse(url).path).name}'
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix('.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # rank 0 downloads, the others wait and find the file
        if not path.exists():
            try:
                torch.hub.download_url_to_file(url, str(path), progress=True)
            except OSError as error:
                raise UserError(f'{url} could not be downloaded ({error}): fetch it where there is a network, and give the path '
                                'of the file instead') from error
    return path


def check_file(path: Path, location: str) -> None:
    """Whether a local file can be a checkpoint at all, reported before anything large is built.

    Raises:
        UserError: it is missing, a folder, or empty.
    """
    if not path.exists():
        home = '; ~ cannot be expanded here: give the full path' if location.startswith('~') else ''
        raise UserError(f'checkpoint {location} does not exist{near_names(path, "*.pth")}{home}')
    if path.is_dir():
        raise UserError(f'checkpoint {location} is a folder; name a .pth file in it')
    if path.stat().st_size == 0:
        raise UserError(f'checkpoint {location} is empty; an interrupted download or a full disk leaves such files')


def unreadable(location: object, error: OSError) -> UnreadableFileError | None:
    """What is to be raised for an error of the system; None where the file's content is the reason."""
    if error.errno in (None, *_DAMAGED):
        return None
    return UnreadableFileError(f'checkpoint {location} cannot be read ({error.strerror})')


def _read_file(path: Path, location: str, trusted: bool, tensors: bool) -> Mapping:
    try:
        if (path / _FOLDERS_WEIGHTS).is_file():
            path = path / _FOLDERS_WEIGHTS
        check_file(path, location)
        content = _load(path, trusted, tensors)
    except UserError:
        raise
    except RefusedError as error:
        raise RefusedFileError(_refusal(location, str(error))) from error
    except NotACheckpointError as error:
        raise UserError(f'checkpoint {location} {error}') from error
    except Exception as error:  # whatever a damaged file, or one made for it, brings about
        raise _explained(error, location) from error
    if not isinstance(content, Mapping):
        raise UserError(f'checkpoint {location} holds a {type(content).__name__}, not a state dict')
    if not isinstance(content.get('meta', {}), (Mapping, Tensor)):  # a tensor: weights may bear this name
        raise UserError(f'checkpoint {location} is damaged: its entry `meta` is a {type(content["meta"]).__name__}, not a dict')
    return content


def _explained(error: Exception, location: str) -> UserError:
    if isinstance(error, OSError) and (found := unreadable(location, error)):
        return found
    if isinstance(error, MemoryError) or re.search("can't allocate memory|not enough memory", str(error)):  # PyTorch's words
        return UserError(f'checkpoint {location} takes more memory than there is')
    return UserError(f'checkpoint {location} is not a PyTorch checkpoint, or it is damaged or cut short')


def _load(path: Path, trusted: bool, tensors: bool) -> object:
    with path.open('rb') as file:
        start = file.read(512)
    for pattern, what in _OTHER_FILES.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            raise NotACheckpointError(what)
    if re.match(_SAFETENSORS, start, re.DOTALL):
        return _load_safetensors(path)
    try:
        return load_data(path, tensors)
    except RefusedError as error:
        if not trusted:
            raise
        reason = str(error)
    try:
        return load_trusting(path, reason)
    except MemoryError:
        raise
    except Exception as error:  # whatever the file's code, or what is not installed of it, brings about
        raise NotACheckpointError(f'cannot be read with code allowed either ({type(error).__name__}: {error})') from error


def _load_safetensors(path: Path) -> StateDict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise NotACheckpointError('is a safetensors file, which needs a package: pip install safetensors') from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise NotACheckpointError(f'is a safetensors file, but a damaged one ({error})') from error


def _refusal(location: str, what: str) -> str:
    trust = ('if you trust who made it, --trust-checkpoint reads it all the same, and tools/convert_checkpoint.py with it writes '
             'a copy that is data alone')
    if kind := _UNUSUAL_TENSORS.get(what):
        return f'checkpoint {location} holds {kind} tensors, which are not read here ({what}); {trust}'
    return f'checkpoint {location} holds more than data ({what}) and could run code when read, so it is refused; {trust}'


def find_weights(content: Mapping, location: str) -> StateDict:
    """The state dict inside a checkpoint, without the prefixes of wrappers.

    Raises:
        UserError: there is none.
    """
    candidates = [content[key] for key in _WEIGHT_KEYS if isinstance(content.get(key), Mapping)] + [content]
    for candidate in candidates:
        weights = {key: value for key, value in candidate.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if weights:
            return strip_wrappers(weights)
    entries = [key for key in content if isinstance(key, str)]
    raise UserError(f'checkpoint {location} holds no weights; its entries are {", ".join(entries[:8]) or "none with a name"}')


def strip_wrappers(weights: StateDict) -> StateDict:
    """Takes wrapper prefixes off where every key has them."""
    for _ in range(2 * len(_WRAPPER_PREFIXES)):
        for prefix in _WRAPPER_PREFIXES:
            if all(key.startswith(prefix) for key in weights):
                weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


_MODEL_ZOOS: dict[str, Callable[[], dict[str, str]]] = {
    'torchvision://': get_torchvision_models, 'modelzoo://': get_torchvision_models, 'open-mmlab://': get_external_models,
    'openmmlab://': get_external_models, 'mmcls://': get_mmcls_models}


def read_safely_everywhere() -> None:
    """Puts our reader in the place of every loader that MMEngine has for checkpoints, for the rest of this process.

    `init_cfg=dict(type='Pretrained', …)` of any module and `mmengine.runner.load_checkpoint` then read without running code,
    in both stacks: MMEngine relies on PyTorch's default, on which an environment variable and releases before 2.6 have their
    own view, and OneDL's reads again with code allowed where that fails.
    """
    CheckpointLoader.register_scheme(_PLACES, load_from_data_alone, force=True)
    CheckpointLoader.register_scheme(tuple(_MODEL_ZOOS), load_from_model_zoo, force=True)


def load_from_data_alone(filename: str, map_location: object = None) -> dict:
    """A loader as MMEngine calls it; tensors are on the CPU, from where it copies them to the model.

    Raises:
        UserError: see `read_checkpoint`; or there are no weights.
    """
    content = read_checkpoint(filename)
    weights = content.get('state_dict', content)
    if isinstance(content, dict) and isinstance(weights, Mapping) and weights and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()):
        return content
    return dict(content, state_dict=OrderedDict(find_weights(content, filename)))


def load_from_model_zoo(filename: str, map_location: object = None) -> dict:
    """The weights that a model zoo knows by a name: `torchvision://resnet50`.

    Raises:
        UserError: it does not know the name; or see `read_checkpoint`.
    """
    scheme, _, name = filename.partition('//')
    known = _MODEL_ZOOS[f'{scheme}//']()
    name = get_deprecated_model_names().get(name, name) if known and 'lab' in scheme else name
    if name not in known:
        raise UserError(f'{filename}: {scheme.rstrip(":")} has no weights of this name{did_you_mean(name, known)}')
    location = known[name] if '://' in known[name] else os.path.join(_get_mmengine_home(), known[name])
    content = load_from_data_alone(location)
    if scheme != 'mmcls:':
        return content
    weights = content.get('state_dict', content)
    return dict(state_dict=OrderedDict((key.removeprefix('backbone.'), value) for key, value in weights.items()
                                       if key.startswith('backbone.')))


class _RecordedHistory(HistoryBuffer):
    """Becomes a history with the recorded numbers; its functions are not taken from the file."""

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update({key: state[key] for key in ('max_length', '_log_history', '_count_history')})
        self.__class__ = HistoryBuffer


def _statistic(owner: type, name: str) -> Callable:
    """Stands in for `getattr`, by which a history names its four functions; OneDL allows MMEngine's own class for ours."""
    if owner not in (_RecordedHistory, HistoryBuffer) or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'getattr({owner}, {name}) was not allowed')
    return getattr(owner, name)


def _let_mmengine_resume() -> None:
    """MMEngine 0.10.7 cannot read its own checkpoints on torch >= 2.6 (open-mmlab/mmengine issue 1641): teaches PyTorch's
    safe loading the types that they hold, for those who train with MMEngine's own tools."""
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):  # which cannot be taught a name for a function
        return
    core = numpy._core if hasattr(numpy, '_core') else numpy.core
    allowed = [(_RecordedHistory, 'mmengine.logging.history_buffer.HistoryBuffer'), (_statistic, 'builtins.getattr'),
               (numpy.ndarray, 'numpy.ndarray'), (numpy.dtype, 'numpy.dtype')]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # as numpy 2 and numpy 1 name it
        allowed += [(core.multiarray._reconstruct, f'{module}._reconstruct'), (core.multiarray.scalar, f'{module}.scalar')]
    for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'bool'):
        kind = type(numpy.dtype(name))
        allowed.append((kind, f'{kind.__module__}.{kind.__qualname__}'))
    torch.serialization.add_safe_globals(allowed)


_let_mmengine_resume()
