# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every encoding against pixels set by hand; damaged data against one clear error."""

from __future__ import annotations

import array
import contextlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros import image_codec
from clcp_ros.errors import ImageError

COLOR = (200, 90, 30)  # R, G, B all different: a swapped channel shows


def message(pixels: np.ndarray, encoding: str, pad: int = 0, bigendian: int = 0, as_array=True):
    """An Image with `pad` junk bytes after each row."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    padded = np.concatenate([rows, np.full((height, pad), 0xEE, np.uint8)], axis=1)
    data = padded.tobytes()
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=bigendian,
        step=padded.shape[1],
        data=array.array('B', data) if as_array else np.frombuffer(data, np.uint8),
    )  # fmt: skip


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth RGB picture, so that JPEG changes it little."""
    y, x = np.mgrid[:48, :64].astype(np.float32)
    return np.stack([x * 3, y * 4, 255 - x * 2], axis=-1).astype(np.uint8)


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize('as_array', [True, False])
@pytest.mark.parametrize(
    ('encoding', 'channels'),
    [
        ('rgb8', [0, 1, 2]),
        ('bgr8', [2, 1, 0]),
        ('8UC3', [2, 1, 0]),
        ('rgba8', [0, 1, 2, 0]),
        ('bgra8', [2, 1, 0, 0]),
    ],
)
def test_channel_orders(picture, encoding, channels, pad, as_array):
    decoded = image_codec.decode_image(
        message(picture[..., channels], encoding, pad, as_array=as_array)
    )
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, picture)


def test_rgb8_shares_the_messages_memory(picture):
    sent = message(picture, 'rgb8', as_array=False)
    assert np.shares_memory(image_codec.decode_image(sent), sent.data)


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_gray(encoding):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    decoded = image_codec.decode_image(message(gray, encoding, pad=3))
    np.testing.assert_array_equal(decoded, np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize(('bigendian', 'dtype'), [(0, '<u2'), (1, '>u2')])
def test_mono16_is_scaled_from_its_full_range(bigendian, dtype):
    words = np.array([[0, 257, 65535, 32896]], dtype)
    decoded = image_codec.decode_image(message(words, 'mono16', pad=2, bigendian=bigendian))
    assert decoded[0, :, 0].tolist() == [0, 1, 255, 128]


@pytest.mark.parametrize(
    ('encoding', 'tile'),
    [
        ('bayer_rggb8', 'RGGB'),
        ('bayer_bggr8', 'BGGR'),
        ('bayer_gbrg8', 'GBRG'),
        ('bayer_grbg8', 'GRBG'),
    ],
)
def test_bayer_of_one_color(encoding, tile):
    value = dict(zip('RGB', COLOR, strict=True))
    mosaic = np.tile(np.array([value[c] for c in tile], np.uint8).reshape(2, 2), (4, 5))
    decoded = image_codec.decode_image(message(mosaic, encoding, pad=4))
    assert decoded.shape == (8, 10, 3)
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.uint8(COLOR), (8, 10, 3)))


@pytest.mark.parametrize('tile', ['RGGB', 'BGGR', 'GBRG', 'GRBG'])
@pytest.mark.parametrize('bigendian', [0, 1])
def test_bayer_of_sixteen_bits(tile, bigendian):
    value = dict(zip('RGB', (np.array(COLOR) * 257).tolist(), strict=True))
    words = np.array([value[c] for c in tile], '>u2' if bigendian else '<u2').reshape(2, 2)
    sent = message(np.tile(words, (4, 5)), f'bayer_{tile.lower()}16', pad=2, bigendian=bigendian)
    decoded = image_codec.decode_image(sent)
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.uint8(COLOR), (8, 10, 3)))


@pytest.mark.parametrize('bigendian', [0, 1])
@pytest.mark.parametrize(
    ('encoding', 'channels'),
    [
        ('rgb16', [0, 1, 2]),
        ('bgr16', [2, 1, 0]),
        ('rgba16', [0, 1, 2, 0]),
        ('bgra16', [2, 1, 0, 0]),
    ],
)
def test_color_of_sixteen_bits(picture, encoding, channels, bigendian):
    full = picture[..., channels].astype(np.uint16) * 257
    words = full.astype('>u2' if bigendian else '<u2')
    decoded = image_codec.decode_image(message(words, encoding, pad=4, bigendian=bigendian))
    np.testing.assert_array_equal(decoded, picture)


