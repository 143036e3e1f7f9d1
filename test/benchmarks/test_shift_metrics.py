# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.shift_metrics import (
    FalseAlarms,
    auroc,
    balanced_accuracy,
    delays,
    errors,
    fpr_at_tpr,
    onsets,
    runs,
)


@pytest.mark.parametrize('digits', [1, 8])
def test_separation_is_that_of_sklearn(digits: int) -> None:
    rng = np.random.default_rng(0)
    # One digit makes many ties.
    negatives, positives = (rng.normal(m, 1, n).round(digits) for m, n in ((0, 300), (1, 200)))
    truth = np.repeat([0, 1], [300, 200])
    both = np.concatenate([negatives, positives])
    assert auroc(negatives, positives) == pytest.approx(roc_auc_score(truth, both))
    fpr, tpr, _ = roc_curve(truth, both, drop_intermediate=False)
    assert fpr_at_tpr(negatives, positives) == pytest.approx(fpr[tpr >= 0.95].min())


def test_separation_leaves_out_what_is_not_finite_and_knows_when_nothing_is_left() -> None:
    assert auroc(np.array([0.0, np.nan]), np.array([1.0, np.inf])) == 1.0
    assert math.isnan(auroc(np.array([]), np.array([1.0])))
    assert math.isnan(fpr_at_tpr(np.array([0.0]), np.array([np.nan])))


def test_bound_of_no_alarm_is_the_rule_of_three() -> None:
    silent = FalseAlarms(0, 24.0)
    assert silent.per_8h == 0
    assert silent.bound_8h == pytest.approx(1.0, abs=0.002)
    assert FalseAlarms(1, 24.0).bound_8h == pytest.approx(8 * 4.744 / 24, abs=0.001)
    assert math.isnan(FalseAlarms(0, 0.0).per_8h)


def test_alarms_are_counted_where_they_begin() -> None:
    active = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool)
    assert onsets(active).tolist() == [0, 3, 6]
    assert onsets(np.zeros(0, bool)).tolist() == []


def test_missed_cases_are_the_longest_delays() -> None:
    found = delays([1.0, 2.0, 3.0, math.nan])
    assert (found.cases, found.missed, found.median) == (4, 1, 2.0)
    assert found.p95 == found.worst == math.inf
    assert delays([5.0] * 19 + [math.nan]).p95 == 5.0
    assert delays([math.nan] * 3).median == math.inf
    assert math.isnan(delays([]).median)


def test_errors_of_estimates() -> None:
    found = errors([0.1, 0.4, math.nan], [0.2, 0.3, 0.5])
    assert found.windows == 2
    assert found.mae == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.0)
    assert found.correlation == pytest.approx(1.0)
    assert math.isnan(errors([0.1, 0.1], [0.1, 0.2]).correlation)
    assert errors([], []).windows == 0


def test_windows_are_of_one_case_and_do_not_span_gaps() -> None:
    cases = np.array(['a', 'b', 'a', 'a', 'b', 'a', 'a'])
    stamps = np.array([0, 0, 1, 2, 1, 9, 10], np.int64) * 1_000_000_000
    found = [rows.tolist() for rows in runs(cases, stamps, 2)]
    assert found == [[0, 2], [5, 6], [1, 4]]
    assert runs(cases, stamps, 4) == []


def test_balanced_accuracy_gives_every_kind_the_same_weight() -> None:
    assert balanced_accuracy(['a', 'a', 'a', 'b'], ['a', 'a', 'a', 'x']) == 0.5
