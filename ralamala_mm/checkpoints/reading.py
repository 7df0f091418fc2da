"""A checkpoint file, from wherever, into memory, without running code that it may hold."""

import difflib
import fcntl
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.fileio import get_file_backend
from torch import Tensor

from ralamala_mm.errors import UserError

from .safety import load_safely, load_trusting, refused_name

StateDict = dict[str, Tensor]

# Where the weights lie in files seen in the wild: mmengine and mmdet 2.x runs, ImageNet training, EMA-only files.
_WEIGHT_KEYS = ('state_dict', 'model', 'model_state_dict', 'model_ema')
# Put in front of every key by DataParallel, torch.compile and EMA wrappers.
_WRAPPER_PREFIXES = ('module.', '_orig_mod.')


def near_names(path: Path, pattern: str = '*') -> str:
    """'; did you mean a or b?' with files beside `path` whose names resemble it, or ''."""
    folder = path.parent
    names = [entry.name for entry in folder.glob(pattern)] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(str(folder / name) for name in near)}?' if near else ''


def read_checkpoint(location: str, trusted: bool = False) -> Mapping:
    """Reads a checkpoint from a path, a URL or any store that MMEngine's file backends know.

    Args:
        location: path or URL.
        trusted: let the file run code while it is read, as Python's pickle does. Only for files from people you trust.

    Returns:
        What the file holds, with tensors on the CPU.

    Raises:
        UserError: the file is missing, empty, not a checkpoint, or would have to run code to be read.
    """
    if location.startswith(('http://', 'https://')):
        path = fetch(location)
        return _read_file(path, f'{location} (kept as {path})', trusted)
    if '://' in location:
        with get_file_backend(location).get_local_path(location) as path:
            return _read_file(Path(path), location, trusted)
    return _read_file(Path(location), location, trusted)


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
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process downloads, the others wait and find the file
        if not path.exists():
            try:
                torch.hub.download_url_to_file(url, str(path), progress=True)
            except OSError as error:
                raise UserError(f'{url} could not be downloaded ({error}): fetch it where there is a network, and give the path '
                                'of the file instead') from error
    return path


def check_file(path: Path, location: str) -> None:
    """Whether a local file can be a checkpoint at all, told before anything large is built.

    Raises:
        UserError: it is missing, a folder, or empty.
    """
    if not path.exists():
        raise UserError(f'checkpoint {location} does not exist{near_names(path, "*.pth")}')
    if path.is_dir():
        raise UserError(f'checkpoint {location} is a folder; name a .pth file in it')
    if path.stat().st_size == 0:
        raise UserError(f'checkpoint {location} is empty; an interrupted download or a full disk leaves such files')


def _read_file(path: Path, location: str, trusted: bool) -> Mapping:
    check_file(path, location)
    with path.open('rb') as file:
        start = file.read(64)
    if start.startswith(b'version https://git-lfs'):
        raise UserError(f'checkpoint {location} is a git-lfs pointer, not the weights themselves; run git lfs pull')
    try:
        content = load_trusting(path) if trusted else load_safely(path)
    except pickle.UnpicklingError as error:
        if name := refused_name(error):
            raise UserError(f'checkpoint {location} holds more than data ({name}) and could run code when read, so it is '
                            'refused; if you trust who made it, python tools/convert_checkpoint.py IN OUT --trust writes a '
                            'copy that is data alone') from error
        raise UserError(f'checkpoint {location} is not a PyTorch checkpoint') from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, OSError, UnicodeDecodeError) as error:
        raise UserError(f'checkpoint {location} is not a PyTorch checkpoint, or it is damaged or cut short') from error
    if not isinstance(content, Mapping):
        raise UserError(f'checkpoint {location} holds a {type(content).__name__}, not a state dict')
    return content


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
    raise UserError(f'checkpoint {location} holds no weights; its entries are {", ".join(map(str, list(content)[:8])) or "none"}')


def strip_wrappers(weights: StateDict) -> StateDict:
    """Takes wrapper prefixes off where every key has them."""
    for _ in range(2 * len(_WRAPPER_PREFIXES)):
        for prefix in _WRAPPER_PREFIXES:
            if all(key.startswith(prefix) for key in weights):
                weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
