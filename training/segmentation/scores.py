# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation counts over the frames of a condition."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.segmentation.boundary import BoundaryScore
from training.segmentation.calibration import Calibration
from training.segmentation.inference import Decision
from training.segmentation.metrics import ConfusionMatrix


@dataclass
class Scores:
    """Sums over frames; two of them add up.

    Attributes:
        matrix: The confusion matrix.
        calibration: Of the confidence.
        boundary: Boundary IoU; None where it was not asked for.
        frames: Name and own mIoU of every frame, in [0, 1]; NaN for a frame without labels.
    """

    matrix: ConfusionMatrix
    calibration: Calibration = field(default_factory=Calibration)
    boundary: BoundaryScore | None = None
    frames: list[tuple[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, num_classes: int, boundary: bool = True) -> Scores:
        """Nothing counted yet.

        Args:
            num_classes: Number of classes.
            boundary: Measure boundaries, too.
        """
        return cls(
            ConfusionMatrix(num_classes),
            boundary=BoundaryScore(num_classes) if boundary else None,
        )

    def update(self, name: str, decision: Decision, label: np.ndarray) -> None:
        """Add one frame.

        Args:
            name: Of the frame.
            decision: Mask and confidence, of the label's size.
            label: (H, W) uint8 class ids; 255 is left out.
        """
        own = ConfusionMatrix(self.matrix.num_classes)
        own.update(decision.mask, label)
        self.matrix += own
        self.calibration.update(decision.mask, decision.confidence, label)
        if self.boundary is not None:
            self.boundary.update(decision.mask, label)
        self.frames.append((name, own.miou()))

    def __iadd__(self, other: Scores) -> Scores:
        self.matrix += other.matrix
        self.calibration += other.calibration
        if self.boundary is not None and other.boundary is not None:
            self.boundary += other.boundary
        self.frames += other.frames
        return self

    def chosen(self) -> dict[str, str]:
        """Names of the frames to look at: the best, the median and the worst, by their own mIoU.

        Returns:
            Frame by `best`, `median` and `worst`; fewer when there are fewer frames.
        """
        ranked = sorted(
            (f for f in self.frames if not np.isnan(f[1])), key=lambda f: (-f[1], f[0])
        )
        if not ranked:
            return {}
        places = {'best': 0, 'median': len(ranked) // 2, 'worst': len(ranked) - 1}
        found: dict[str, str] = {}
        for kind, place in places.items():
            if ranked[place][0] not in found.values():
                found[kind] = ranked[place][0]
        return found
