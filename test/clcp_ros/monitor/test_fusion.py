# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import random

import pytest

from clcp_ros.monitor.fusion import LAG_S, CameraFusion, Scope

SECOND = 1_000_000_000
CAMERAS = ('front', 'left', 'right')


def tell(
    fusion: CameraFusion, raised: dict[str, bool], seconds: float, step_s: float = 0.5
) -> int:
    stamp_ns = 0
    for i in range(int(seconds / step_s)):
        stamp_ns = int(i * step_s * SECOND)
        for camera, up in raised.items():
            fusion.tell(camera, stamp_ns, up)
    return stamp_ns


@pytest.mark.parametrize(
    ('left', 'right', 'scope'),
    [(False, False, Scope.ONE), (True, False, Scope.SOME), (True, True, Scope.ALL)],
)
def test_scope_says_how_many_are_concerned(left: bool, right: bool, scope: Scope) -> None:
    fusion = CameraFusion(CAMERAS)
    stamp_ns = tell(fusion, {'front': True, 'left': left, 'right': right}, 4)
    assert fusion.scope('front', stamp_ns) == scope


def test_a_single_camera_cannot_tell() -> None:
    fusion = CameraFusion([''])
    assert fusion.scope('', tell(fusion, {'': True}, 4)) == Scope.UNKNOWN


def test_a_camera_that_says_nothing_does_not_count() -> None:
    fusion = CameraFusion(CAMERAS)
    stamp_ns = tell(fusion, {'front': True, 'left': True, 'right': False}, 4)
    for i in range(1, 9):  # the right one falls silent
        for camera in ('front', 'left'):
            fusion.tell(camera, stamp_ns + i * SECOND // 2, True)
    assert fusion.scope('front', stamp_ns + 4 * SECOND) == Scope.ALL


def test_cameras_that_are_seldom_scored_are_compared_all_the_same() -> None:
    fusion = CameraFusion(CAMERAS)
    stamp_ns = tell(fusion, dict.fromkeys(CAMERAS, True), 60, step_s=8)
    assert fusion.scope('front', stamp_ns) == Scope.UNKNOWN
    assert fusion.scope('front', stamp_ns, period_s=8) == Scope.ALL


def test_the_order_of_frames_of_one_moment_does_not_matter() -> None:
    """Live, cameras overtake each other by less than the lag; a replay goes by the bag."""
    said = [
        (camera, i * SECOND // 2, (i + n) % 5 < 2)
        for i in range(40)
        for n, camera in enumerate(CAMERAS)
    ]

    def scopes(order: list[tuple[str, int, bool]]) -> dict[tuple[str, int], Scope]:
        fusion = CameraFusion(CAMERAS)
        found = {}
        for camera, stamp_ns, raised in order:
            fusion.tell(camera, stamp_ns, raised)
            found[camera, stamp_ns] = fusion.scope(camera, stamp_ns)
        return found

    expected = scopes(said)
    assert len(set(expected.values())) > 2
    dice = random.Random(0)
    for _ in range(20):
        moments = [list(group) for _, group in itertools.groupby(said, lambda s: s[1])]
        for moment in moments:
            dice.shuffle(moment)
        assert scopes(list(itertools.chain(*moments))) == expected
    assert LAG_S > 0


def test_a_looped_bag_is_judged_by_its_new_round() -> None:
    fusion = CameraFusion(CAMERAS)
    tell(fusion, dict.fromkeys(CAMERAS, True), 60)
    stamp_ns = tell(fusion, {'front': True, 'left': False, 'right': False}, 4)
    assert fusion.scope('front', stamp_ns) == Scope.ONE
    fusion.forget('left')
    fusion.forget('right')
    assert fusion.scope('front', stamp_ns) == Scope.UNKNOWN


def test_nothing_accumulates() -> None:
    fusion = CameraFusion(CAMERAS)
    tell(fusion, dict.fromkeys(CAMERAS, False), 3600)
    assert all(len(said) < 80 for said in fusion._said.values())
    assert len(fusion) == 3
