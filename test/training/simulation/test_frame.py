# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clcp_ros.classes import CITYSCAPES
from training.simulation.config import (
    ALL_CONDITIONS,
    CONDITIONS,
    CameraConfig,
    Condition,
    SimulationConfig,
    SimulationError,
)
from training.simulation.frame import Frame, Moment, simulate_frame
from training.simulation.lidar import BACKSCATTER
from training.simulation.light import extinction, visibility

TINY = SimulationConfig(width=160, height=100, beams=32, columns=360)


@pytest.fixture(scope='module')
def frames() -> dict[str, Frame]:
    moment = Moment(TINY, town=1, time=5.0)
    return {name: moment.frame(Condition(name, 0.8)) for name in CONDITIONS}


def project(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, depths and a mask of the scan's points that fall into the image."""
    T = frame.T_camera_lidar
    points = frame.scan.points @ T[:3, :3].T + T[:3, 3]
    ahead = points[:, 2] > 0.5
    pixels = np.full((len(points), 2), -1.0)
    homogeneous = points[ahead] @ frame.camera.K.T
    pixels[ahead] = homogeneous[:, :2] / homogeneous[:, 2:]
    height, width = frame.labels.shape
    inside = (pixels > -0.5).all(1) & (pixels[:, 0] < width - 0.5) & (pixels[:, 1] < height - 0.5)
    return pixels, points[:, 2], inside & ahead


def test_frame_has_the_promised_shapes_and_types(frames: dict[str, Frame]) -> None:
    frame = frames['clear']
    assert frame.image.shape == (100, 160, 3)
    assert frame.image.dtype == np.uint8
    assert frame.labels.shape == frame.depth.shape == (100, 160)
    assert frame.labels.max() < len(CITYSCAPES)
    assert len(frame.scan) > 5000
    assert frame.scan.points.dtype == np.float32
    assert np.isfinite(frame.scan.points).all()
    assert 0 <= frame.scan.intensity.min() < frame.scan.intensity.max() <= 1
    assert frame.scan.ring.max() < TINY.beams
    assert (np.diff(frame.scan.time) >= 0).all()
    assert np.abs(frame.scan.time).max() <= TINY.lidar.period / 2
    forward = np.abs(np.arctan2(frame.scan.points[:, 1], frame.scan.points[:, 0])) < 0.1
    assert np.abs(frame.scan.time[forward]).max() < 0.002


def test_same_moment_gives_the_same_bytes_and_another_seed_does_not() -> None:
    tiny = SimulationConfig(width=96, height=64, beams=16, columns=120)
    first, second = (simulate_frame(tiny, 2, 1.4, 'rain') for _ in range(2))
    assert (first.image == second.image).all()
    assert (first.scan.points == second.scan.points).all()
    other_seed = SimulationConfig(seed=1, width=96, height=64, beams=16, columns=120)
    assert (simulate_frame(other_seed, 2, 1.4, 'rain').labels != first.labels).mean() > 0.05


def test_another_town_is_another_scene() -> None:
    tiny = SimulationConfig(width=96, height=64, beams=16, columns=120)
    one, two = (simulate_frame(tiny, town, 1.0) for town in (1, 2))
    assert (one.labels != two.labels).mean() > 0.05


@pytest.mark.slow
def test_every_class_occurs_in_a_few_short_drives() -> None:
    tiny = SimulationConfig(width=192, height=120, beams=2, columns=16)
    counts = np.zeros(256, int)
    for town in range(1, 6):
        for time in np.arange(0, 24, 4.0):
            labels = Moment(tiny, town, float(time), with_lidar=False).view.labels
            counts += np.bincount(labels.ravel(), minlength=256)
    missing = [name for i, name in enumerate(CITYSCAPES.names) if counts[i] == 0]
    assert not missing
    assert counts[len(CITYSCAPES) :].sum() == 0
    assert counts[0] > 0.15 * counts.sum()  # road


def test_lidar_and_camera_see_the_same_geometry(frames: dict[str, Frame]) -> None:
    frame = frames['clear']
    pixels, depth, inside = project(frame)
    column, row = np.round(pixels[inside]).astype(int).T
    seen, category = frame.depth[row, column], frame.labels[row, column]
    # The lidar sits higher: it looks over edges that hide from the camera what it sees.
    unoccluded = depth[inside] < seen * 1.05 + 0.3
    assert unoccluded.mean() > 0.85
    difference = np.abs(depth[inside] - seen)[unoccluded]
    # A point lies up to half a pixel from the pixel's ray, which matters on a flat road.
    assert np.median(difference) < 0.08
    same = frame.scan.category[inside] == category
    assert same[unoccluded].mean() > 0.93


def test_lidar_agrees_with_the_camera_ray_through_the_very_point() -> None:
    from training.simulation.scene import Scene

    frame = simulate_frame(TINY, 1, 5.0)
    scene = Scene(TINY.seed, 1, 5.0)
    points = frame.scan.points + np.asarray(frame.lidar.position, np.float32)
    points = points[(points[:, 0] > 6) & (np.abs(points[:, 1]) < 0.5 * points[:, 0])][:3000]
    origin = np.asarray(frame.camera.position)
    rays = points - origin
    distance = np.linalg.norm(rays, axis=1)
    hits = scene.cast(origin, (rays / distance[:, None]).astype(np.float32))
    unoccluded = hits.distance > distance - 0.3
    assert unoccluded.mean() > 0.8
    # What is left is the sensor's own range noise of 2 cm.
    assert np.median(np.abs(hits.distance - distance)[unoccluded]) < 0.05


def test_conditions_change_light_but_not_geometry(frames: dict[str, Frame]) -> None:
    clear = frames['clear']
    mean = {name: frame.image.mean() for name, frame in frames.items()}
    contrast = {name: frame.image.std() for name, frame in frames.items()}
    for frame in frames.values():
        assert (frame.labels == clear.labels).all()
        assert (frame.depth == clear.depth).all()
    assert mean['night'] < mean['dusk'] < mean['clear']
    assert mean['night'] < 0.6 * mean['clear']
    for name in ('fog', 'snow'):
        assert contrast[name] < contrast['clear']


def test_light_does_not_touch_the_lidar_but_fog_does(frames: dict[str, Frame]) -> None:
    clear = frames['clear'].scan
    for name in ('dusk', 'night'):
        assert (frames[name].scan.points == clear.points).all()
        assert (frames[name].scan.intensity == clear.intensity).all()
    fog = frames['fog'].scan
    real = fog.category != BACKSCATTER
    assert real.sum() < 0.97 * len(clear)
    assert (~real).sum() > 10
    assert np.linalg.norm(fog.points[~real], axis=1).max() < 30
    far = np.linalg.norm(clear.points, axis=1) > 60
    assert far.any()
    assert (np.linalg.norm(fog.points[real], axis=1) > 60).sum() < 0.1 * far.sum()
    assert (frames['snow'].scan.category == BACKSCATTER).any()


@pytest.mark.parametrize('name', ALL_CONDITIONS[1:])
def test_severity_is_continuous(name: str) -> None:
    tiny = SimulationConfig(width=96, height=64, beams=2, columns=16)
    moment = Moment(tiny, 1, 5.0)
    clear = moment.frame(Condition('clear')).image.astype(float)
    change = [
        np.abs(moment.frame(Condition(name, s)).image - clear).mean() for s in (0, 0.3, 0.6, 1)
    ]
    assert change[0] == 0
    assert change == sorted(change)


def test_visibility_follows_koschmieder() -> None:
    fog = Condition('fog', 1.0)
    assert visibility(fog) == pytest.approx(50)
    assert np.exp(-extinction(fog) * visibility(fog)) == pytest.approx(0.05)
    assert visibility(Condition('fog', 0.5)) > visibility(fog)
    assert visibility(Condition('clear')) > 10_000


def test_camera_matrix_has_the_field_of_view() -> None:
    camera = CameraConfig()
    K = camera.K
    edge = np.degrees(2 * np.arctan((camera.width / 2) / K[0, 0]))
    assert edge == pytest.approx(65)
    assert K[0, 0] == K[1, 1]


@pytest.mark.parametrize(
    'wrong',
    [
        {'rate_hz': 0.0}, {'seconds': 0.01}, {'width': 4}, {'beams': 1}, {'severity': 1.5},
        {'val_frames': 0}, {'seed': -1},
    ],
)  # fmt: skip
def test_impossible_parameters_are_one_clear_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SimulationError) as caught:
        SimulationConfig(**wrong)  # type: ignore[arg-type]
    assert next(iter(wrong)) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_condition_may_have_a_severity_of_its_own() -> None:
    config = SimulationConfig(severity=0.8, severities=(('fog', 0.5),))
    assert config.condition('fog') == Condition('fog', 0.5)
    assert config.condition('rain') == Condition('rain', 0.8)
    assert simulate_frame(
        replace(TINY, severities=(('fog', 0.0),)), condition='fog'
    ).condition == (Condition('fog', 0.0))
    with pytest.raises(SimulationError, match='no condition'):
        SimulationConfig(severities=(('hail', 0.5),))


def test_unknown_condition_lists_the_known_ones() -> None:
    with pytest.raises(SimulationError, match=r'hail.*clear, low_sun, dusk.*night\+rain'):
        Condition('hail')
