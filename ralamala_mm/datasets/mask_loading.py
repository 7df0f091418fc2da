"""Reading the mask of an image so that one that does not fit is named: MMSegmentation itself checks nothing."""

import io

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image, UnidentifiedImageError

from ralamala_mm.errors import UserError

from .images import BadFilePolicy, FileUserError, read_file

_MOST = 255  # larger values would be cut to 8 bits


class LoadCheckedMask(LoadAnnotations):
    """MMSegmentation's `LoadAnnotations` that refuses masks that are missing, unreadable or do not fit their image.

    Args:
        classes: how many; values from there on that are not ignored are refused. None: they are not inspected.
        ignore_index: the value of pixels that neither train nor count.
        bad_files: arguments of `BadFilePolicy`; by default the first bad file is an error.

    Raises:
        UserError: with the path of the mask.
    """

    def __init__(self, *args, classes: int | None = None, ignore_index: int = 255, bad_files: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.classes = classes
        self.ignore_index = ignore_index
        self.bad_files = BadFilePolicy(**(bad_files or {}))

    def transform(self, results: dict) -> dict | None:
        return self.bad_files.guard(self._load, results)

    def _load(self, results: dict) -> dict:
        if not results.get('seg_map_path'):
            raise FileUserError(f'no mask is named for image {results.get("img_path")}: data_prefix.seg_map_path of its data set '
                                'names the folder', 'no mask')
        self._check_file(results)
        path = results['seg_map_path']
        try:
            results = super().transform(results)
        except AssertionError as error:
            raise UserError('reduce_zero_label of the data set and of LoadAnnotations in its pipeline differ: '
                            'set both alike') from error
        except Exception as error:  # decoders of broken files raise whatever they come upon
            raise FileUserError(f'mask {path} cannot be read ({error})', 'unreadable mask') from error
        self._check_values(results['gt_seg_map'], results, path)
        return results

    def _check_file(self, results: dict) -> None:
        """What cannot be seen any more once the mask is 8 bits deep."""
        path = results['seg_map_path']
        try:
            content = read_file(results, 'seg_map_path', self.backend_args)
        except FileNotFoundError as error:
            raise FileUserError(f'mask {path} of image {results.get("img_path")} does not exist', 'missing mask') from error
        except (OSError, ValueError) as error:
            raise FileUserError(f'mask {path} cannot be read ({error})', 'unreadable mask') from error
        if self.imdecode_backend != 'pillow':
            return
        try:
            with Image.open(io.BytesIO(content)) as image:
                deep = np.asarray(image) if image.mode.startswith(('I', 'F')) else np.zeros(1)
        except UnidentifiedImageError as error:
            raise FileUserError(f'mask {path} is not an image', 'unreadable mask') from error
        except Exception as error:
            raise FileUserError(f'mask {path} is damaged ({error})', 'unreadable mask') from error
        if not np.isfinite(deep).all() or deep.max() > _MOST or deep.min() < 0 or (deep != np.floor(deep)).any():
            raise FileUserError(f'mask {path} has values that are not integers from 0 to {_MOST}: save it with 8 bits, the '
                                'values being the classes', 'deep mask')

    def _check_values(self, mask: np.ndarray, results: dict, path: str) -> None:
        if mask.ndim != 2:
            raise FileUserError(f'mask {path} has {mask.shape[-1]} channels, where one holds the classes: --data DIR converts '
                                'color masks', 'coloured mask')
        height, width = results.get('ori_shape') or mask.shape  # masks are read after the image was resized, in tests
        if mask.shape != (height, width):
            raise FileUserError(f'mask {path} is {mask.shape[1]}×{mask.shape[0]} pixels, its image {width}×{height}',
                                'mask of another size')
        if self.classes is not None and (strange := mask[(mask >= self.classes) & (mask != self.ignore_index)]).size:
            shown = ', '.join(map(str, np.unique(strange)[:6]))
            raise FileUserError(f'mask {path} has values outside the {self.classes} classes: {shown}',
                                'values outside the classes')
