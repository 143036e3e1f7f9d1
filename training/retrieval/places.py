# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the samples of a pair set were taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clcp_ros.errors import PairSetError
from training.pairs.pair_set import PairSet
from training.retrieval.protocols import Places


@dataclass(frozen=True)
class Poses:
    """Where samples were taken, as their conversion wrote it.

    Attributes:
        T_world_ego: (N, 4, 4) float64, NaN for samples without a pose.
        T_camera_lidar: (N, 4, 4) float64.
    """

    T_world_ego: np.ndarray
    T_camera_lidar: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: which samples have a pose."""
        known: np.ndarray = np.isfinite(self.T_world_ego).all(axis=(1, 2))
        return known

    def of(self, chosen: np.ndarray) -> Poses:
        """Those of some samples.

        Args:
            chosen: (N,) bool.
        """
        return Poses(self.T_world_ego[chosen], self.T_camera_lidar[chosen])


def read_poses(pairs: PairSet, rows: np.ndarray) -> Poses:
    """Read the poses of samples, each sample once.

    Args:
        pairs: The set.
        rows: (N,) positions in it.
    """
    T_world_ego = np.full((len(rows), 4, 4), np.nan)
    T_camera_lidar = np.empty((len(rows), 4, 4))
    for i, row in enumerate(rows):
        meta = pairs.meta(int(row))
        T_camera_lidar[i] = meta['T_camera_lidar']
        if meta['T_world_ego'] is not None:
            T_world_ego[i] = meta['T_world_ego']
    return Poses(T_world_ego, T_camera_lidar)


def places_of(pairs: PairSet, rows: np.ndarray, poses: Poses) -> Places:
    """Positions, stamps and sequences from a pair set.

    Args:
        pairs: The set.
        rows: (N,) positions in it.
        poses: Of these samples; all known.

    Returns:
        The places, by T_world_ego.
    """
    return Places(
        poses.T_world_ego[:, :3, 3],
        np.asarray(pairs.column('camera_stamp_ns'))[rows].astype(np.int64),
        np.asarray(pairs.column('sequence'))[rows],
    )


def published_positions(pairs: PairSet, poses: Poses) -> np.ndarray:
    """Positions in the axes in which LIP-Loc's evaluation takes the second and third component.

    KITTI odometry publishes poses of a camera in the axes of its first frame (x right, y down, z
    forward); a pair set has those of the scanner and the calibration, which give them back. The
    offset of colour camera 2 against the published camera 0 moves a distance by at most twice its
    0.06 m; `read_positions` takes the published file instead. All other sets: the world's axes.

    Args:
        pairs: The set.
        poses: Of the samples; all known.

    Returns:
        (N, 3) float64 metres.
    """
    if _reader(pairs) != 'kitti_odometry':
        return poses.T_world_ego[:, :3, 3]
    T = poses.T_camera_lidar
    return (T @ poses.T_world_ego @ np.linalg.inv(T))[:, :3, 3]


def read_positions(path: Path, pairs: PairSet, rows: np.ndarray) -> np.ndarray:
    """Positions from a published file of poses.

    Args:
        path: A row of 12 numbers per frame (KITTI odometry) or the frame's number and 12
            (KITTI-360), with spaces between them.
        pairs: The set; the last part of a key is the number of a frame.
        rows: (N,) positions in it.

    Returns:
        (N, 3) float64 metres: columns 3, 7 and 11 of the pose.

    Raises:
        PairSetError: Not such a file, or a frame is not in it.
    """
    try:
        table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise PairSetError(f'{path}: no table of poses: {error}') from None
    if table.shape[1] not in (12, 13):
        raise PairSetError(f'{path}: {table.shape[1]} columns, poses have 12 or 13')
    numbers = np.arange(len(table)) if table.shape[1] == 12 else table[:, 0].astype(int)
    translations = dict(zip(numbers.tolist(), table[:, [-9, -5, -1]], strict=True))
    keys = np.asarray(pairs.column('key'))[rows]
    found = []
    for key in keys:
        frame = str(key).rsplit('/', 1)[-1]
        if not frame.isdigit() or int(frame) not in translations:
            raise PairSetError(f'{path}: no pose of {key}')
        found.append(translations[int(frame)])
    return np.array(found, np.float64)


def _reader(pairs: PairSet) -> str:
    readers = {recording.get('reader') for recording in pairs.report.get('recordings', [])}
    return readers.pop() or '' if len(readers) == 1 else ''
