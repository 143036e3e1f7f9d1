# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the layout of A2D2's `camera_lidar_semantic` (Geyer et al. 2020, arXiv 2004.06320)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.image_codec import encode_png
from training.simulation.config import CONDITIONS, EPOCH_NS, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.recording import Recording, Shot, drive

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


class A2D2(Recording[list[tuple[str, bytes]]]):
    """Town 1, one scene per condition."""

    path = 'a2d2'

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """See `Recording.shots`."""
        all_shots = drive(config, 1, [(name, config.seconds) for name in CONDITIONS])
        counts = dict.fromkeys(CONDITIONS, 0)
        found = []
        for shot in all_shots:
            condition = shot.conditions[0]
            number = counts[condition]
            counts[condition] += 1
            stamp_ns = _start_ns(CONDITIONS.index(condition)) + round(
                number / config.rate_hz * 1e9
            )
            found.append(replace(shot, index=number, stamp_ns=stamp_ns))
        return found

    def encode(
        self, config: SimulationConfig, shot: Shot, frame: Frame
    ) -> list[tuple[str, bytes]]:
        """See `Recording.encode`."""
        scene = scene_name(_start_ns(CONDITIONS.index(shot.conditions[0])))

        def name(kind: str, suffix: str) -> str:
            file = f'{scene.replace("_", "")}_{kind}_frontcenter_{shot.index:09d}.{suffix}'
            return f'camera_lidar_semantic/{scene}/{kind}/cam_front_center/{file}'

        points = view_points(frame, shot.lidar_stamp_ns)
        archive = io.BytesIO()
        np.savez(archive, **points)  # type: ignore[arg-type]
        about = {
            'cam_name': 'front_center',
            'cam_tstamp': shot.stamp_ns // 1000,
            'image_zoom': 1.0,
            'image_png': Path(name('camera', 'png')).name,
            'pcld_npz': Path(name('lidar', 'npz')).name,
            'pcld_view': _view(frame.camera.position),
            'lidar_ids': {'0': LIDAR},
            'condition': shot.conditions[0],  # not in A2D2, whose readers ignore it
        }
        return [
            (name('camera', 'png'), encode_png(frame.image)),
            (name('camera', 'json'), _json(about)),
            (name('lidar', 'npz'), archive.getvalue()),
            (name('label', 'png'), encode_png(_COLORS[frame.labels])),
        ]

    def write(
        self, folder: Path, config: SimulationConfig, frames: Iterator[list[tuple[str, bytes]]]
    ) -> None:
        """See `Recording.write`."""
        root = folder / 'camera_lidar_semantic'
        root.mkdir(parents=True)
        (root / 'cams_lidars.json').write_bytes(_json(calibration(config)))
        (root / 'class_list.json').write_bytes(_json(dict(PALETTE.values())))
        for files in frames:
            for name, data in files:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def view_points(frame: Frame, stamp_ns: int) -> dict[str, np.ndarray]:
    """The points inside the image as an A2D2 npz holds them.

    Args:
        frame: A simulated frame.
        stamp_ns: Of the scan.

    Returns:
        `points` (N, 3) float64 in the camera's view frame (x forward, y left, z up), and per point
        `row`, `col`, `depth`, `distance`, `azimuth` (float64), `reflectance` (0 to 255) and
        `timestamp` in microseconds (int64), `lidar_id` (float64).
    """
    scan, K = frame.scan, frame.camera.K
    shift = np.subtract(frame.lidar.position, frame.camera.position)
    points = scan.points.astype(np.float64) + shift
    x, y, z = points.T
    with np.errstate(divide='ignore', invalid='ignore'):
        col, row = K[0, 2] - K[0, 0] * y / x, K[1, 2] - K[1, 1] * z / x
    height, width = frame.labels.shape
    inside = (
        (x > 0.5)
        & (col > -0.5) & (col < width - 0.5)
        & (row > -0.5) & (row < height - 0.5)
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
    """`cams_lidars.json`: a camera without distortion and one lidar."""
    K = config.camera.K.tolist()
    return {
        'vehicle': {'view': _view((0.0, 0.0, 0.0))},
        'cameras': {
            'front_center': {
                'view': _view(config.camera.position),
                'Lens': 'Telecam',
                'CamMatrix': K,
                'CamMatrixOriginal': K,
                'Distortion': [[0.0, 0.0, 0.0, 0.0, 0.0]],
                'Resolution': [config.width, config.height],
                'tstamp_delay': 0.0,
            }
        },
        'lidars': {LIDAR: {'view': _view(config.lidar.position)}},
    }


def _view(origin: tuple[float, float, float]) -> dict[str, list[float]]:
    return {'origin': list(origin), 'x-axis': [1.0, 0.0, 0.0], 'y-axis': [0.0, 1.0, 0.0]}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + '\n').encode()
