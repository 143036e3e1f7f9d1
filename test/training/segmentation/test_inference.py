# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from clcp_ros.bundle import InputSpec
from clcp_ros.decision import decide
from clcp_ros.errors import ModelError
from training.segmentation.inference import (
    InferenceConfig,
    decide_on_device,
    plan_windows,
    read_ahead,
)

SPEC = InputSpec(16, 24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ('grid', 'size'),
    [((6, 10), (96, 160)), ((6, 10), (700, 33)), ((40, 60), (17, 23)), ((300, 40), (300, 80)),
     ((1, 1), (300, 2)), ((512, 8), (512, 8)), ((30, 20), (599, 401))],
)  # fmt: skip
def test_decisions_agree_with_the_robots(grid: tuple[int, int], size: tuple[int, int]) -> None:
    logits = torch.randn(7, *grid, generator=torch.Generator().manual_seed(1)) * 3
    mask, confidence = decide_on_device(logits, *size)
    expected, sure = decide(logits.numpy(), *size)
    # Both interpolate in float32, each its own way: ties and roundings may differ. The robot's
    # confidence is an approximation, which noise as rough as this tries hard.
    assert (mask != expected).mean() < 1e-3
    assert np.abs(confidence.astype(int) - sure).mean() < 3


def test_windows_see_the_resized_and_normalised_frame() -> None:
    image = np.full((64, 96, 3), 255, np.uint8)
    image[:, 48:] = 0
    config = InferenceConfig('slide', resize=(32, 48))
    plan = plan_windows(image, (64, 96), SPEC, config)
    # Windows of 16 x 24 in steps of 11 x 16: 3 x 3 of them.
    assert plan.windows.shape == (9, 3, 16, 24)
    assert float(plan.windows[0].min()) == pytest.approx(2.0)
    assert float(plan.windows[-1].max()) == pytest.approx(-2.0)
    # A network that tells white from black, on every second pixel.
    logits = torch.stack([-plan.windows[:, 0], plan.windows[:, 0]], 1)[..., ::2, ::2]
    mask, confidence = plan.finish(logits)
    np.testing.assert_array_equal(mask, image[..., 0] > 0)
    assert confidence[0, 0] == round(255 / (1 + np.exp(-4)))


def test_a_frame_smaller_than_the_window_is_padded_with_the_mean_and_cut() -> None:
    image = np.full((10, 60, 3), 255, np.uint8)
    plan = plan_windows(image, (20, 30), SPEC, InferenceConfig('slide'))
    # Steps of 16 until 60 columns are covered: 0, 16, 32, 36.
    assert plan.windows.shape == (4, 3, 16, 24)
    assert bool((plan.windows[:, :, :10] == 2).all())
    assert bool((plan.windows[:, :, 10:] == 0).all())
    mask, _ = plan.finish(torch.cat([torch.zeros(4, 1, 16, 24), plan.windows[:, :1] - 1], 1))
    assert mask.shape == (20, 30)
    assert bool((mask == 1).all())


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ModelError, match='slide'):
        InferenceConfig(window=(8, 8))
    with pytest.raises(ModelError, match='leave pixels out'):
        InferenceConfig('slide', stride=(17, 24)).tiling(SPEC)


def test_reading_ahead_keeps_order_and_bounds() -> None:
    lock, running, most = threading.Lock(), [0], [0]
    started: list[int] = []

    def read(item: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            started.append(item)
        time.sleep(0.002 * (5 - item % 5))
        with lock:
            running[0] -= 1
        return item * item

    ahead = []
    for item, result in read_ahead(read, range(40), threads=3, depth=6):
        assert result == item * item
        ahead.append(len(started) - item)
    assert len(ahead) == 40
    assert most[0] <= 3
    assert max(ahead) <= 6


def test_an_error_comes_at_its_item_and_stops_the_readers() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise ValueError('three')
        return item

    results = read_ahead(read, range(1000))
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(ValueError, match='three'):
        next(results)
    names = [t.name for t in threading.enumerate() if t.name.startswith('read')]
    deadline = time.monotonic() + 5
    while names and time.monotonic() < deadline:
        time.sleep(0.01)
        names = [t.name for t in threading.enumerate() if t.name.startswith('read')]
    assert names == []
