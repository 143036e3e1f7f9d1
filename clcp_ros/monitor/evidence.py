# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What one frame says by itself; the monitor judges it with what came before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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
        features: `early` (D1,) and `deep` (D2,) from the model, which tell the kind; may be left
            out with a bundle whose kinds do not ask for them.
    """

    statistics: np.ndarray
    score: FrameScore
    confusion: np.ndarray
    alignment: Alignment | None = None
    features: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether it may enter a state."""
        score = self.score
        z = (score.novelty, score.low, score.early, score.deep)
        return bool(
            all(map(math.isfinite, z))
            and np.isfinite(self.confusion).all()
            and np.isfinite(self.statistics).all()
            and all(np.isfinite(values).all() for values in self.features.values())
        )
