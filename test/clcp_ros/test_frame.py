# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding on demand: less work must give the same pixels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.errors import ImageError
from clcp_ros.frame import Frame
from clcp_ros.image_codec import decode_bytes, decode_compressed, encode_jpeg, encode_png
from clcp_ros.monitor import image_statistics
from clcp_ros.monitor.statistics import frame_statistics
from clcp_ros.preprocess import resize


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 235, (7, 9, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def raw(image: np.ndarray, encoding: str, pad: int = 0) -> Any:
    rows = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    rows = np.concatenate([rows, np.full((len(rows), pad), 7, np.uint8)], axis=1)
    return SimpleNamespace(
        height=image.shape[0], width=image.shape[1], encoding=encoding, is_bigendian=0,
        step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


def compressed(data: bytes, stated: str = 'rgb8; jpeg compressed bgr8') -> Any:
    return SimpleNamespace(format=stated, data=np.frombuffer(data, np.uint8))


SIDES = st.integers(2, 130)
ENCODINGS = {
    'rgb8': [0, 1, 2], 'bgr8': [2, 1, 0], '8UC3': [2, 1, 0], 'rgba8': [0, 1, 2, 0],
    'bgra8': [2, 1, 0, 0],
}  # fmt: skip


@given(
    size=st.tuples(SIDES, SIDES),
    wanted=st.tuples(SIDES, SIDES),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    pad=st.integers(0, 5),
)
@settings(deadline=None)
def test_a_raw_message_is_shrunk_before_its_colours_are_sorted(size, wanted, encoding, pad):
    image = scene(*size)
    message = raw(image[..., ENCODINGS[encoding]], encoding, pad)
    smaller = Frame(message).at_least(*wanted)
    np.testing.assert_array_equal(resize(smaller, *wanted), resize(image, *wanted))
    assert Frame(message).size == size
    np.testing.assert_array_equal(Frame(message).pixels, image)


@pytest.mark.parametrize('encoding', ['mono8', 'bayer_rggb8', 'mono16'])
def test_other_encodings_give_what_their_pixels_give(encoding):
    plane = scene(64, 96)[..., 0]
    message = raw(plane, encoding)
    if encoding == 'mono16':
        message.data = (plane.astype('<u2') * 257).view(np.uint8).reshape(-1)
        message.step = 2 * 96
    whole = Frame(message).pixels
    np.testing.assert_array_equal(
        resize(Frame(message).at_least(16, 24), 16, 24), resize(whole, 16, 24)
    )


@given(
    size=st.tuples(SIDES, SIDES),
    factors=st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 2),
    wanted=st.tuples(SIDES, SIDES),
)
@settings(deadline=None)
def test_a_jpeg_is_decoded_no_smaller_than_wanted(size, factors, wanted):
    size = tuple(side * eighths for side, eighths in zip(size, factors, strict=True))
    data = encode_jpeg(scene(*size), 95)
    image = decode_bytes(data, wanted)
    for side, whole, least in zip(image.shape, size, wanted, strict=False):
        assert side >= min(least, whole)
        # Only what divides without a rest: the border's pixels would be larger than the others.
        assert whole % side == 0
        assert whole // side in (1, 2, 4, 8)
    frame = Frame(compressed(data))
    np.testing.assert_array_equal(frame.at_least(*wanted), image)
    assert frame.size == size
    # What was asked for before changes nothing.
    assert frame.pixels.shape == (*size, 3)
    np.testing.assert_array_equal(frame.at_least(*wanted), image)


@pytest.mark.parametrize('wanted', [(304, 480), (150, 240), (96, 160), (60, 100)])
def test_a_jpeg_at_reduced_size_is_the_shrunk_picture(wanted):
    """Within the noise that the JPEG itself adds."""
    image = scene(608, 960)
    data = encode_jpeg(image, 90)
    small = resize(decode_bytes(data, wanted), *wanted).astype(int)
    whole = resize(decode_bytes(data), *wanted).astype(int)
    assert np.abs(small - whole).mean() < 0.8


def test_a_picture_with_swapped_colours_stays_swapped_when_it_is_small():
    image = np.full((64, 96, 3), (200, 90, 30), np.uint8)
    message = compressed(encode_jpeg(image[..., ::-1]), 'bgr8; jpeg compressed rgb8')
    assert np.abs(decode_compressed(message, (16, 24)).astype(int) - image[0, 0]).max() <= 3
    assert Frame(message).luminance(16, 24) is None


def test_a_png_is_never_reduced():
    image = scene(96, 160)
    message = compressed(encode_png(image), 'rgb8; png compressed bgr8')
    np.testing.assert_array_equal(Frame(message).at_least(10, 10), image)
    assert Frame(message).luminance(10, 10) is None


def test_statistics_of_a_jpeg_need_no_whole_decoding():
    for seed in range(6):
        data = encode_jpeg(scene(1208, 1920, seed), 90)
        frame = Frame(compressed(data))
        frame.at_least(384, 608)
        whole = image_statistics(decode_bytes(data))
        np.testing.assert_allclose(frame_statistics(frame), whole, atol=0.02)
        # Of a frame that is only a little decoded, too.
        frame = Frame(compressed(data))
        frame.at_least(48, 80)
        np.testing.assert_allclose(frame_statistics(frame), whole, atol=0.02)


def test_statistics_of_pixels_are_those_of_the_image():
    image = scene(300, 400)
    for frame in (Frame(image), Frame(raw(image, 'rgb8')), Frame(compressed(encode_png(image)))):
        frame.at_least(100, 100)
        np.testing.assert_array_equal(frame_statistics(frame), image_statistics(image))


@pytest.mark.parametrize(
    'source', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), 'image', None, b'bytes']
)
def test_what_is_no_image_is_refused(source):
    with pytest.raises(ImageError):
        Frame(source)


@given(data=st.binary(max_size=300), cut=st.integers(0, 3000))
@settings(deadline=None)
def test_damaged_pictures_raise_one_error_at_every_size(data, cut):
    good = encode_jpeg(scene(64, 96), 80)
    for broken in (data, good[: cut % len(good)], good[: cut % len(good)] + data):
        frame = Frame(compressed(broken))
        for ask in (lambda f=frame: f.at_least(16, 24), lambda f=frame: frame_statistics(f)):
            try:
                ask()
            except ImageError:
                continue
