# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from training.pairs import augment, weather


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A street of noise, near below and far above."""
    rng = np.random.default_rng(0)
    image = rng.integers(40, 220, (96, 96, 3), dtype=np.uint8)
    depth = np.repeat(np.geomspace(120, 4, 96, dtype=np.float32)[:, None], 96, axis=1)
    return image, depth


def spread(image: np.ndarray) -> float:
    return float(image.astype(np.float32).std())


ALL = [augment.jitter, augment.thesis, augment.gaussian_blur, augment.gaussian_noise]
ALL += [augment.glass_blur]


@pytest.mark.parametrize('function', ALL)
def test_a_function_of_its_seed(
    function: Callable[..., np.ndarray], scene: tuple[np.ndarray, np.ndarray]
) -> None:
    image = scene[0]
    before = image.copy()
    results = [function(image, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results)
    assert np.array_equal(image, before)


def test_the_thesis_mixture(scene: tuple[np.ndarray, np.ndarray]) -> None:
    """0.9 x (0.7 jitter, 0.2 dark, 0.1 grey), and 0.5 blur or noise, found from the results."""
    smooth = cv2.GaussianBlur(scene[0], (0, 0), 6)
    counts = {'unchanged': 0, 'dark': 0, 'grey': 0}
    n = 3000
    for seed in range(n):
        out = augment.thesis(smooth, np.random.default_rng(seed))
        counts['unchanged'] += np.array_equal(out, smooth)
        counts['dark'] += out.mean() < 0.55 * smooth.mean()
        flat = out.astype(int)
        grey = np.abs(flat - flat.mean(axis=2, keepdims=True)).max() <= 1
        counts['grey'] += bool(grey)
    assert counts['unchanged'] / n == pytest.approx(0.1 * 0.5, abs=0.02)
    assert counts['dark'] / n == pytest.approx(0.9 * 0.2, abs=0.03)
    # Noise is not grey, so a third of the half is not recognised.
    assert counts['grey'] / n == pytest.approx(0.9 * 0.1 * (1 - 0.5 / 3), abs=0.02)


def test_coarse_dropout_is_lip_locs() -> None:
    counts, sides = [], []
    for seed in range(600):
        holes = augment.coarse_dropout(224, 224, np.random.default_rng(seed))
        counts.append(bool(holes.any()))
        parts, _, stats, _ = cv2.connectedComponentsWithStats(holes.astype(np.uint8))
        if parts == 2 and stats[1, 4] == stats[1, 2] * stats[1, 3]:
            sides += [stats[1, 2], stats[1, 3]]
    assert np.mean(counts) == pytest.approx(0.9, abs=0.03)
    assert min(sides) == 50
    assert 95 <= np.percentile(sides, 95) <= 140  # two holes may form one rectangle, rarely
    small = augment.coarse_dropout(32, 64, np.random.default_rng(1))
    assert small.shape == (32, 64)


def test_fog_hides_what_is_far(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, depth = scene
    for seed in range(8):
        out = weather.fog(image, depth, None, np.random.default_rng(seed))
        assert spread(out[-12:]) > 1.5 * spread(out[:12])
        assert spread(out[:12]) < 0.5 * spread(image)
    plain = weather.fog(image, np.zeros_like(depth), None, np.random.default_rng(0))
    assert np.abs(plain.astype(int) - image).max() <= 3


def test_fog_follows_koschmieder(scene: tuple[np.ndarray, np.ndarray]) -> None:
    """At the visibility e^-3 of the contrast is left, in linear light."""
    x = np.array([[[0.2, 0.2, 0.2], [0.8, 0.8, 0.8]]], np.float32)
    out = weather._veil(x, np.full((1, 2), 50, np.float32), 50.0, np.full(3, 0.5, np.float32))
    assert out[0, 1, 0] - out[0, 0, 0] == pytest.approx(0.6 * np.exp(-3), rel=1e-5)
    assert out.mean() == pytest.approx(0.5, abs=0.01)


def test_headlights_reach_what_is_near(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image = np.full_like(scene[0], 128)
    near, far = np.full((96, 96), 5, np.float32), np.full((96, 96), 80, np.float32)
    for seed in range(8):
        bright, dark = (
            weather.night(image, d, None, np.random.default_rng(seed))[60:] for d in (near, far)
        )
        assert bright.mean() > dark.mean()
        assert dark.mean() < 128


def test_snow_lies_on_the_ground_only() -> None:
    image = np.full((96, 96, 3), 60, np.uint8)
    depth = np.full((96, 96), 1.0, np.float32)
    ground = np.zeros((96, 96), np.float32)
    ground[48:] = 1
    differences = []
    for seed in range(20):
        out = weather.snow(image, depth, ground, np.random.default_rng(seed)).astype(np.float32)
        differences.append(np.median(out[56:]) - np.median(out[:40]))
    assert min(differences) > -10
    assert np.mean(differences) > 30


def test_conditions_are_what_they_are_called(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, depth = scene
    means = {}
    for name, effect in weather.CONDITIONS.items():
        results = [effect(image, depth, None, np.random.default_rng(s)) for s in range(12)]
        assert all(r.shape == image.shape and r.dtype == np.uint8 for r in results), name
        assert np.array_equal(results[0], effect(image, depth, None, np.random.default_rng(0)))
        means[name] = np.mean([r.mean() for r in results])
    assert means['night'] < means['dusk'] < image.mean() < means['low_sun']


def test_any_weather_is_drawn(scene: tuple[np.ndarray, np.ndarray]) -> None:
    image, depth = scene
    a, b = (weather.weather(image, depth, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(a, b)
    means = [
        weather.weather(image, depth, np.random.default_rng(s), probability=1).mean()
        for s in range(60)
    ]
    assert min(means) < 40
    assert max(means) > 150


def test_depth_is_filled_from_the_nearest_points() -> None:
    uv = np.array([[8.0, 8.0], [9.0, 9.0], [80.0, 80.0]])
    depth = weather.dense_depth(uv, np.array([4.0, 4.0, 50.0]), 96, 96)
    assert depth.shape == (96, 96)
    assert depth[4, 4] == pytest.approx(4, rel=1e-3)
    assert depth[-4, -4] == pytest.approx(50, rel=1e-3)
    assert 4 < depth[44, 44] < 50 or depth[44, 44] == pytest.approx(4, rel=1e-3)
    assert np.all(weather.dense_depth(uv[:0], np.zeros(0), 20, 30) == 40)
    assert weather.fill(uv[:0], np.zeros(0), 20, 30) is None
