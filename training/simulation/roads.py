# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the road runs: an endless bending, rising and falling line, and the land beside it.

Everything along the road is laid out in road coordinates (s along the centre line, l to the left,
z above the road) and bent into the world at the end. All of it follows from the seed, the number
of the town and the environment, so a road has no fixed length.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from training.simulation.config import SimulationError
from training.simulation.mesh import placement

ENVIRONMENTS = ('town', 'country', 'motorway')

_STEP = 0.5
_BEFORE = 2_000.0
_CHUNK = 20_000.0


def environment_of(number: int, environment: str = 'mixed') -> str:
    """The kind of land that town `number` is; 'mixed' lets the number decide.

    Raises:
        SimulationError: There is no such environment.
    """
    if environment == 'mixed':
        return {4: 'country', 0: 'motorway'}.get(number % 5, 'town')
    if environment not in ENVIRONMENTS:
        raise SimulationError(
            f'no environment {environment!r}; there are mixed, {", ".join(ENVIRONMENTS)}'
        )
    return environment


@dataclass(frozen=True)
class _Shape:
    """Ranges from which a road's bends, gradients and land are drawn.

    Attributes:
        amplitude: Of the heading in radians.
        wave: Three wave lengths in metres.
        rise: Amplitude of the elevation in metres.
        rise_wave: Two wave lengths of the elevation.
        hills: Amplitude of the land in metres.
        flat: Metres beside the centre line where the land still has the road's height.
        radius: Smallest radius of a bend in metres.
        range: Height of the hills at the horizon in metres.
    """

    amplitude: tuple[float, float]
    wave: tuple[tuple[float, float], ...]
    rise: tuple[float, float]
    rise_wave: tuple[tuple[float, float], ...]
    hills: tuple[float, float]
    flat: float
    radius: float
    range: tuple[float, float]


_SHAPES = {
    'town': _Shape(
        (0.14, 0.36), ((130, 210), (230, 380), (420, 800)), (0.4, 1.6),
        ((260, 420), (500, 900)), (3, 9), 55, 66, (50, 130),
    ),
    'country': _Shape(
        (0.10, 0.34), ((220, 340), (380, 600), (700, 1200)), (1.5, 4.0),
        ((320, 520), (700, 1300)), (9, 20), 14, 110, (110, 200),
    ),
    'motorway': _Shape(
        (0.06, 0.16), ((900, 1400), (1500, 2200), (2500, 4000)), (3, 7),
        ((1100, 1700), (2000, 3500)), (12, 24), 22, 600, (120, 220),
    ),
}  # fmt: skip


