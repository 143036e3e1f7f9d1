# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Triangles copied into Embree at once are the triangles that embreex copies one by one."""

from __future__ import annotations

import numpy as np
import pytest
from embreex import rtcore, rtcore_scene

from training.simulation import triangles
from training.simulation.triangles import add_triangles

DEVICE = rtcore.EmbreeDevice()


def answers(vertices: np.ndarray) -> dict[str, np.ndarray]:
    scene = rtcore_scene.EmbreeScene(DEVICE)
    add_triangles(scene, DEVICE, vertices)
    rng = np.random.default_rng(1)
    rays = rng.standard_normal((20_000, 3)).astype(np.float32)
    found: dict[str, np.ndarray] = scene.run(np.zeros_like(rays), rays, output=True)
    return found


@pytest.mark.parametrize('count', [1, 5, 3000])
def test_both_ways_give_the_same_scene(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(count)
    vertices = rng.uniform(-5, 5, (count, 1, 3)) + rng.normal(0, 1, (count, 3, 3))
    at_once = answers(vertices.astype(np.float32))
    monkeypatch.setattr(triangles, '_as_declared', lambda scene, device: False)
    one_by_one = answers(vertices.astype(np.float32))
    assert (one_by_one['primID'] >= 0).any()
    for name in ('primID', 'tfar', 'u', 'v'):
        np.testing.assert_array_equal(at_once[name], one_by_one[name])


def test_only_an_untouched_scene_of_the_device_is_as_declared() -> None:
    if triangles._embree() is None:
        pytest.skip('this embreex is left to copy triangles itself')
    scene = rtcore_scene.EmbreeScene(DEVICE)
    assert triangles._as_declared(scene, DEVICE)
    assert not triangles._as_declared(scene, rtcore.EmbreeDevice())
    scene.is_committed = 1
    assert not triangles._as_declared(scene, DEVICE)


def test_without_embrees_functions_embreex_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangles, '_embree', lambda: None)
    floor = np.array([[[-9, -9, -1], [9, -9, -1], [0, 18, -1]]], np.float32)
    scene = rtcore_scene.EmbreeScene(DEVICE)
    add_triangles(scene, DEVICE, floor)
    down = np.array([[0, 0, -1]], np.float32)
    assert scene.run(np.zeros((1, 3), np.float32), down).tolist() == [0]
