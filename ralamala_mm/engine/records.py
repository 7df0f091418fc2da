"""Losses and metrics written to files beside the checkpoints, without ending a training when the disk is full."""

from mmengine.logging import MMLogger
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend


@VISBACKENDS.register_module()
class DependableLocalVisBackend(LocalVisBackend):
    """MMEngine's `LocalVisBackend` that goes on when the disk does not take what it writes, and says so once."""

    _has_failed = False

    def add_config(self, config, **kwargs) -> None:
        self._try(super().add_config, config, **kwargs)

    def add_scalar(self, *args, **kwargs) -> None:
        self._try(super().add_scalar, *args, **kwargs)

    def add_scalars(self, *args, **kwargs) -> None:
        self._try(super().add_scalars, *args, **kwargs)

    def _try(self, write, *args, **kwargs) -> None:
        try:
            write(*args, **kwargs)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                MMLogger.get_current_instance().error(f'losses and metrics cannot be written to {self._save_dir} '
                                                      f'({error.strerror or error}): some will be missing there')
