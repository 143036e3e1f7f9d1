# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the layouts have in common: which moments they want, and how a moment becomes files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.simulation.config import EPOCH_NS, CameraConfig, SimulationConfig
from training.simulation.frame import Frame, Moment

Files = list[tuple[str, bytes]]
"""Path relative to the recording's folder, and content."""

TRUTH = 'truth.jsonl'
"""In every recording: a line per frame with what only a simulator knows."""


@dataclass(frozen=True)
class Shot:
    """One moment a recording wants.

    Attributes:
        town: Number of the town.
        time: Seconds since the drive through that town began.
        conditions: In which conditions; all of one geometry.
        index: Number within the recording.
        stamp_ns: Of the camera.
    """

    town: int
    time: float
    conditions: tuple[str, ...]
    index: int
    stamp_ns: int

    @property
    def lidar_stamp_ns(self) -> int:
        """When the lidar looks forward: up to 4 ms off, as free-running sensors are."""
        return self.stamp_ns + (self.index * 7 % 17 - 8) * 500_000


@dataclass(frozen=True)
class Truth:
    """What is true of one frame, a line of `truth.jsonl`.

    Attributes:
        frame: What the frame is called in its layout.
        town: Number of the town.
        time: Seconds since the drive through that town began.
        condition: Weather or light.
        severity: 0 to 1.
        stamp_ns: Of the camera.
        T_world_base: (4, 4) rows, pose of the vehicle at the camera's stamp.
        facts: What the layout's tables need beside.
    """

    frame: str
    town: int
    time: float
    condition: str
    severity: float
    stamp_ns: int
    T_world_base: list[list[float]]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pose(self) -> np.ndarray:
        """(4, 4) float64 T_world_base."""
        return np.asarray(self.T_world_base, np.float64)


class Recording:
    """A folder of simulated data.

    `files` runs in any process and in any order, `finish` once, in one process, when all files are
    there. Instances travel between processes: they hold plain values only.

    Attributes:
        path: Of the folder, relative to the output.
        with_lidar: The recording needs scans.
    """

    path: str
    with_lidar = True

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """The moments, in the order of the recording."""
        raise NotImplementedError

    def sensors(self, config: SimulationConfig) -> SimulationConfig:
        """The configuration as this layout's frames are taken, such as rectified."""
        return config

    def settings(self) -> dict[str, Any]:
        """What decides the bytes beside the configuration; JSON-serialisable."""
        return {}

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Any:
        """One frame as the layout stores it."""
        raise NotImplementedError

    def files(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Files:
        """The files of one frame."""
        return list(self.encode(config, shot, frame))

    def name(self, shot: Shot, condition: str) -> str:
        """What a frame is called in `truth.jsonl`."""
        return f'{shot.index:06d}'

    def facts(self, config: SimulationConfig, shot: Shot, frame: Frame) -> dict[str, Any]:
        """What `finish` needs to know of a frame; JSON-serialisable."""
        return {}

    def finish(self, folder: Path, config: SimulationConfig, truths: list[Truth]) -> None:
        """Write what belongs to the recording as a whole: calibration, tables.

        Args:
            folder: Holds the files of all frames. Interrupted, it is called again.
            config: As `sensors` gave it.
            truths: Of all frames, in the order of the recording.
        """

    def take(self, config: SimulationConfig, shot: Shot, folder: Path) -> list[Truth]:
        """Simulate a moment, write its files in each of its conditions.

        Args:
            config: As `sensors` gave it.
            shot: The moment.
            folder: Of the recording.
        """
        moment = Moment(config, shot.town, shot.time, self.with_lidar)
        truths = []
        for name in shot.conditions:
            frame = moment.frame(config.condition(name))
            for path, data in self.files(config, shot, frame):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            truths.append(
                Truth(
                    self.name(shot, name), shot.town, shot.time, frame.condition.name,
                    frame.condition.severity, shot.stamp_ns,
                    np.asarray(frame.T_world_base, np.float64).tolist(),
                    self.facts(config, shot, frame),
                )
            )  # fmt: skip
        return truths


@dataclass(frozen=True)
class _OnePicture:
    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    camera: CameraConfig


def pictures(frame: Frame) -> Sequence[Any]:
    """What each camera took, the main one first: `image`, `labels`, `depth` and `camera`.

    Args:
        frame: Also one put together by hand, of one camera.
    """
    found: Sequence[Any] = getattr(frame, 'pictures', ())
    return found or (_OnePicture(frame.image, frame.labels, frame.depth, frame.camera),)


def rectified(config: SimulationConfig) -> SimulationConfig:
    """The same sensors as data sets publish them: without distortion, scans moved to one instant.

    Args:
        config: Any configuration.
    """
    cameras = tuple(
        replace(camera, distortion_model='plumb_bob', D=()) for camera in config.cameras
    )
    return compensated(replace(config, camera_configs=cameras))


def compensated(config: SimulationConfig) -> SimulationConfig:
    """The same sensors with scans moved to one instant, as where a skew cannot be stored.

    Args:
        config: Any configuration.
    """
    if config.lidar.motion != 'raw':
        return config
    return replace(config, lidar_config=replace(config.lidar, motion='compensated'))


def transform(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) float64 points in the target frame.

    Args:
        T: (4, 4) T_target_source.
        points: (N, 3) in the source frame.
    """
    moved: np.ndarray = points.astype(np.float64) @ T[:3, :3].T + T[:3, 3]
    return moved


def json_bytes(content: Any) -> bytes:
    """JSON as all layouts write it."""
    return (json.dumps(content, indent=2) + '\n').encode()


def write_truths(path: Path, truths: list[Truth], with_facts: bool = False) -> None:
    """Write a line of JSON per frame.

    Args:
        path: The file.
        truths: What to write.
        with_facts: Also what the layout's tables need; `truth.jsonl` does without.
    """
    lines = []
    for truth in truths:
        content = asdict(truth)
        if not with_facts:
            content.pop('facts')
        lines.append(json.dumps(content) + '\n')
    path.write_text(''.join(lines))


def read_truths(path: Path) -> list[Truth]:
    """Read what `write_truths` wrote.

    Args:
        path: A recording's `truth.jsonl`.
    """
    return [Truth(**json.loads(line)) for line in path.read_text().splitlines()]


def drive(
    config: SimulationConfig, town: int, parts: list[tuple[str, float]], start_ns: int = EPOCH_NS
) -> list[Shot]:
    """Shots of a drive through `town`: (condition, seconds) one after the other."""
    shots: list[Shot] = []
    for condition, seconds in parts:
        for _ in range(max(1, round(seconds * config.rate_hz))):
            index = len(shots)
            time = index / config.rate_hz
            shots.append(Shot(town, time, (condition,), index, start_ns + round(time * 1e9)))
    return shots


def spread(
    town: int, count: int, conditions: tuple[str, ...], span: float, start_ns: int = EPOCH_NS
) -> list[Shot]:
    """Shots at equal distances over the first `span` seconds of a drive through `town`."""
    shots = []
    for i in range(count):
        # Half a step in: the frames must not repeat those of the recordings' first seconds.
        time = (i + 0.5) * span / count
        shots.append(Shot(town, time, conditions, i, start_ns + round(time * 1e9)))
    return shots
