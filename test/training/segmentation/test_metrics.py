# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from clcp_ros.classes import ClassSet
from training.segmentation.metrics import ConfusionMatrix, count_pairs
from training.segmentation.result_tables import heading, tables
from training.segmentation.results import Evaluation, choose_source

CLASSES = ClassSet('three', ('a', 'b', 'c'), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
LABELS = np.array(
    [
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [255, 255, 255, 255]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
    ],
    np.uint8,
)
PREDICTIONS = np.array(
    [
        [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [2, 2, 2, 2]],
        [[0, 0, 0, 0], [0, 0, 0, 2], [1, 1, 1, 1], [0, 1, 1, 1]],
    ],
    np.uint8,
)


def make_matrix(images: slice = slice(None)) -> ConfusionMatrix:
    matrix = ConfusionMatrix(3)
    for prediction, label in zip(PREDICTIONS[images], LABELS[images], strict=True):
        matrix.update(prediction, label)
    return matrix


def test_iou_of_two_images_by_hand() -> None:
    # a: 14 labelled, 12 right, 14 predicted; b: 14, 12, 13; c: 0 labelled, predicted once.
    iou = make_matrix().iou()
    assert iou == pytest.approx([12 / 16, 12 / 15, 0])
    assert make_matrix().miou() == pytest.approx((12 / 16 + 12 / 15) / 3)
    assert make_matrix().pixel_accuracy() == pytest.approx(24 / 28)


def test_unlabelled_pixels_count_neither_as_label_nor_as_prediction() -> None:
    # The first image predicts c where nothing is labelled: c does not occur.
    iou = make_matrix(slice(0, 1)).iou()
    assert iou[:2] == pytest.approx([5 / 7, 5 / 7])
    assert math.isnan(iou[2])
    assert make_matrix(slice(0, 1)).miou() == pytest.approx(5 / 7)


def test_a_prediction_that_is_no_class_is_a_miss() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 255]], np.uint8), np.array([[0, 0]], np.uint8))
    assert matrix.iou()[0] == pytest.approx(0.5)


def test_nothing_labelled_gives_nan() -> None:
    assert math.isnan(ConfusionMatrix(3).miou())
    assert math.isnan(ConfusionMatrix(3).pixel_accuracy())


def test_agrees_with_sets_of_pixels_on_random_masks() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (50, 60)).astype(np.uint8)
    label[label == 3] = 255
    prediction = rng.integers(0, 3, (50, 60)).astype(np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.update(prediction, label)
    for c in range(3):
        a, b = (label == c), (prediction == c) & (label != 255)
        assert matrix.iou()[c] == pytest.approx((a & b).sum() / (a | b).sum())


def test_rpd_is_target_over_source() -> None:
    result = Evaluation(
        CLASSES,
        {'clear': make_matrix(slice(0, 1)), 'fog': make_matrix(slice(1, 2))},
        {'clear': 1, 'fog': 1},
        'clear',
        {'model': 'm', 'data': 'd', 'split': 'val', 'simulated': True},
    )
    fog = (7 / 9 + 7 / 8) / 3
    assert result.rpd('fog') == pytest.approx(fog / (5 / 7))
    assert result.mean_rpd() == pytest.approx(result.rpd('fog'))
    assert '| fog | 1 | 55.09 | 0.77 | 87.50 |' in tables([result])
    assert 'Simulated' in heading([result])
    found = result.to_json()
    assert found['conditions']['clear']['iou'] == {'a': 71.43, 'b': 71.43, 'c': None}


@pytest.mark.parametrize(
    ('conditions', 'wanted', 'expected'),
    [
        (['clear', 'fog'], 'auto', 'clear'),
        (['day', 'dusk'], 'auto', 'day'),
        (['fog'], 'auto', 'fog'),
        (['fog', 'rain'], 'auto', None),
        (['fog', 'rain'], 'rain', 'rain'),
        (['fog', 'rain'], 'clear', None),
    ],
)
def test_source_is_chosen_or_refused(
    conditions: list[str], wanted: str, expected: str | None
) -> None:
    assert choose_source(conditions, wanted) == expected


def test_pairs_are_counted() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 40, 50), dtype=np.uint8)
    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (one.ravel(), other.ravel()), 1)
    np.testing.assert_array_equal(count_pairs(one, other), expected)
    np.testing.assert_array_equal(count_pairs(one[:, ::2], other[:, ::2]).sum(), 1000)
    assert count_pairs(one[:0], other[:0]).sum() == 0


def test_more_pixels_than_a_float_can_count() -> None:
    zeros = np.zeros((4100, 4100), np.uint8)
    assert count_pairs(zeros, zeros)[0, 0] == 4100 * 4100 > 2**24


def test_a_label_outside_the_classes_is_no_silent_miscount() -> None:
    label = np.array([[0, 3]], np.uint8)
    with pytest.raises(ValueError, match='none of the 3 classes'):
        ConfusionMatrix(3).update(label, label)
