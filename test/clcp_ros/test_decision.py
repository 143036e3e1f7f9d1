# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.decision import decide


def in_full(logits: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, height, width) upsampled logits in float64, and their softmax."""
    channels = [
        cv2.resize(c.astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)
        for c in logits
    ]
    values = np.stack(channels).reshape(len(logits), height, width)
    share = np.exp(values - values.max(axis=0))
    return values, share / share.sum(axis=0)


def scene(seed: int, classes: int, height: int, width: int, contrast: float = 6) -> np.ndarray:
    """Logits of a network: areas with soft edges, and noise."""
    rng = np.random.default_rng(seed)
    areas = rng.integers(0, classes, (max(height // 4, 1), max(width // 4, 1))).astype(np.uint8)
    areas = cv2.resize(areas, (width, height), interpolation=cv2.INTER_NEAREST)
    logits = np.stack([(areas == c).astype(np.float32) for c in range(classes)])
    logits = np.stack([cv2.GaussianBlur(c, (3, 3), 0.8).reshape(height, width) for c in logits])
    return contrast * logits + rng.normal(0, 0.3, logits.shape).astype(np.float32)


@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 12),
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
)
@settings(max_examples=150, deadline=None)
def test_the_mask_is_that_of_upsampled_logits(
    seed: int, classes: int, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    logits = scene(seed, classes, *grid)
    mask, confidence = decide(logits, *size)
    assert mask.shape == confidence.shape == size
    assert mask.dtype == confidence.dtype == np.uint8
    values, _ = in_full(logits, *size)
    chosen = np.take_along_axis(values, mask[None].astype(np.intp), axis=0)[0]
    # Where float32 cannot tell two classes apart, either is right.
    assert float((values.max(axis=0) - chosen).max()) < 1e-4


@pytest.mark.parametrize('size', [(480, 768), (302, 481), (30, 48), (15, 20)])
def test_confidence_is_the_softmax_of_upsampled_logits(size: tuple[int, int]) -> None:
    logits = scene(3, 19, 30, 48)
    _, confidence = decide(logits, *size)
    _, share = in_full(logits, *size)
    error = confidence / 255 - share.max(axis=0)
    assert error.max() < 2.5 / 255
    assert np.abs(error).mean() < 0.008
    assert np.quantile(np.abs(error), 0.99) < 0.06


def test_it_is_exact_where_classes_meet() -> None:
    # Two classes, the edge in the middle of each cell; logits 0 and 4 on either side.
    left, right = np.array([[4, 4, 0, 0]]), np.array([[0, 0, 4, 4]])
    logits = np.stack([left, right]).astype(np.float32).repeat(4, axis=1)
    mask, confidence = decide(logits, 64, 64)
    values, share = in_full(logits, 64, 64)
    np.testing.assert_array_equal(mask, values.argmax(axis=0))
    error = confidence - np.rint(255 * share.max(axis=0))
    assert np.abs(error[:, 30:34]).max() <= 1  # the cells of the finer grid at the edge
    assert np.abs(error).max() <= 10
    assert confidence[:, 31].max() < 0.6 * 255


def test_a_third_class_may_win_between_two() -> None:
    """No corner prefers class 2, the middle does."""
    logits = np.array([[[5, 0]], [[0, 5]], [[4, 4]]], np.float32)
    mask, _ = decide(logits, 1, 64)
    assert set(mask[0].tolist()) == {0, 1, 2}


def test_a_class_may_win_that_no_corner_puts_among_its_first_three() -> None:
    """The sixth class is second to another one at each corner, and first in the middle."""
    corners = 9 * np.eye(4, dtype=np.float32).reshape(4, 2, 2)
    logits = np.concatenate([corners, np.full((1, 2, 2), 5.9), np.full((1, 2, 2), 6.01)])
    for order in (slice(None), slice(None, None, -1)):
        mixed = logits[order].astype(np.float32)
        mask, confidence = decide(mixed, 6, 6)
        values, share = in_full(mixed, 6, 6)
        np.testing.assert_array_equal(mask, values.argmax(axis=0))
        assert np.abs(confidence - np.rint(255 * share.max(axis=0))).max() <= 2


def test_results_do_not_share_memory_and_inputs_stay() -> None:
    logits = scene(1, 7, 12, 20)
    before = logits.copy()
    first = decide(logits, 192, 320)
    kept = [a.copy() for a in first]
    decide(scene(2, 7, 12, 20), 192, 320)
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(logits, before)


def test_one_point_and_one_class() -> None:
    mask, confidence = decide(np.zeros((1, 1, 1), np.float32), 5, 7)
    assert not mask.any()
    assert (confidence == 255).all()
