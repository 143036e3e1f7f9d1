# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.simulation.config import (
    CameraConfig,
    Condition,
    SimulationConfig,
    SimulationError,
    camera_rig,
)
from training.simulation.frame import Moment
from training.simulation.lens import EQUIDISTANT, project, unproject
from training.simulation.sensors import RIGS

PINHOLE = (-0.26, 0.09, 0.0011, -0.0007, -0.01)
FISHEYE = (-0.02, 0.006, -0.001, 0.0002)


def grid(width: int, height: int) -> np.ndarray:
    u, v = np.meshgrid(np.arange(0, width, 7), np.arange(0, height, 7))
    return np.stack([u, v], -1).reshape(-1, 2).astype(float)


def test_plumb_bob_is_what_opencv_calls_by_that_name() -> None:
    camera = CameraConfig(320, 200, D=PINHOLE)
    pixels = grid(320, 200)
    rays = unproject(pixels, camera.K, camera.distortion_model, camera.D)
    assert np.allclose(np.linalg.norm(rays, axis=1), 1)
    theirs = cv2.projectPoints(rays * 7.0, np.zeros(3), np.zeros(3), camera.K, np.array(PINHOLE))
    assert np.abs(theirs[0][:, 0] - pixels).max() < 1e-3
    assert np.abs(camera.project(rays) - pixels).max() < 1e-3
    # And it does distort: the corner's ray differs from a perfect lens' one.
    assert np.abs(rays[0] - unproject(pixels, camera.K)[0]).max() > 0.01


def test_equidistant_is_opencvs_fisheye_and_reaches_past_the_side() -> None:
    K = np.array([[120.0, 0, 159.5], [0, 118.0, 119.5], [0, 0, 1]])
    pixels = grid(320, 240)
    rays = unproject(pixels, K, EQUIDISTANT, FISHEYE)
    ahead = rays[:, 2] > 0.2
    points = (rays[ahead] * 3.0)[:, None]
    theirs = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(FISHEYE))
    assert np.abs(theirs[0][:, 0] - pixels[ahead]).max() < 1e-3
    assert np.abs(project(rays, K, EQUIDISTANT, FISHEYE) - pixels).max() < 1e-3
    behind = unproject(np.array([[420.0, 119.5]]), K, EQUIDISTANT, FISHEYE)
    assert behind[0, 2] < 0


@pytest.mark.parametrize(
    ('wrong', 'words'),
    [
        ({'D': (-0.9, 0.0, 0.0, 0.0)}, 'cannot be undone'),
        ({'D': (0.1,)}, '4 or 5 coefficients'),
        ({'D': (0.1,) * 5, 'distortion_model': 'equidistant'}, 'coefficients, not 5'),
        ({'distortion_model': 'barrel'}, 'plumb_bob, equidistant'),
        ({'intrinsics': (0.0, 1.0, 2.0, 3.0)}, 'fx, fy, cx, cy'),
        ({'vignetting': 1.0}, 'vignetting'), ({'jpeg_quality': 0}, 'jpeg_quality'),
        ({'height': 8}, 'height must be at least 16'), ({'width': 48.5}, 'whole'),
        ({'position': (1.0, float('nan'), 0.0)}, 'position must be three numbers'),
        ({'hfov': 4.0}, 'hfov'),
    ],
)  # fmt: skip
def test_impossible_lenses_are_one_clear_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(SimulationError, match=words) as caught:
        CameraConfig(**wrong).rays()  # type: ignore[arg-type]
    assert '\n' not in str(caught.value)


def test_labels_and_depth_are_distorted_as_the_image_is() -> None:
    flat = CameraConfig(768, 480)
    bent = CameraConfig(192, 120, D=(-0.2, 0.03, 0.0, 0.0), name='bent')
    config = SimulationConfig(camera_configs=(flat, bent), beams=2, columns=16)
    first, second = Moment(config, 2, 4.0, with_lidar=False).views
    # Where a pixel of the bent image lies in the flat one, which is four times as fine.
    pixels = grid(192, 120)
    rays = unproject(pixels, bent.K, bent.distortion_model, bent.D)
    there = flat.project(rays).round().astype(int)
    inside = (there >= 0).all(1) & (there < (768, 480)).all(1)
    u, v = pixels[inside].astype(int).T
    x, y = there[inside].T
    assert inside.mean() > 0.6
    wrong = (second.labels[v, u] != first.labels[y, x]).mean()
    assert wrong < 0.07
    a, b = second.depth[v, u], first.depth[y, x]
    finite = np.isfinite(a) & np.isfinite(b)
    assert np.median(np.abs(a[finite] - b[finite]) / b[finite]) < 0.02
    assert (second.labels[v, u] != first.labels[4 * v + 2, 4 * u + 2]).mean() > 1.5 * wrong


def test_depth_of_a_turned_camera_is_along_its_own_axis() -> None:
    config = SimulationConfig(camera_configs=camera_rig('surround', 64, 40), beams=2, columns=16)
    for view in Moment(config, 2, 4.0, with_lidar=False).views:
        T = np.linalg.inv(view.camera.T_base_camera)
        points = view.hits.point[view.hit] @ T[:3, :3].T + T[:3, 3]
        assert np.allclose(points[:, 2], view.depth[view.hit], atol=1e-2, rtol=1e-3)
        pixel = view.camera.project(points)
        v, u = np.nonzero(view.hit)
        assert np.abs(pixel - np.column_stack([u, v])).max() < 0.05


@pytest.mark.parametrize('name', RIGS)
def test_rigs_have_names_of_their_own_and_see(name: str) -> None:
    cameras = camera_rig(name, 64, 40)
    assert len({c.name for c in cameras}) == len(cameras)
    frame = Moment(
        SimulationConfig(camera_configs=cameras, beams=2, columns=16), 1, 2.0, False
    ).frame(Condition('clear'))
    assert list(frame.views) == [c.name for c in cameras]
    assert frame.image is frame.pictures[0].image
    for picture in frame.pictures:
        assert picture.image.shape == (40, 64, 3)
        assert picture.image.std() > 5


def test_unknown_rigs_and_cameras_are_named() -> None:
    with pytest.raises(SimulationError, match='front, stereo'):
        camera_rig('roof')
    with pytest.raises(SimulationError, match="no camera 'rear'; there are front"):
        Moment(SimulationConfig(width=32, height=32), 1, 0.0, False, cameras=['rear'])
    for town, time in ((-1, 0.0), (1, float('nan'))):
        with pytest.raises(SimulationError, match='there is no town'):
            Moment(SimulationConfig(), town, time)
    with pytest.raises(SimulationError, match='names of their own'):
        SimulationConfig(camera_configs=(CameraConfig(), CameraConfig()))
