# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An estimate of the constant time offset between a camera and a lidar, from a recording itself.

Where the distance jumps, the picture usually has an edge (Levinson and Thrun, "Automatic online
calibration of cameras and lasers", RSS 2013, use this for the extrinsics). While the vehicle
moves, the points of a scan fall on these edges only when they are projected to where the camera
was at the time the picture was really taken: the offset is where the two agree best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from clcp_ros.errors import RecordingError
from training.pairs.geometry import transform_points
from training.pairs.motion import Trajectory, deskew
from training.pairs.odometry import HINT, has_kiss_icp, lidar_odometry
from training.pairs.pair import Pair
from training.sources.base import Drops

STEP_S = 0.005
"""Distance of the offsets that are tried; the best is found between them."""

_WINDOW = 12
_EDGE_WIDTH = 640
_BOOTSTRAPS = 200
_LEAST_PIXELS = 3.0
_LARGEST_SIGMA_S = 0.03


@dataclass(frozen=True)
class OffsetEstimate:
    """What a recording says about the time between its camera and its lidar.

    Attributes:
        seconds: To add to the camera's stamps; None when it cannot be told.
        sigma: Standard deviation of `seconds` over parts of the recording; NaN without.
        text: One line for people.
        curve: Offset in seconds and agreement of the edges there, arbitrary units.
        frames: How many frames were looked at.
    """

    seconds: float | None
    sigma: float
    text: str
    curve: list[tuple[float, float]]
    frames: int

    def to_json(self) -> dict[str, Any]:
        """For a report; what is not known is null."""
        return {
            'seconds': self.seconds,
            'sigma': None if np.isnan(self.sigma) else self.sigma,
            'text': self.text,
            'curve': self.curve,
            'frames': self.frames,
        }


def estimate_offset(
    recording: Any, max_gap: float = 0.1, max_offset: float = 0.25, frames: int = 60
) -> OffsetEstimate:
    """Estimate a recording's offset; nothing is changed or applied.

    Args:
        recording: A `Recording`. The lidar's motion comes from its `lidar_motion()` where it has
            that, else from its scans by KISS-ICP where that is installed.
        max_gap: Largest distance of the stamps of a frame and a scan, seconds.
        max_offset: Offsets from minus to plus this are tried, seconds.
        frames: About how many frames to look at.

    Raises:
        RecordingError: The recording cannot be read.
    """
    if not hasattr(recording, 'match'):
        return _cannot('this reader does not tell stamps before it reads', 0)
    motion = recording.lidar_motion() if hasattr(recording, 'lidar_motion') else None
    if motion is None and not has_kiss_icp():
        return _cannot(f'there are no poses, and {HINT}', 0)
    matches = recording.match(max_gap)
    if len(matches) < 3:
        return _cannot(f'there are {len(matches)} pairs', 0)
    count = min(frames, len(matches))
    if motion is not None:
        trajectory = motion.trajectory.of_mount(motion.T_ego_lidar)
        chosen = _busiest(matches, trajectory, count)
    else:
        windows = max(count // _WINDOW, 1)
        starts = np.linspace(0, max(len(matches) - _WINDOW, 0), windows).astype(int)
        chosen = np.unique([s + i for s in starts for i in range(_WINDOW) if s + i < len(matches)])
    some = replace(
        matches,
        camera=matches.camera[chosen],
        lidar=matches.lidar[chosen],
        gaps_ns=matches.gaps_ns[chosen] if len(matches.gaps_ns) else matches.gaps_ns,
        stamps_ns=None if matches.stamps_ns is None else matches.stamps_ns[chosen],
    )
    pairs = list(recording.read(some, recording.sequence, Drops()))
    given = getattr(getattr(recording, 'options', None), 'camera_offset', None) or 0.0
    if motion is not None:
        return estimate_from_pairs([(pairs, trajectory)], max_offset, given)
    groups = []
    for window in _windows(pairs):
        scans = [(p.lidar_stamp_ns, p.xyz, _times(p)) for p in window]
        try:
            groups.append((window, lidar_odometry(scans)))
        except RecordingError:
            continue
    return estimate_from_pairs(groups, max_offset, given)


def estimate_from_pairs(
    groups: Sequence[tuple[Sequence[Pair], Trajectory]],
    max_offset: float = 0.25,
    given: float = 0.0,
) -> OffsetEstimate:
    """Estimate the offset of pairs whose lidar's motion is known.

    Args:
        groups: Pairs in time order, and the trajectory of their lidar.
        max_offset: Offsets from minus to plus this are tried, seconds.
        given: Offset that the camera's stamps already have; it is added to what is told.
    """
    offsets = np.arange(-round(max_offset / STEP_S), round(max_offset / STEP_S) + 1) * STEP_S
    curves, shifts = [], []
    for pairs, trajectory in groups:
        for pair in pairs:
            found = _curve(pair, trajectory, offsets)
            if found is not None:
                curves.append(found[0])
                shifts.append(found[1])
    if len(curves) < 3:
        return _cannot('too few frames have edges in the scan and poses around them', len(curves))
    scores = np.stack(curves)
    total = scores.mean(axis=0)
    curve = [(round(float(o), 4), round(float(s), 5)) for o, s in zip(offsets, total, strict=True)]
    moved = float(np.median(shifts))
    if moved < _LEAST_PIXELS:
        return _cannot(
            f'the picture hardly moves ({moved:.1f} pixels in 0.1 s): take a stretch with turns',
            len(curves), curve,
        )  # fmt: skip
    best = _peak(offsets, total)
    blocks = [scores[i : i + 5].sum(axis=0) for i in range(0, len(scores), 5)]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(blocks), (_BOOTSTRAPS, len(blocks)))
    peaks = np.array([_peak(offsets, np.sum([blocks[i] for i in d], axis=0)) for d in draws])
    sigma = float(max(peaks.std(), STEP_S / 2))
    if abs(best) > offsets[-1] - 2 * STEP_S:
        return _cannot(
            f'the agreement is best at the end of what was tried ({max_offset:g} s): the offset '
            'is larger, or the calibration wrong', len(curves), curve,
        )  # fmt: skip
    if sigma > _LARGEST_SIGMA_S:
        return _cannot(
            f'parts of the recording disagree ({best * 1e3:+.0f} ms, standard deviation '
            f'{sigma * 1e3:.0f} ms)', len(curves), curve,
        )  # fmt: skip
    seconds = given + best
    text = (
        f'edges of scans and pictures agree best when {seconds * 1e3:+.0f} ms '
        f'(standard deviation {sigma * 1e3:.0f} ms, {len(curves)} frames) are added to the '
        f"camera's stamps"
    )
    # In simulated recordings without any offset up to 12 ms were found.
    if abs(best) > 2 * sigma and abs(best) > 0.015:
        text += f': suggested is --camera-offset {seconds:.3f}'
    else:
        text += ': nothing needs to be changed'
    return OffsetEstimate(seconds, sigma, text, curve, len(curves))


def _cannot(
    why: str, frames: int, curve: list[tuple[float, float]] | None = None
) -> OffsetEstimate:
    text = f'the offset between camera and lidar cannot be told: {why}'
    return OffsetEstimate(None, float('nan'), text, curve or [], frames)


def _busiest(matches: Any, trajectory: Trajectory, count: int) -> np.ndarray:
    """Positions of the matches in whose pictures most moves, in order."""
    if matches.stamps_ns is None:
        return np.unique(np.linspace(0, len(matches) - 1, count).astype(int))
    stamps = np.asarray(matches.stamps_ns, np.int64)
    half = 50_000_000
    known = trajectory.covers(stamps - half) & trajectory.covers(stamps + half)
    motion = np.full(len(stamps), -1.0)
    if known.any():
        before, after = trajectory.at(stamps[known] - half), trajectory.at(stamps[known] + half)
        step = np.linalg.inv(before) @ after
        cosine = (np.trace(step[:, :3, :3], axis1=1, axis2=2) - 1) / 2
        # What lies 15 m to the side passes as fast as what turns by 1/15 rad per metre driven.
        motion[known] = np.arccos(cosine.clip(-1, 1)) + np.linalg.norm(step[:, :3, 3], axis=1) / 15
    return np.sort(np.argsort(-motion, kind='stable')[:count])


def _windows(pairs: list[Pair]) -> list[list[Pair]]:
    """Stretches of pairs without holes: odometry must not lose its way."""
    stretches: list[list[Pair]] = []
    for pair in pairs:
        last = stretches[-1][-1] if stretches else None
        if last is None or pair.lidar_stamp_ns - last.lidar_stamp_ns > 500_000_000:
            stretches.append([])
        stretches[-1].append(pair)
    return [s for s in stretches if len(s) >= 3]


def _times(pair: Pair) -> np.ndarray | None:
    if 'time' not in pair.columns or 'deskewed' in pair.source:
        return None
    return pair.points[:, pair.columns.index('time')].astype(np.float64)


def _curve(
    pair: Pair, trajectory: Trajectory, offsets: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """Agreement of the edges at each offset, and how far points move in 0.1 s, pixels."""
    # A scan that was de-skewed is one instant already: the frame's.
    stamp = pair.camera_stamp_ns if 'deskewed' in pair.source else pair.lidar_stamp_ns
    wanted = pair.camera_stamp_ns + np.round(offsets * 1e9).astype(np.int64)
    if not (trajectory.covers(wanted).all() and trajectory.covers(stamp)):
        return None
    edges = _depth_edges(pair)
    xyz = pair.xyz[edges].astype(np.float64)
    times = _times(pair)
    if times is not None and len(xyz):
        try:
            xyz = deskew(xyz, times[edges], stamp, np.eye(4), trajectory, stamp)
        except RecordingError:
            return None
    image = _edge_image(pair.pixels())
    scale = image.shape[1] / pair.pixels().shape[1]
    poses = np.linalg.inv(trajectory.at(wanted)) @ trajectory.at(stamp)
    K = np.diag([scale, scale, 1]) @ pair.K
    uv = np.full((len(offsets), len(xyz), 2), np.nan)
    for i, T_then_scan in enumerate(poses):
        camera = transform_points(pair.T_camera_lidar @ T_then_scan, xyz)
        with np.errstate(divide='ignore', invalid='ignore'):
            projected = camera @ K.T
            uv[i] = projected[:, :2] / projected[:, 2:]
        uv[i, camera[:, 2] < 0.5] = np.nan
    height, width = image.shape
    with np.errstate(invalid='ignore'):
        inside = (uv >= 1) & (uv <= np.array([width - 2, height - 2]))
    # The same points at every offset, or leaving the picture would look like disagreement.
    always = inside.all(axis=(0, 2))
    if always.sum() < 30:
        return None
    place = uv[:, always].astype(np.float32)
    score = cv2.remap(image, place[..., 0], place[..., 1], cv2.INTER_LINEAR).mean(axis=1)
    middle = len(offsets) // 2
    steps = min(round(0.05 / STEP_S), middle)
    shift = np.linalg.norm(place[middle + steps] - place[middle - steps], axis=1)
    return score - score.mean(), float(np.median(shift)) / scale


def _depth_edges(pair: Pair) -> np.ndarray:
    """(N,) bool: points before which the next point of their row lies much farther away."""
    x, y, z = pair.xyz.astype(np.float64).T
    distance = np.sqrt(x * x + y * y + z * z)
    azimuth = np.arctan2(y, x)
    if 'ring' in pair.columns:
        row = pair.points[:, pair.columns.index('ring')].astype(np.int64)
        share = 0.1
    else:
        # Rows of 0.6 degrees may mix beams, whose distances on the ground differ by more.
        row = np.round(np.degrees(np.arctan2(z, np.hypot(x, y))) / 0.6).astype(np.int64)
        share = 0.2
    order = np.lexsort((azimuth, row))
    r = distance[order]
    near = (np.diff(row[order]) == 0) & (np.diff(azimuth[order]) < np.radians(1.5))
    jump = np.diff(r)
    edge = np.zeros(len(r), bool)
    edge[:-1] |= near & (jump > np.maximum(0.5, share * r[:-1]))
    edge[1:] |= near & (-jump > np.maximum(0.5, share * r[1:]))
    found = np.zeros(len(r), bool)
    found[order] = edge & (r > 1.5)
    return found


def _edge_image(image: np.ndarray) -> np.ndarray:
    """(h, w) float32: how much brightness changes sideways, sharp and blurred, in [0, 1]."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if gray.shape[1] > _EDGE_WIDTH:
        height = max(round(gray.shape[0] * _EDGE_WIDTH / gray.shape[1]), 8)
        gray = cv2.resize(gray, (_EDGE_WIDTH, height), interpolation=cv2.INTER_AREA)
    gradient = np.abs(cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3))
    strong = float(np.percentile(gradient, 97)) or 1.0
    edges = np.minimum(gradient / strong, 1).astype(np.float32)
    # Sharp edges tell the place, blurred ones the way there.
    return sum(cv2.GaussianBlur(edges, (0, 0), s) * s**0.5 for s in (1.5, 4.0, 10.0)) / 6


def _peak(offsets: np.ndarray, scores: np.ndarray) -> float:
    """The offset of the highest score, by a parabola through the points around it."""
    best = int(scores.argmax())
    around = slice(max(best - 3, 0), best + 4)
    if best - 3 < 0 or best + 4 > len(scores):
        return float(offsets[best])
    a, b, _ = np.polyfit(offsets[around] - offsets[best], scores[around], 2)
    step = float(offsets[1] - offsets[0])
    shift = 0.0 if a >= 0 else float(np.clip(-b / (2 * a), -3 * step, 3 * step))
    return float(offsets[best]) + shift
