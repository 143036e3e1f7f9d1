# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lidar encoders. One file per family; the registry is this folder."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from clcp_ros.errors import ModelError
from training.models.lidar.base import (
    LidarBatch,
    LidarEncoder,
    LidarFamily,
    LidarFeatures,
    LidarOptions,
    LidarSample,
    Preparation,
    make_settings,
)
from training.registry import found_in

__all__ = [
    'LidarBatch',
    'LidarEncoder',
    'LidarFamily',
    'LidarFeatures',
    'LidarOptions',
    'LidarSample',
    'Preparation',
    'create_lidar_encoder',
    'lidar_families',
    'make_settings',
]


@functools.cache
def lidar_families() -> dict[str, LidarFamily]:
    """All families by name: the `FAMILY` of each module in this folder that has one."""
    return found_in(__name__, __path__, 'FAMILY')


def create_lidar_encoder(
    architecture: str, options: LidarOptions | None = None, **settings: Any
) -> LidarEncoder:
    """Create a lidar encoder.

    Args:
        architecture: A name that one of the families knows, such as `minkunet34_w32`,
            `pointpillars` or `range_vit_small_patch16_224`.
        options: Weights, freezing and how to compute.
        settings: Geometry, by the names of the family's own settings: size of the voxels, range
            of the pillars, field of view of the range image.

    Returns:
        The encoder.

    Raises:
        ModelError: No family knows the name, a setting does not exist, or weights do not fit.
    """
    families = lidar_families()
    for family in families.values():
        if family.knows(architecture):
            return family.create(architecture, options or LidarOptions(), settings)
    names = [name for family in families.values() for name in family.architectures]
    similar = difflib.get_close_matches(architecture, names, 3, 0.5) or names
    raise ModelError(
        f'unknown lidar encoder {architecture!r}; similar names: {", ".join(similar)}'
    )
