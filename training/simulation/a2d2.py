# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the layout of A2D2's `camera_lidar_semantic` (Geyer et al. 2020, arXiv 2004.06320)."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.image_codec import encode_png
from training.simulation.config import CONDITIONS, EPOCH_NS, CameraConfig, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.recording import (
    Files,
    Recording,
    Shot,
    Truth,
    compensated,
    drive,
    json_bytes,
    pictures,
    transform,
)

PALETTE = {
    'road': ('#ff00ff', 'RD normal street'), 'sidewalk': ('#b496c8', 'Sidewalk'),
    'building': ('#f1e6ff', 'Buildings'), 'wall': ('#f1e6ff', 'Buildings'),
    'fence': ('#eea2ad', 'Grid structure'), 'pole': ('#fff68f', 'Poles'),
    'traffic light': ('#0080ff', 'Traffic signal 1'),
    'traffic sign': ('#00ffff', 'Traffic sign 1'),
    'vegetation': ('#93fdc2', 'Nature object'), 'terrain': ('#93fdc2', 'Nature object'),
    'sky': ('#87ceff', 'Sky'), 'person': ('#cc99ff', 'Pedestrian 1'),
    'rider': ('#cc99ff', 'Pedestrian 1'), 'car': ('#ff0000', 'Car 1'),
    'truck': ('#ff8000', 'Truck 1'), 'bus': ('#ff8000', 'Truck 1'),
    'train': ('#ffff00', 'Utility vehicle 1'), 'motorcycle': ('#00ff00', 'Small vehicles 1'),
    'bicycle': ('#b65906', 'Bicycle 1'),
}  # fmt: skip
"""Nearest A2D2 class of each Cityscapes class; A2D2 has no wall, terrain, rider, bus and train."""

_COLORS = np.zeros((256, 3), np.uint8)
_COLORS[: len(PALETTE)] = [[int(h[i : i + 2], 16) for i in (1, 3, 5)] for h, _ in PALETTE.values()]

LIDAR = 'front_center'


