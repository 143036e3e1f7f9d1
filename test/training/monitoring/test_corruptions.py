# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Corruptions of nominal frames: what each leaves of a picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.monitoring import optics
from training.monitoring.corruptions import (
    FAMILIES,
    SEVERITIES,
    CorruptionError,
    corrupt,
    degrade,
    kind_of,
)
from training.monitoring.samples import Item


@pytest.fixture(scope='module')
def street() -> np.ndarray:
    """A bright sky, house fronts with windows, a road with marks: (150, 240, 3)."""
    rng = np.random.default_rng(0)
    image = np.full((150, 240, 3), (205, 215, 230), np.uint8)
    for left in range(0, 240, 30):
        colour = rng.integers(40, 170, 3).tolist()
        cv2.rectangle(image, (left, int(rng.integers(20, 50))), (left + 28, 80), colour, -1)
        for top in range(52, 76, 8):
            cv2.rectangle(image, (left + 4, top), (left + 9, top + 4), (30, 30, 40), -1)
    image[75:] = (92, 92, 95)
    cv2.line(image, (60, 149), (115, 76), (210, 210, 210), 3)
    grain = rng.normal(0, 3, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def change(image: np.ndarray, family: str, severity: int, seed: int = 3) -> float:
    out = corrupt(image, family, severity, np.random.default_rng(seed))
    return float(np.abs(out.astype(float) - image).mean())


def sharpness(image: np.ndarray) -> float:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(cv2.Laplacian(gray, cv2.CV_32F)).mean())


@pytest.mark.parametrize('family', FAMILIES)
def test_a_higher_severity_changes_more(street: np.ndarray, family: str) -> None:
    changes = np.mean(
        [[change(street, family, s, seed) for s in SEVERITIES] for seed in (1, 2, 3)], axis=0
    )
    assert changes[0] > 0.15
    assert (np.diff(changes) > 0).all(), changes


@pytest.mark.parametrize('family', FAMILIES)
def test_the_result_follows_from_image_and_seed(street: np.ndarray, family: str) -> None:
    before = street.copy()
    first = corrupt(street, family, 3, np.random.default_rng(5))
    assert np.array_equal(first, corrupt(street, family, 3, np.random.default_rng(5)))
    assert first.dtype == np.uint8
    assert first.shape == street.shape
    assert np.array_equal(street, before)
    assert not np.shares_memory(first, street)


@pytest.mark.parametrize('family', FAMILIES)
def test_any_size_and_flat_images_will_do(family: str) -> None:
    for height, width in ((1, 1), (1, 9), (7, 2), (31, 17)):
        for value, severity in ((0, 1), (0, 5), (255, 1), (255, 5)):
            image = np.full((height, width, 3), value, np.uint8)
            out = corrupt(image, family, severity, np.random.default_rng(0))
            assert out.shape == image.shape


@pytest.mark.parametrize('family', ['defocus', 'motion', 'drops', 'snow', 'dirt', 'smear', 'fog'])
def test_lengths_scale_with_the_image(street: np.ndarray, family: str) -> None:
    large = cv2.resize(street, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert change(large, family, 4) == pytest.approx(change(street, family, 4), rel=0.6)


def test_views_that_are_not_contiguous(street: np.ndarray) -> None:
    flipped = street[:, ::-1]
    expected = corrupt(flipped.copy(), 'jpeg', 3, np.random.default_rng(0))
    assert np.array_equal(corrupt(flipped, 'jpeg', 3, np.random.default_rng(0)), expected)


@pytest.mark.parametrize('family', ['dusk', 'night', 'under_exposure'])
def test_darkness_darkens(street: np.ndarray, family: str) -> None:
    out = corrupt(street, family, 3, np.random.default_rng(1))
    assert out.mean() < 0.6 * street.mean()


def test_too_much_light_brightens(street: np.ndarray) -> None:
    out = corrupt(street, 'over_exposure', 3, np.random.default_rng(1))
    assert out.mean() > 1.05 * street.mean()


@pytest.mark.parametrize('family', ['glare', 'fog', 'low_contrast', 'rain', 'snow'])
def test_the_camera_makes_up_for_the_light_and_veils_take_contrast(
    street: np.ndarray, family: str
) -> None:
    out = [corrupt(street, family, 4, np.random.default_rng(seed)) for seed in range(8)]
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (street, *out)]
    assert np.mean([image.mean() for image in out]) == pytest.approx(street.mean(), rel=0.3)
    ranges = [np.quantile(image, 0.98) - np.quantile(image, 0.02) for image in grey]
    assert np.mean(ranges[1:]) < 0.9 * ranges[0]


