"""Colours that can be told apart, and text that can be read on them."""

import colorsys

Colour = tuple[int, int, int]  # red, green, blue from 0 to 255
_GOLDEN_ANGLE = 0.381966  # of a turn: hues that follow each other lie far apart, however many there are


def distinct_colours(count: int) -> list[Colour]:
    """So many colours, the same ones each time; neighbours differ most."""
    return [tuple(round(255 * value) for value in colorsys.hsv_to_rgb(i * _GOLDEN_ANGLE % 1, 0.75 - i % 2 * 0.2, 0.95))
            for i in range(count)]


def readable_on(colour: Colour) -> Colour:
    """Black or white, whichever stands out more from a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
