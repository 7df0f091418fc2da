"""Whole images pass, whatever their format; damaged ones are named."""

import io

import numpy as np
import pytest
from PIL import Image

from ralamala_mm.datasets.images import check_image
from ralamala_mm.errors import UserError


def encode(kind: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP'])
def test_whole_images_pass(kind: str):
    check_image(encode(kind), 'a')


def test_appended_data_is_allowed():
    check_image(encode('JPEG') + bytes(20_000), 'a.jpg')
    check_image(encode('PNG') + bytes(20_000), 'a.png')


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP'])
def test_cut_short(kind: str):
    content = encode(kind)
    with pytest.raises(UserError, match='image photo is damaged or cut short'):
        check_image(content[:len(content) // 2], 'photo')


def test_a_cut_photo_with_a_whole_thumbnail():
    """The thumbnail inside ends with the marker that the photo lacks."""
    thumbnail = encode('JPEG')
    content = encode('JPEG', exif=b'Exif\x00\x00' + thumbnail)
    with pytest.raises(UserError):
        check_image(content[:len(content) - 200], 'photo')


@pytest.mark.parametrize(('content', 'message'), [(b'', 'image a is empty'), (b'no image', 'a is not an image')])
def test_no_image(content: bytes, message: str):
    with pytest.raises(UserError, match=message):
        check_image(content, 'a')
