# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which camera frame belongs to which scan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

TOO_SOON = 'sooner than --min-time after the frame before'
"""Reason of frames that thinning leaves out."""


class TimeThinner:
    """Leaves out frames that follow too soon on the last one kept.

    Neighbouring frames show the same place: a contrastive loss would take them for negatives.

    Args:
        min_time: Seconds.
    """

    def __init__(self, min_time: float) -> None:
        self._step_ns = round(min_time * 1e9)
        self._last: int | None = None

    def keep(self, stamp_ns: int) -> bool:
        """Whether to keep a frame; to be asked in time order. Asked of kept ones again: yes."""
        if self._last is not None and abs(stamp_ns - self._last) < self._step_ns:
            return False
        self._last = stamp_ns
        return True


@dataclass(frozen=True)
class Matches:
    """Camera frames and scans that belong together, in camera time order.

    Attributes:
        camera: (M,) int64 positions of the frames.
        lidar: (M,) int64 positions of their scans.
        gaps_ns: (M,) int64, scan's stamp minus frame's stamp.
        dropped: Reason: number of camera frames without a scan.
        cameras: Camera frames there were.
        scans: Scans there were.
        stamps_ns: (M,) int64 stamps of the frames; None where only reading tells them.
    """

    camera: np.ndarray
    lidar: np.ndarray
    gaps_ns: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)
    cameras: int = 0
    scans: int = 0
    stamps_ns: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.camera)

    def thinned(self, min_time: float) -> Matches:
        """Without the frames that follow too soon; all of them where stamps are not known."""
        if min_time <= 0 or self.stamps_ns is None:
            return self
        thinner = TimeThinner(min_time)
        kept = np.array([thinner.keep(stamp) for stamp in self.stamps_ns.tolist()], bool)
        left_out = int((~kept).sum())
        return replace(
            self,
            camera=self.camera[kept],
            lidar=self.lidar[kept],
            # Readers that pair by name have no gaps.
            gaps_ns=self.gaps_ns[kept] if len(self.gaps_ns) == len(kept) else self.gaps_ns,
            dropped={**self.dropped, TOO_SOON: left_out} if left_out else self.dropped,
            stamps_ns=self.stamps_ns[kept],
        )


def match_nearest(camera_ns: np.ndarray, lidar_ns: np.ndarray, max_gap: float) -> Matches:
    """Pair each camera frame with the scan nearest in time, if that is near enough and mutual.

    A scan goes to the one frame that is nearest to it: with a camera faster than the lidar the
    frames in between would otherwise repeat scans, which a contrastive loss takes for negatives.
    Equal distances go to the earlier. O(n log n).

    Args:
        camera_ns: (N,) int64 stamps, in any order.
        lidar_ns: (M,) int64 stamps, in any order.
        max_gap: Largest distance of the stamps, seconds.

    Returns:
        Positions into the arguments, in camera time order.
    """
    camera_ns, lidar_ns = np.asarray(camera_ns, np.int64), np.asarray(lidar_ns, np.int64)
    empty = np.zeros(0, np.int64)
    if not len(camera_ns) or not len(lidar_ns):
        dropped = {'no scan within the maximum gap': len(camera_ns)} if len(camera_ns) else {}
        return Matches(empty, empty, empty, dropped, len(camera_ns), len(lidar_ns))
    camera_order = np.argsort(camera_ns, kind='stable')
    lidar_order = np.argsort(lidar_ns, kind='stable')
    cameras, scans = camera_ns[camera_order], lidar_ns[lidar_order]
    scan_of = _nearest(cameras, scans)
    frame_of = _nearest(scans, cameras)
    gaps = scans[scan_of] - cameras
    near = np.abs(gaps) <= round(max_gap * 1e9)
    mutual = frame_of[scan_of] == np.arange(len(cameras))
    kept = near & mutual
    dropped = {
        'no scan within the maximum gap': int((~near).sum()),
        'its scan is nearer to another frame': int((near & ~mutual).sum()),
    }
    return Matches(
        camera_order[kept],
        lidar_order[scan_of[kept]],
        gaps[kept],
        {reason: count for reason, count in dropped.items() if count},
        len(cameras),
        len(scans),
        cameras[kept],
    )


def gap_summary(gaps_ns: np.ndarray) -> dict[str, Any]:
    """Distribution of the gaps for a report.

    Args:
        gaps_ns: (M,) int64, signed.

    Returns:
        Median and 95th percentile and maximum of the sizes and the median of the signed gaps (a
        clock offset shows there), milliseconds, and a histogram of the sizes; empty without gaps.
    """
    if not len(gaps_ns):
        return {}
    signed = np.asarray(gaps_ns, np.float64) / 1e6
    sizes = np.abs(signed)
    counts, edges = np.histogram(sizes, bins=10, range=(0, max(float(sizes.max()), 1e-3)))
    return {
        'median_ms': round(float(np.median(sizes)), 4),
        'p95_ms': round(float(np.percentile(sizes, 95)), 4),
        'max_ms': round(float(sizes.max()), 4),
        'signed_median_ms': round(float(np.median(signed)), 4),
        'histogram_ms': {'edges': [round(float(e), 4) for e in edges], 'counts': counts.tolist()},
    }


def _nearest(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Position in sorted `among` of the value nearest to each of `wanted`; the earlier of two."""
    right = np.clip(np.searchsorted(among, wanted), 1, max(len(among) - 1, 1))
    if len(among) == 1:
        return np.zeros(len(wanted), np.int64)
    left = right - 1
    nearer_left = wanted - among[left] <= among[right] - wanted
    nearest = np.where(nearer_left, left, right)
    # Of equal stamps always the first, so that "nearest to each other" has one answer.
    return np.searchsorted(among, among[nearest])
