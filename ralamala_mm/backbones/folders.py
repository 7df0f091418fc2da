"""Backbones as folders in Hugging Face's manner: config.json says how to build one, model.safetensors holds its weights."""

import json
from importlib.util import find_spec
from pathlib import Path

from ralamala_mm.checkpoints import load_weights, read_checkpoint
from ralamala_mm.errors import OptionError, UserError
from ralamala_mm.files import atomic_write
from ralamala_mm.version import __version__

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'


class PretrainedFolder:
    """`save_pretrained` and `from_pretrained`, without network and without the package huggingface_hub."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes config.json and model.safetensors.

        Args:
            folder: where to; it is made.

        Raises:
            OptionError: after `fuse_for_inference`, whose weights fit no other backbone.
            UserError: the package safetensors is missing.
        """
        if self._is_fused:
            raise OptionError('this backbone was fused for inference: save it before fuse_for_inference()')
        _need_safetensors()
        from safetensors.torch import save_file

        weights = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        config = dict(model_type=type(self).__name__, library_name='ralamala_mm', library_version=__version__, **self.settings)
        atomic_write(Path(folder, WEIGHTS), lambda path: save_file(weights, path, metadata=dict(format='pt')))
        atomic_write(Path(folder, CONFIG), lambda path: path.write_text(json.dumps(config, indent=2) + '\n'))

    @classmethod
    def from_pretrained(cls, folder: Path | str, **changes: object) -> 'PretrainedFolder':
        """The backbone of a folder, in evaluation mode.

        Args:
            folder: what `save_pretrained` wrote.
            changes: arguments of the backbone in place of those in config.json, such as `out_indices`.

        Raises:
            UserError: the folder is not of this backbone, or is damaged; or the package safetensors is missing.
        """
        config = _read_config(Path(folder))
        if config.pop('model_type', None) != cls.__name__:
            raise UserError(f'{Path(folder, CONFIG)} is not of a {cls.__name__}')
        _need_safetensors()
        settings = {key: config[key] for key in config if not key.startswith('library_')}
        try:
            backbone = cls(**settings | changes)
        except TypeError as error:
            raise UserError(f'{Path(folder, CONFIG)} does not say how to build a {cls.__name__} ({error})') from error
        location = str(Path(folder, WEIGHTS))
        report = load_weights(backbone, dict(read_checkpoint(location)), location)
        if report.missing or report.unexpected:
            raise UserError(f'{location} does not hold the weights that {CONFIG} speaks of: {report}')
        return backbone.eval()


def _need_safetensors() -> None:
    if find_spec('safetensors') is None:
        raise UserError('folders of weights need the package safetensors: pip install safetensors')


def _read_config(folder: Path) -> dict:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f'{folder} holds no {CONFIG}: name a folder that save_pretrained wrote') from error
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error})') from error
    if not isinstance(config, dict):
        raise UserError(f'{path} does not hold settings')
    return config
