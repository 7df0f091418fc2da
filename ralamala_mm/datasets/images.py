"""Images read with care: found by names of other systems, complete files alone, upright; faults reported or skipped."""

import fcntl
import hashlib
import io
import logging
import os
import struct
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine.fileio import FileClient, get
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from PIL import Image, ImageOps, UnidentifiedImageError

from ralamala_mm.errors import UserError

from .report import NOTE, Problem, problem

SHARED_REMEDY = 'the folders in them are missing: put the files into these, or correct the names'
_FORMS = ('NFC', 'NFD')  # macOS writes é as e and an accent, most others as one character
_HASHED = 200  # images whose content is compared; reading all of a large set takes minutes
_LOGGED = 10  # skipped files that the log tells of; all are listed
_IN_A_ROW = 100  # so many without a good one between them are no exception any more
# OpenCV fills what a cut-short file lacks with grey and only prints a warning; the second ends a whole file. A JPEG's
# thumbnail, in its first 64 KiB, ends with the same marker, so that the shortcut is for files beyond that size.
_END_MARKERS = {b'\xff\xd8': (b'\xff\xd9', 128 * 1024), b'\x89PNG': (b'IEND', 0)}
_TAIL = 4096  # bytes; cameras append data after the end
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 are quarter turns, some of them mirrored
_TURNING_BACKENDS, _TURNING_FLAGS = ('cv2', 'pillow'), ('color', 'grayscale')  # only together they turn while decoding
_WITH_ALPHA = ('RGBA', 'LA', 'PA', 'RGBa')  # Pillow's modes


def find_file(path: str) -> str | None:
    r"""The existing file that a path means, or None.

    Args:
        path: as the annotations give it behind a folder. `train\a.jpg` and `C:\x\train\a.jpg` are looked for in the folder
            with as many of their own folders as are there, the longest way first.
    """
    return next((found for way in _ways(path) if (found := _in_some_form(way))), None)


def shared_files(names: Collection[str], folder: str | os.PathLike[str] = '') -> list[str]:
    r"""Different names for which `find_file` finds one file: 'cam1\1.jpg and cam2\1.jpg', where there is only a `1.jpg`.

    Args:
        names: as the annotations give them.
        folder: the one that they belong to.
    """
    if not any('\\' in name for name in names):
        return []  # a name without it is found as a whole or not at all
    by_end: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        whole = os.path.normpath(unicodedata.normalize('NFC', name.replace('\\', '/')))
        by_end[os.path.basename(whole)].setdefault(whole, name)
    found: dict[str, list[str]] = defaultdict(list)
    for alike in (list(group.values()) for group in by_end.values()):
        if len(alike) > 1 and any('\\' in name for name in alike):
            for name in alike:
                if file := find_file(os.path.join(folder, name)):
                    found[os.path.normpath(file)].append(name)
    return [' and '.join(several) for several in found.values() if len(several) > 1]


