# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where in the image the mask is likely to be wrong."""

from __future__ import annotations

import numpy as np

from clcp_ros.monitor.harm import HarmReference


def heat_map(logits: np.ndarray, harm: HarmReference | None) -> np.ndarray:
    """Expected error of each cell of the decoder's grid.

    One less the probability of the class that was chosen, at the temperature that makes
    confidence equal accuracy on the source domain: of cells of 0.3 about three in ten are wrong
    there. Under a shift the network may be wrong and sure of it (fog), and the map then shows too
    little: it says where, `miou_est` says how much.

    Args:
        logits: (C, h, w) any float type.
        harm: Holds the temperature; without it the logits are taken as they are.

    Returns:
        (h, w) float32 in [0, 1]; 1 throughout where logits are not finite.
    """
    if not np.isfinite(logits).all():
        return np.ones(logits.shape[1:], np.float32)
    scaled = logits.astype(np.float32)
    if harm is not None:
        scaled /= np.float32(harm.temperature)
    # The chosen class has the logit 0 then, and its probability is one over the sum.
    total = np.exp(scaled - scaled.max(axis=0)).sum(axis=0)
    return np.asarray(1 - 1 / total, np.float32)