def test_every_encoding_refuses_a_short_message():
    for encoding in image_codec.ENCODINGS:
        sent = message(np.zeros((8, 8), np.uint8), encoding)
        sent.height = 9 * 8
        with pytest.raises(ImageError):
            image_codec.decode_image(sent)


@pytest.mark.parametrize('tile', ['RGGB', 'BGGR', 'GBRG', 'GRBG'])
@pytest.mark.parametrize('bits', [8, 16])
def test_compressed_mosaic(tile, bits):
    """What image_transport makes of a Bayer camera's images: a gray file of the mosaic."""
    value = dict(zip('RGB', COLOR, strict=True))
    mosaic = np.tile(np.array([value[c] for c in tile], np.uint8).reshape(2, 2), (4, 5))
    encoded = image_codec.encode_png(mosaic if bits == 8 else mosaic.astype(np.uint16) * 257)
    stated = f'bayer_{tile.lower()}{bits}; png compressed '
    decoded = image_codec.decode_compressed(compressed(encoded, stated))
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.uint8(COLOR), (8, 10, 3)))
    assert not image_codec.is_plain_file(stated, encoded)
    # Made into a colour picture before it was compressed, it is one.
    color = image_codec.encode_png(np.full((8, 10, 3), COLOR, np.uint8))
    assert image_codec.is_plain_file(stated, color)
    decoded = image_codec.decode_compressed(compressed(color, stated))
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.uint8(COLOR), (8, 10, 3)))


@pytest.mark.parametrize(
    ('stated', 'plain'),
    [
        ('jpeg', True),
        ('png', True),
        ('', True),
        ('bgr8; jpeg compressed bgr8', True),
        ('rgb8; png compressed', True),
        ('rgb8; jpeg compressed rgb8', False),
        ('16UC1; compressedDepth', False),
    ],
)
def test_formats_in_the_wild(picture, stated, plain):
    assert image_codec.is_plain_file(stated, image_codec.encode_jpeg(picture)) is plain


@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV')],
)
def test_yuv422(encoding, order):
    red, green, blue = COLOR
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # ITU-R BT.601, studio range
    y = 16 + luma * 219 / 255
    u = 128 + 224 / 255 * (blue - luma) / 1.772
    v = 128 + 224 / 255 * (red - luma) / 1.402
    pair = [round({'Y': y, 'U': u, 'V': v}[c]) for c in order]
    packed = np.tile(np.array(pair, np.uint8).reshape(1, 2, 2), (3, 4, 1))
    decoded = image_codec.decode_image(message(packed, encoding, pad=6))
    assert decoded.shape == (3, 8, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to(COLOR, decoded.shape), atol=3)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'encoding': '32FC1'}, "'32FC1' is not supported"),
        ({'width': 0}, 'impossible size'),
        ({'width': 1 << 20, 'height': 1 << 20}, 'more than'),
        ({'step': 10}, 'step 10'),
        ({'data': array.array('B', bytes(100))}, '100 bytes'),
        ({'data': array.array('B')}, '0 bytes'),
        ({'encoding': 'yuv422', 'width': 63}, 'odd width'),
    ],
)
def test_bad_messages(picture, change, says):
    bad = message(picture, 'rgb8')
    vars(bad).update(change)
    with pytest.raises(ImageError, match=says) as error:
        image_codec.decode_image(bad)
    assert '\n' not in str(error.value)


def compressed(data: bytes, stated: str) -> SimpleNamespace:
    return SimpleNamespace(format=stated, data=array.array('B', data))


@pytest.mark.parametrize(
    'stated',
    ['jpeg', 'jpg', '', 'rgb8; jpeg compressed bgr8', 'bgr8; jpeg compressed bgr8', 'png'],
)
def test_compressed_jpeg(picture, stated):
    decoded = image_codec.decode_compressed(
        compressed(image_codec.encode_jpeg(picture, 98), stated)
    )
    assert np.abs(decoded.astype(int) - picture).mean() < 2


def test_compressed_png_is_exact(picture):
    sent = compressed(image_codec.encode_png(picture), 'rgb8; png compressed bgr8')
    np.testing.assert_array_equal(image_codec.decode_compressed(sent), picture)


