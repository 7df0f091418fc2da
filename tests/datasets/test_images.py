"""Whole images pass, whatever their format; damaged ones are named."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ralamala_mm.datasets.images import check_image, decode
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


@pytest.mark.parametrize('order', ['<', '>'])
def test_channels_of_cameras_for_science(order: str):
    """A TIFF of six channels, 5×4 pixels, as few fields as there may be."""
    pixels = bytes(5 * 4 * 6)
    fields = [(256, 5), (257, 4), (258, 8), (259, 1), (262, 1), (273, 8), (277, 6), (278, 4), (279, len(pixels))]
    content = struct.pack(f'{order}2sHI', b'II' if order == '<' else b'MM', 42, 8 + len(pixels)) + pixels
    content += struct.pack(f'{order}H', len(fields))
    content += b''.join(struct.pack(f'{order}HHIHH', tag, 3, 1, value, 0) for tag, value in fields) + bytes(4)
    with pytest.raises(UserError, match=r'image photo\.tif has 6 channels, and models here take three'):
        decode(content, 'photo.tif')
    with pytest.raises(UserError, match='cannot be decoded'):
        decode(content[:150], 'photo.tif')
