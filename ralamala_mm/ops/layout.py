"""How tokens lie in memory."""

from torch import Tensor


def empty_tokens(like: Tensor) -> Tensor:
    """`[B, N, L, D]` with the channels of all heads of a token side by side, as the projection after it reads them."""
    batch, heads, length, channels = like.shape
    return like.new_empty(batch, length, heads, channels).transpose(1, 2)


def with_adjacent_channels(x: Tensor) -> Tensor:
    """x, copied if its channels do not lie side by side: complex numbers and PyTorch's fused attention need that.

    The latter would otherwise fall back to L×L weights in silence.
    """
    return x if x.stride(-1) == 1 else x.contiguous()