class Route:
    """The line a drive follows.

    Args:
        seed: Seed of the whole simulation.
        number: Which town.
        environment: One of `ENVIRONMENTS`.
    """

    def __init__(self, seed: int, number: int, environment: str) -> None:
        self.seed = seed
        self.number = number
        self.environment = environment
        shape = _SHAPES[environment]
        rng = self.rng(0)
        self._wave = np.array([rng.uniform(*w) for w in shape.wave])
        self._phase = rng.uniform(0, 2 * np.pi, 3)
        amplitude = rng.uniform(*shape.amplitude, 3)
        sharpest = (amplitude * 2 * np.pi / self._wave).sum()
        self._amplitude = amplitude * min(1.0, 1 / (shape.radius * sharpest))
        self._rise = rng.uniform(*shape.rise, 2)
        self._rise_wave = np.array([rng.uniform(*w) for w in shape.rise_wave])
        self._rise_phase = rng.uniform(0, 2 * np.pi, 2)
        self._hill_height = rng.uniform(*shape.hills)
        self._hill_wave = rng.uniform((170, 260, 500), (260, 480, 900))
        self._hill_turn = rng.uniform(0, np.pi, 3)
        self._hill_phase = rng.uniform(0, 2 * np.pi, 3)
        self.flat = shape.flat
        self._range = rng.uniform(*shape.range)
        self._length = 0.0
        self._s = np.zeros(0)
        self._center = np.zeros((0, 2))
        self._extend(1.0)

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of this town and `key` alone."""
        kind = ENVIRONMENTS.index(self.environment)
        return np.random.default_rng([self.seed, self.number, kind, *(k % 2**32 for k in key)])

    def heading(self, s: np.ndarray | float) -> np.ndarray:
        """Heading of the centre line in radians at `s`."""
        s = np.asarray(s, float)[..., None]
        return (self._amplitude * np.sin(2 * np.pi * s / self._wave + self._phase)).sum(-1)

    def curvature(self, s: np.ndarray | float) -> np.ndarray:
        """Change of the heading per metre, positive to the left."""
        s = np.asarray(s, float)[..., None]
        k = 2 * np.pi / self._wave
        return (self._amplitude * k * np.cos(k * s + self._phase)).sum(-1)

    def elevation(self, s: np.ndarray | float) -> np.ndarray:
        """Height of the road in metres at `s`."""
        s = np.asarray(s, float)[..., None]
        return (self._rise * np.sin(2 * np.pi * s / self._rise_wave + self._rise_phase)).sum(-1)

    def slope(self, s: np.ndarray | float) -> np.ndarray:
        """Rise of the road per metre."""
        s = np.asarray(s, float)[..., None]
        k = 2 * np.pi / self._rise_wave
        return (self._rise * k * np.cos(k * s + self._rise_phase)).sum(-1)

    def center(self, s: np.ndarray | float) -> np.ndarray:
        """(..., 2) world x and y of the centre line."""
        s = np.asarray(s, float)
        self._extend(float(s.max(initial=0.0)))
        at = np.minimum(np.maximum((s + _BEFORE) / _STEP, 0), len(self._s) - 1.001)
        i = at.astype(int)
        t = (at - i)[..., None]
        blended: np.ndarray = self._center[i] * (1 - t) + self._center[i + 1] * t
        return blended

    def bend(self, points: np.ndarray, level: float | None = None) -> np.ndarray:
        """(..., 3) road coordinates into the world.

        Args:
            points: s, l and z.
            level: Take the road's height at this s for all, to keep a house upright.
        """
        s, lateral = points[..., 0], points[..., 1]
        theta = self.heading(s)
        xy = self.center(s)
        x = xy[..., 0] - np.sin(theta) * lateral
        y = xy[..., 1] + np.cos(theta) * lateral
        z = points[..., 2] + self.elevation(s if level is None else level)
        return np.stack([x, y, z], -1)

    def pose(
        self, s: float, lateral: float, z: float = 0.0, yaw: float = 0.0, upright: bool = False
    ) -> np.ndarray:
        """(4, 4) T_world_object at (s, lateral, z), turned by `yaw` against the road.

        It stands on the gradient of the road unless it is `upright`, like a lamp post.
        """
        # As `bend`, which for one point takes twice as long.
        theta, (x, y) = self.heading(s), self.center(s)
        x, y = x - np.sin(theta) * lateral, y + np.cos(theta) * lateral
        T = placement(x, y, float(z + self.elevation(s)), float(theta))
        if not upright:
            pitch = np.arctan(float(self.slope(s)))
            c, n = np.cos(pitch), np.sin(pitch)
            T[:3, :3] = T[:3, :3] @ np.array([[c, 0, -n], [0, 1, 0], [n, 0, c]])
        T[:3, :3] = T[:3, :3] @ placement(0, 0, 0, yaw)[:3, :3]
        return T

    def poses(
        self, s: np.ndarray, lateral: np.ndarray, z: np.ndarray, yaw: np.ndarray
    ) -> np.ndarray:
        """(N, 4, 4) T_world_object of upright things; see `pose`."""
        theta = self.heading(s) + yaw
        out = np.zeros((len(s), 4, 4))
        out[:, 0, 0], out[:, 0, 1] = np.cos(theta), -np.sin(theta)
        out[:, 1, 0], out[:, 1, 1] = np.sin(theta), np.cos(theta)
        out[:, 2, 2] = out[:, 3, 3] = 1
        out[:, :3, 3] = self.bend(np.stack([s, lateral, z], -1))
        return out

    def hills(self, xy: np.ndarray) -> np.ndarray:
        """Height of the untouched land at (..., 2) world positions, far from the road."""
        direction = np.stack([np.cos(self._hill_turn), np.sin(self._hill_turn)])
        waves = np.sin(2 * np.pi * (xy @ direction) / self._hill_wave + self._hill_phase)
        return self._hill_height * (0.45 + waves @ np.array([0.25, 0.4, 0.5]))

    def land(self, s: np.ndarray, lateral: np.ndarray) -> np.ndarray:
        """Height of the ground above the road at road coordinates: flat beside it, then hills."""
        s, lateral = np.asarray(s, float), np.asarray(lateral, float)
        world = self.bend(np.stack([s, lateral, np.zeros_like(s)], -1))
        return self._blend(np.abs(lateral)) * (self.hills(world[..., :2]) - self.elevation(s))

    def ground(self, xy: np.ndarray, s: float) -> tuple[np.ndarray, np.ndarray]:
        """Height of the ground at (N, 2) world positions not too far from `s`, and |l| there."""
        near, tree = self._neighbourhood(round(s / 500))
        distance, index = tree.query(xy)
        level = self.elevation(near[index])
        hills = self.hills(xy)
        # Far from the road the land may rise to whole ranges of hills.
        far = np.clip((distance - 160) / 900, 0, 1)
        return level + self._blend(distance) * (hills + far * self._range - level), distance

    def _blend(self, lateral: np.ndarray) -> np.ndarray:
        t = np.clip((lateral - self.flat) / 70, 0, 1)
        return t * t * (3 - 2 * t)

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a worker holds a handful of towns for its life)
    def _neighbourhood(self, chunk: int) -> tuple[np.ndarray, cKDTree]:
        s = np.arange(max(chunk * 500 - 2300, -_BEFORE), chunk * 500 + 2300, 4.0)
        return s, cKDTree(self.center(s))

    def _extend(self, s: float) -> None:
        if self._length > s + 10:
            return
        # A longer table begins with the same numbers: what was asked before does not matter.
        self._length = _CHUNK * (int((s + 2500) // _CHUNK) + 1)
        self._s = np.arange(-_BEFORE, self._length + 2500, _STEP)
        theta = self.heading(self._s)
        step = _STEP * np.stack([np.cos(theta), np.sin(theta)], 1)
        center = np.concatenate([np.zeros((1, 2)), np.cumsum(step[:-1], 0)])
        self._center = center - center[int(_BEFORE / _STEP)]
