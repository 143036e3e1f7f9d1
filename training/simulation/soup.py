# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Triangle soups that rays can be cast into (Embree)."""

from __future__ import annotations

import functools

import numpy as np
from embreex import rtcore, rtcore_scene

from clcp_ros.classes import CITYSCAPES
from training.simulation.mesh import Mesh
from training.simulation.triangles import attach

SKY = CITYSCAPES.names.index('sky')
Array = np.ndarray


class Soup:
    """A mesh that rays can be cast into.

    Args:
        mesh: At least one triangle; its vertices are not kept.

    Attributes:
        middle: (3,) float32 of the box about it.
        half: (3,) float32, half the box's size.
    """

    def __init__(self, mesh: Mesh) -> None:
        v = np.ascontiguousarray(mesh.vertices, np.float32)
        self._embree = rtcore_scene.EmbreeScene(_device())
        # Embree holds on to the triangles as long as this object lives.
        self._triangles = attach(self._embree, _device(), v)
        # Tables by triangle: one gather per ray is the cost of an attribute, so each is small.
        normal = np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0])
        length = np.sqrt(np.einsum('ij,ij->i', normal, normal))[:, None]
        self.normal = normal / np.maximum(length, np.float32(1e-12))
        uv = mesh.uv.astype(np.float32, copy=False)
        self.uv = np.concatenate([uv[:, 0], uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], 1)
        self.category, self.material = mesh.category, mesh.material
        self.color, self.tag = mesh.color, mesh.tag
        # Axis by axis: numpy takes thirty times as long for all at once.
        axes = [v[..., k] for k in range(3)]
        low, high = (np.array([f(axis) for axis in axes], np.float32) for f in (np.min, np.max))
        self.middle, self.half = (low + high) / 2, (high - low) / 2

    def __len__(self) -> int:
        return len(self.category)

    def trace(self, origins: Array, rays: Array, limit: Array | None = None) -> dict[str, Array]:
        """Embree's answer for (N, 3) rays, nearer than `limit` if given."""
        found: dict[str, Array] = self._embree.run(origins, rays, dists=limit, output=True)
        return found

    def blocked(self, origins: Array, rays: Array) -> Array:
        """Bool per (N, 3) origin: something lies in the direction of its ray, or of the only."""
        hit: Array = self._embree.run(origins, rays, query='OCCLUDED')
        return hit >= 0


@functools.lru_cache(maxsize=1)
def _device() -> rtcore.EmbreeDevice:
    """One for all soups: Embree crashes when a thousand soups have one each."""
    return rtcore.EmbreeDevice()
