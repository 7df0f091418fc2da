"""What the backbone starts from, settled before anything is built: a file, the released weights, or nothing."""

from pathlib import Path

from mmengine.config import Config

from ralamala_mm.checkpoints import check_file, fetch
from ralamala_mm.errors import UserError

OPTION = 'model.backbone.pretrained'


def settle_pretrained(config: Config) -> str | None:
    """Fetches the weights that a RAVLT or MALA of the config starts from; drops them where a whole checkpoint follows.

    Returns:
        A line for the user if the backbone starts from scratch, else None.

    Raises:
        UserError: the weights are not there; the text names the options for a local file and for none.
    """
    backbone = config.model.get('backbone') or {}
    if str(backbone.get('type')).split('.')[-1] not in ('RAVLT', 'MALA'):
        return None
    if config.get('load_from'):
        backbone.pretrained = backbone.init_cfg = None
        return None
    if init_cfg := backbone.get('init_cfg'):  # the user's own, which takes the place of the released weights
        init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
        sources = [init_cfg['checkpoint'] for init_cfg in init_cfgs if init_cfg.get('type') == 'Pretrained']
    else:
        sources = [backbone.pretrained] if backbone.get('pretrained') else []
    for source in sources:
        _make_available(source)
    if sources:
        return None
    where = 'https://huggingface.co/aldjalkdf/' + ('RAVLT' if 'RAVLT' in backbone.type else 'MAViT')
    return (f'{backbone.type} starts from scratch, without ImageNet weights, which the published results need: '
            f'--cfg-options {OPTION}=FILE gives some, such as the file for size {backbone.get("arch")} from {where}')


def _make_available(source: str) -> None:
    """Fetches a URL, or checks that a local file is there."""
    if source.startswith(('http://', 'https://')):
        try:
            fetch(source)
        except UserError as error:
            reason = getattr(error.__cause__, 'reason', None) or error.__cause__ or error
            raise UserError(f'the ImageNet weights {source} could not be downloaded ({reason}): --cfg-options {OPTION}=FILE '
                            f'takes a local file, --cfg-options {OPTION}=None trains from scratch') from error
    elif '://' not in source:
        check_file(Path(source), source)
