# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Simulate drives through procedural towns in clear weather, dusk, night, fog, rain and snow.

A camera and a spinning lidar are ray-cast from the same geometry. Written are: a folder in A2D2's
layout (town 1), two rosbag2 recordings (towns 2 and 3) and labelled frames in Cityscapes' layout.
The same seed gives the same bytes. A finished data set is reused, an interrupted one goes on with
the first recording that is missing.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

from pathlib import Path

from training.cli import next_step, run_command
from training.simulation.config import SimulationConfig
from training.simulation.run import simulate


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
    """
    config = SimulationConfig(
        seed, rate_hz, seconds, width, height, beams, columns, severity, train_frames, val_frames,
        raw_images,
    )  # fmt: skip
    data = simulate(out, config, workers)
    state = 'reused, nothing to do' if data.reused else 'written'
    print(f'{data.frames} simulated frames in {out} ({state}):')
    print(f'  {data.a2d2}  camera and lidar, town 1, A2D2 layout')
    print(f'  {data.training_bag}  rosbag2, town 2, every condition')
    print(f'  {data.test_bag}  rosbag2, town 3, out of clear weather and back')
    print(f'  {data.cityscapes}  labelled frames, Cityscapes layout')
    next_step(f'python training/convert.py {data.a2d2}')


if __name__ == '__main__':
    run_command(main)
