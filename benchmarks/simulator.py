# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the simulator is: processor time of each stage of a frame, of whole frames, memory.

Every frame is a new moment of a drive at 10 Hz with both sensors, and every condition comes by
turns; building the blocks that come into view and encoding JPEG, PNG and points are counted. The
stages are measured by themselves, on other moments. For comparison, Embree alone casts the same
rays from arrays that lie ready into what stands: no program around it can be faster.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from clcp_ros.image_codec import encode_jpeg, encode_png
from training.cli import run_command
from training.simulation.config import CONDITIONS, Condition, SimulationConfig
from training.simulation.frame import Frame, Moment
from training.simulation.scene import Scene

Times = defaultdict[str, list[float]]


@contextmanager
def timed(times: Times, stage: str) -> Iterator[None]:
    """Add the processor time of the block, of all threads, to a stage."""
    begin = time.process_time()
    yield
    times[stage].append(time.process_time() - begin)


def encode(frame: Frame) -> int:
    """Bytes of a frame as the writers encode it."""
    points = np.column_stack([frame.scan.points, frame.scan.intensity])
    parts = (encode_jpeg(frame.image), encode_png(frame.labels), points.tobytes())
    return sum(len(bytes(p)) for p in parts)


def stages(config: SimulationConfig, town: int, when: float, times: Times) -> None:
    """Measure what the geometry of one moment costs, piece by piece."""
    with timed(times, 'scene'):
        scene = Scene(config.seed, town, when, config.environment)
    camera = config.camera
    rays = camera.rays()
    position = np.asarray(camera.position)
    with timed(times, 'cast camera'):
        hits = scene.cast(position, rays)
    with timed(times, 'attributes'):
        _ = hits.category, hits.material, hits.color, hits.tag, hits.uv, hits.normal, hits.point
    with timed(times, 'shadows'):
        scene.sunlit(hits)
    with timed(times, 'shadows at half resolution'):
        scene.sunlit(hits, every=2)
    azimuth = np.pi - 2 * np.pi * (np.arange(config.lidar.columns) + 0.5) / config.lidar.columns
    up = np.linspace(-0.43, 0.14, config.lidar.beams)
    a, e = np.meshgrid(azimuth, up, indexing='ij')
    around = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    around = around.astype(np.float32)
    with timed(times, 'agents of the scan'):
        rolling = scene.rolling(lambda at: -at / np.pi * 0.05)
    with timed(times, 'cast lidar'):
        rolling.cast(np.asarray(config.lidar.position), around)
    _limit(scene, position, rays, 'Embree alone, camera', times)
    _limit(scene, np.asarray(config.lidar.position), around, 'Embree alone, lidar', times)


def _limit(scene: Scene, origin: np.ndarray, rays: np.ndarray, name: str, times: Times) -> None:
    flat = np.ascontiguousarray(rays.reshape(-1, 3), np.float32)
    start = np.broadcast_to(np.asarray(origin, np.float32), flat.shape).copy()
    with timed(times, name):
        scene.soup.trace(start, flat)


def main(
    frames: int = 40,
    town: int = 1,
    environment: str = 'mixed',
    seed: int = 0,
    beams: int = 64,
    columns: int = 1024,
    width: int = 480,
    height: int = 300,
) -> None:
    """Measure the simulator.

    Args:
        frames: Whole frames, and as many moments for the stages.
        town: Number of the town.
        environment: 'mixed', 'town', 'country' or 'motorway'.
        seed: Of the simulation.
        beams: Of the lidar.
        columns: Of the lidar.
        width: Of the picture.
        height: Of the picture.
    """
    cv2.setNumThreads(1)
    config = SimulationConfig(
        seed=seed, beams=beams, columns=columns, width=width, height=height,
        environment=environment,
    )  # fmt: skip
    times: Times = defaultdict(list)
    with timed(times, 'first frame'):
        encode(Moment(config, town, 0.0).frame(Condition('clear')))
    for name in CONDITIONS:
        Moment(config, town, 0.0).frame(Condition(name))
    wall = time.perf_counter()
    by_condition: Times = defaultdict(list)
    for k in range(frames):
        name = CONDITIONS[k % len(CONDITIONS)]
        with timed(times, 'whole frame'), timed(by_condition, name):
            encode(Moment(config, town, 1.0 + 0.1 * k).frame(Condition(name)))
    wall = time.perf_counter() - wall
    for k in range(frames):
        stages(config, town, 1.0 + 0.1 * (frames + k), times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole = times['whole frame']
    print(
        json.dumps(
            {
                'frames_per_second_per_core': round(1 / float(np.mean(whole)), 2),
                'frames_per_second_wall': round(frames / wall, 2),
                'milliseconds': {k: round(1e3 * float(np.mean(v)), 1) for k, v in times.items()},
                'milliseconds_by_condition': {
                    k: round(1e3 * float(np.mean(v)), 1) for k, v in by_condition.items()
                },
                'peak_memory_mb': round(peak),
            },
            indent=2,
        )
    )


if __name__ == '__main__':
    run_command(main)
