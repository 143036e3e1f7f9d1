# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Motion of a lidar from its scans alone, with KISS-ICP where that is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from clcp_ros.errors import RecordingError
from training.pairs.motion import Trajectory

HINT = "motion from scans needs KISS-ICP: pip install 'kiss-icp>=1.2'"


def has_kiss_icp() -> bool:
    """Whether KISS-ICP can be imported."""
    try:
        import kiss_icp.kiss_icp  # noqa: F401
    except ImportError:
        return False
    return True


def lidar_odometry(
    scans: Iterable[tuple[int, np.ndarray, np.ndarray | None]], max_range: float = 100.0
) -> Trajectory:
    """Poses of a lidar by KISS-ICP (Vizzo et al., IEEE RA-L 2023).

    One thread, so that the same scans give the same poses.

    Args:
        scans: Stamp in nanoseconds, (N, 3) points in metres in the lidar's frame, and (N,) seconds
            from the stamp to each point, or None; in time order.
        max_range: Points beyond are not used, metres.

    Returns:
        Poses of the lidar in the frame of its first scan, each at the time of the scan's last
        point.

    Raises:
        RecordingError: KISS-ICP is not installed, or there are fewer than two scans.
    """
    try:
        from kiss_icp.config.parser import load_config
        from kiss_icp.kiss_icp import KissICP
    except ImportError:
        raise RecordingError(HINT) from None
    config: Any = load_config(None)
    config.data.max_range = max_range
    config.mapping.voxel_size = max_range / 100.0
    config.registration.max_num_threads = 1
    odometry = KissICP(config)
    stamps, poses = [], []
    # Nothing is shown where nobody looks on.
    for stamp_ns, xyz, offsets_s in tqdm(
        scans, 'KISS-ICP', unit='scan', leave=False, disable=None
    ):
        timed = offsets_s is not None and len(offsets_s) and np.ptp(offsets_s) > 0
        times = np.asarray(offsets_s, np.float64) if timed else np.zeros(0)
        if not len(xyz):
            continue
        odometry.register_frame(np.asarray(xyz, np.float64), times)
        # Its points are moved to the time of the last one, and that is where the pose is.
        stamps.append(int(stamp_ns) + (round(float(times.max()) * 1e9) if timed else 0))
        poses.append(np.array(odometry.last_pose, np.float64))
    if len(stamps) < 2:
        raise RecordingError('motion from scans needs at least two scans')
    return Trajectory.of_unsorted(np.array(stamps, np.int64), np.stack(poses))