def test_exposures_reach_both_ends() -> None:
    grey = np.full((40, 60, 3), 118, np.uint8)
    for seed in range(6):
        dark = corrupt(grey, 'under_exposure', 5, np.random.default_rng(seed))
        assert dark.mean() < 20
        assert corrupt(grey, 'over_exposure', 5, np.random.default_rng(seed)).min() == 255


def test_dusk_leaves_the_sky_brighter_than_the_street(street: np.ndarray) -> None:
    for seed in range(5):
        out = corrupt(street, 'dusk', 3, np.random.default_rng(seed)).astype(float)
        assert np.median(out[:15]) / street[:15].mean() > np.median(out[90:]) / street[90:].mean()


def test_a_cover_is_one_dark_piece(street: np.ndarray) -> None:
    shares = []
    for seed in range(12):
        out = corrupt(street, 'dirt', 5, np.random.default_rng(seed))
        shares.append((out.max(axis=2) < 25).mean())
    assert max(shares) > 0.5
    assert min(shares) < 0.1


def test_snow_whitens_the_ground_and_rain_wets_it() -> None:
    road = np.full((150, 240, 3), 80, np.uint8)
    road[:70] = 220
    ground = {
        family: np.mean([
            corrupt(road, family, 3, np.random.default_rng(seed))[100:].mean()
            for seed in range(12)
        ])
        for family in ('rain', 'snow')
    }  # fmt: skip
    assert ground['snow'] > 1.15 * ground['rain']


@pytest.mark.parametrize('family', ['defocus', 'motion', 'bitrate', 'fog', 'low_contrast'])
def test_blur_and_veils_take_detail(street: np.ndarray, family: str) -> None:
    assert sharpness(corrupt(street, family, 3, np.random.default_rng(1))) < sharpness(street)


@pytest.mark.parametrize('family', ['noise', 'impulse'])
def test_noise_adds_detail(street: np.ndarray, family: str) -> None:
    assert sharpness(corrupt(street, family, 3, np.random.default_rng(1))) > sharpness(street)


def test_fog_takes_contrast_from_the_far_and_leaves_the_near(street: np.ndarray) -> None:
    striped = street.copy()
    striped[:, ::6] //= 2

    def contrast(image: np.ndarray) -> np.ndarray:
        return np.abs(np.diff(image.mean(axis=2), axis=1)).mean(axis=1)

    out = np.mean(
        [contrast(corrupt(striped, 'fog', 3, np.random.default_rng(s))) for s in range(6)], axis=0
    )
    kept = out / contrast(striped)
    assert kept[80:85].mean() < 0.6 * kept[-10:].mean()


def test_fog_leaves_the_sky_brighter_than_the_road(street: np.ndarray) -> None:
    for seed in range(8):
        out = corrupt(street, 'fog', 3, np.random.default_rng(seed)).astype(float)
        assert out[:15].mean() > out[130:].mean() + 20


def test_snow_that_lies_is_not_smooth() -> None:
    road = np.full((150, 240, 3), 0.1, np.float32)
    road[:70] = 0.7
    rough = []
    for seed in range(6):
        ground = optics.whiten(road, 1.0, np.random.default_rng(seed))[110:, :, 1]
        rough.append(np.std(ground - optics.gaussian(ground, 6.0)) / ground.mean())
    assert np.median(rough) > 0.05


def test_snow_is_brighter_than_what_it_hides(street: np.ndarray) -> None:
    road = np.full((150, 240, 3), 70, np.uint8)
    road[:40] = 220
    out = corrupt(road, 'snow', 2, np.random.default_rng(1)).astype(int)
    lower = out[110:] - np.median(out[110:])
    assert (lower > 25).mean() > 0.005
    assert (lower < -25).mean() < 0.0005


def test_rain_falls_in_upright_streaks() -> None:
    road = np.full((150, 240, 3), 70, np.uint8)
    road[:40] = 220
    below = [
        corrupt(road, 'rain', 3, np.random.default_rng(seed))[60:].astype(float)
        for seed in range(8)
    ]
    across, down = (np.abs(np.diff(below, axis=axis)).mean() for axis in (2, 1))
    assert across > 1.3 * down


