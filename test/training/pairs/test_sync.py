# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Matching against stamps made by hand, and against the definition on random ones."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.pairs.sync import TOO_SOON, TimeThinner, gap_summary, match_nearest

MS = 1_000_000


def test_camera_three_times_as_fast_uses_each_scan_once():
    camera = np.arange(10) * 33 * MS
    lidar = np.array([1, 101, 199, 300]) * MS
    matches = match_nearest(camera, lidar, 0.05)
    assert matches.camera.tolist() == [0, 3, 6, 9]
    assert matches.lidar.tolist() == [0, 1, 2, 3]
    assert (matches.gaps_ns // MS).tolist() == [1, 2, 1, 3]
    assert matches.dropped == {'its scan is nearer to another frame': 6}
    assert (matches.cameras, matches.scans) == (10, 4)


def test_maximum_gap_is_included():
    camera, lidar = np.array([0, 1000]) * MS, np.array([50, 1051]) * MS
    matches = match_nearest(camera, lidar, 0.05)
    assert matches.camera.tolist() == [0]
    assert matches.dropped == {'no scan within the maximum gap': 1}


def test_any_order_in_and_time_order_out():
    matches = match_nearest(np.array([200, 0, 100]) * MS, np.array([101, 199, 2]) * MS, 0.05)
    assert matches.camera.tolist() == [1, 2, 0]
    assert matches.lidar.tolist() == [2, 0, 1]


def test_equally_near_goes_to_the_earlier():
    matches = match_nearest(np.array([0, 20]) * MS, np.array([10]) * MS, 0.05)
    assert matches.camera.tolist() == [0]


def test_nothing_to_match():
    assert len(match_nearest(np.zeros(0), np.array([1]), 1)) == 0
    assert match_nearest(np.array([1, 2]), np.zeros(0), 1).dropped == {
        'no scan within the maximum gap': 2
    }


stamps = st.lists(st.integers(0, 500), max_size=30).map(lambda v: np.array(v, np.int64) * MS)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(stamps, stamps)
def test_matches_are_near_mutual_and_unique(camera, lidar):
    matches = match_nearest(camera, lidar, 0.04)
    assert len(set(matches.camera.tolist())) == len(matches) == len(set(matches.lidar.tolist()))
    assert (np.diff(camera[matches.camera]) >= 0).all()
    for i, j, gap in zip(matches.camera, matches.lidar, matches.gaps_ns, strict=True):
        assert gap == lidar[j] - camera[i]
        assert abs(gap) == np.abs(lidar - camera[i]).min() == np.abs(camera - lidar[j]).min()
        assert abs(gap) <= 40 * MS
    assert len(matches) + sum(matches.dropped.values()) == len(camera)
    # The nearest pair of all is mutual, so it must be there.
    if len(camera) and len(lidar) and np.abs(camera[:, None] - lidar).min() <= 40 * MS:
        assert len(matches)


def test_summary():
    summary = gap_summary(np.array([-10, 20, 30]) * MS)
    assert (summary['median_ms'], summary['max_ms'], summary['signed_median_ms']) == (20, 30, 20)
    assert sum(summary['histogram_ms']['counts']) == 3
    assert gap_summary(np.zeros(0)) == {}


def test_thinning_by_time():
    camera = np.array([0, 40, 100, 130, 200, 199, 400]) * MS
    matches = match_nearest(camera, camera, 0.05).thinned(0.1)
    assert (matches.stamps_ns // MS).tolist() == [0, 100, 200, 400]
    assert matches.camera.tolist() == [0, 2, 4, 6]
    assert matches.dropped == {TOO_SOON: 3}
    assert match_nearest(camera, camera, 0.05).thinned(0).dropped == {}
    thinner = TimeThinner(0.1)
    assert [thinner.keep(s) for s in matches.stamps_ns.tolist()] == [True] * 4
