# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.segmentation.frames import open_frames
from training.segmentation.frequencies import balanced_weights, class_counts, report


def test_counts_are_those_of_the_labels(toy_cityscapes: Path) -> None:
    frames = open_frames(toy_cityscapes, 'train')
    expected = np.zeros(19, np.int64)
    for frame in frames.frames:
        label = frames.read(frame)[1]
        expected += np.bincount(label[label != 255], minlength=19)
    np.testing.assert_array_equal(class_counts(frames), expected)
    some = class_counts(frames, most=4)
    assert 0 < some.sum() < expected.sum()
    text = report(expected, frames.classes.names)
    assert text.startswith('road ')
    assert 'without ' in text
    assert 'sidewalk' in text.split('without')[1]


def test_weights_by_hand() -> None:
    counts = np.array([75, 25, 0])
    np.testing.assert_allclose(balanced_weights(counts, 0), [1, 1, 10])
    np.testing.assert_allclose(balanced_weights(counts, 1), [2 / 3, 2, 10], rtol=1e-6)
    weights = balanced_weights(counts, 0.5)
    assert weights[1] / weights[0] == pytest.approx(3**0.5)
    assert (0.75 * weights[0] + 0.25 * weights[1]) == pytest.approx(1)
    assert balanced_weights(np.array([10**9, 1]), 1)[1] == 10
    assert np.isfinite(balanced_weights(np.zeros(3, np.int64), 0.5)).all()
