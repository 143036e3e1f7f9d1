# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the writers have in common: which moments they want, and how a moment becomes bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from training.simulation.config import EPOCH_NS, Condition, SimulationConfig
from training.simulation.frame import Frame, Moment

Encoded = TypeVar('Encoded')


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


class Recording(Generic[Encoded]):
    """A folder of simulated data. `encode` runs in any process, `write` in one.

    Attributes:
        path: Of the folder, relative to the output.
        with_lidar: The recording needs scans.
    """

    path: str
    with_lidar = True

    def shots(self, config: SimulationConfig) -> list[Shot]:
        """The moments, in the order in which `write` wants them."""
        raise NotImplementedError

    def encode(self, config: SimulationConfig, shot: Shot, frame: Frame) -> Encoded:
        """Bytes of one frame."""
        raise NotImplementedError

    def write(self, folder: Path, config: SimulationConfig, frames: Iterator[Encoded]) -> None:
        """Write the recording to `folder`, which does not exist yet."""
        raise NotImplementedError

    def encode_shot(self, config: SimulationConfig, shot: Shot) -> list[Encoded]:
        """Simulate a moment and encode it in each of its conditions."""
        moment = Moment(config, shot.town, shot.time, self.with_lidar)
        return [
            self.encode(config, shot, moment.frame(Condition(name, config.severity)))
            for name in shot.conditions
        ]


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
