# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a simulation is made of: sensors, conditions, lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from clcp_ros.errors import ClcpError

CONDITIONS = ('clear', 'dusk', 'night', 'fog', 'rain', 'snow')
EGO_SPEED = 8.0
"""Speed of the ego vehicle in m/s."""

EPOCH_NS = 1_750_000_000_000_000_000
"""Stamp of the first frame: fixed, so that the same seed gives the same bytes."""


class SimulationError(ClcpError):
    """Parameters that cannot be simulated, or a scene that lacks what was asked of it."""


@dataclass(frozen=True)
class Condition:
    """Weather or light.

    Attributes:
        name: One of `CONDITIONS`.
        severity: 0 (like clear) to 1 (pitch-dark night, 80 m of visibility, heavy snow fall).
    """

    name: str = 'clear'
    severity: float = 0.8

    def __post_init__(self) -> None:
        if self.name not in CONDITIONS:
            raise SimulationError(f'no condition {self.name!r}; there are {", ".join(CONDITIONS)}')
        if not 0 <= self.severity <= 1:
            raise SimulationError(f'severity must lie in [0, 1], not {self.severity}')


@dataclass(frozen=True)
class CameraConfig:
    """A pinhole camera without distortion.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        hfov: Horizontal field of view in radians.
        position: Of the optical centre in `base_link`, metres; the camera looks along x.
    """

    width: int = 480
    height: int = 300
    hfov: float = math.radians(65)
    position: tuple[float, float, float] = (1.6, 0.0, 1.5)

    @property
    def K(self) -> np.ndarray:  # noqa: N802
        """(3, 3) float64; pixel (0, 0) has its centre at (0, 0), square pixels."""
        f = self.width / 2 / math.tan(self.hfov / 2)
        return np.array(
            [[f, 0, (self.width - 1) / 2], [0, f, (self.height - 1) / 2], [0, 0, 1]], np.float64
        )

    @property
    def T_base_camera(self) -> np.ndarray:  # noqa: N802
        """(4, 4) optical frame (x right, y down, z forward) into `base_link`."""
        T = np.eye(4)
        T[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        T[:3, 3] = self.position
        return T


@dataclass(frozen=True)
class LidarConfig:
    """A spinning lidar.

    Attributes:
        beams: Number of rings; ring 0 looks lowest.
        columns: Firings per revolution.
        elevation: Lowest and highest beam in radians.
        position: In `base_link`, metres; axes parallel to it.
        max_range: Metres.
        range_noise: Standard deviation in metres.
        dropout: Probability that a return is lost whatever the surface.
        period: Seconds per revolution.
    """

    beams: int = 32
    columns: int = 600
    elevation: tuple[float, float] = (math.radians(-25), math.radians(8))
    position: tuple[float, float, float] = (1.2, 0.0, 1.9)
    max_range: float = 100.0
    range_noise: float = 0.02
    dropout: float = 0.02
    period: float = 0.1

    @property
    def T_base_lidar(self) -> np.ndarray:  # noqa: N802
        """(4, 4) lidar frame (x forward, y left, z up) into `base_link`."""
        T = np.eye(4)
        T[:3, 3] = self.position
        return T


@dataclass(frozen=True)
class SimulationConfig:
    """Everything that decides the bytes of a simulated data set.

    Attributes:
        seed: Another seed gives other towns.
        rate_hz: Frames per second of camera and lidar in the recordings.
        seconds: Length of each condition in the drives of towns 1 and 2; town 3 scales with it.
        width: Image width.
        height: Image height.
        beams: Lidar beams.
        columns: Lidar firings per revolution.
        severity: Of every condition, 0 to 1.
        train_frames: Labelled frames per training city.
        val_frames: Labelled frames per validation city (the same poses in every condition).
        raw_images: Write sensor_msgs/Image instead of CompressedImage into the bags.
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
    camera: CameraConfig = field(init=False)
    lidar: LidarConfig = field(init=False)

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
        Condition('clear', self.severity)
        object.__setattr__(self, 'camera', CameraConfig(self.width, self.height))
        object.__setattr__(self, 'lidar', LidarConfig(self.beams, self.columns))


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise SimulationError(f'{name} must be at least {minimum}, not {value}')
