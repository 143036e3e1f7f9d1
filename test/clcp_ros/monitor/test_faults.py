# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Broken cameras are found in time, and nothing that only looks like one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from clcp_ros.image_codec import decode_bytes
from clcp_ros.monitor.faults import (
    TILES,
    Fault,
    FaultConfig,
    FaultDetector,
    _is_flat,
    _Look,
    static_tiles,
)

SECOND = 10**9
SIZE = (120, 192)


def street(seed: int) -> np.ndarray:
    """A structured picture, another one for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 220, (8, 12, 3), dtype=np.uint8)
    image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def first_fault(
    images: Iterable[np.ndarray], period_s: float = 0.1, detector: FaultDetector | None = None
) -> tuple[float, Fault] | None:
    """Seconds until the first fault, and the fault."""
    detector = detector or FaultDetector()
    for i, image in enumerate(images):
        stamp_ns = SECOND + round(i * period_s * SECOND)
        if fault := detector.update(stamp_ns, image):
            return (stamp_ns - SECOND) / SECOND, fault
    return None


def noisy(level: float, seed: int, sigma: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(level, sigma, (*SIZE, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ('level', 'kind'),
    [(0, 'black'), (8, 'black'), (90, 'covered'), (128, 'covered'), (255, 'white')],
)
@pytest.mark.parametrize('sigma', [0.0, 8.0])
@pytest.mark.parametrize('period_s', [0.04, 0.1, 0.5, 1.0])
def test_an_image_that_shows_nothing_is_named_after_a_second(level, kind, sigma, period_s):
    found = first_fault((noisy(level, i, sigma) for i in range(100)), period_s)
    assert found is not None
    seconds, fault = found
    assert fault.kind == kind
    assert 1.0 <= seconds <= 1.0 + period_s


def test_a_moment_of_white_or_black_is_no_fault():
    flash = [np.full((*SIZE, 3), 255, np.uint8)] * 8
    assert first_fault([*map(street, range(9)), *flash, *map(street, range(9))]) is None
    # A second of it in two halves is none, either: the time starts anew.
    assert first_fault([*flash, street(0), *flash, street(1)]) is None


@pytest.mark.parametrize(('period_s', 'seconds'), [(0.05, 1.0), (0.1, 1.0), (1.0, 2.0)])
def test_a_frozen_camera_is_found_by_time_and_count(period_s, seconds):
    moving = int(2 / period_s)
    images = [street(i) for i in range(moving)] + [street(99)] * 100
    found = first_fault(images, period_s)
    assert found is not None
    assert found[1].kind == 'frozen'
    assert found[0] == pytest.approx(moving * period_s + seconds)


def test_identical_frames_in_a_burst_are_not_frozen():
    """Many messages of one moment: the stamps have not advanced by a second."""
    assert first_fault([street(0)] * 50, period_s=0.01) is None


def test_a_standing_vehicle_with_sensor_noise_is_not_frozen():
    rng = np.random.default_rng(0)
    still = street(0).astype(int)

    def frames():
        for _ in range(300):
            yield np.clip(still + rng.integers(-1, 2, still.shape), 0, 255).astype(np.uint8)

    assert first_fault(frames()) is None


def test_images_that_differ_in_one_pixel_are_not_frozen():
    def blinking():
        for i in range(60):
            image = street(0)
            image[101, 100] = 255 * (i % 2)
            yield image

    assert first_fault(blinking()) is None


def test_a_picture_that_freezes_again_and_again_is_frozen_each_time():
    detector, told, stamp_ns = FaultDetector(), [], 0
    for part in range(3):
        for i in range(30):
            stamp_ns += SECOND // 10
            image = street(100 * part + min(i, 10))
            told.append(detector.update(stamp_ns, image) is not None)
    # Frame 10 is the first of its kind; from 20 on it has been the same for a second.
    assert told == 3 * ([False] * 20 + [True] * 10)


@pytest.mark.parametrize('sigma', [5, 30, 80])
def test_a_closer_look_agrees_with_the_first_one(sigma):
    """What the sample calls structured is so in the thumbnail, however strong the noise."""
    rng = np.random.default_rng(0)
    for contrast in (0.0, 0.05, 0.3, 1.0):
        image = 110 + contrast * (street(0).astype(np.float32) - 110)
        noisy = np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)
        look = _Look(noisy)
        assert look.is_flat(2.0) == _is_flat(look.thumbnail, 2.0)


def test_the_caller_may_reuse_its_array():
    detector, image = FaultDetector(), street(0)
    for i in range(40):
        image[:] = street(i)
        assert detector.update(i * SECOND // 10, image) is None


@pytest.mark.parametrize('jump_s', [-5.0, 3.0, 1000.0])
def test_a_gap_or_a_loop_starts_anew(jump_s):
    detector, image = FaultDetector(), street(0)
    for i in range(9):
        assert detector.update(i * SECOND // 10, image) is None
    assert detector.update(round((0.9 + jump_s) * SECOND), image) is None


def test_night_fog_and_tunnel_are_no_faults():
    rng = np.random.default_rng(0)

    def night(i: int) -> np.ndarray:
        image = noisy(6, i, 3)
        for x in rng.integers(0, SIZE[1] - 6, 3):
            image[50:56, x : x + 6] = 230
        return image

    def fog(i: int) -> np.ndarray:
        return (190 + (street(i).astype(float) - 128) * 0.08).astype(np.uint8)

    def tunnel(i: int) -> np.ndarray:
        image = noisy(18, i, 4)
        image[:, 20 * i % 150 : 20 * i % 150 + 12] = 60
        return image

    for kind in (night, fog, tunnel):
        assert first_fault(kind(i) for i in range(200)) is None, kind.__name__


def covered(image: np.ndarray, left: float, top: float, size: float = 0.25) -> np.ndarray:
    height, width = image.shape[:2]
    image = image.copy()
    rows = slice(int(top * height), int((top + size) * height))
    image[rows, int(left * width) : int((left + size) * width)] = (50, 45, 40)
    return image


@pytest.mark.parametrize(('left', 'top'), [(0.0, 0.4), (0.4, 0.5), (0.75, 0.3), (0.3, 0.75)])
def test_dirt_on_part_of_the_lens_is_found_once_the_vehicle_moves(left, top):
    found = first_fault((covered(street(i), left, top) for i in range(80)), 0.5)
    assert found is not None
    seconds, fault = found
    assert fault.kind == 'partly_covered'
    assert 15 <= seconds <= 16


def test_what_stands_still_covers_nothing():
    rng = np.random.default_rng(0)
    still = street(0).astype(int)
    images = (
        np.clip(still + rng.integers(-1, 2, still.shape), 0, 255).astype(np.uint8)
        for _ in range(100)
    )
    assert first_fault(images, 0.5) is None


def test_a_clear_sky_and_the_own_bonnet_cover_nothing():
    def drive(i: int) -> np.ndarray:
        image = street(i)
        image[:50] = (120, 160, 220)
        image[105:] = 30
        return image

    assert first_fault((drive(i) for i in range(80)), 0.5) is None


def test_a_mount_that_is_always_in_view_can_be_masked():
    images = [covered(street(i), 0.0, 0.5) for i in range(80)]
    mask = static_tiles(images[:30])
    assert mask.shape == TILES
    assert mask[3:4, :2].all()
    assert not mask[:, 3:].any()
    assert first_fault(images, 0.5) is not None
    assert first_fault(images, 0.5, FaultDetector(static=mask)) is None
    assert not static_tiles(images[:5]).any()


def test_faults_can_be_turned_off():
    config = FaultConfig(flat_s=0, frozen_s=0, cover_s=0)
    black = [np.zeros((*SIZE, 3), np.uint8)] * 50
    assert first_fault(black, 0.5, FaultDetector(config)) is None


@pytest.mark.parametrize('shape', [(1, 1), (1, 500), (500, 1), (48, 64), (300, 480), (301, 483)])
def test_any_size_is_looked_at_and_may_change(shape):
    detector = FaultDetector()
    assert detector.update(0, np.zeros((*shape, 3), np.uint8)) is None
    assert detector.update(SECOND, np.zeros((64, 96, 3), np.uint8)).kind == 'black'


@pytest.mark.parametrize('name', ['flat_s', 'frozen_samples', 'gap_s'])
def test_nonsense_is_refused(name):
    for value in (-1, float('nan')):
        with pytest.raises(ValueError, match=name):
            FaultConfig(**{name: value})
    with pytest.raises(ValueError, match='static'):
        FaultDetector(static=np.zeros((2, 2), bool))


def test_real_drives_by_day_and_dusk_have_no_fault(sample_data: Path):
    folder = sample_data / 'camvid' / 'train'
    for drive in ('0006R0', '0016E5', '0001TP'):
        files = sorted(folder.parent.glob(f'*/{drive}*.png'))[:40]
        images = [decode_bytes(file.read_bytes()) for file in files]
        assert len(images) > 15
        assert first_fault(images, 1.0) is None, drive
        dirty = (covered(image, 0.15, 0.45) for image in images)
        assert first_fault(dirty, 1.0)[1].kind == 'partly_covered', drive
