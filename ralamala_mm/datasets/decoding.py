"""From the bytes of an image to its pixels, as one sees them: whole files alone, whatever the format, turned upright."""

import io

import mmcv
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .faults import FileUserError

# OpenCV fills what a cut-short file lacks with grey and only prints a warning; the second ends a whole file. A JPEG's
# thumbnail, in its first 64 KiB, ends with the same marker, so that the shortcut is for files beyond that size.
_END_MARKERS = {b'\xff\xd8': (b'\xff\xd9', 128 * 1024), b'\x89PNG': (b'IEND', 0)}
_TAIL = 4096  # bytes; cameras append data after the end
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 are quarter turns, some of them mirrored
_TURNING_BACKENDS, _TURNING_FLAGS = ('cv2', 'pillow'), ('color', 'grayscale')  # only together they turn while decoding
_WITH_ALPHA = ('RGBA', 'LA', 'PA', 'RGBa')  # Pillow's modes


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
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
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
        with Image.open(io.BytesIO(content)) as picture:
            value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # as above; what is broken was told before
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


def _mode(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.mode
    except Exception:  # a kind that only OpenCV reads
        return ''


def _without_alpha(content: bytes, flag: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        upright = ImageOps.exif_transpose(picture).convert('RGBA').convert('RGB' if flag == 'color' else 'L')
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1] if flag == 'color' else upright)
