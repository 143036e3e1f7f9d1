# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Simulate drives through procedural towns in clear weather and in six other conditions.

Cameras and a spinning lidar are ray-cast from the same geometry. Without arguments, written are: a
folder in A2D2's layout (town 1), two rosbag2 recordings (towns 2 and 3) and labelled frames in
Cityscapes' layout; --layouts adds ACDC, KITTI odometry and nuScenes. The same parameters give the
same bytes. A finished data set is reused, an interrupted one goes on where it was.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

from pathlib import Path
from typing import Literal, get_args

from training.cli import next_step, run_command
from training.simulation.bags import Storage
from training.simulation.config import (
    SimulationConfig,
    SimulationError,
    camera_rig,
    lidar_preset,
)
from training.simulation.run import DEFAULT_LAYOUTS, Layout, simulate

_ABOUT = {
    'a2d2': 'camera and lidar, town 1, A2D2 layout',
    'bags': 'rosbag2: town 2 in every condition; town 3 out of clear weather and back',
    'cityscapes': 'labelled frames, Cityscapes layout',
    'acdc': 'adverse conditions and their clear counterparts, ACDC layout',
    'kitti_odometry': 'sequences with poses and point labels, KITTI odometry layout',
    'nuscenes': 'scenes with boxes and point labels, nuScenes layout',
}


def main(
    out: Path = Path('sim'),
    seed: int = 0,
    rate_hz: float = 5.0,
    seconds: float = 3.0,
    width: int = 480,
    height: int = 300,
    beams: int = 32,
    columns: int = 600,
    severity: float = 0.8,
    train_frames: int = 40,
    val_frames: int = 12,
    raw_images: bool = False,
    workers: int | None = None,
    layouts: str = ','.join(DEFAULT_LAYOUTS),
    storage: Storage = 'mcap',
    rig: Literal['front', 'stereo', 'surround', 'fisheye'] = 'front',
    motion: Literal['compensated', 'raw', 'none'] = 'compensated',
    environment: Literal['mixed', 'town', 'country', 'motorway'] = 'mixed',
    severities: str = '',
) -> None:
    """Simulate a data set.

    Args:
        out: Folder to write to.
        seed: Another seed gives other towns.
        rate_hz: Frames per second of camera and lidar in the recordings.
        seconds: Length of each condition; the test drive of town 3 lasts 13.3 times as long.
        width: Image width in pixels.
        height: Image height in pixels.
        beams: Lidar beams.
        columns: Lidar firings per revolution.
        severity: Of every condition, from 0 (like clear) to 1.
        train_frames: Labelled frames per training city.
        val_frames: Labelled frames per validation city, the same poses in every condition.
        raw_images: Write sensor_msgs/Image into the bags instead of CompressedImage.
        workers: Processes, by default one per processor; the result does not depend on it.
        layouts: What to write, with commas: a2d2, bags, cityscapes, acdc, kitti_odometry,
            nuscenes; or all. Layouts that are there from before stay.
        storage: Of the bags.
        rig: Cameras: one, two beside each other, six all around, or one and four fisheyes.
        motion: Whether scans are skewed by the own motion (raw), corrected for it, or taken at
            one instant. Layouts whose scans are corrected get corrected ones.
        environment: Where the drives lead; mixed: the number of the town decides.
        severities: Of conditions that have one of their own, as in fog=0.6,rain=0.3.
    """
    chosen = (
        list(get_args(Layout)) if layouts == 'all' else [n.strip() for n in layouts.split(',')]
    )
    config = SimulationConfig(
        seed, rate_hz, seconds, width, height, beams, columns, severity, train_frames, val_frames,
        raw_images, environment,
        camera_configs=() if rig == 'front' else camera_rig(rig, width, height),
        lidar_config=None if motion == 'compensated' else lidar_preset(beams, columns, motion),
        severities=_severities(severities),
    )  # fmt: skip
    data = simulate(out, config, workers, chosen, storage)
    state = 'reused, nothing to do' if data.reused else 'written'
    print(f'{data.frames} simulated frames in {out} ({state}):')
    for name, folder in data.folders.items():
        print(f'  {folder}  {_ABOUT[name]}')
    if 'a2d2' in chosen:
        next_step(f'python training/convert.py {data.a2d2}')


def _severities(text: str) -> tuple[tuple[str, float], ...]:
    found = []
    for part in filter(None, (p.strip() for p in text.split(','))):
        name, _, value = part.partition('=')
        try:
            found.append((name.strip(), float(value)))
        except ValueError:
            raise SimulationError(
                f'severities are given as fog=0.6,rain=0.3, not {part!r}'
            ) from None
    return tuple(found)


if __name__ == '__main__':
    run_command(main)
