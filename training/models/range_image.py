# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lidar scans as range images, as LIP-Loc makes them (arXiv 2312.16648).

With the defaults the picture is the one that LIP-Loc's published encoders were trained on: depth
alone, eight bits, the part of the scan that the forward camera sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from clcp_ros.errors import ModelError

# LIP-Loc marks empty pixels with -1, multiplies by 5.1 and casts to bytes. That is undefined in C;
# on x86 it wraps around, so that nothing is drawn nearly as bright as the farthest point.
LIPLOC_EMPTY = 251


@dataclass(frozen=True)
class RangeSettings:
    """Geometry of a range image. The defaults are LIP-Loc's for KITTI's HDL-64.

    Attributes:
        height: Rows of the whole image.
        width: Columns of the whole turn.
        fov_up_deg: Elevation of the upper edge.
        fov_down_deg: Elevation of the lower edge.
        max_range_m: Points at this distance and beyond are left out; 255 stands for it.
        rows: First row and row after the last that are kept.
        columns: First column and column after the last that are kept.
        image_size: Height and width that the kept part is resized to.
        empty: Pixels without a point: 0, or 251 as in LIP-Loc's training on x86.
    """

    height: int = 64
    width: int = 900
    fov_up_deg: float = 3.0
    fov_down_deg: float = -25.0
    max_range_m: float = 50.0
    rows: tuple[int, int] = (0, 32)
    columns: tuple[int, int] = (300, 600)
    image_size: tuple[int, int] = (224, 224)
    empty: int = 0

    def __post_init__(self) -> None:
        for name, (first, end), size in (
            ('rows', self.rows, self.height),
            ('columns', self.columns, self.width),
        ):
            if not 0 <= first < end <= size:
                raise ModelError(f'{name} {first} to {end} are not within 0 to {size}')
        if not self.fov_down_deg < self.fov_up_deg:
            raise ModelError('fov_down_deg must be below fov_up_deg')
        if not (self.max_range_m > 0 and min(self.image_size) > 0):
            raise ModelError('max_range_m and image_size must be positive')
        if not 0 <= self.empty <= 255:
            raise ModelError(f'empty is a byte, not {self.empty}')


class RangeImage(NamedTuple):
    """A range image and where each point lies in it.

    Attributes:
        image: `image_size` uint8; depth times 255 / max_range_m.
        xy: (N, 2) float32 column and row of each point in the kept part, in [0, 1] from edge to
            edge; of any value for points that are not seen.
        seen: (N,) bool: within range, and in the kept part. Points behind others count as seen.
    """

    image: np.ndarray
    xy: np.ndarray
    seen: np.ndarray


def project_range(
    points: np.ndarray, settings: RangeSettings, dtype: type[np.floating] = np.float64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place points in the whole range image.

    Args:
        points: (N, >=3) float, x forward, y left, z up, metres.
        settings: Geometry.
        dtype: Precision.

    Returns:
        (N, 2) column and row, not rounded: `0.5 (yaw / pi + 1) width` with
        `yaw = -atan2(y, x)`, and `(1 - (asin(z / depth) - fov_down) / fov) height`; (N,) depth;
        (N,) bool, whether `0 < depth < max_range_m`.
    """
    xyz = np.asarray(points[:, :3], dtype)
    depth = np.linalg.norm(xyz, axis=1)
    kept = (depth > 0) & (depth < settings.max_range_m)
    yaw = -np.arctan2(xyz[:, 1], xyz[:, 0])
    pitch = np.arcsin(np.clip(xyz[:, 2] / np.where(depth > 0, depth, 1), -1, 1))
    up, down = math.radians(settings.fov_up_deg), math.radians(settings.fov_down_deg)
    column = 0.5 * (yaw / math.pi + 1) * settings.width
    row = (1 - (pitch - down) / (up - down)) * settings.height
    return np.stack([column, row], axis=1), depth, kept


def full_range_image(points: np.ndarray, settings: RangeSettings) -> np.ndarray:
    """Draw the whole turn; the nearest point of a pixel stays.

    Points above and below the field of view are drawn in the first and last row.

    Args:
        points: (N, >=3) float, metres.
        settings: Geometry.

    Returns:
        (height, width) uint8.
    """
    # Single precision as in LIP-Loc's code: in double, a pixel in 100,000 differs by one.
    places, depth, kept = project_range(points, settings, np.float32)
    last = [settings.width - 1, settings.height - 1]
    cell = np.clip(np.floor(places[kept]), 0, last).astype(np.int64)
    depth = depth[kept]
    order = np.argsort(-depth, kind='stable')
    image = np.full((settings.height, settings.width), settings.empty, np.uint8)
    value = depth.astype(np.float32) * np.float32(255 / settings.max_range_m)
    image[cell[order, 1], cell[order, 0]] = value[order].astype(np.uint8)
    return image


def range_image(points: np.ndarray, settings: RangeSettings | None = None) -> RangeImage:
    """Make the image that an encoder sees.

    Args:
        points: (N, >=3) float, x forward, y left, z up, metres, in the lidar's frame; N may be 0.
        settings: Geometry; LIP-Loc's by default.

    Returns:
        The image, and the places of the points.
    """
    s = settings or RangeSettings()
    (top, bottom), (left, right) = s.rows, s.columns
    kept = full_range_image(points, s)[top:bottom, left:right]
    height, width = s.image_size
    image = cv2.resize(kept, (width, height), interpolation=cv2.INTER_LINEAR)
    places, _, within = project_range(points, s)
    # The first and last rows also hold what lies beyond the field of view.
    inner = np.clip(places, 0, np.nextafter([s.width, s.height], 0))
    xy = (inner - [left, top]) / [right - left, bottom - top]
    seen = within & ((xy >= 0) & (xy < 1)).all(axis=1)
    return RangeImage(image, xy.astype(np.float32), seen)
