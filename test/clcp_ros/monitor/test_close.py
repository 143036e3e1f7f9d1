# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from clcp_ros.classes import CITYSCAPES
from clcp_ros.monitor.close import LONGEST_S, CloseReference, CloseVehicle

SECOND = 1_000_000_000


def reference() -> CloseReference:
    found = CloseReference.of(['road', 'car', 'truck'])
    assert found is not None
    return found


def passed(shares: list[float], novelty: list[float], step_s: float = 1.0) -> list[bool]:
    vehicle = CloseVehicle(reference())
    return [
        vehicle.update(round(i * step_s * SECOND), np.array([1 - share, 0.0, share]), n)
        for i, (share, n) in enumerate(zip(shares, novelty, strict=True))
    ]


def test_vehicles_are_known_by_their_names() -> None:
    found = CloseReference.of(CITYSCAPES.names)
    assert found is not None
    names = [n for n, own in zip(CITYSCAPES.names, found.vehicles, strict=True) if own]
    assert names == ['car', 'truck', 'bus', 'train']
    a2d2 = CloseReference.of(['car 1', 'ego car', 'utility vehicle 2', 'traffic sign 1'])
    assert a2d2 is not None
    assert a2d2.vehicles.tolist() == [True, False, True, False]
    assert CloseReference.of(['road', 'carpet']) is None


@pytest.mark.parametrize('step_s', [0.5, 1.0])
def test_a_vehicle_that_comes_near_is_passed_over_until_it_has_gone(step_s: float) -> None:
    shares = [0.05, 0.2, 0.3, 0.6, 0.9, 0.9, 0.5, 0.3, 0.1, 0.0]
    novelty = [0.0, 0.5, 2.0, 6.0, 9.0, 9.0, 7.0, 5.0, 1.0, 0.0]
    # Till the frames are ordinary again: what has just been hidden is not to be judged.
    assert passed(shares, novelty, step_s) == [False] * 3 + [True] * 5 + [False] * 2


def test_ordinary_frames_are_judged_whatever_they_show() -> None:
    assert not any(passed([0.3, 0.5, 0.6] * 40, [0.0, 1.0, 2.9] * 40))


def test_one_vehicle_may_look_like_parts_of_several() -> None:
    vehicle = CloseVehicle(reference())
    seen = [(0.05, 0.1), (0.1, 0.15), (0.2, 0.25), (0.4, 0.2)]
    found = [
        vehicle.update(i * SECOND, np.array([1 - car - truck, car, truck]), 3.0 * i)
        for i, (car, truck) in enumerate(seen)
    ]
    assert found == [False, False, True, True]


def test_what_covers_the_camera_at_once_is_no_vehicle() -> None:
    shares = [0.02, 0.05, 0.05, 0.9, 0.9, 0.9]
    assert not any(passed(shares, [0.0, 0.0, 0.0, 9.0, 9.0, 9.0]))


def test_what_covers_the_camera_behind_a_vehicle_is_none() -> None:
    assert not any(passed([0.2, 0.2, 0.6, 0.6, 0.6], [0.0, 0.0, 9.0, 9.0, 9.0]))


def test_what_is_seen_in_strange_frames_alone_is_no_vehicle() -> None:
    assert not any(passed([0.0, 0.2, 0.3, 0.9, 0.9], [0.0, 8.0, 8.0, 9.0, 9.0]))


def test_a_vehicle_that_was_seen_long_ago_is_not_the_one_that_covers_the_view() -> None:
    shares = [0.2, *[0.0] * 5, 0.9, 0.9]
    assert not any(passed(shares, [0.0] * 6 + [9.0, 9.0]))


def test_what_comes_when_the_vehicle_has_gone_is_judged() -> None:
    # It fills the view, and all at once there is fog and no vehicle.
    shares = [0.15, 0.25, 0.35, 0.4, 0.02, 0.02]
    assert passed(shares, [0.0, 2.0, 5.0, 6.0, 9.0, 9.0]) == [False] * 2 + [True] * 2 + [False] * 2


def test_nothing_is_passed_over_for_long() -> None:
    count = 100
    found = passed([0.2, 0.45, *[0.9] * count], [0.0, 5.0, *[9.0] * count])
    assert sum(found) == round(LONGEST_S)
    assert found[1]
    assert not any(found[round(LONGEST_S) + 1 :])


def test_it_is_stored_as_arrays() -> None:
    stored = CloseReference.from_arrays(reference().arrays())
    assert stored.vehicles.tolist() == [False, True, True]
    for wrong in (np.array([1.0, 0.0]), np.zeros(3, bool), np.ones((2, 2), bool)):
        with pytest.raises(ValueError, match='vehicles'):
            CloseReference.from_arrays({'vehicles': wrong})
