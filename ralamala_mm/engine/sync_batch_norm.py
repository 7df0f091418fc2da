"""Batch norm over the batches of all processes, for tensors that PyTorch's own cannot take: those on the CPU.

Legend: N batch, C channels, R processes; statistics are per channel, over N and all positions.
"""

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class _Normalise(torch.autograd.Function):
    """(x − mean) / √(var + eps), with mean and variance over all processes."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, eps: float, group: distributed.ProcessGroup | None) -> tuple[Tensor, ...]:
        """The normalised `x`, the mean and biased variance, both `[C]`, and the count behind them, `[1]`."""
        dims = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.size(1)
        mean = wide.sum(dims) / max(count, 1)
        squares = (wide - _per_channel(mean, x)).square().sum(dims)
        own = torch.cat([mean, squares, mean.new_tensor([count])])
        everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(everyone, own, group=group)
        means, squares, counts = torch.stack(everyone).split([x.size(1), x.size(1), 1], dim=1)  # [R, C], [R, C], [R, 1]
        # Means and centred squares, as sums of squares would cancel where the mean is large.
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total.clamp(min=1)
        variance = (squares + counts * (means - mean).square()).sum(0) / total.clamp(min=1)
        inverse = (variance + eps).rsqrt()
        normalised = (wide - _per_channel(mean, x)) * _per_channel(inverse, x)
        ctx.save_for_backward(normalised, inverse, total)
        ctx.group = group
        ctx.dims = dims
        ctx.dtype = x.dtype
        ctx.mark_non_differentiable(mean, variance, total)
        return normalised, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        """∂L/∂x of the sum of all processes' losses."""
        normalised, inverse, total = ctx.saved_tensors
        sums = torch.stack([grad.sum(ctx.dims), (grad * normalised).sum(ctx.dims)])
        distributed.all_reduce(sums, group=ctx.group)
        mean, slope = (_per_channel(part, grad) for part in sums / total.clamp(min=1))
        return ((grad - mean - normalised * slope) * _per_channel(inverse, grad)).to(ctx.dtype), None, None


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """`[C]` in a shape that goes with `x`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


class GatheredBatchNorm(_BatchNorm):
    """Synchronised batch norm on any device; arguments, state dict and results are those of BatchNorm on the whole batch.

    Statistics are weighted with the processes' batch sizes, which may differ or be 0. In evaluation mode, and without
    several processes, it is a plain batch norm.

    Args:
        process_group: the processes to normalise over; all by default.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, process_group: distributed.ProcessGroup | None = None) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f'a batch norm takes 2 dimensions or more, not {x.dim()}')

    def forward(self, x: Tensor) -> Tensor:
        """Normalises.

        Args:
            x: `[N, C, ...]`, of any memory format; N may be 0.

        Raises:
            ValueError: there is one value per channel in all, of which no variance can be taken.
        """
        together = distributed.is_initialized() and distributed.get_world_size(self.process_group) > 1
        if not (self.training and together):
            return super().forward(x)
        self._check_input_dim(x)
        normalised, mean, variance, total = _Normalise.apply(x, self.eps, self.process_group)
        count = int(total)
        if count == 1:
            raise ValueError(f'expected more than 1 value per channel when training, got input size {tuple(x.shape)}')
        if self.track_running_stats:
            self._track(mean, variance, count)
        if self.affine:
            normalised = normalised * _per_channel(self.weight, x) + _per_channel(self.bias, x)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        if not count:
            return
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def gather_batch_norms(model: nn.Module, also_plain: bool = False) -> nn.Module:
    """Replaces synchronised batch norms, PyTorch's and MMCV's, by ones that work on the CPU.

    Args:
        model: parameters and buffers stay the same tensors.
        also_plain: replaces batch norms that are not synchronised too, as the config's `sync_bn` asks for.
    """
    if isinstance(model, GatheredBatchNorm):
        return model
    if _is_synchronised(model) or (also_plain and isinstance(model, _BatchNorm)):
        return _gathered(model)
    for name, child in model.named_children():
        replaced = gather_batch_norms(child, also_plain)
        if replaced is not child:
            setattr(model, name, replaced)
    return model


def _is_synchronised(module: nn.Module) -> bool:
    # MMCV's SyncBatchNorm can be imported only where its operators were built; its name tells as much.
    return isinstance(module, nn.SyncBatchNorm) or (
        type(module).__name__ == 'SyncBatchNorm' and type(module).__module__.startswith('mmcv.'))


def _gathered(module: nn.Module) -> GatheredBatchNorm:
    group = getattr(module, 'process_group', getattr(module, 'group', None))
    replaced = GatheredBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats,
                                 process_group=group)
    for name, value in [*module._parameters.items(), *module._buffers.items()]:
        setattr(replaced, name, value)
    return replaced.train(module.training)
