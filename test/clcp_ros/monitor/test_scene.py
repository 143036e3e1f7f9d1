# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is in view; what a model of the scene explains is tested with the reference."""

from __future__ import annotations

import numpy as np

from clcp_ros.monitor.scene import class_shares


def test_class_shares_are_those_of_the_mask() -> None:
    logits = np.zeros((3, 2, 4), np.float32)
    logits[1, 0] = 5
    logits[2, 1, :1] = 5
    np.testing.assert_allclose(class_shares(logits), [3 / 8, 4 / 8, 1 / 8])
    assert class_shares(np.random.default_rng(0).normal(size=(19, 25, 40))).sum() == 1
