"""Reading an image so that a missing or damaged one is named, instead of training on half a picture."""

import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine.fileio import FileClient, get
from mmengine.registry import TRANSFORMS

from .decoding import check_image, check_whole, decode
from .faults import BadFiles, FileUserError
from .names import find_file


@TRANSFORMS.register_module()
class LoadCheckedImage(MMCVLoadImageFromFile):
    """MMCV's `LoadImageFromFile` that refuses files which are missing, cut short, no image, or of another size than annotated.

    Names written on Windows or in another Unicode form are found; `img_path` is then the file's own.

    Args:
        bad_files: arguments of `BadFiles`; by default the first bad file is an error.
        thorough: decode the file a second time, which finds damage that is hidden behind a whole file's end.

    Raises:
        UserError: with the path of the file.
    """

    def __init__(self, *args, bad_files: dict | None = None, thorough: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad_files = BadFiles(**(bad_files or {}))
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
