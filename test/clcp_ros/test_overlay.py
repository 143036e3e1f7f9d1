# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from clcp_ros.overlay import colorize, overlay

PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)


@pytest.mark.parametrize('shape', [(1, 1), (30, 41), (64, 96)])
def test_every_id_gets_its_colour(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(colorize(mask, PALETTE), PALETTE[mask])


def test_an_overlay_mixes_and_enlarges_the_mask() -> None:
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    image = np.full((8, 8, 3), 100, np.uint8)
    mixed = overlay(image, mask, PALETTE, 0.25)
    large = PALETTE[mask].repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(mixed - (0.25 * large + 75)).max() <= 0.51
    np.testing.assert_array_equal(overlay(image, mask, PALETTE, 0.0), image)
