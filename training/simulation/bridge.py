# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gives the present Scene the interface agreed for the next one; goes when that is there."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from training.simulation.config import EGO_SPEED
from training.simulation.scene import Hits, Scene, load_town


class _Bridged:
    def __init__(self, scene: Any, seed: int, town: int, time: float) -> None:
        self._s, self._a = scene, (seed, town, time)
        self.velocity, self.yaw_rate, self.objects = np.array([EGO_SPEED, 0.0, 0.0]), 0.0, ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s, name)

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        origin = np.asarray(origin, np.float32)
        if origin.ndim == 1:
            return self._s.cast(origin, direction)
        shape = direction.shape[:-1]
        rays = np.ascontiguousarray(direction.reshape(-1, 3), np.float32)
        start = np.ascontiguousarray(origin.reshape(-1, 3), np.float32)
        R, t = self._s._anchored()
        hits = self._cast(self._s._standing, start @ R.T + t, rays @ R.T)
        hits.normal = hits.normal @ R
        nearer = self._cast(self._s._moving, start, rays)
        front = nearer.distance < hits.distance
        for name in ('distance', 'normal', 'uv', 'category', 'material', 'color', 'tag', 'cosine'):
            getattr(hits, name)[front] = getattr(nearer, name)[front]
        far = np.where(np.isfinite(hits.distance), hits.distance, 0)
        hits.point = start + far[:, None] * rays
        return hits.reshaped(shape)

    @staticmethod
    def _cast(soup: Any, origins: np.ndarray, rays: np.ndarray) -> Hits:
        real = np.broadcast_to
        try:
            np.broadcast_to = lambda a, *k, **q: (
                a if np.shape(a) == np.shape(rays) else real(a, *k, **q)
            )
            return soup.cast(origins, rays)
        finally:
            np.broadcast_to = real

    def sunlit(self, hits: Hits, sun: np.ndarray | None = None) -> np.ndarray:
        old = self._s.sun
        try:
            if sun is not None:
                self._s.sun = np.asarray(sun, float)
            return self._s.sunlit(hits)
        finally:
            self._s.sun = old

    def ego_pose(self, dt: np.ndarray) -> np.ndarray:
        seed, town, time = self._a
        t, _ = load_town(seed, town)
        back = np.linalg.inv(self._s.T_world_base)
        return np.stack([back @ t.pose(EGO_SPEED * (time + d), -1.75) for d in np.asarray(dt)])

    def rolling(self, _: Any) -> Any:
        return self


def make_scene(seed: int, town: int, time: float, environment: str) -> Any:
    """A scene with the agreed interface."""
    if 'environment' in inspect.signature(Scene.__init__).parameters:
        return Scene(seed, town, time, environment)
    return _Bridged(Scene(seed, town, time), seed, town, time)