def test_drops_show_the_sky_below() -> None:
    picture = np.zeros((150, 240, 3), np.uint8)
    picture[:75] = 240
    out = corrupt(picture, 'drops', 4, np.random.default_rng(2))
    assert (out[85:] > 120).any()
    assert (out[:65] < 60).any()


def test_a_coded_picture_keeps_its_colours() -> None:
    picture = np.full((64, 64, 3), (200, 60, 40), np.uint8)
    out = corrupt(picture, 'jpeg', 3, np.random.default_rng(0))
    assert np.abs(out.reshape(-1, 3).mean(0) - (200, 60, 40)).max() < 25


def test_noise_has_the_variance_of_its_electrons() -> None:
    picture = np.full((200, 200, 3), 188, np.uint8)  # half of white
    out = corrupt(picture, 'noise', 2, np.random.default_rng(0)).astype(float) / 255
    linear = ((out + 0.055) / 1.055) ** 2.4
    expected = np.sqrt(0.5 / 500 + (2.5 / 500) ** 2)
    assert linear.mean() == pytest.approx(0.5, abs=0.01)
    assert linear.std() == pytest.approx(expected, rel=0.05)


def test_grey_at_last(street: np.ndarray) -> None:
    out = corrupt(street, 'desaturate', 5, np.random.default_rng(0)).astype(int)
    assert np.ptp(out, axis=2).max() == 0


@pytest.mark.parametrize(
    ('tag', 'kind'),
    [
        ('clear', 'none'), ('fog:3', 'haze'), ('night', 'dark'), ('drops:1', 'lens dirt'),
        ('low_sun', 'exposure'), ('dirt', 'lens dirt'), ('compression', 'compression'),
        ('colour_cast:5', 'other'), ('martian dust', 'other'), ('night+rain', 'other'),
    ],
)  # fmt: skip
def test_kinds_of_tags(tag: str, kind: str) -> None:
    assert kind_of(tag) == kind


def test_frames_are_degraded_the_same_in_any_order(street: np.ndarray) -> None:
    label = np.zeros(street.shape[:2], np.uint8)
    items = [Item(street, label, 'a', 1, 'clear'), Item(street[::2, ::2], None, 'b', 2, 'clear')]
    families = ('noise', 'fog', 'rain')
    forward = list(degrade(items, families, draws=2, seed=4))
    backward = list(degrade(items[::-1], families[::-1], draws=2, seed=4))
    assert len(forward) == 2 * 3 * 2
    found = {(item.drive, item.tag): item for item in backward}
    for item in forward:
        other = found[item.drive, item.tag]
        assert np.array_equal(item.image, other.image)
        assert (item.stamp_ns, item.label is label) == (other.stamp_ns, item.drive == 'a')
    assert {int(item.tag[-1]) for item in forward} <= set(SEVERITIES)
    again = list(degrade(items, families, draws=2, seed=5))
    assert not all(
        x.tag == y.tag and np.array_equal(x.image, y.image)
        for x, y in zip(forward, again, strict=True)
    )


def test_every_severity_of_every_family_by_default(street: np.ndarray) -> None:
    small = street[::8, ::8]
    tags = [item.tag for item in degrade([Item(small, None, 'a', -1, 'clear')])]
    assert tags == [f'{family}:{severity}' for family in FAMILIES for severity in SEVERITIES]


def test_there_are_families_of_every_kind() -> None:
    assert len(FAMILIES) >= 12
    assert {kind_of(family) for family in FAMILIES} == {
        'dark', 'haze', 'rain', 'snow', 'blur', 'noise', 'lens dirt', 'exposure', 'compression',
        'other',
    }  # fmt: skip


def test_what_cannot_be_done_is_said(street: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(CorruptionError, match=r"no corruption 'hail'; there are fog"):
        corrupt(street, 'hail', 1, rng)
    with pytest.raises(CorruptionError, match='severity must be 1, 2, 3, 4 or 5, not 6'):
        corrupt(street, 'fog', 6, rng)
    for bad in (street[..., 0], street.astype(np.float32), street[:0]):
        with pytest.raises(CorruptionError, match='an image is'):
            corrupt(bad, 'fog', 1, rng)
