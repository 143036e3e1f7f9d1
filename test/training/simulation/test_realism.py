# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.simulation.cityscapes import TRAIN_ROADS, TRAIN_TOWNS
from training.simulation.config import SimulationError
from training.simulation.realism import (
    CITYSCAPES_SHARE,
    class_shares,
    compare,
    image_statistics,
    kitti_like,
    noise_level,
    points_in_image,
    real_images,
    real_scans,
    scan_statistics,
)
from training.simulation.sheet import contact_sheet


@pytest.mark.parametrize('sigma', [1.0, 4.0, 10.0])
def test_noise_is_found_beside_edges(sigma: float) -> None:
    rng = np.random.default_rng(0)
    scene = np.full((256, 320), 120.0)
    scene[:, 160:] = 60
    scene[100:110] = 200
    noisy = scene + rng.normal(0, sigma, scene.shape)
    assert noise_level(noisy) == pytest.approx(sigma, rel=0.2)
    assert noise_level(scene) < 0.1
    assert noise_level(np.zeros((64, 64))) == noise_level(np.full((8, 8), 9.0)) == 0


def test_statistics_of_images_made_by_hand() -> None:
    half = np.zeros((300, 480, 3), np.uint8)
    half[:, 240:] = 255
    found = image_statistics(half)
    assert found.mean == pytest.approx(127.5)
    assert found.contrast == pytest.approx(127.5)
    assert found.black == found.white == pytest.approx(50)
    assert found.colour == 0
    red = np.zeros((300, 480, 3), np.uint8)
    red[..., 0] = 100
    assert image_statistics(red).colour == 100


def test_slope_of_the_spectrum() -> None:
    rng = np.random.default_rng(1)
    white = rng.normal(0, 20, (300, 480, 3)).mean(2, keepdims=True) + 128
    flat = image_statistics(np.clip(np.repeat(white, 3, 2), 0, 255).astype(np.uint8))
    assert flat.slope == pytest.approx(0, abs=0.2)
    frequency = np.hypot(np.fft.fftfreq(300)[:, None], np.fft.rfftfreq(480))
    frequency[0, 0] = 1
    pink = np.fft.irfft2(np.fft.rfft2(white[..., 0] - 128) / frequency, (300, 480))
    pink = np.clip(128 + 40 * pink / pink.std(), 0, 255)
    natural = image_statistics(np.repeat(pink[..., None], 3, 2).astype(np.uint8))
    assert natural.slope == pytest.approx(-2, abs=0.3)
    assert natural.coarse > natural.medium > natural.fine


def test_scans_by_hand() -> None:
    points = np.array([[1.0, 0, 0], [10, 0, 0], [20, 0, 0], [30, 0, 0]])
    found = scan_statistics(points, np.array([0.9, 0.1, 0.2, 0.3]))
    assert found.points == 4
    assert found.range_quantiles[1] == 20  # the own vehicle's return does not count
    assert found.intensity_quantiles[1] == pytest.approx(0.2)
    P = np.array([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0]])
    seen = np.array([[0, 0, 5], [0, 0, -5], [3, 0, 5], [0.4, 0.3, 1]])
    assert points_in_image(seen, P, 100, 80) == 2


def test_cityscapes_shares_are_all_of_the_pixels() -> None:
    assert sum(CITYSCAPES_SHARE) == pytest.approx(100, abs=1)
    assert kitti_like().camera.K[0, 0] == 721.5


@pytest.mark.slow
def test_classes_are_as_frequent_as_in_cityscapes_where_nobody_tuned() -> None:
    towns, roads = (class_shares((1234,), places, 6) for places in (TRAIN_TOWNS, TRAIN_ROADS))
    # Half as many frames each of country road and motorway.
    share = (3 * towns + roads) / 4
    ratio = share / np.array(CITYSCAPES_SHARE)
    most = np.argsort(CITYSCAPES_SHARE)[::-1][:10]
    assert ratio[most].min() > 1 / 3
    assert ratio[most].max() < 3
    # A train is met in one of thirteen frames.
    assert (share > 0).sum() >= len(CITYSCAPES_SHARE) - 1


def test_a_folder_without_samples_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match='none of the known samples'):
        compare(tmp_path)


def test_samples_in_their_own_layouts_are_found(tmp_path: Path) -> None:
    folder = tmp_path / 'acdc' / 'rgb_anon' / 'fog' / 'train' / 'GOPR0475'
    folder.mkdir(parents=True)
    image = np.zeros((40, 64, 3), np.uint8)
    image[..., 2] = 200
    cv2.imwrite(str(folder / 'a_rgb_anon.png'), image)
    ((name, condition, read),) = real_images(tmp_path)
    assert (name, condition) == ('ACDC', 'fog')
    assert (read[0, 0] == (200, 0, 0)).all()
    scans = tmp_path / 'semantickitti' / 'sequences' / '00' / 'velodyne'
    scans.mkdir(parents=True)
    np.full((7, 4), 5, np.float32).tofile(scans / '000000.bin')
    ((source, statistics),) = real_scans(tmp_path)
    assert (source, statistics.points) == ('SemanticKITTI', 7)


@pytest.mark.slow
def test_table_beside_real_samples(sample_data: Path) -> None:
    text = compare(sample_data, frames=2)
    assert '**night, simulated**' in text
    assert 'CamVid (real)' in text
    assert '| road |' in text
    assert 'like KITTI, simulated' in text


@pytest.mark.slow
def test_sheet_shows_everything() -> None:
    sheet = contact_sheet(time=3.0)
    assert sheet.shape == (6 * 220, 4 * 352, 3)
    assert sheet.std() > 30