def scene_name(stamp_ns: int) -> str:
    """A2D2's folder name of a scene that begins at `stamp_ns`: YYYYMMDD_HHMMSS."""
    moment = datetime.fromtimestamp(stamp_ns // 1_000_000_000, timezone.utc)
    return moment.strftime('%Y%m%d_%H%M%S')


def scenes(config: SimulationConfig) -> dict[str, str]:
    """Condition by scene name. The drive goes on from one condition to the next."""
    return {scene_name(_start_ns(i)): name for i, name in enumerate(CONDITIONS)}


def _start_ns(scene: int) -> int:
    # Ten minutes apart, so that scenes have names of their own however short they are.
    return EPOCH_NS + scene * 600_000_000_000


class A2D2(Recording):
    """A drive through one town, one scene per condition.

    Args:
        path: Of the folder, relative to the output.
        town: Number of the town.
        first_scene: Number that makes the scenes' names differ from those of other towns.
    """

    frames: int | None = None
    """Frames per condition; as many as the configuration's `seconds` hold when None."""

    def __init__(self, path: str = 'a2d2', town: int = 1, first_scene: int = 0) -> None:
        self.path = path
        self.town = town
        self.first_scene = first_scene

    def _start_ns(self, condition: str) -> int:
        return _start_ns(self.first_scene + CONDITIONS.index(condition))

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        seconds = config.seconds if self.frames is None else self.frames / config.rate_hz
        all_shots = drive(config, self.town, [(name, seconds) for name in CONDITIONS])
        counts = dict.fromkeys(CONDITIONS, 0)
        found = []
        for shot in all_shots:
            condition = shot.conditions[0]
            number = counts[condition]
            counts[condition] += 1
            stamp_ns = self._start_ns(condition) + round(number / config.rate_hz * 1e9)
            found.append(replace(shot, index=number, stamp_ns=stamp_ns))
        return found

    def sensors(self, config: SimulationConfig) -> SimulationConfig:
        """See `Recording.sensors`: A2D2's scans were moved to the time of the image."""
        return compensated(config)

    def scene(self, shot: Shot) -> str:
        """Name of the scene that a moment belongs to."""
        return scene_name(self._start_ns(shot.conditions[0]))

    def name(self, shot: Shot, condition: str) -> str:
        """See `Recording.name`."""
        return f'{self.scene(shot)}/{shot.index:09d}'

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """See `Recording.encode`."""
        scene = self.scene(shot)
        files: Files = []
        names = camera_names([p.camera.name for p in pictures(frame)])
        for picture in pictures(frame):
            camera = names[picture.camera.name]

            def name(kind: str, suffix: str, camera: str = camera) -> str:
                short = camera.replace('_', '')
                file = f'{scene.replace("_", "")}_{kind}_{short}_{shot.index:09d}.{suffix}'
                return f'camera_lidar_semantic/{scene}/{kind}/cam_{camera}/{file}'

            archive = io.BytesIO()
            points = view_points(frame, shot.lidar_stamp_ns, picture.camera)
            np.savez(archive, **points)  # type: ignore[arg-type]
            about = {
                'cam_name': camera,
                'cam_tstamp': shot.stamp_ns // 1000,
                'image_zoom': 1.0,
                'image_png': Path(name('camera', 'png')).name,
                'pcld_npz': Path(name('lidar', 'npz')).name,
                'pcld_view': _view(_view_pose(picture.camera)),
                'lidar_ids': {'0': LIDAR},
                # Not in A2D2, whose readers ignore it.
                'condition': shot.conditions[0],
                'tags': {'severity': f'{frame.condition.severity:g}', 'town': str(shot.town)},
            }
            files += [
                (name('camera', 'png'), encode_png(picture.image)),
                (name('camera', 'json'), json_bytes(about)),
                (name('lidar', 'npz'), archive.getvalue()),
                (name('label', 'png'), encode_png(_COLORS[picture.labels])),
            ]
        return files

    def finish(self, folder: Path, config: SimulationConfig, truths: list[Truth]) -> None:
        """See `Recording.finish`."""
        root = folder / 'camera_lidar_semantic'
        (root / 'cams_lidars.json').write_bytes(json_bytes(calibration(config)))
        (root / 'class_list.json').write_bytes(json_bytes(dict(PALETTE.values())))


_CAMERAS = {
    'front': 'front_center', 'front_left': 'front_left', 'front_right': 'front_right',
    'back_left': 'side_left', 'back_right': 'side_right', 'back': 'rear_center',
}  # fmt: skip


def camera_names(names: list[str]) -> dict[str, str]:
    """A2D2's names of cameras: the main one is front_center, the six of A2D2 have theirs.

    Args:
        names: Of the cameras, the main one first.
    """
    others = {name: _CAMERAS.get(name, name) for name in names[1:]}
    return {names[0]: 'front_center', **others}


def view_points(frame: Frame, stamp_ns: int, camera: CameraConfig) -> dict[str, np.ndarray]:
    """The points inside the image as an A2D2 npz holds them.

    Args:
        frame: A simulated frame.
        stamp_ns: Of the scan.
        camera: In whose view frame, and inside whose image without distortion.

    Returns:
        `points` (N, 3) float64 in the camera's view frame (x forward, y left, z up), and per point
        `row`, `col`, `depth`, `distance`, `azimuth` (float64), `reflectance` (0 to 255) and
        `timestamp` in microseconds (int64), `lidar_id` (float64).
    """
    scan, K = frame.scan, camera.K
    T_view_lidar = np.linalg.inv(_view_pose(camera)) @ frame.lidar.T_base_lidar
    points = transform(T_view_lidar, scan.points)
    x, y, z = points.T
    with np.errstate(divide='ignore', invalid='ignore'):
        col, row = K[0, 2] - K[0, 0] * y / x, K[1, 2] - K[1, 1] * z / x
    inside = (
        (x > 0.5)
        & (col > -0.5) & (col < camera.width - 0.5)
        & (row > -0.5) & (row < camera.height - 0.5)
    )  # fmt: skip
    micro = stamp_ns // 1000 + np.round(scan.time[inside] * 1e6).astype(np.int64)
    lidar_x, lidar_y = scan.points[inside, :2].astype(np.float64).T
    return {
        'azimuth': np.arctan2(lidar_y, lidar_x) % (2 * np.pi),
        'row': row[inside],
        'col': col[inside],
        'depth': x[inside],
        'distance': np.linalg.norm(points[inside], axis=1),
        'points': points[inside],
        'reflectance': np.round(scan.intensity[inside] * 255).astype(np.int64),
        'timestamp': micro,
        'lidar_id': np.zeros(int(inside.sum())),
    }


def calibration(config: SimulationConfig) -> dict[str, Any]:
    """`cams_lidars.json`: all cameras and one lidar.

    Args:
        config: Sensors.
    """
    names = camera_names([camera.name for camera in config.cameras])
    return {
        'vehicle': {'view': _view(np.eye(4))},
        'cameras': {names[c.name]: _camera_entry(c) for c in config.cameras},
        'lidars': {LIDAR: {'view': _view(config.lidar.T_base_lidar)}},
    }


def _camera_entry(camera: CameraConfig) -> dict[str, Any]:
    fisheye = camera.distortion_model == 'equidistant'
    D = list(camera.D) + [0.0] * ((4 if fisheye else 5) - len(camera.D))
    return {
        'view': _view(_view_pose(camera)),
        'Lens': 'Fisheye' if fisheye else 'Telecam',
        'CamMatrix': camera.K.tolist(),
        'CamMatrixOriginal': camera.K.tolist(),
        'Distortion': [D],
        'Resolution': [camera.width, camera.height],
        'tstamp_delay': 0.0,
    }


def _view_pose(camera: CameraConfig) -> np.ndarray:
    """(4, 4) view frame (x forward, y left, z up) of a camera into `base_link`."""
    T = camera.T_base_camera.copy()
    T[:3, :3] = np.column_stack([T[:3, 2], -T[:3, 0], -T[:3, 1]])
    return T


def _view(T: np.ndarray) -> dict[str, list[float]]:
    return {
        'origin': T[:3, 3].tolist(), 'x-axis': T[:3, 0].tolist(), 'y-axis': T[:3, 1].tolist()
    }  # fmt: skip
