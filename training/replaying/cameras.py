# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two cameras of one robot compared, by what their frames of the same moment are like."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clcp_ros.replay import FrameRecord
from clcp_ros.replay_bag import FrameKey
from training.pairs.sync import match_nearest


@dataclass(frozen=True)
class CameraPair:
    """Two cameras; NaN stands for what is not known.

    Attributes:
        first: Name of one camera.
        second: Name of the other.
        moments: Frames of both at the same time.
        same_level: Share of these at which both monitors give the same level.
        correlation: Of the novelties (Pearson), of each camera's newest sample.
        shares_distance: Mean distance of the class shares in [0, 1]: half the sum of their
            absolute differences. Cameras that look at different things differ here rightly.
    """

    first: str
    second: str
    moments: int
    same_level: float
    correlation: float
    shares_distance: float


def compare_cameras(records: Sequence[FrameRecord]) -> list[CameraPair]:
    """Every pair of cameras.

    Args:
        records: Of all cameras.
    """
    by_camera: dict[str, list[FrameRecord]] = {}
    for record in records:
        by_camera.setdefault(record.camera, []).append(record)
    return [
        _compare(
            sorted(by_camera[a], key=lambda r: r.time_s),
            sorted(by_camera[b], key=lambda r: r.time_s),
        )
        for a, b in itertools.combinations(by_camera, 2)
    ]


def _compare(first: list[FrameRecord], second: list[FrameRecord]) -> CameraPair:
    # Not stamps: those of a looped recording come again.
    stamps = [np.array([round(r.time_s * 1e9) for r in run]) for run in (first, second)]
    steps = [float(np.median(np.diff(s))) for s in stamps if len(s) > 1]
    # Half a period: otherwise another frame would be nearer.
    matches = match_nearest(stamps[0], stamps[1], 0.5e-9 * min(steps, default=1e8))
    pairs = [(first[i], second[j]) for i, j in zip(matches.camera, matches.lidar, strict=True)]
    newest = [_newest_novelty(run) for run in (first, second)]
    novelty = np.array([(newest[0][a.key], newest[1][b.key]) for a, b in pairs])
    known = novelty[np.isfinite(novelty).all(axis=1)] if len(pairs) else np.zeros((0, 2))
    correlation = math.nan
    if len(known) > 2 and (known.std(axis=0) > 0).all():
        correlation = float(np.corrcoef(known.T)[0, 1])
    distances = [0.5 * np.abs(np.subtract(a.shares, b.shares)).sum() for a, b in pairs]
    return CameraPair(
        first[0].camera,
        second[0].camera,
        len(pairs),
        float(np.mean([a.level == b.level for a, b in pairs])) if pairs else math.nan,
        correlation,
        float(np.mean(distances)) if pairs else math.nan,
    )


def _newest_novelty(run: list[FrameRecord]) -> dict[FrameKey, float]:
    """Novelty by frame; between the monitor's samples that of the last one."""
    found: dict[FrameKey, float] = {}
    newest = math.nan
    for record in run:
        newest = newest if math.isnan(record.novelty_z) else record.novelty_z
        found[record.key] = newest
    return found
