# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.segmentation.transforms import (
    AugmentationConfig,
    augment,
    pad,
    photometric_distortion,
    random_crop,
)


def make_frame(height: int = 60, width: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Left half: class 1, red; right half: class 2, green."""
    label = np.full((height, width), 1, np.uint8)
    label[:, width // 2 :] = 2
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.where(label == 1, 200, 0)
    image[..., 1] = np.where(label == 2, 200, 0)
    return image, label


@pytest.mark.parametrize('scale', [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0)])
def test_augmented_frames_have_the_crops_size_and_stay_aligned(
    scale: tuple[float, float],
) -> None:
    config = AugmentationConfig(crop=(48, 64), scale=scale, photometric=False)
    for seed in range(20):
        image, label = augment(*make_frame(), (48, 80), config, np.random.default_rng(seed))
        assert image.shape == (48, 64, 3)
        assert label.shape == (48, 64)
        assert (image[label == 255] == 0).all()
        # Resizing blurs the border between the halves; the rest must agree.
        for value, channel in ((1, 0), (2, 1)):
            inside = cv2.erode((label == value).astype(np.uint8), np.ones((7, 7))) > 0
            assert (image[inside][:, channel] > 190).all()


def test_the_same_seed_gives_the_same_crop() -> None:
    config = AugmentationConfig()
    first, second, other = (
        augment(*make_frame(), (48, 80), config, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert (first[0] == second[0]).all()
    assert (first[1] == second[1]).all()
    assert not np.array_equal(first[0], other[0])


def test_crops_of_one_class_are_avoided() -> None:
    image, label = make_frame(32, 400)
    shares = {}
    for cat_max in (0.75, 0.0):  # with 0 no crop is good enough: the last draw is taken
        chosen = [
            random_crop(image, label, (32, 64), cat_max, np.random.default_rng(s))[1]
            for s in range(100)
        ]
        shares[cat_max] = np.mean([np.bincount(c.ravel()).max() < 0.75 * c.size for c in chosen])
    assert shares[0.75] > 3 * shares[0.0] > 0


def test_padding_is_black_and_unlabelled() -> None:
    image, label = pad(*make_frame(10, 10), (12, 13))
    assert (label[10:] == 255).all()
    assert (label[:, 10:] == 255).all()
    assert (image[10:] == 0).all()
    assert (label[:10, :10] != 255).all()


def test_photometric_distortion_changes_colours_within_limits() -> None:
    gray = np.full((8, 8, 3), 100, np.uint8)
    means = [photometric_distortion(gray, np.random.default_rng(s)).mean() for s in range(200)]
    # Brightness by 32 at most, contrast by half at most, in this order.
    assert 68 * 0.5 - 2 <= min(means) < 60
    assert 160 < max(means) <= 132 * 1.5 + 2
    assert sum(m == 100 for m in means) > 20
