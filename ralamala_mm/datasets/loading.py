"""Reading an image so that a missing or damaged one is named, instead of training on half a picture."""

import io

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine.config import Config, ConfigDict
from mmengine.fileio import FileClient, get
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

from ralamala_mm.errors import UserError

from .walking import replace_transforms

# OpenCV fills what a cut-short file lacks with grey and only prints a warning; the second ends a whole file. A JPEG's
# thumbnail, in its first 64 KiB, ends with the same marker, so that the shortcut is for files beyond that size.
_END_MARKERS = {b'\xff\xd8': (b'\xff\xd9', 128 * 1024), b'\x89PNG': (b'IEND', 0)}
_TAIL = 4096  # bytes; cameras append data after the end


@TRANSFORMS.register_module()
class LoadCheckedImage(MMCVLoadImageFromFile):
    """MMCV's `LoadImageFromFile` that refuses files which are missing, cut short or no image.

    Raises:
        UserError: with the path of the file.
    """

    def transform(self, results: dict) -> dict | None:
        path = results['img_path']
        try:
            if self.file_client_args is not None:
                content = FileClient.infer_client(self.file_client_args, path).get(path)
            else:
                content = get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            if self.ignore_empty:
                return None
            raise UserError(f'image {path} does not exist, though the annotations name it') from error
        check_image(content, path)
        image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        if image is None:
            raise UserError(f'image {path} cannot be decoded by {self.imdecode_backend}')
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


def check_image(content: bytes, path: str) -> None:
    """Whether the bytes are a whole image.

    Raises:
        UserError: they are not.
    """
    if not content:
        raise UserError(f'image {path} is empty')
    for start, (end, smallest) in _END_MARKERS.items():
        if content.startswith(start) and len(content) >= smallest and end in content[-_TAIL:]:
            return
    try:  # other formats, and files with much appended: slower, but certain
        Image.open(io.BytesIO(content)).load()
    except UnidentifiedImageError as error:
        raise UserError(f'{path} is not an image') from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f'image {path} is damaged or cut short ({error}); download it again, or take it out of '
                        'the annotations') from error


def use_checked_loading(config: Config) -> None:
    """Makes the image readers of all pipelines ours, in place."""

    def replace(transform: ConfigDict) -> None:
        if transform.get('type') in ('LoadImageFromFile', 'mmcv.LoadImageFromFile', 'mmdet.LoadImageFromFile'):
            transform['type'] = 'ralamala_mm.datasets.LoadCheckedImage'

    replace_transforms(config, replace)