def same_images(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Files of the second list that are in the first: the same file, or, of a sample, one of the same content."""
    files, by_size = set(), defaultdict(list)
    for path in first:
        state = os.stat(path)
        files.add((state.st_dev, state.st_ino))
        by_size[state.st_size].append(path)
    digests: dict[int, set[bytes]] = {}
    found, left = [], _HASHED
    for path in second:
        state = os.stat(path)
        if (state.st_dev, state.st_ino) in files:
            found.append(path)
            continue
        alike = by_size.get(state.st_size)
        if not alike or left <= 0:
            continue
        if state.st_size not in digests:
            digests[state.st_size] = set(map(_digest, alike[:left]))
            left -= len(alike)
        left -= 1
        if _digest(path) in digests[state.st_size]:
            found.append(path)
    return found


def repeated_images(training: Sequence[str], validation: Sequence[str]) -> list[Problem]:
    """Images of the validation split that are training images: the same file, or, of a sample, the same content."""
    if repeated := same_images(training, validation):
        return [problem(NOTE, 'val', 'validation images that are training images', [os.path.basename(one) for one in repeated],
                        'the metrics will say how well these are remembered')]
    return []


def _digest(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes()).digest()


def _ways(path: str) -> Iterator[str]:
    yield path
    start, separator, rest = path.partition('\\')
    if not separator:
        return
    folder, first = os.path.split(start)
    parts = [part for part in [first, *rest.split('\\')] if part not in ('', '.')]
    for i in range(len(parts)):
        yield os.path.join(folder, *parts[i:])


def _in_some_form(path: str) -> str | None:
    """The file of this name in one of the normal forms, each folder on the way too."""
    if os.path.isfile(path):
        return path
    if path.isascii():
        return None
    found = os.sep if path.startswith(os.sep) else ''
    for part in path.split(os.sep):
        forms = [part, *(unicodedata.normalize(form, part) for form in _FORMS)]
        way = next((way for form in forms if os.path.exists(way := os.path.join(found, form))), None)
        if way is None:
            return None
        found = way
    return found if os.path.isfile(found) else None


class FileUserError(UserError):
    """A file of the data that cannot be used.

    Data loader workers report an error by its class and text, in which `UserError.sentence` looks for "UserError: ": the
    class's name has to end so, and its text has to suffice to build it.

    Args:
        text: the sentence, which names the file.
        kind: the fault in a word or two, the same for all files that have it.
    """

    def __init__(self, text: str, kind: str = 'unusable'):
        super().__init__(text)
        self.kind = kind


class BadFilePolicy:
    """What a transform does with files that it cannot use: raises, or leaves the sample out and lists its image.

    Args:
        limit: how many distinct images may be left out; None raises at the first.
        list_file: receives one line per image, from all processes.
    """

    def __init__(self, limit: int | None = None, list_file: str = ''):
        self.limit = limit
        self.list_file = Path(list_file)
        self._in_a_row = 0

    def guard(self, load: Callable[[dict], dict | None], results: dict) -> dict | None:
        """`load(results)`, or None for a sample that is left out, in whose place MMEngine's data sets draw another.

        Raises:
            UserError: nothing may be left out, or too much was.
        """
        named = results.get('img_path')
        try:
            loaded = load(results)
        except FileUserError as error:
            if self.limit is None:
                raise
            self._skip(str(named), error)
            return None
        self._in_a_row = 0
        return loaded

    def _skip(self, image: str, error: FileUserError) -> None:
        count, is_another = self._listed(image)
        if count > self.limit:
            raise UserError(f'{count} images cannot be used, and skip_bad_images allows {self.limit}: {self.list_file} lists '
                            f'them (delete it if they were fixed); the last one: {error}') from error
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            raise UserError(f'{_IN_A_ROW} images in a row cannot be used; the last one: {error}') from error
        if is_another and count <= _LOGGED:
            end = '; from here on they are listed alone' if count == _LOGGED else ''
            level = logging.WARNING if os.environ.get('RANK', '0') == '0' else logging.ERROR  # the others show errors alone
            print_log(f'SKIPPED, {count} of {self.limit} allowed: {error}; listed in {self.list_file}{end}', 'current', level)

    def _listed(self, image: str) -> tuple[int, bool]:
        """Lists an image once; returns how many are listed, and whether this one was not yet."""
        line = image.replace('\n', '?').encode('utf-8', 'backslashreplace').decode() + '\n'
        self.list_file.parent.mkdir(parents=True, exist_ok=True)
        with self.list_file.open('a+', encoding='utf-8') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            except OSError:
                logging.getLogger(__name__).debug('%s is on a file system without locks: lines may be doubled', self.list_file)
            file.seek(0)
            listed = set(file)
            if line in listed:
                return len(listed), False
            file.write(line)
        return len(listed) + 1, True


def check_image(content: bytes, path: str) -> None:
    """Whether the bytes are a whole image.

    Raises:
        UserError: they are not.
    """
    if not content:
        raise FileUserError(f'image {path} is empty', 'empty')
    for start, (end, smallest) in _END_MARKERS.items():
        if content.startswith(start) and len(content) >= smallest and end in content[-_TAIL:]:
            return
    check_whole(content, path)


def check_whole(content: bytes, path: str) -> None:
    """`check_image` by decoding it all: slower, but certain, whatever the format and whatever was appended.

    Raises:
        UserError: it is not whole.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except UnidentifiedImageError as error:
        if not content.startswith(_TIFF):  # OpenCV reads more kinds of TIFF, and none that is cut short
            raise FileUserError(f'{path} is not an image', 'not an image') from error
    except Image.DecompressionBombError as error:
        raise FileUserError(f'image {path} has more pixels than Pillow reads ({2 * Image.MAX_IMAGE_PIXELS}): cut it into tiles '
                            'or make it smaller', 'too large') from error
    except Exception as error:  # decoders of broken files raise whatever they come upon
        raise FileUserError(f'image {path} is damaged or cut short ({error}); download it again, or take it out of '
                            'the annotations', 'damaged') from error


def orientation(content: bytes) -> int:
    """How the camera was held, 1 to 8 as in EXIF; 1 if nothing says so."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # as above; what is broken was reported before
        return 1
    return value if value in range(1, 9) else 1


def turned(image: np.ndarray, how: int) -> np.ndarray:
    """An image `[H, W]` or `[H, W, C]` as stored, turned upright; `how` is EXIF's orientation."""
    upright = {2: lambda: image[:, ::-1], 3: lambda: image[::-1, ::-1], 4: lambda: image[::-1],
               5: lambda: image.swapaxes(0, 1), 6: lambda: np.rot90(image, -1),
               7: lambda: image[::-1, ::-1].swapaxes(0, 1), 8: lambda: np.rot90(image)}
    return np.ascontiguousarray(upright[how]()) if how in upright else image


def turned_back(image: np.ndarray, how: int) -> np.ndarray:
    """The reverse of `turned`."""
    return turned(image, {6: 8, 8: 6}.get(how, how))


def decode(content: bytes, path: str, flag: str = 'color', backend: str = 'cv2',
           size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a whole image.

    Args:
        content: the file's bytes.
        path: its name, for messages.
        flag: MMCV's 'color', 'grayscale', 'unchanged', …
        backend: MMCV's 'cv2', 'pillow', 'turbojpeg', 'tifffile'.
        size: height and width that the annotations give. An image that has them only as it is stored, without the turn
            that its EXIF data ask for, is returned as stored.

    Returns:
        `[H, W, 3]` BGR uint8 for 'color', else as MMCV has it.

    Raises:
        UserError: it cannot be decoded, has values that are no numbers, or is of another size.
    """
    try:
        image = _decode(content, flag, backend)
    except Exception as error:  # decoders raise whatever they come upon, OpenCV for what is beyond its limit of pixels too
        reason = 'it has more pixels than OpenCV reads (2^30)' if 'MAX_IMAGE' in str(error) else ' '.join(str(error).split())
        raise FileUserError(f'image {path} cannot be decoded by {backend}: {reason or type(error).__name__}',
                            'undecodable') from error
    if image is None:
        if (channels := _tiff_channels(content)) and channels > 4:
            raise FileUserError(f'image {path} has {channels} channels, and models here take three: save three of them as an '
                                'image', 'channels')
        kind = ', a TIFF of 32 or 64 bits a value, perhaps: save it with 8 or 16' if content.startswith(_TIFF) else ''
        raise FileUserError(f'image {path} cannot be decoded by {backend}{kind}', 'undecodable')
    if image.dtype.kind == 'f' and not np.isfinite(image).all():
        raise FileUserError(f'image {path} has values that are no finite numbers', 'not finite')
    if size is None or image.shape[:2] == size:
        return image
    if image.shape[1::-1] == size and (how := orientation(content)) >= 5:
        is_upright = backend in _TURNING_BACKENDS and flag in _TURNING_FLAGS
        return (turned_back if is_upright else turned)(image, how)
    height, width = image.shape[:2]
    raise FileUserError(f'image {path} is {width}×{height} pixels, not {size[1]}×{size[0]} as the annotations say', 'other size')


def _decode(content: bytes, flag: str, backend: str) -> np.ndarray | None:
    if backend == 'cv2' and flag in ('color', 'grayscale'):
        if content[8:12] == b'WEBP' or content[4:8] == b'ftyp':
            # Which of OpenCV's versions turn WebP and AVIF differs.
            stored = mmcv.imfrombytes(content, flag=f'{flag}_ignore_orientation', backend='cv2')
            return stored if stored is None else turned(stored, orientation(content))
        if content.startswith(_TIFF) and _mode(content) in _WITH_ALPHA:
            return _without_alpha(content, flag)  # OpenCV darkens what is transparent in a TIFF, and not in other formats
    elif backend == 'pillow' and flag != 'unchanged' and _mode(content).startswith(('I', 'F')):
        backend = 'cv2'  # Pillow makes 255 of all that 8 bits do not hold; OpenCV scales 16 bits, and refuses 32
    return mmcv.imfrombytes(content, flag=flag, backend=backend)


def _tiff_channels(content: bytes) -> int | None:
    """Samples per pixel (tag 277) of a TIFF, as its first directory says; None for other files, and where nothing says so."""
    if content[:4] not in _TIFF[:2]:
        return None
    order = '<' if content[:2] == b'II' else '>'
    try:
        (start,) = struct.unpack_from(f'{order}I', content, 4)
        (count,) = struct.unpack_from(f'{order}H', content, start)
        for i in range(count):
            tag, _, _, value = struct.unpack_from(f'{order}HHIH', content, start + 2 + 12 * i)
            if tag == 277:
                return value
    except struct.error:
        return None
    return None


def _mode(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.mode
    except Exception:  # a kind that only OpenCV reads
        return ''


def _without_alpha(content: bytes, flag: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert('RGBA').convert('RGB' if flag == 'color' else 'L')
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1] if flag == 'color' else upright)


@TRANSFORMS.register_module()
class LoadCheckedImage(MMCVLoadImageFromFile):
    """MMCV's `LoadImageFromFile` that refuses files which are missing, cut short, no image, or of another size than annotated.

    Names written on Windows or in another Unicode form are found; `img_path` is then the file's own.

    Args:
        bad_files: arguments of `BadFilePolicy`; by default the first bad file is an error.
        thorough: decode the file a second time, which finds damage that is hidden behind a whole file's end.

    Raises:
        UserError: with the path of the file.
    """

    def __init__(self, *args, bad_files: dict | None = None, thorough: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad_files = BadFilePolicy(**(bad_files or {}))
        self.thorough = thorough

    def transform(self, results: dict) -> dict | None:
        return self.bad_files.guard(self._load, results)

    def _load(self, results: dict) -> dict | None:
        try:
            content = self._read(results)
        except FileNotFoundError as error:
            if self.ignore_empty:
                return None
            text = f'image {results["img_path"]} does not exist, though the annotations name it'
            raise FileUserError(text, 'missing') from error
        path = results['img_path']
        check_image(content, path)
        if self.thorough:
            check_whole(content, path)
        size = (results['height'], results['width']) if results.get('height') and results.get('width') else None
        image = decode(content, path, self.color_type, self.imdecode_backend, size)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, results: dict) -> bytes:
        """The file's bytes; `img_path` becomes its name on this system.

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be read.
        """
        path = results['img_path']
        try:
            if self.file_client_args is not None:
                return FileClient.infer_client(self.file_client_args, path).get(path)
            return read_file(results, 'img_path', self.backend_args)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise FileUserError(f'image {path} cannot be read ({error})', 'unreadable') from error


def read_file(results: dict, key: str, backend_args: dict | None) -> bytes:
    """The bytes of the file that `results[key]` means; the entry becomes its name on this system."""
    try:
        return get(results[key], backend_args=backend_args)
    except (FileNotFoundError, ValueError):  # ValueError: a character that no name may have
        found = find_file(str(results[key]))
        if found is None or found == results[key]:
            raise
        results[key] = found
        return get(found, backend_args=backend_args)


def image_size(path: Path | str) -> tuple[int, int] | None:
    """Width and height of an image as it is seen, turned as its EXIF data say; None if it cannot be read."""
    sizes = image_sizes(path)
    return sizes and sizes[0]


def image_sizes(path: Path | str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Width and height of an image as it is seen and as it is stored; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            lies_on_its_side = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # decoders of broken files raise whatever they come upon; the file is reported by name when it is read
        return None
    return ((height, width) if lies_on_its_side else (width, height)), (width, height)
