# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The one way from pixels to the network's input, against plain definitions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.bundle import InputSpec
from clcp_ros.preprocess import halve, halvings, normalize, preprocess, resize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LENGTHS = st.integers(1, 90)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(size=st.integers(1, 5000), wanted=st.integers(1, 5000))
def test_halving_never_falls_below_what_is_wanted_and_goes_as_far_as_it_can(size, wanted):
    times = halvings(size, wanted)
    lengths = [size]
    for _ in range(times):
        lengths.append((lengths[-1] + 1) // 2)
    assert lengths[-1] >= wanted or times == 0
    assert lengths[-1] < 2 * wanted


def test_a_length_that_is_not_one_ends():
    assert halvings(10, 0) == 0
    assert halvings(0, 5) == 0


def test_halving_is_the_mean_of_two_by_two_pixels():
    image = noise(8, 12)
    mean = image.reshape(4, 2, 6, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(halve(image, 1, 1) - mean).max() <= 0.5
    assert halve(image, 0, 0) is image
    assert halve(image, 1, 0).shape == (4, 12, 3)
    assert halve(image[..., 0], 2, 1).shape == (2, 6)


@given(size=st.tuples(LENGTHS, LENGTHS), wanted=st.tuples(LENGTHS, LENGTHS))
@settings(deadline=None)
def test_any_size_becomes_any_size_without_inventing_values(size, wanted):
    image = noise(*size)
    resized = resize(image, *wanted)
    assert resized.shape == (*wanted, 3)
    assert resized.dtype == np.uint8
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    assert (resized >= low).all()
    assert (resized <= high).all()
    np.testing.assert_array_equal(resize(np.full_like(image, 77), *wanted), 77)


def test_an_image_of_the_right_size_is_not_copied():
    image = noise(20, 30)
    assert resize(image, 20, 30) is image


@pytest.mark.parametrize('size', [(480, 640), (302, 480), (151, 240), (605, 961)])
def test_it_stays_close_to_the_mean_over_areas(size):
    """Coordinates above all: a shift of a pixel would show on every edge."""
    image = cv2.resize(noise(9, 13), size[::-1], interpolation=cv2.INTER_LINEAR)
    area = cv2.resize(image, (112, 80), interpolation=cv2.INTER_AREA)
    difference = np.abs(resize(image, 80, 112).astype(int) - area)
    assert difference.mean() < 0.7
    shifted = np.roll(area, 1, axis=1).astype(int)
    assert np.abs(shifted - area).mean() > 10 * difference.mean()


@given(seed=st.integers(0, 99), size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_normalisation_is_its_definition_in_float32(seed, size):
    image = noise(*size, seed)
    spec = InputSpec(*size, MEAN, STD)
    mean = np.asarray(MEAN, np.float32) * 255
    scale = 1 / (np.asarray(STD, np.float32) * 255)
    expected = ((image - mean) * scale).transpose(2, 0, 1)
    found = normalize(image, spec)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, normalize(image, spec))


def test_preprocessing_is_resizing_and_normalising():
    image = noise(100, 160)
    spec = InputSpec(48, 80, MEAN, STD)
    expected = normalize(resize(image, 48, 80), spec)
    np.testing.assert_array_equal(preprocess(image, spec), expected)
    assert preprocess(image, spec).dtype == np.float32
