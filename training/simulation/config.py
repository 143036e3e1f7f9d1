# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a simulation is made of: sensors, conditions, lengths."""

from __future__ import annotations

from dataclasses import dataclass

from training.simulation.conditions import (
    ALL_CONDITIONS,
    CONDITIONS,
    FAULTS,
    LIGHTS,
    WEATHER,
    Condition,
    SimulationError,
)
from training.simulation.sensors import (
    CameraConfig,
    LidarConfig,
    camera_rig,
    lidar_preset,
)

__all__ = [
    'ALL_CONDITIONS', 'CONDITIONS', 'ENVIRONMENTS', 'EPOCH_NS', 'FAULTS', 'LIGHTS',
    'WEATHER', 'CameraConfig', 'Condition', 'LidarConfig', 'SimulationConfig', 'SimulationError',
    'camera_rig', 'lidar_preset',
]  # fmt: skip

EPOCH_NS = 1_750_000_000_000_000_000
"""Stamp of the first frame: fixed, so that the same seed gives the same bytes."""

ENVIRONMENTS = ('mixed', 'town', 'country', 'motorway')


@dataclass(frozen=True)
class SimulationConfig:
    """Everything that decides the bytes of a simulated data set.

    Attributes:
        seed: Another seed gives other towns.
        rate_hz: Frames per second of camera and lidar in the recordings.
        seconds: Length of each condition in the drives of towns 1 and 2; town 3 scales with it.
        width: Image width, unless `camera_configs` are given.
        height: Image height, unless `camera_configs` are given.
        beams: Lidar beams, see `lidar_preset`, unless a `lidar_config` is given.
        columns: Lidar firings per revolution, unless a `lidar_config` is given.
        severity: Of every condition, 0 to 1.
        severities: (condition, severity) of those that have one of their own.
        train_frames: Labelled frames per training city.
        val_frames: Labelled frames per validation city (the same poses in every condition).
        raw_images: Write sensor_msgs/Image instead of CompressedImage into the bags.
        environment: Where the drives lead: `town`, `country`, `motorway`, or `mixed`, in which the
            number of the town decides.
        camera_configs: The cameras, the main one first; a front camera when left out. See
            `camera_rig` for common sets.
        lidar_config: The lidar; the preset of `beams` and `columns` when left out.
    """

    seed: int = 0
    rate_hz: float = 5.0
    seconds: float = 3.0
    width: int = 480
    height: int = 300
    beams: int = 32
    columns: int = 600
    severity: float = 0.8
    train_frames: int = 40
    val_frames: int = 12
    raw_images: bool = False
    environment: str = 'mixed'
    camera_configs: tuple[CameraConfig, ...] = ()
    lidar_config: LidarConfig | None = None
    severities: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        _at_least(1, train_frames=self.train_frames, val_frames=self.val_frames)
        _at_least(2, beams=self.beams)
        _at_least(16, width=self.width, height=self.height, columns=self.columns)
        if not 0 < self.rate_hz <= 100:
            raise SimulationError(f'rate_hz must lie in (0, 100], not {self.rate_hz}')
        if not 1 / self.rate_hz <= self.seconds <= 300:
            raise SimulationError(
                f'seconds must lie in [1 / rate_hz, 300] so that every condition has a frame, '
                f'not {self.seconds}'
            )
        if self.environment not in ENVIRONMENTS:
            raise SimulationError(
                f'environment must be one of {", ".join(ENVIRONMENTS)}, not {self.environment!r}'
            )
        names = [c.name for c in self.camera_configs]
        if len(set(names)) < len(names):
            raise SimulationError(f'cameras need names of their own, not {", ".join(names)}')
        Condition('clear', self.severity)
        for name, severity in self.severities:
            Condition(name, severity)

    def condition(self, name: str) -> Condition:
        """A condition in the severity that it has here.

        Args:
            name: See `Condition`.

        Raises:
            SimulationError: There is no such condition.
        """
        return Condition(name, dict(self.severities).get(name, self.severity))

    @property
    def cameras(self) -> tuple[CameraConfig, ...]:
        """All cameras, the main one first."""
        return self.camera_configs or camera_rig('front', self.width, self.height)

    @property
    def camera(self) -> CameraConfig:
        """The main camera."""
        return self.cameras[0]

    @property
    def lidar(self) -> LidarConfig:
        """The lidar."""
        return self.lidar_config or lidar_preset(self.beams, self.columns)


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise SimulationError(f'{name} must be at least {minimum}, not {value}')
