# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The agreement of image and lidar, fitted on streets of boxes whose geometry is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clcp_ros.errors import ModelError
from clcp_ros.monitor.alignment import (
    MIN_PAIRS,
    AlignmentReference,
    CameraModel,
    ScanView,
    judge,
    project_scan,
)
from training.monitoring.alignment import AlignedFrame, fit_alignment

CAMERA = CameraModel(np.array([[120.0, 0, 79.5], [0, 120.0, 47.5], [0, 0, 1]]), (96, 160))
GRID = 12, 20
ROAD_M, WALL_M = 1.5, 40.0


def turned(yaw_deg: float, pitch_deg: float = 0.0) -> np.ndarray:
    """T_camera_lidar of a lidar whose points appear turned right and down by so much."""
    y, p = np.radians([yaw_deg, pitch_deg])
    T = np.eye(4)
    T[:3, :3] = np.array(
        [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    ) @ np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    return T


class Street:
    """A road, boxes on it, a wall at its end and sky above: classes 0 to 3."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.distance = rng.uniform(5, 25, 8)
        self.left = rng.uniform(-1.0, 0.8, 8) * 0.6 * self.distance
        self.width = rng.uniform(1, 3, 8)
        self.top = ROAD_M - rng.uniform(1, 3, 8)

    def cast(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth (N,), infinite in the sky, and class (N,) along rays (x / z, y / z)."""
        x, y = rays[:, 0], rays[:, 1]
        with np.errstate(divide='ignore'):
            depth = np.where(y > 0, ROAD_M / y, np.inf)
        kind = np.where(np.isfinite(depth), 0, 3)
        wall = (depth > WALL_M) & (y > -8 / WALL_M)
        depth, kind = np.where(wall, WALL_M, depth), np.where(wall, 2, kind)
        for d, left, width, top in zip(
            self.distance, self.left, self.width, self.top, strict=True
        ):
            hit = (depth > d) & (x * d > left) & (x * d < left + width) & (y * d > top)
            depth, kind = np.where(hit, d, depth), np.where(hit, 1, kind)
        return depth, kind

    def view(self, T_camera_lidar: np.ndarray | None = None, thin: int = 2) -> ScanView:
        """What a lidar in the camera's place sees, projected with a perhaps wrong mounting."""
        azimuth, elevation = (
            np.radians(np.linspace(-33, 33, 90)),
            np.radians(np.linspace(-8, 21, 26)),
        )
        rays = np.stack(np.meshgrid(np.tan(azimuth), np.tan(elevation)), -1).reshape(-1, 2)[::thin]
        depth, kind = self.cast(rays)
        back = np.isfinite(depth)
        xyz = np.column_stack([rays, np.ones(len(rays))])[back] * depth[back, None]
        strength = np.array([0.1, 0.6, 0.3, 0])[kind[back]]
        return project_scan(
            xyz, strength, CAMERA, np.eye(4) if T_camera_lidar is None else T_camera_lidar
        )

    def logits(self, noise: float = 0.3, contrast: float = 1.0, seed: int = 0) -> np.ndarray:
        """(4, h, w) as a segmenter would give that sees all, or less of it."""
        rng = np.random.default_rng(seed)
        h, w = GRID
        fine = 6
        v, u = np.mgrid[: h * fine, : w * fine]
        pixels = np.stack(
            [(u + 0.5) * 160 / (w * fine) - 0.5, (v + 0.5) * 96 / (h * fine) - 0.5], -1
        )
        rays = (pixels.reshape(-1, 2) - CAMERA.K[:2, 2]) / 120
        kind = self.cast(rays)[1].reshape(h, fine, w, fine)
        share = np.stack([(kind == c).mean(axis=(1, 3)) for c in range(4)])
        return (contrast * np.log(share + 0.01) + rng.normal(0, noise, share.shape)).astype(
            np.float32
        )


def drive(first: int, count: int) -> list[AlignedFrame]:
    return [
        AlignedFrame(Street(s).logits(seed=s), Street(s).view(), f'drive {s % 3}')
        for s in range(first, first + count)
    ]


@pytest.fixture(scope='module')
def reference() -> AlignmentReference:
    return fit_alignment(drive(0, 36))


def scores(reference: AlignmentReference, T: np.ndarray | None = None, **changes: float) -> list:
    found = []
    for seed in range(100, 112):
        street = Street(seed)
        found.append(reference.score(street.logits(seed=seed, **changes), street.view(T)))
    assert all(found)
    return found


def test_new_streets_are_nominal(reference: AlignmentReference) -> None:
    found = scores(reference)
    assert abs(np.mean([a.z for a in found])) < 1.5
    state = judge(found, reference, len(found))
    assert state.verdict == 'ok'
    assert state.pairs > MIN_PAIRS
    assert abs(state.yaw_deg) < 0.5


@pytest.mark.parametrize('yaw', [-2.0, -1.0, 1.0, 2.0])
def test_wrong_yaw_is_calibration_and_has_a_sign(
    reference: AlignmentReference, yaw: float
) -> None:
    state = judge(scores(reference, turned(yaw)), reference, 12)
    assert state.verdict == 'calibration'
    # Points turned to the right: the lidar seems turned to the right, which is negative.
    assert np.sign(state.yaw_deg) == -np.sign(yaw)
    if abs(yaw) == 1:
        assert 0.5 < abs(state.yaw_deg) < 1.5


def test_wrong_pitch_is_calibration(reference: AlignmentReference) -> None:
    up = judge(scores(reference, turned(0, -2.0)), reference, 12)
    down = judge(scores(reference, turned(0, 2.0)), reference, 12)
    assert up.pitch_z > 2 > -2 > down.pitch_z
    assert abs(up.yaw_z) < abs(up.pitch_z)
    assert 1 < up.pitch_deg < 4
    assert -4 < down.pitch_deg < -1


def test_blind_camera_is_camera_and_no_side(reference: AlignmentReference) -> None:
    found = scores(reference, noise=3.0, contrast=0.05)
    state = judge(found, reference, 12, novelty_z=8.0)
    assert state.z < -3
    assert state.verdict == 'camera'
    assert judge(found, reference, 12, novelty_z=0.0).verdict == 'calibration'
    assert judge(found, reference, 12).verdict == 'camera'


def test_less_certain_camera_is_no_alarm(reference: AlignmentReference) -> None:
    assert judge(scores(reference, contrast=0.9), reference, 12).verdict == 'ok'


def test_failing_lidar_is_lidar(reference: AlignmentReference) -> None:
    found = []
    for seed in range(100, 112):
        view = Street(seed).view()
        # Drops on its window: most returns come from a metre away.
        statistics = view.statistics.copy()
        statistics[2] += 0.7
        told = reference.score(Street(seed).logits(), replace(view, statistics=statistics))
        assert told is not None
        found.append(told)
    assert judge(found, reference, 12).verdict == 'lidar'


def test_a_lidar_that_is_turned_off_in_parts_is_lidar(reference: AlignmentReference) -> None:
    found = []
    for seed in range(100, 112):
        street = Street(seed)
        view = street.view(thin=6)
        assert 0 < len(view) < MIN_PAIRS
        told = reference.score(street.logits(), view)
        assert told is not None
        assert np.isnan(told.value)
        found.append(told)
    state = judge(found, reference, 1)
    assert state.verdict == 'lidar'
    assert np.isnan([state.z, state.yaw_deg]).all()
    assert f'{state.pairs} of them in the image' in state.cause


def test_value_is_relative_to_the_null(reference: AlignmentReference) -> None:
    """Logits of another street agree no more than chance, however alike streets are."""
    own, other = [], []
    for seed in range(100, 112):
        view = Street(seed).view()
        own.append(reference.score(Street(seed).logits(), view).value)  # type: ignore[union-attr]
        other.append(reference.score(Street(seed + 50).logits(), view).value)  # type: ignore[union-attr]
    assert np.mean(own) > 2 * abs(np.mean(other))


def test_deterministic(reference: AlignmentReference) -> None:
    again = fit_alignment(drive(0, 36))
    for name, array in again.arrays().items():
        assert np.array_equal(array, reference.arrays()[name]), name


def test_survives_a_file(reference: AlignmentReference) -> None:
    back = AlignmentReference.from_arrays(reference.arrays())
    street = Street(7)
    one = reference.score(street.logits(), street.view())
    two = back.score(street.logits(), street.view())
    assert one is not None
    assert two is not None
    assert one.z == two.z
    assert np.array_equal(one.curve, two.curve)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ModelError, match='at least 30 nominal pairs'):
        fit_alignment(drive(0, 5))


def test_a_single_drive_and_no_intensity_are_enough() -> None:
    frames = []
    for frame in drive(0, 30):
        descriptors = frame.view.descriptors.copy()
        descriptors[:, 2] = 0
        view = replace(frame.view, descriptors=descriptors)
        frames.append(replace(frame, view=view, drive='one'))
    reference = AlignmentReference.from_arrays(fit_alignment(frames).arrays())
    assert reference.value_spread > 0