def test_compressed_rgb_states_swapped_channels(picture):
    sent = compressed(image_codec.encode_png(picture[..., ::-1]), 'rgb8; png compressed rgb8')
    np.testing.assert_array_equal(image_codec.decode_compressed(sent), picture)


@pytest.mark.parametrize(
    ('data', 'stated', 'says'),
    [
        (b'\0' * 12 + b'\x89PNG\r\n\x1a\n', '16UC1; compressedDepth png', 'depth image'),
        (b'II*\0 tiff', 'mono8; tiff compressed', 'neither JPEG nor PNG'),
        (b'', 'jpeg', 'no bytes'),
    ],
)
def test_not_a_picture(data, stated, says):
    with pytest.raises(ImageError, match=says):
        image_codec.decode_compressed(compressed(data, stated))


@pytest.mark.parametrize('encode', [image_codec.encode_jpeg, image_codec.encode_png])
def test_every_truncation_is_found(picture, encode):
    data = encode(picture)
    assert image_codec.decode_bytes(data).shape == picture.shape
    for length in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(ImageError):
            image_codec.decode_bytes(data[:length])


def test_thumbnails_end_is_not_the_pictures(picture):
    """A JPEG in an APP1 segment has its own end marker."""
    data = image_codec.encode_jpeg(picture)
    thumbnail = image_codec.encode_jpeg(picture[:8, :8])
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    whole = data[:2] + segment + data[2:]
    assert image_codec.decode_bytes(whole).shape == picture.shape
    assert image_codec.decode_bytes(whole + b'\0' * 40).shape == picture.shape
    with pytest.raises(ImageError, match='truncated JPEG'):
        image_codec.decode_bytes(whole[:-60])


def test_progressive_jpeg(picture):
    _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert image_codec.decode_bytes(data.tobytes()).shape == picture.shape
    with pytest.raises(ImageError):
        image_codec.decode_bytes(data.tobytes()[:-2])


def test_flipped_bit_in_png_is_found(picture):
    data = bytearray(image_codec.encode_png(picture))
    data[len(data) // 2] ^= 4
    with pytest.raises(ImageError, match='wrong checksum'):
        image_codec.decode_bytes(bytes(data))


def test_exif_orientation_is_ignored(picture):
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    data = image_codec.encode_jpeg(picture)
    turned = data[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + data[2:]
    assert image_codec.decode_bytes(turned).shape == picture.shape


def test_sixteen_bit_and_gray_files_become_rgb8():
    for image in (np.full((4, 6), 0x8000, np.uint16), np.full((4, 6), 0x80, np.uint8)):
        decoded = image_codec.decode_bytes(image_codec.encode_png(image))
        np.testing.assert_array_equal(decoded, np.full((4, 6, 3), 0x80, np.uint8))


def test_size_from_the_header(picture):
    for encode in (image_codec.encode_jpeg, image_codec.encode_png):
        assert image_codec.image_size(encode(picture)[:700]) == (64, 48)


@pytest.mark.parametrize(
    'image',
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 3, 3), np.uint8)],
)
def test_refuses_to_encode(image):
    with pytest.raises(ImageError):
        image_codec.encode_jpeg(image)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_never_raises_anything_else(data):
    picture = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)
    encoded = bytearray(
        (image_codec.encode_jpeg if data.draw(st.booleans()) else image_codec.encode_png)(picture)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert image_codec.decode_bytes(bytes(encoded)).dtype == np.uint8


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_verifying_finds_what_decoding_finds(data):
    y, x = np.mgrid[:40, :52]
    picture = np.stack([x * 3 + y, y * 4, (x * y) % 256], -1).astype(np.uint8)
    kind = data.draw(st.sampled_from([image_codec.encode_jpeg, image_codec.encode_png]))
    encoded = bytearray(kind(picture))
    for _ in range(data.draw(st.integers(0, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        height, width = image_codec.decode_bytes(bytes(encoded)).shape[:2]
    except ImageError:
        with pytest.raises(ImageError):
            image_codec.verify_bytes(bytes(encoded))
    else:
        assert image_codec.verify_bytes(bytes(encoded)) == (width, height)
