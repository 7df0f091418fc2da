"""`--log-to`: curves in TensorBoard or Weights & Biases, through MMEngine's visualisation backends."""

from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from ralamala_mm.errors import UserError

# Option, MMEngine's backend, and the package that it needs.
_BACKENDS = dict(tensorboard=('TensorboardVisBackend', 'tensorboard'), wandb=('WandbVisBackend', 'wandb'))
RECORDERS = tuple(_BACKENDS)


def use_recorders(config: Config, names: list[str]) -> None:
    """Records losses, learning rates and metrics elsewhere too.

    Args:
        config: changed in place.
        names: of `RECORDERS`; without any the config stays as it is. TensorBoard's files lie in WORK_DIR/TIMESTAMP/vis_data;
            Weights & Biases takes its account and mode from its own environment variables (`WANDB_MODE=offline`), and the run
            is named after the work directory.

    Raises:
        UserError: the package is not installed.
    """
    if not names:
        return
    visualizer = config.get('visualizer') or dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    backends = visualizer.get('vis_backends') or []
    backends = [backends] if isinstance(backends, dict) else list(backends)
    for name in dict.fromkeys(names):
        kind, package = _BACKENDS[name]
        if find_spec(package) is None:
            raise UserError(f'--log-to {name} needs the package {package}: pip install {package}')
        if any(backend.get('type') == kind for backend in backends):
            continue  # the config has settings of its own for it
        backend = dict(type=kind)
        if name == 'wandb':
            backend['init_kwargs'] = dict(project='ralamala_mm', name=Path(config.work_dir).name)
        backends.append(backend)
    config.visualizer = dict(visualizer, vis_backends=backends)
