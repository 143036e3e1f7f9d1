# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits the label-free estimate of the mIoU: temperature, map, intervals.

Labelled frames of the source domain, of drives that the network was not trained on, and the same
frames under corruptions. The residuals that make the intervals are of corruption families that
the map was not fitted on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from clcp_ros.monitor.harm import FEATURES, HarmReference, soft_confusion
from clcp_ros.monitor.reference import ShiftReference
from training.monitoring.samples import Samples

SIZES = (1, 5, 20)
"""Frames in a window for which intervals are fitted."""


@dataclass(frozen=True)
class HarmFit:
    """A fitted reference and how good it is.

    Attributes:
        reference: For the bundle.
        figures: For the monitor card: JSON values by name.
        missing: What could not be fitted, and why; for people.
    """

    reference: HarmReference
    figures: dict[str, object]
    missing: tuple[str, ...]


def fit_harm(
    clean: Samples,
    degraded: Samples | Iterable[Samples],
    novelty: ShiftReference | None = None,
    confidence: float = 0.9,
    seed: int = 0,
) -> HarmFit:
    """Fit on labelled frames.

    Args:
        clean: Labelled frames of the source domain with logits, best of drives that the network
            was not trained on.
        degraded: Frames under corruptions, labelled, with logits; `tag` is `family:severity`.
            Batches are reduced one after the other, so that they may be made on the fly.
        novelty: Scores the taps; None leaves them out of the map.
        confidence: Of the intervals.
        seed: Of the drawn windows.

    Returns:
        The reference and its figures.

    Raises:
        ModelError: There are no labelled frames.
    """
    assert clean.logits is not None
    classes = clean.scene.shape[1]
    ones = np.ones(classes)
    soft = np.mean([soft_confusion(logits) for logits in clean.logits], axis=0)
    coefficients = np.zeros(len(FEATURES))
    coefficients[0] = 1.0
    limits = np.full(len(FEATURES), 1e3)
    reference = HarmReference(
        np.array(1.0), ones, np.diagonal(soft) * 0 + 1, ones > 0, -limits, limits, coefficients,
        np.array(0.0), np.array(SIZES, float), np.full((len(SIZES), 2), 0.1),
    )  # fmt: skip
    return HarmFit(reference, {}, ('everything: only the interface is there yet',))
