"""Losses and gradients that are infinite or not a number: named, kept out of the weights, and after too many the end."""

import math

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ralamala_mm.errors import OptionError

from .interruption import StopReason

_NAMED = 8  # images and parameters in a message


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Leaves an update out when a gradient is not finite, with the batch norms' statistics of that iteration.

    With fp16 the loss scaler leaves updates out by itself and lowers its scale, which is no fault and not counted; a loss that
    is not finite is.

    Args:
        policy: the number of such iterations without an update in between after which the training stops, or 'skip', which
            never stops.

    Raises:
        OptionError: it is neither.
    """

    priority = 'HIGH'  # before averaged weights are updated

    def __init__(self, policy: int | str):
        if policy != 'skip' and not (type(policy) is int and policy > 0):
            raise OptionError(f"non_finite={policy!r} must be 'skip', 'off', or the number of iterations in a row after which "
                              'the training stops')
        self.limit = math.inf if policy == 'skip' else policy
        self._in_a_row = 0
        self._wrong_gradients: list[str] = []
        self._updated = False
        self._statistics: list[Tensor] = []
        self._statistics_before: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        names = {parameter: name.removeprefix('module.') for name, parameter in runner.model.named_parameters()}
        wrapper = runner.optim_wrapper
        for optimizer in [part.optimizer for part in wrapper.values()] if isinstance(wrapper, OptimWrapperDict) else [
                wrapper.optimizer]:
            optimizer.register_step_pre_hook(lambda stepping, *_: self._before_step(stepping, names))
        self._statistics = [value for module in runner.model.modules() if isinstance(module, _NormBase)
                            for value in (module.running_mean, module.running_var) if value is not None]
        self._statistics_before = [value.clone() for value in self._statistics]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        self._wrong_gradients, self._updated = [], False
        for before, value in zip(self._statistics_before, self._statistics, strict=True):
            before.copy_(value)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        wrong_losses = non_finite_names({name: value for name, value in (outputs or {}).items()
                                         if 'loss' in name and isinstance(value, Tensor)})
        if not wrong_losses and not self._wrong_gradients:
            if self._updated:  # not while gradients are added up, among which a wrong one may be
                self._in_a_row = 0
            return
        self._in_a_row += 1
        for before, value in zip(self._statistics_before, self._statistics, strict=True):
            value.copy_(before)
        what = _listed(wrong_losses, 'is') if wrong_losses else f'the gradient of {_listed(self._wrong_gradients, "is")}'
        runner.logger.error(f'iteration {runner.iter + 1}: {what} not finite; images {_images(data_batch)}; the update is left '
                            f'out, {self._in_a_row} in a row')
        if self._in_a_row >= self.limit:
            runner.request_stop(StopReason.NOT_FINITE)

    def _before_step(self, optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> None:
        """Takes all gradients away if one is not finite; optimizers pass parameters without a gradient over."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group['params']
                      if parameter.grad is not None]
        self._wrong_gradients += non_finite_names({names[parameter]: parameter.grad for parameter in parameters})
        if self._wrong_gradients:
            for parameter in parameters:
                parameter.grad = None
        self._updated = not self._wrong_gradients


def non_finite_names(tensors: dict[str, Tensor]) -> list[str]:
    """The names of those that hold a value that is not finite; where none does, in one fused pass and one wait for the device."""
    if not tensors:
        return []
    values = [value.detach() for value in tensors.values()]
    if torch.stack([norm.float() for norm in torch._foreach_norm(values)]).sum().isfinite():
        return []
    finite = torch.stack([value.isfinite().all() for value in values]).tolist()  # squares overflow where values do not
    return [name for name, whole in zip(tensors, finite, strict=True) if not whole]


def _listed(names: list[str], verb: str) -> str:
    more = len(names) - _NAMED
    return f'{", ".join(names[:_NAMED])}{f" and {more} more" if more > 0 else ""} {verb if len(names) == 1 else "are"}'


def _images(data_batch: dict | None) -> str:
    """The images of a batch by id and path, as far as its samples name them."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    named = [' '.join(str(sample.metainfo[key]) for key in ('img_id', 'img_path') if key in sample.metainfo)
             for sample in samples if hasattr(sample, 'metainfo')]
    return ', '.join(named[:_NAMED]) or 'unknown'
