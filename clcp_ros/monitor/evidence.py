# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What one frame says by itself; the monitor judges it with what came before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clcp_ros.monitor.alignment import Alignment
from clcp_ros.monitor.reference import FrameScore


@dataclass(frozen=True)
class Evidence:
    """What one frame says by itself, whatever came before it.

    Attributes:
        statistics: (S,) float64 of the raw image.
        score: How far it is from the training domain.
        confusion: (C, C + 1) float64 from `HarmReference.describe`, or (C, C) where the bundle
            has none.
        alignment: Agreement with the lidar, of this frame or of one shortly before it; None where
            it is not known.
    """

    statistics: np.ndarray
    score: FrameScore
    confusion: np.ndarray
    alignment: Alignment | None = None

    @property
    def finite(self) -> bool:
        """Whether it may enter a state."""
        score = self.score
        z = (score.novelty, score.low, score.early, score.deep)
        return bool(
            all(map(math.isfinite, z))
            and np.isfinite(self.confusion).all()
            and np.isfinite(self.statistics).all()
        )
