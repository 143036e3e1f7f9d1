# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From logits on the network's grid to a mask and a confidence in pixels.

Both are those of bilinearly upsampled logits. Upsampling all classes to pixels costs more than the
rest of a frame's work together, and nearly all of it is for nothing:

- Where the four corners of a cell of the grid agree on the best class, every point between them
  does, since a bilinear mean keeps the sign of a difference that no corner disputes.
- A finer grid that holds the points of the network's has the same surfaces, and far less of its
  area lies in cells whose corners disagree.
- In those cells, along the edges of objects, three classes and the sum of all others are enough,
  except where one of the others could win; there, all classes are computed.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np

_CONTENDERS = 3
_NOTHING = np.float32(-80)  # a logit whose exponential adds nothing to a sum of at least one


class _Axis(NamedTuple):
    """Where the pixels of one axis lie between the grid's points.

    Attributes:
        low: (pixels,) point before each pixel.
        pixels: (most, cells) pixels of each cell, the last one repeated where there are fewer.
        share: (most, cells) float32 weight of the point behind each of them.
        used: (cells,) bool: some pixel lies in the cell.
    """

    low: np.ndarray
    pixels: np.ndarray
    share: np.ndarray
    used: np.ndarray


def decide(logits: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Upsample logits, take the best class of each pixel and its probability.

    Pixel centres lie as in torch's bilinear interpolation with align_corners=False. The mask is
    exact. Confidence is exact along edges but for the classes that do not matter there; within an
    object it is interpolated from the finer grid.

    Args:
        logits: (C, h, w) float32, finite.
        height: Height of the mask.
        width: Width of the mask.

    Returns:
        The mask (height, width) uint8, and the confidence (height, width) uint8, where 255 stands
        for a softmax probability of 1.
    """
    lead = _refine(np.ascontiguousarray(logits, np.float32), height, width)
    highest = lead.max(axis=0)
    best = np.zeros(highest.shape, np.uint8)
    for c in range(len(lead) - 1, -1, -1):  # of equal classes the first one wins
        np.copyto(best, c, where=lead[c] == highest)
    # From here on relative to the best: it changes neither the order of classes nor the softmax.
    lead -= highest
    # The negative logarithm of the best class' probability bends less between points than itself.
    doubt = np.log(_sum_of_exp(lead))
    if best.shape == (height, width):
        return best, _confidence(doubt)
    rows, columns = _axis(best.shape[0], height), _axis(best.shape[1], width)
    if best.shape[0] <= height and best.shape[1] <= width:
        # Any corner of a cell that agrees will do, and the nearest point is one.
        mask = cv2.resize(best, (width, height), interpolation=cv2.INTER_NEAREST)
    else:
        mask = best.take(rows.low, axis=0).take(columns.low, axis=1)
    confidence = _confidence(cv2.resize(doubt, (width, height), interpolation=cv2.INTER_LINEAR))
    cells = np.argwhere(_mixed(best) & rows.used[:, None] & columns.used).astype(np.int32)
    if len(cells):
        _settle(lead, cells, rows, columns, mask, confidence)
    return mask, confidence


def _refine(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, h, w) -> (C, n h, n w) by bilinear interpolation, n odd: it holds the old points too.

    A new array; some four pixels between two points are little work for either.
    """
    h, w = logits.shape[1:]
    pixels = max(height / h, width / w)
    n = 3 if pixels < 12 else 5 if pixels < 28 else 7
    # Of a small mask the pixels themselves are the finer grid.
    rows, columns = (height, width) if pixels <= 2 else (n * h, n * w)
    if (rows, columns) == (h, w):
        return logits.copy()
    fine = np.empty((len(logits), rows, columns), np.float32)
    for coarse, plane in zip(logits, fine, strict=True):
        cv2.resize(coarse, (columns, rows), dst=plane, interpolation=cv2.INTER_LINEAR)
    return fine


def _confidence(doubt: np.ndarray) -> np.ndarray:
    """(h, w) negative logarithm of a probability -> uint8."""
    return cv2.convertScaleAbs(cv2.exp(-doubt), alpha=255)


@functools.lru_cache(maxsize=32)
def _axis(points: int, pixels: int) -> _Axis:
    # Half-pixel centres. Cell i lies between the points i - 1 and i; before the first and behind
    # the last point both are the same.
    position = (np.arange(pixels) + 0.5) * (points / pixels) - 0.5
    cell = np.floor(position).astype(np.intp) + 1
    first = np.searchsorted(cell, np.arange(points + 1))
    count = np.bincount(cell, minlength=points + 1)
    most = int(count.max())
    index = first + np.minimum(np.arange(most)[:, None], np.maximum(count - 1, 0))
    index = np.minimum(index, pixels - 1)
    share = (position - np.floor(position)).astype(np.float32)
    return _Axis(np.maximum(cell - 1, 0), index.astype(np.int32), share[index], count > 0)


def _mixed(best: np.ndarray) -> np.ndarray:
    """(h + 1, w + 1) bool: the corners of the cell have different best classes."""
    padded = cv2.copyMakeBorder(best, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    corner = padded[:-1, :-1]
    return (corner != padded[1:, :-1]) | (corner != padded[:-1, 1:]) | (corner != padded[1:, 1:])


def _settle(
    lead: np.ndarray,
    cells: np.ndarray,
    rows: _Axis,
    columns: _Axis,
    mask: np.ndarray,
    confidence: np.ndarray,
) -> None:
    """Compute the pixels of some cells; changes `mask` and `confidence`.

    Args:
        lead: (C, h, w) float32 logits relative to the best class of each point.
        cells: (K, 2) int32 row and column of the cells.
        rows: Pixels of the rows.
        columns: Pixels of the columns.
        mask: (H, W) uint8.
        confidence: (H, W) uint8.
    """
    (i, j), (h, w) = cells.T, lead.shape[1:]
    low, high = np.maximum(i - 1, 0) * w, np.minimum(i, h - 1) * w
    left, right = np.maximum(j - 1, 0), np.minimum(j, w - 1)
    corners = np.stack([low + left, low + right, high + left, high + right])
    values = lead.reshape(len(lead), -1).take(corners, axis=1)
    ids, contenders = _contenders(values)
    x, y = columns.share.take(j, axis=1), rows.share.take(i, axis=1)[:, None]
    points = _between(contenders, x, y)
    best, chosen = points[0].copy(), np.broadcast_to(ids[0], points.shape[1:]).copy()
    for candidate, value in zip(ids[1:], points[1:], strict=False):
        np.copyto(chosen, candidate, where=value > best)
        np.maximum(best, value, out=best)
    total = _sum_of_exp(points[:-1] - best)
    if len(unsettled := np.flatnonzero((points[-1] > best).any(axis=(0, 1)))):
        everything = _between(values[..., unsettled], x[:, unsettled], y[..., unsettled])
        chosen[..., unsettled] = everything.argmax(axis=0)
        total[..., unsettled] = _sum_of_exp(everything - everything.max(axis=0))
    place = rows.pixels.take(i, axis=1)[:, None] * mask.shape[1] + columns.pixels.take(j, axis=1)
    mask.reshape(-1)[place] = chosen
    share = cv2.convertScaleAbs((1 / total).reshape(-1, len(i)), alpha=255)
    confidence.reshape(-1)[place] = share.reshape(place.shape)


def _contenders(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that come closest to the best at some corner, and what is left.

    Args:
        values: (C, 4, K) at the corners, relative to the best there.

    Returns:
        (n, K) uint8 ids, and (n + 2, 4, K) at the corners: the classes of these ids, the logarithm
        of the sum of exponentials of the others, and the highest of the others.
    """
    rest, closest = values.copy(), values.max(axis=1)
    cell = np.arange(values.shape[2])
    ids, found = [], []
    for _ in range(min(_CONTENDERS, len(values))):
        chosen = closest.argmax(axis=0)
        closest[chosen, cell] = -np.inf
        found.append(values[chosen, :, cell].T)
        rest[chosen, :, cell] = _NOTHING
        ids.append(chosen.astype(np.uint8))
    logarithm = np.log(np.maximum(_sum_of_exp(rest), np.exp(_NOTHING)))
    return np.stack(ids), np.stack([*found, logarithm, rest.max(axis=0)])


def _sum_of_exp(values: np.ndarray) -> np.ndarray:
    """(n, ...) float32 -> (...) sum of exponentials over the first axis."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return cv2.exp(flat).sum(axis=0).reshape(values.shape[1:])


def _between(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 4, K) corners, (m, K) and (r, 1, K) shares -> (n, r, m, K) between them."""
    a, b, c, d = corners.transpose(1, 0, 2)[:, :, None]
    upper, lower = a + (b - a) * x, c + (d - c) * x
    lower -= upper
    return upper[:, None] + lower[:, None] * y
