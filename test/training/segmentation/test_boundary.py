# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.segmentation.boundary import BoundaryScore, band, band_width


def eroded_band(mask: np.ndarray, width: int) -> np.ndarray:
    """The published definition: the mask without what `width` erosions leave of it."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    kept = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return (mask - kept) > 0


@given(seed=st.integers(0, 10_000), width=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_the_band_is_what_erosions_remove(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = (rng.random((6, 7)) < 0.6).astype(np.uint8)
    mask = cv2.resize(coarse, (43, 31), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(band(mask, width), eroded_band(mask, width))


@given(seed=st.integers(0, 10_000), width=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_all_classes_at_once_are_the_classes_one_by_one(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    small = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, 6, 7))
    label, guess = (cv2.resize(ids, (40, 31), interpolation=cv2.INTER_NEAREST) for ids in small)
    score = BoundaryScore(3, fraction=width / np.hypot(40, 31))
    score.update(guess, label)
    valid = label != 255
    for c in range(3):
        truth = eroded_band((label == c).astype(np.uint8), width)
        found = eroded_band(((guess == c) & valid).astype(np.uint8), width)
        assert score.intersection[c] == (truth & found).sum()
        assert score.union[c] == (truth | found).sum()


def test_width_is_two_percent_of_the_diagonal() -> None:
    assert band_width(1024, 2048) == 46
    assert band_width(4, 4) == 1


def test_by_hand() -> None:
    # 3 x 3 of class 1 in 5 x 5 of class 0; bands of one pixel.
    label = np.zeros((5, 5), np.uint8)
    label[1:4, 1:4] = 1
    shifted = np.zeros((5, 5), np.uint8)
    shifted[1:4, 2:5] = 1
    score = BoundaryScore(3)
    score.update(shifted, label)
    # Rings of 8 pixels one column apart: the upper and lower sides share 2 pixels each; the
    # left side of one runs through the middle column of the other's ring only at its ends.
    ring, other = band(label, 1), band((shifted == 1).astype(np.uint8), 1)
    assert ring.sum() == other.sum() == 8
    assert (ring & other).sum() == 4
    assert score.intersection[1] == 4
    assert score.union[1] == 12
    iou = score.iou()
    assert iou[1] == pytest.approx(4 / 12)
    assert np.isnan(iou[2])
    assert score.miou() == pytest.approx(np.nanmean(iou))


def test_a_perfect_prediction_and_unlabelled_pixels() -> None:
    label = np.zeros((20, 30), np.uint8)
    label[5:15, 5:25] = 2
    prediction = label.copy()
    label[:, :3] = 255
    prediction[:, :3] = 1  # nobody knows what is there
    score = BoundaryScore(3)
    score.update(prediction, label)
    assert score.miou() == 1.0
    assert np.isnan(score.iou()[1])


def test_scores_add_up() -> None:
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 3, (2, 4, 12, 12), dtype=np.uint8)
    whole, first, second = BoundaryScore(3), BoundaryScore(3), BoundaryScore(3)
    for i, (label, guess) in enumerate(zip(labels, guesses, strict=True)):
        whole.update(guess, label)
        (first if i < 2 else second).update(guess, label)
    first += second
    np.testing.assert_array_equal(first.iou(), whole.iou())


def test_nothing_labelled() -> None:
    score = BoundaryScore(2)
    score.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    assert np.isnan(score.miou())
