# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding a window gives what decoding all gives, and its geometry is exact."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros import image_codec
from clcp_ros.errors import ImageError
from training.pairs import jpeg
from training.pairs.crop import Crop, crop_image
from training.pairs.decode import decode_crop, reduction, snap

_FLAGS = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def picture(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 12 + 2, width // 12 + 2, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('width', [640, 636, 333])
@pytest.mark.parametrize(('side', 'size'), [(224, 56), (200, 100), (128, 128), (150, 90)])
def test_a_window_is_what_the_whole_image_shows_there(width, side, size):
    image = picture(1, 408, width)
    data = jpeg.encode_seekable(image, 95)
    plain = image_codec.encode_jpeg(image, 95)
    whole = image_codec.decode_bytes(data)
    np.testing.assert_array_equal(whole, image_codec.decode_bytes(plain))
    rng = np.random.default_rng(2)
    for _ in range(12):
        x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, 408 - side + 1))
        crop = snap(Crop(x, y, side, side), size, size, (width, 408))
        found = decode_crop(data, crop, size, size)
        np.testing.assert_array_equal(found, decode_crop(plain, crop, size, size))
        exact = crop_image(whole, crop, size, size)
        if reduction(crop, size, size) == 1:
            np.testing.assert_array_equal(found, exact)
        else:
            # The decoder averages in another way than area resizing does.
            assert np.abs(found.astype(int) - exact).mean() < 2


def test_less_is_decoded(monkeypatch):
    image = picture(3, 400, 800)
    data = jpeg.encode_seekable(image, 95)
    part, left, top = jpeg.cut(data, 300, 200, 128, 128)
    assert (left, top) == (240, 192)
    assert image_codec.image_size(part)[0] <= 256
    assert len(part) < 0.3 * len(data)
    np.testing.assert_array_equal(
        image_codec.decode_bytes(part)[8:120, 60:160],
        image_codec.decode_bytes(data)[200:312, 300:400],
    )
    assert jpeg.cut(image_codec.encode_jpeg(image), 0, 0, 64, 64) is None
    # The whole is a window too, with incomplete blocks at its edges.
    odd = jpeg.encode_seekable(picture(4, 39, 333), 95)
    whole, *origin = jpeg.cut(odd, 0, 0, 333, 39)
    assert origin == [0, 0]
    np.testing.assert_array_equal(image_codec.decode_bytes(whole), image_codec.decode_bytes(odd))


def test_a_dot_is_where_its_point_projects():
    """The centre of gravity of a blob, in the whole image and in a crop at a quarter."""
    K = np.array([[500.0, 0, 401.3], [0, 500, 203.7], [0, 0, 1]])
    for i, scale in enumerate((2, 4, 8)):
        point = np.array([0.11, -0.07 + 0.01 * i, 2.0])
        u, v = (K @ point)[:2] / point[2]
        rows, columns = np.mgrid[0:480, 0:800]
        blob = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 9.0**2))
        image = np.repeat((20 + 200 * blob).astype(np.uint8)[..., None], 3, axis=2)
        data = jpeg.encode_seekable(image, 98)
        size = 320 // scale
        crop = snap(Crop(203, 61, 323, 323), size, size, (800, 480))
        assert crop.width % scale == crop.x % scale == crop.y % scale == 0
        small = decode_crop(data, crop, size, size).astype(float)[..., 0] - 20
        small = np.clip(small - 8, 0, None)
        r, c = np.mgrid[0:size, 0:size]
        K_small = crop.adjust(K, size, size)
        expected = (K_small @ point)[:2] / point[2]
        centre = [(c * small).sum() / small.sum(), (r * small).sum() / small.sum()]
        np.testing.assert_allclose(centre, expected, atol=0.06)


@given(
    st.integers(0, 1900), st.integers(0, 1200), st.integers(8, 1208), st.integers(8, 1208),
    st.integers(1, 512),
)  # fmt: skip
def test_snapped_crops_stay_inside_and_large_enough(x, y, w, h, size):
    crop = Crop(min(x, 1917 - w), min(y, 1208 - h), w, h)
    step = reduction(crop, size, size)
    moved = snap(crop, size, size, (1917, 1208))
    assert reduction(moved, size, size) == step
    assert moved.x >= 0
    assert moved.y >= 0
    assert moved.x + moved.width <= 1917
    assert moved.y + moved.height <= 1208
    assert all(v % step == 0 for v in (moved.x, moved.y, moved.width, moved.height))
    assert max(abs(moved.x - crop.x), crop.width - moved.width) < 16


def test_png_is_cropped():
    image = picture(5, 90, 120)
    crop = Crop(11, 3, 80, 80)
    np.testing.assert_array_equal(
        decode_crop(image_codec.encode_png(image), crop, 20, 20), crop_image(image, crop, 20, 20)
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_are_an_error_or_an_image(data):
    good = jpeg.encode_seekable(picture(6, 64, 128), 90)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(2, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    bad = bad[: data.draw(st.integers(2, len(bad)))]
    try:
        image = decode_crop(bytes(bad), Crop(32, 16, 32, 32), 16, 16)
    except ImageError:
        return
    assert image.shape == (16, 16, 3)


def test_windows_outside_are_refused():
    with pytest.raises(ImageError, match='not inside'):
        decode_crop(jpeg.encode_seekable(picture(7, 64, 64), 90), Crop(40, 40, 32, 32), 8, 8)
    with pytest.raises(ImageError, match='not inside'):
        decode_crop(image_codec.encode_png(picture(7, 64, 64)), Crop(40, 40, 32, 32), 8, 8)
    with pytest.raises(ImageError, match='cannot encode'):
        jpeg.encode_seekable(np.zeros((4, 4), np.uint8), 90)


def test_the_recipe_of_the_thesis_is_decoded_at_a_quarter():
    side = round(0.7417 * 1208)  # config/pretrain/thesis_text.yaml, as ContrastivePairs has it
    crop = snap(Crop(501, 77, side, side), 224, 224, (1920, 1208))
    assert (crop, reduction(crop, 224, 224)) == (Crop(500, 76, 896, 896), 4)
