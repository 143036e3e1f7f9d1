# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A contact sheet of lidar points over images: the quickest check of a calibration."""

from __future__ import annotations

import math

import cv2
import numpy as np

from training.pairs.geometry import visible_points
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet

NEAR, FAR = 2.0, 60.0
"""Depths at the ends of the colour scale, metres."""

_CAPTION = 22


def depth_colors(depth: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 RGB, red is near, blue far; logarithmic, as surfaces crowd nearby.

    Args:
        depth: (N,) metres, positive.
    """
    if not len(depth):
        return np.zeros((0, 3), np.uint8)
    position = (np.log(np.clip(depth, NEAR, FAR)) - math.log(NEAR)) / math.log(FAR / NEAR)
    values = np.round(255 * (1 - 0.06 - 0.88 * position)).astype(np.uint8).reshape(-1, 1)
    return cv2.applyColorMap(values, cv2.COLORMAP_TURBO)[:, 0, ::-1]


def draw_points(pair: Pair, width: int) -> tuple[np.ndarray, int]:
    """A pair's image with its points on it.

    Args:
        pair: The pair.
        width: Of the drawing, pixels.

    Returns:
        (h, width, 3) uint8 RGB, and the number of points that fall on the image.
    """
    image = pair.pixels()
    rows, columns = image.shape[:2]
    uv, depth, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, columns, rows)
    scale = width / columns
    canvas = cv2.resize(image, (width, round(rows * scale)), interpolation=cv2.INTER_AREA)
    canvas = canvas // 4 * 3  # a little darker, so that the points stand out
    order = np.argsort(-depth[seen])  # the nearest is drawn last, on top
    places = np.round((uv[seen][order] + 0.5) * scale - 0.5).astype(int)
    # Dots of three pixels where there is room between them, of one where there is not.
    radius = 1 if 9 * len(places) < 0.4 * canvas.shape[0] * width else 0
    for (x, y), color in zip(places, depth_colors(depth[seen][order]).tolist(), strict=True):
        cv2.circle(canvas, (int(x), int(y)), radius, color, -1)
    return canvas, int(seen.sum())


def spread(total: int, count: int) -> list[int]:
    """At most `count` positions among `total`, evenly, with the first and the last."""
    chosen = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    return np.unique(chosen).tolist()


def contact_sheet(pairs: PairSet, count: int = 12, width: int = 640) -> np.ndarray:
    """Pairs spread evenly over a set, with captions and the scale of the colours.

    Args:
        pairs: The set.
        count: At most this many.
        width: Of one cell, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    cells = [_cell(pairs[position], width) for position in spread(len(pairs), count)]
    columns = min(2 if len(cells) < 9 else 3, len(cells))
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row)
        row += [np.zeros((height, width, 3), np.uint8)] * (columns - len(row))
        rows.append(np.hstack([_pad(cell, height) for cell in row]))
    return np.vstack([*rows, scale_bar(columns * width)])


def _cell(pair: Pair, width: int) -> np.ndarray:
    drawing, seen = draw_points(pair, width)
    caption = np.full((_CAPTION, width, 3), 24, np.uint8)
    gap = (pair.lidar_stamp_ns - pair.camera_stamp_ns) / 1e6
    tags = ' '.join(pair.tags.values())
    _write(caption, f'{pair.key}  {tags}  {seen} of {len(pair.points)} points  gap {gap:+.1f} ms')
    return np.vstack([drawing, caption])


def scale_bar(width: int) -> np.ndarray:
    """The scale of the colours, (22, width, 3) uint8 RGB."""
    bar = np.full((_CAPTION, width, 3), 24, np.uint8)
    start, end = width // 4, 3 * width // 4
    depths = np.geomspace(NEAR, FAR, end - start)
    bar[:, start:end] = depth_colors(depths)
    _write(bar[:, : start - 4], f'depth {NEAR:.0f} m')
    _write(bar[:, end + 4 :], f'{FAR:.0f} m and more')
    return bar


def _write(strip: np.ndarray, text: str) -> None:
    canvas = np.ascontiguousarray(strip)
    size = 0.42
    while (
        size > 0.25
        and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0] > strip.shape[1] - 8
    ):
        size -= 0.03
    cv2.putText(
        canvas, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, size, (235, 235, 235), 1, cv2.LINE_AA
    )
    strip[:] = canvas


def _pad(cell: np.ndarray, height: int) -> np.ndarray:
    return np.pad(cell, ((0, height - cell.shape[0]), (0, 0), (0, 0)))
