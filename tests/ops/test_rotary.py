"""The rotary tables against the angle of each token and pair, computed one by one."""

import math

import pytest
import torch

from ralamala_mm.ops import rotary_frequencies, rotary_table


@pytest.mark.parametrize(('height', 'width', 'channels'), [(3, 5, 32), (1, 7, 64), (4, 1, 96)])
def test_every_angle(height: int, width: int, channels: int):
    cos, sin = rotary_table(height, width, rotary_frequencies(channels)).over_grid()
    assert cos.shape == sin.shape == (height * width, channels // 2)
    quarter = channels // 4
    for y in range(height):
        for x in range(width):
            for pair in range(channels // 2):
                position, step = (y, pair) if pair < quarter else (x, pair - quarter)
                angle = position / 10000 ** (step / (quarter - 1))
                assert cos[y * width + x, pair].item() == pytest.approx(math.cos(angle), abs=1e-6)
                assert sin[y * width + x, pair].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_far_positions_are_exact():
    """The last row of a 4,000-pixel-high image at stride 4; angles up to 1,000 radians lose 6e-5 in fp32."""
    cos, _ = rotary_table(1000, 1, rotary_frequencies(64)).over_grid()
    assert cos[999, 0].item() == pytest.approx(math.cos(999), abs=6e-5)


@pytest.mark.parametrize('channels', [0, 6, 34])
def test_head_dimensions_that_cannot_be(channels: int):
    with pytest.raises(ValueError, match='multiple of 4'):
        rotary_frequencies(channels)


def test_frequencies_stand_twice():
    frequencies = rotary_frequencies(64)
    assert torch.equal(frequencies[::2], frequencies[1::2])
    assert frequencies[0] == 1
    assert frequencies[-1].item() == pytest.approx(1e-4)
