# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where in the image the network is less sure than it used to be."""

from __future__ import annotations

import numpy as np

from clcp_ros.monitor.harm import HarmReference


def heat_map(logits: np.ndarray, harm: HarmReference | None) -> np.ndarray:
    """By how much each cell of the decoder's grid is less sure than its class is on the source.

    The probability of the class that was chosen, at the temperature that makes confidence equal
    accuracy on the source domain, is compared with its mean over the source's cells of that class:
    thin poles are uncertain on every street, and do not show. Under a shift the network may be
    wrong and sure of it (fog), and the map then shows too little: it says where, `miou_est` says
    how much.

    Args:
        logits: (C, h, w) any float type.
        harm: What is known of the source; without it cells are compared with certainty.

    Returns:
        (h, w) float32 in [0, 1], 0 where nothing is missing; 1 throughout where logits are not
        finite.
    """
    if not np.isfinite(logits).all():
        return np.ones(logits.shape[1:], np.float32)
    scaled, usual = logits.astype(np.float32), np.float32(1)
    if harm is not None:
        scaled /= np.float32(harm.temperature)
        usual = harm.class_confidence.astype(np.float32)[scaled.argmax(axis=0)]
    # The chosen class has the logit 0 then, and its probability is one over the sum.
    total = np.exp(scaled - scaled.max(axis=0)).sum(axis=0)
    return np.asarray(np.maximum(usual - 1 / total, 0), np.float32)
