# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch

from training.methods.geometry import GeometryBins, GeometryHead, compressed


def test_soft_labels_are_linear_between_middles() -> None:
    bins = GeometryBins(5, 1.0, 16.0)  # middles 1, 2, 4, 8, 16
    labels = bins.soft_labels(torch.tensor([1.0, 2.0, math.sqrt(8), 0.1, 99.0]).log())
    wanted = torch.tensor(
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    )
    torch.testing.assert_close(labels, wanted.float(), atol=1e-5, rtol=0)


def test_heights_keep_their_order_within_limits() -> None:
    heights = torch.tensor([-5.0, -0.3, 0.0, 0.2, 1.0, 8.0, 30.0])
    out = compressed(heights)
    assert out[0] == out[1]
    assert out[5] == out[6]
    assert (out[2:6].diff() > 0).all()
    assert out[3] - out[2] > 0.9 * 0.2
    assert out[5] - out[4] < 0.2 * 7


def test_what_is_not_known_does_not_count() -> None:
    torch.manual_seed(0)
    head = GeometryHead(4)
    tokens = torch.randn(3, 4, requires_grad=True)
    known = torch.tensor([[1.0, 2.0, 0.0, 0.0, 1.0, 0.3]] * 3)
    with_all = head.values(tokens, known)
    unknown = known.clone()
    unknown[0, 1] = torch.nan
    unknown[1, 2:5] = 0
    values = head.values(tokens, unknown)
    assert torch.isfinite(values).all()
    assert values[0] < with_all[0]
    assert values[1] < with_all[1]
    assert values[2] == with_all[2]
    values.mean().backward()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()


def test_a_linear_code_is_learned_to_zero() -> None:
    """The least value is zero, also of ranges between two classes."""
    torch.manual_seed(0)
    n = 64
    geometry = torch.zeros(n, 6)
    geometry[:, 0] = torch.tensor([3.0, 5.0, 20.0, 41.0]).log().repeat(n // 4)
    geometry[:, 1] = torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(n // 4)
    geometry[:, 4] = 1
    geometry[:, 5] = torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat(n // 4)
    tokens = torch.eye(4).repeat(n // 4, 1)
    head = GeometryHead(4)
    optimizer = torch.optim.Adam(head.parameters(), 0.1)
    first = head.values(tokens, geometry).mean().item()
    for _ in range(300):
        optimizer.zero_grad()
        head.values(tokens, geometry).mean().backward()
        optimizer.step()
    last = head.values(tokens, geometry).mean().item()
    assert first > 3
    assert 0 <= last < 0.05
