# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every image has finite statistics, and each degradation moves those that are made for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clcp_ros.frame import Frame
from clcp_ros.image_codec import decode_bytes, encode_jpeg
from clcp_ros.monitor.statistics import STATISTICS, frame_statistics, image_statistics


def street(seed: int = 0, height: int = 360, width: int = 480) -> np.ndarray:
    """Sky above; below it surfaces, and things with edges."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 110.0)
    for cells, amount in ((6, 15), (24, 15), (80, 8)):
        grid = rng.normal(0, amount, (cells * 3 // 4, cells, 3)).astype(np.float32)
        grid = 0.3 * grid + grid.mean(axis=2, keepdims=True)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        x, y = rng.integers(0, width), rng.integers(height // 3, height)
        w, h = rng.integers(4, 60, 2)
        image[y : y + h, x : x + w] += rng.normal(0, 30)
    sky = height // 3
    image[:sky] = 0.1 * image[:sky] + (150, 170, 200)
    return np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def told(image: np.ndarray) -> dict[str, float]:
    return dict(zip(STATISTICS, image_statistics(image), strict=True))


SIDES = st.integers(1, 200)


@given(
    image=st.tuples(SIDES, SIDES).flatmap(
        lambda size: arrays.arrays(np.uint8, (*size, 3), fill=st.integers(0, 255))
    )
)
@settings(deadline=None, max_examples=60)
def test_statistics_of_any_image_are_finite(image: np.ndarray) -> None:
    found = image_statistics(image)
    assert found.shape == (len(STATISTICS),)
    assert found.dtype == np.float64
    assert np.isfinite(found).all()


@given(
    level=st.integers(0, 255),
    size=st.tuples(SIDES, SIDES),
    dead=st.sets(st.integers(0, 2)),
)
@settings(deadline=None, max_examples=60)
def test_constant_images_and_dead_channels_are_finite(level, size, dead) -> None:
    """Black, white and grey; a channel that always says 0."""
    image = np.full((*size, 3), level, np.uint8)
    image[..., list(dead)] = 0
    found = told(image)
    assert np.isfinite(list(found.values())).all()
    for name in ('luminance_std', 'gradient_mean', 'fineness_x', 'blockiness', 'flecks'):
        assert found[name] == pytest.approx(0, abs=1e-6), name


def test_a_saturated_sky_leaves_no_empty_mask() -> None:
    image = street()
    image[:300] = 255
    assert np.isfinite(image_statistics(image)).all()
    image[:] = 255
    image[::2, ::2] = 0  # every other pixel: two grey levels, all differences extreme
    assert np.isfinite(image_statistics(image)).all()


@given(seed=st.integers(0, 1000), flip=st.booleans())
@settings(deadline=None, max_examples=20)
def test_statistics_depend_on_the_pixels_alone(seed: int, flip: bool) -> None:
    image = street(seed, 120, 160)
    if flip:
        image = image[:, ::-1]  # not contiguous
    before = image.copy()
    first = image_statistics(image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(image_statistics(np.ascontiguousarray(image)), first)


def test_names_are_unique_and_the_first_ones_stay() -> None:
    """Other parts of a bundle refer to the position."""
    assert len(set(STATISTICS)) == len(STATISTICS) >= 22
    assert STATISTICS[0] == 'luminance_mean'
    assert STATISTICS[14] == 'top_bottom'


def dark(image: np.ndarray) -> np.ndarray:
    return (image * 0.2).astype(np.uint8)


def haze(image: np.ndarray) -> np.ndarray:
    rows = np.linspace(0.9, 0.2, image.shape[0])[:, None, None]
    return (image * (1 - rows) + 200 * rows).astype(np.uint8)


def blur(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 2.5)


def motion(image: np.ndarray) -> np.ndarray:
    return cv2.blur(image, (11, 1))


def noise(image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.clip(image + rng.normal(0, 15, image.shape), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> np.ndarray:
    return decode_bytes(encode_jpeg(image, 12))


def rain(image: np.ndarray) -> np.ndarray:
    rng, result = np.random.default_rng(2), image.copy()
    height, width = image.shape[:2]
    for x, y in zip(rng.integers(0, width, 900), rng.integers(0, height - 14, 900), strict=True):
        result[y : y + 14, x] = np.minimum(result[y : y + 14, x].astype(int) + 60, 255)
    return result


def snow(image: np.ndarray) -> np.ndarray:
    rng, result = np.random.default_rng(3), image.copy()
    height, width = image.shape[:2]
    for x, y in zip(
        rng.integers(0, width - 4, 500), rng.integers(0, height - 4, 500), strict=True
    ):
        result[y : y + 4, x : x + 4] = 240
    return result


def dirt(image: np.ndarray) -> np.ndarray:
    result = image.copy()
    smooth = cv2.GaussianBlur(image, (0, 0), 25)
    for x, y in ((20, 20), (300, 60), (180, 220)):
        result[y : y + 110, x : x + 150] = smooth[y : y + 110, x : x + 150] // 3
    return result


def overexposed(image: np.ndarray) -> np.ndarray:
    return np.clip(image.astype(int) * 5 // 2, 0, 255).astype(np.uint8)


def stretched(image: np.ndarray) -> np.ndarray:
    """Few grey levels, of a camera without colours."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 16 * 16
    return np.repeat(gray[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ('degrade', 'expected'),
    [
        (dark, {'luminance_mean': -0.2, 'luminance_p95': -0.3, 'colourfulness': -0.03}),
        (haze, {'haze': 0.1, 'far_contrast': -0.2, 'luminance_range': -0.05}),
        (blur, {'fineness_x': -0.15, 'fineness_y': -0.15, 'sharpness': -1.0}),
        (motion, {'fineness_x': -0.15, 'streaks': -0.4}),
        (noise, {'noise_floor': 0.5, 'fineness_x': 0.2, 'fineness_y': 0.2}),
        (jpeg, {'blockiness': 0.3}),
        (rain, {'streaks': 0.1, 'flecks': 0.1}),
        (snow, {'flecks': 0.4}),
        (dirt, {'tile_dark': -0.3}),
        (overexposed, {'bright_fraction': 0.3, 'luminance_p95': 0.1}),
        (stretched, {'empty_levels': 0.5}),
    ],
)
def test_a_degradation_moves_its_statistics(
    degrade: Callable[[np.ndarray], np.ndarray], expected: dict[str, float]
) -> None:
    for seed in range(3):
        image = street(seed)
        clean, degraded = told(image), told(degrade(image))
        for name, least in expected.items():
            change = degraded[name] - clean[name]
            assert change * np.sign(least) >= abs(least), (name, change)


def test_blur_is_told_from_haze_and_its_direction_is_told() -> None:
    image = street()
    clean, hazy, blurred, moved = (told(f(image)) for f in (np.copy, haze, blur, motion))
    haze_x, blur_x, motion_x = (
        t['fineness_x'] - clean['fineness_x'] for t in (hazy, blurred, moved)
    )
    assert blur_x < -0.1
    assert haze_x > 0.5 * blur_x
    motion_y = moved['fineness_y'] - clean['fineness_y']
    assert motion_x < motion_y - 0.03


def test_snow_is_bright_and_noise_is_bright_and_dark() -> None:
    clean = told(street())

    def excess(degraded: dict[str, float]) -> float:
        bright, dark = (degraded[n] - clean[n] for n in ('flecks', 'dark_flecks'))
        return bright - dark

    assert excess(told(snow(street()))) > 0.2
    assert abs(excess(told(noise(street())))) < 0.1


def test_the_resolution_hardly_matters_to_what_is_seen_small() -> None:
    image = street(0, 480, 640)
    larger = cv2.resize(image, (1920, 1440), interpolation=cv2.INTER_CUBIC)
    same = [n for n in STATISTICS[:15] if n not in ('sharpness', 'noise')]
    a, b = told(image), told(larger)
    for name in same:
        assert a[name] == pytest.approx(b[name], abs=0.03), name


def test_statistics_of_real_frames_differ_between_day_and_dusk(sample_data: Path) -> None:
    folder = sample_data / 'camvid'

    def median(drive: str) -> np.ndarray:
        files = sorted(folder.glob(f'*/{drive}*.png'))[:40:4]
        assert files
        return np.median([frame_statistics(Frame(decode_bytes(f.read_bytes()))) for f in files], 0)

    day, dusk = median('0006R0'), median('0001TP')
    assert np.isfinite(day).all()
    assert dusk[STATISTICS.index('luminance_mean')] < day[STATISTICS.index('luminance_mean')]


@pytest.mark.parametrize(('height', 'width'), [(360, 480), (300, 480), (40, 90)])
def test_fine_statistics_are_what_a_loop_over_the_crops_gives(height: int, width: int) -> None:
    image = street(3, height, width)
    found, gray = told(image), cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    rows, columns = max(0, 48 - height), max(0, 96 - width)
    gray = np.pad(gray, ((0, rows), (0, columns)), mode='symmetric').astype(np.int64)
    tops, lefts = (
        [(size - length) * (2 * i + 1) // 6 // 8 * 8 for i in range(3)]
        for size, length in ((gray.shape[0], 48), (gray.shape[1], 96))
    )
    crops = [gray[top : top + 48, left : left + 96] for top in tops for left in lefts]

    def change(axis: int, step: int, first: int = 0, every: int = 1) -> float:
        pairs = [
            np.abs(np.take(crop, np.arange(first + step, crop.shape[axis], every), axis)
                   - np.take(crop, np.arange(first, crop.shape[axis] - step, every), axis))
            for crop in crops
        ]  # fmt: skip
        return float(np.mean(pairs))

    for name, axis in (('fineness_x', 1), ('fineness_y', 0)):
        wanted = np.log((change(axis, 1) + 0.25) / (change(axis, 4) + 0.25))
        assert found[name] == pytest.approx(wanted, abs=1e-12)
    border, amid = (sum(change(axis, 1, first, 8) for axis in (0, 1)) for first in (7, 3))
    assert found['blockiness'] == pytest.approx(np.log((border + 0.25) / (amid + 0.25)), abs=1e-12)


def test_contrast_of_tiles_is_that_of_their_pixels() -> None:
    image = street(4, 240, 320)
    small = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64)
    tiles = gray.reshape(6, 20, 8, 20).swapaxes(1, 2).reshape(48, 400)
    light, found = np.log(tiles.mean(axis=1) + 1), told(image)
    contrast = np.log1p(np.median(tiles.std(axis=1)))
    assert found['tile_contrast'] == pytest.approx(contrast, abs=1e-12)
    assert found['tile_dark'] == pytest.approx(light.min() - np.median(light), abs=1e-12)
