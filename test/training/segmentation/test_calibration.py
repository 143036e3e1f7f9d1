# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from training.segmentation.calibration import Calibration


def test_by_hand() -> None:
    # Four pixels at probability 1, three of them right; four at 0.6 (153 / 255), one right; one
    # unlabelled.
    confidence = np.array([[255] * 4 + [153] * 4 + [255]], np.uint8)
    label = np.array([[0] * 8 + [255]], np.uint8)
    prediction = np.array([[0, 0, 0, 1, 0, 1, 1, 1, 1]], np.uint8)
    calibration = Calibration()
    calibration.update(prediction, confidence, label)
    expected = 0.5 * abs(0.75 - 1) + 0.5 * abs(0.25 - 0.6)
    assert calibration.error() == pytest.approx(expected)
    share, mean, accuracy = calibration.bins()[-1]
    assert (share, mean, accuracy) == (0.5, 1.0, 0.75)


def test_the_edge_of_a_bin_belongs_to_the_lower_one() -> None:
    calibration = Calibration()
    calibration.count[51] = 10  # 51 / 255 = 0.2 = 3 / 15: third bin, (2/15, 3/15]
    assert calibration.bins()[2, 0] == 1.0


def test_a_calibrated_prediction_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.integers(0, 256, (400, 400), dtype=np.uint8)
    right = rng.random((400, 400)) < confidence / 255
    calibration = Calibration()
    calibration.update(right.astype(np.uint8), confidence, np.ones((400, 400), np.uint8))
    assert calibration.error() < 0.01
    overconfident = Calibration()
    overconfident.update(
        right.astype(np.uint8), np.full_like(confidence, 255), np.ones((400, 400), np.uint8)
    )
    assert overconfident.error() == pytest.approx(0.5, abs=0.01)


def test_parts_add_up_and_nothing_is_nan() -> None:
    one, two = Calibration(), Calibration()
    assert np.isnan(one.error())
    two.update(
        np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8)
    )
    one += two
    assert one.error() == 0
