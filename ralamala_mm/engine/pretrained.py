"""What the backbone starts from, settled before anything is built: a file, the released weights, or nothing."""

from pathlib import Path

from mmengine.config import Config

from ralamala_mm.checkpoints import check_file, fetch
from ralamala_mm.errors import UserError
from ralamala_mm.families import LINEAR_STAGES, check_linear_stages, family_of, in_words

OPTION = 'model.backbone.pretrained'


def settle_pretrained(config: Config) -> str | None:
    """Fetches the weights that a backbone of ours starts from; drops them where a whole checkpoint follows.

    Returns:
        A line for the user if the backbone starts from scratch, else None.

    Raises:
        UserError: the weights are not there; the text names the options for a local file and for none.
    """
    backbone = config.model.get('backbone') or {}
    family = family_of(backbone.get('type', ''))
    if family is None:
        return None
    if config.get('load_from'):
        backbone.pretrained = backbone.init_cfg = None
        return None
    if init_cfg := backbone.get('init_cfg'):  # the user's own, which takes the place of the released weights
        init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
        sources = [init_cfg['checkpoint'] for init_cfg in init_cfgs if init_cfg.get('type') == 'Pretrained']
    else:
        sources = [backbone.pretrained] if backbone.get('pretrained') else []
    stages = check_linear_stages(backbone.get('linear_stages', LINEAR_STAGES))
    for source in sources:
        if family.released and source.startswith(family.released) and stages != LINEAR_STAGES:
            raise UserError(f'the released weights {source} are of linear attention in stages {in_words(LINEAR_STAGES)}, not '
                            f'{in_words(stages)}: --cfg-options {OPTION}=None trains from scratch')
        _make_available(source)
    if sources:
        return None
    example = f', such as the file for size {backbone.get("arch")} from {family.released}' if family.released else ''
    return (f'{family.name} starts from scratch, without ImageNet weights, which the published results need: '
            f'--cfg-options {OPTION}=FILE gives some{example}')


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
