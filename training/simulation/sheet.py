# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of everything the simulator can do to one moment.

python -m training.simulation.sheet simulator.jpg
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import encode_jpeg
from training.cli import atomic_path, run_command
from training.simulation.config import (
    ALL_CONDITIONS,
    Condition,
    SimulationConfig,
    camera_rig,
    lidar_preset,
)
from training.simulation.frame import Frame, Moment
from training.simulation.lidar import BACKSCATTER

_TILE = (352, 220)
_BOTH = ('low_sun+rain', 'dusk+fog', 'night+rain', 'night+snow')


def contact_sheet(
    town: int = 3, time: float = 29.5, severity: float = 0.8, seed: int = 0, columns: int = 4
) -> np.ndarray:
    """Every condition and fault at one pose, labels, scans, and another lens.

    Args:
        town: Number of the town.
        time: Seconds since the drive began.
        severity: Of all conditions.
        seed: Of the simulation.
        columns: Pictures beside each other.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rig = camera_rig('front') + camera_rig('fisheye')[1:2]
    config = SimulationConfig(seed, camera_configs=rig, lidar_config=lidar_preset(64, 1024))
    moment = Moment(config, town, time)
    frames = {name: moment.frame(Condition(name, severity)) for name in (*ALL_CONDITIONS, *_BOTH)}
    tiles = [_titled(frame.image, name) for name, frame in frames.items()]
    clear = frames['clear']
    tiles.append(_titled(CITYSCAPES.palette[clear.labels], 'labels'))
    tiles += [_titled(_with_points(frames[n]), f'lidar, {n}') for n in ('clear', 'fog', 'snow')]
    tiles.append(_titled(clear.pictures[1].image, 'fisheye'))
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], 255))
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    tile = cv2.resize(image, _TILE, interpolation=cv2.INTER_AREA)
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            tile, title, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, width, cv2.LINE_AA
        )  # fmt: skip
    return tile


def _with_points(frame: Frame) -> np.ndarray:
    """The points over the darkened image, near ones red, far ones blue, those in the air white."""
    image = (frame.image * 0.35).astype(np.uint8)
    T = frame.T_camera_lidar
    points = frame.scan.points @ T[:3, :3].T + T[:3, 3]
    ahead = points[:, 2] > 0.5
    pixel = np.full((len(points), 2), -1.0)
    pixel[ahead] = frame.camera.project(points[ahead])
    inside = (pixel > 0).all(1) & (pixel < (frame.camera.width - 1, frame.camera.height - 1)).all(
        1
    )
    near = 1 - np.clip(np.log(np.maximum(points[:, 2], 1) / 4) / np.log(20), 0, 1)
    colors = cv2.applyColorMap((255 * near).astype(np.uint8)[:, None], cv2.COLORMAP_JET)
    rgb = colors[:, 0, ::-1].copy()
    rgb[frame.scan.category == BACKSCATTER] = 255
    for i in np.flatnonzero(inside):
        cv2.circle(image, tuple(pixel[i].round().astype(int).tolist()), 1, rgb[i].tolist(), -1)
    return image


def main(
    out: Path, town: int = 3, time: float = 29.5, severity: float = 0.8, seed: int = 0
) -> None:
    """Draw the sheet.

    Args:
        out: JPEG file to write.
        town: Number of the town.
        time: Seconds since the drive began.
        severity: Of all conditions.
        seed: Of the simulation.
    """
    data = encode_jpeg(contact_sheet(town, time, severity, seed), 82)
    with atomic_path(out) as temporary:
        temporary.write_bytes(data)
    print(f'written: {out}, {len(data) / 1e3:.0f} kB')


if __name__ == '__main__':
    run_command(main)
