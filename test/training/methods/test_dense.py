# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each loss against a loop that does what its formula says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.methods.dense import (
    NegativeRules,
    allowed_negatives,
    anchor_values,
    gram_values,
    group_points,
    nce_by_frame,
    nce_values,
    point_values,
    return_values,
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=1)


def test_points_are_grouped_by_the_cell_that_they_are_seen_in() -> None:
    rng = np.random.default_rng(0)
    uv = torch.from_numpy(rng.uniform(-0.2, 1.2, (300, 2)).astype(np.float32))
    uv[:4] = torch.tensor([[0.0, 0.0], [0.9999999, 0.9999999], [1.0, 0.5], [0.5, -1e-9]])
    sample = torch.from_numpy(np.sort(rng.integers(0, 3, 300)))
    used = torch.from_numpy(rng.random(300) < 0.8)
    used[:4] = True
    values = torch.from_numpy(rng.normal(size=(300, 5)).astype(np.float32))
    B, h, w = 3, 4, 6
    wanted: dict[int, list[int]] = {}
    for i in range(300):
        u, v = float(uv[i, 0]), float(uv[i, 1])
        if used[i] and 0 <= u < 1 and 0 <= v < 1:
            cell = (int(sample[i]) * h + int(v * h)) * w + int(u * w)
            wanted.setdefault(cell, []).append(i)
    wanted = {c: members for c, members in wanted.items() if len(members) >= 3}
    groups = group_points(uv, used, sample, (B, h, w), min_points=3)
    assert groups.cell.tolist() == sorted(wanted)
    means = groups.mean(values)
    maps = torch.from_numpy(rng.normal(size=(B, 7, h, w)).astype(np.float32))
    at = groups.of_map(maps)
    for g, cell in enumerate(sorted(wanted)):
        members = wanted[cell]
        torch.testing.assert_close(means[g], values[members].mean(0))
        b, row, column = cell // (h * w), cell // w % h, cell % w
        assert groups.sample[g] == b
        assert groups.row_column[g].tolist() == [row, column]
        assert torch.equal(at[g], maps[b, :, row, column])


def test_no_more_groups_than_asked_for_and_none_without_points() -> None:
    uv = torch.rand(500, 2)
    sample = torch.zeros(500, dtype=torch.int64)
    used = torch.ones(500, dtype=torch.bool)
    some = group_points(uv, used, sample, (1, 8, 8), most=10)
    assert len(some) == 10
    whole = group_points(uv, used, sample, (1, 8, 8))
    assert set(some.cell.tolist()) < set(whole.cell.tolist())
    for g, cell in enumerate(some.cell.tolist()):
        position = whole.cell.tolist().index(cell)
        assert torch.allclose(some.mean(uv)[g], whole.mean(uv)[position])
    none = group_points(uv, ~used, sample, (1, 8, 8))
    assert len(none) == 0
    assert none.mean(uv).shape == (0, 2)
    assert nce_values(torch.zeros(0, 3), torch.zeros(0, 3), 10.0).shape == (0,)


def test_point_regression() -> None:
    a, b = unit(6, 4), unit(6, 4, seed=1) * 3
    for value, x, y in zip(point_values(a, b), a, b, strict=True):
        assert value.item() == pytest.approx(1 - float(x @ y / (x.norm() * y.norm())), abs=1e-6)


def test_nce_without_false_negatives() -> None:
    image, lidar = unit(7, 5), unit(7, 5, seed=1)
    negatives = torch.rand(7, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    negatives |= negatives.T.clone()
    negatives[3] = negatives[:, 3] = False
    values = nce_values(image, lidar, 9.0, negatives)
    for i in range(7):
        total = 0.0
        for rows, columns in ((image, lidar), (lidar, image)):
            own = math.exp(9 * float(rows[i] @ columns[i]))
            others = sum(
                math.exp(9 * float(rows[i] @ columns[j]))
                for j in range(7)
                if j != i and negatives[i, j]
            )
            total -= math.log(own / (own + others)) / 2
        assert values[i].item() == pytest.approx(total, abs=1e-5)
    assert values[3] == 0
    everything = nce_values(image, lidar, 9.0)
    assert torch.allclose(everything, nce_values(image, lidar, 9.0, torch.ones(7, 7) > 0))


def test_each_rule_on_negatives() -> None:
    # Two frames of sequence 0, a second apart, and one of sequence 1; a row of three cells each.
    uv = torch.tensor([[(c + 0.5) / 3, 0.5] for _ in range(3) for c in range(3)])
    sample = torch.arange(3).repeat_interleave(3)
    groups = group_points(uv, torch.ones(9, dtype=torch.bool), sample, (3, 1, 3))
    sequence, time = torch.tensor([0, 0, 1]), torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    lidar, geometry = unit(9, 4), torch.zeros(9, 6)
    geometry[:, 0] = torch.arange(9)
    off: dict[str, Any] = {'scope': 'batch', 'neighbours': -1, 'gap_s': 0.0, 'same_shape': False}

    def allowed(**rules: Any) -> torch.Tensor:
        return allowed_negatives(
            groups, NegativeRules(**{**off, **rules}), sequence, time, lidar, geometry
        )

    frame = sample[:, None] == sample[None]
    assert allowed().all()
    assert torch.equal(allowed(scope='frame'), frame)
    near = (groups.cell[:, None] - groups.cell[None]).abs() <= 1
    assert torch.equal(allowed(neighbours=1), ~(frame & near))
    with_gap = allowed(gap_s=2.0)
    assert not with_gap[0, 3:6].any()
    assert with_gap[0, 6:].all()
    assert with_gap[0, :3].all()
    geometry[4] = geometry[0]
    geometry[[0, 4], 2:5] = torch.tensor([0.0, 0.0, 1.0])
    alike = allowed(same_shape=True)
    assert not alike[0, 4]
    assert (~alike).sum() == 9 - 7 + 2  # these two with themselves and with each other
    geometry[4, 5] = 0.5
    assert allowed(same_shape=True)[0, 4]
    lidar[8] = lidar[0]
    similar = allowed(most_similar=0.99)
    assert not similar[0, 8]
    assert not similar[8, 0]


def test_negatives_by_frame_are_those_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [40, 0, 7, 90]  # the second frame has no point at all
    uv = torch.rand(sum(counts), 2, generator=generator)
    sample = torch.arange(4).repeat_interleave(torch.tensor(counts))
    groups = group_points(uv, torch.ones(len(uv), dtype=torch.bool), sample, (4, 6, 6))
    image, lidar = unit(len(groups), 5), unit(len(groups), 5, seed=1)
    geometry = torch.rand(len(groups), 6, generator=generator)
    geometry[::3] = geometry[0]
    rules = NegativeRules(most_similar=0.7)
    about = torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.float64)
    whole = allowed_negatives(groups, rules, *about, lidar, geometry)
    rows = groups.by_frame()
    assert rows.shape[0] == 4
    assert (rows[1] == -1).all()
    assert rows[rows >= 0].tolist() == list(range(len(groups)))
    own = allowed_negatives(groups, rules, *about, lidar, geometry, rows)
    values = nce_by_frame(image, lidar, 9.0, own, rows)
    torch.testing.assert_close(values, nce_values(image, lidar, 9.0, whole))
    assert 0.2 < whole.float().mean() * 4 < 2
    nothing = group_points(uv, torch.zeros(len(uv), dtype=torch.bool), sample, (4, 6, 6))
    empty = image[:0], lidar[:0]
    none = allowed_negatives(nothing, rules, *about, empty[1], geometry[:0], nothing.by_frame())
    assert nce_by_frame(*empty, 9.0, none, nothing.by_frame()).shape == (0,)


def test_the_choice_of_groups_is_random_and_of_each_sample_by_itself() -> None:
    uv = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    used = torch.ones(4000, dtype=torch.bool)
    sample = torch.arange(2).repeat_interleave(2000)
    seeds = torch.tensor([5, -6])
    both = group_points(uv, used, sample, (2, 8, 8), most=10, seeds=seeds)
    assert torch.bincount(both.sample).tolist() == [10, 10]
    second = group_points(uv[:2000], used[:2000], sample[:2000], (1, 8, 8), 1, 10, seeds[1:])
    cells = both.cell.view(2, 10) - torch.tensor([[0], [64]])
    assert cells[1].tolist() == second.cell.tolist()
    assert cells[0].tolist() != cells[1].tolist()
    times = torch.zeros(64)
    for seed in range(400):
        some = group_points(
            uv[:2000], used[:2000], sample[:2000], (1, 8, 8), 1, 10, torch.tensor([seed])
        )
        times[some.cell] += 1
    # 62.5 +- 7.3 for each, were it a lottery.
    assert times.min() > 62.5 - 5 * 7.3
    assert times.max() < 62.5 + 5 * 7.3


def test_anchor_and_gram() -> None:
    generator = torch.Generator().manual_seed(0)
    student, first = (torch.randn(2, 5, 2, 3, generator=generator) for _ in range(2))
    anchor = anchor_values(student, first).view(2, 2, 3)
    gram = gram_values(student, first)
    for b in range(2):
        p, q = (x[b].reshape(5, 6).T for x in (student, first))
        p, q = (x / x.norm(dim=1, keepdim=True) for x in (p, q))
        for n in range(6):
            assert anchor[b].flatten()[n].item() == pytest.approx(1 - float(p[n] @ q[n]), abs=1e-6)
        total = sum(float((p[i] @ p[j] - q[i] @ q[j]) ** 2) for i in range(6) for j in range(6))
        assert gram[b].item() == pytest.approx(total / 36, abs=1e-6)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0]
    together = torch.einsum('de,behw->bdhw', turned, first)
    assert gram_values(together, first).abs().max() < 1e-6
    assert anchor_values(together, first).mean() > 0.1


def test_the_copy_gets_no_gradient() -> None:
    student, first = (torch.randn(1, 5, 2, 3, requires_grad=True) for _ in range(2))
    (anchor_values(student, first).mean() + gram_values(student, first).mean()).backward()
    assert first.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_whether_rays_came_back() -> None:
    rng = np.random.default_rng(0)
    uv = torch.from_numpy(rng.uniform(-0.1, 1.1, (60, 2)).astype(np.float32))
    sample = torch.from_numpy(np.sort(rng.integers(0, 3, 60)))
    reach = torch.tensor([0.3, -0.2, torch.inf])
    logits = torch.from_numpy(rng.normal(size=(3, 4, 5)).astype(np.float32))
    wanted = []
    for b in range(3):
        for r in range(4):
            for c in range(5):
                count = sum(
                    int(sample[i]) == b and 0 <= u < 1 and 0 <= v < 1
                    and int(v * 4) == r and int(u * 5) == c
                    for i, (u, v) in enumerate(uv.tolist())
                )  # fmt: skip
                # The first row that lies below the highest ray as a whole.
                if r / 4 >= float(reach[b]) and count != 1:
                    p = 1 / (1 + math.exp(-float(logits[b, r, c])))
                    wanted.append(-math.log(p if count else 1 - p))
    values = return_values(logits, uv, sample, reach)
    torch.testing.assert_close(values, torch.tensor(wanted), rtol=1e-5, atol=1e-6)
    assert 10 < len(wanted) < 40
