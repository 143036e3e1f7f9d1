# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from embreex import rtcore, rtcore_scene

from training.simulation import triangles
from training.simulation.mesh import turned


@pytest.fixture(scope='module')
def device() -> rtcore.EmbreeDevice:
    return rtcore.EmbreeDevice()


def crowd(count: int) -> np.ndarray:
    """Triangles in a cube of 20 m."""
    rng = np.random.default_rng(count)
    corner = rng.uniform(-10, 10, (count, 1, 3))
    return (corner + rng.normal(0, 2, (count, 3, 3))).astype(np.float32)


def answers(device: rtcore.EmbreeDevice, vertices: np.ndarray) -> dict[str, np.ndarray]:
    scene = rtcore_scene.EmbreeScene(device)
    held = triangles.attach(scene, device, vertices)
    rng = np.random.default_rng(4)
    rays = rng.normal(size=(4000, 3)).astype(np.float32)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    del vertices
    gc.collect()
    found: dict[str, np.ndarray] = scene.run(np.zeros_like(rays), rays, output=True)
    del held
    return found


@pytest.mark.parametrize('count', [1, 2, 3, 5000])
def test_rays_meet_what_they_meet_if_embreex_copies(
    device: rtcore.EmbreeDevice, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = rtcore_scene.EmbreeScene(device)
    if triangles._library() is None or triangles._handle(scene, device) is None:
        pytest.skip('another embreex: it copies in any case')
    at_once = answers(device, crowd(count))
    monkeypatch.setattr(triangles, '_library', lambda: None)
    copied = answers(device, crowd(count))
    assert (copied['primID'] >= 0).any()
    assert copied['primID'].max() == count - 1 or count > 3
    for name, values in copied.items():
        assert np.array_equal(values, at_once[name]), name


def test_a_scene_of_another_layout_is_left_to_embreex(device: rtcore.EmbreeDevice) -> None:
    scene = rtcore_scene.EmbreeScene(device)
    assert triangles._handle(scene, device) is not None
    assert triangles._handle(scene, rtcore.EmbreeDevice()) is None

    class Wider(rtcore_scene.EmbreeScene):
        __slots__ = ('more',)

    assert triangles._handle(Wider(device), device) is None


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='Linux tells it')
def test_memory_is_given_back(device: rtcore.EmbreeDevice) -> None:
    def resident() -> int:
        return int(Path('/proc/self/statm').read_text().split()[1]) * 4096

    vertices = crowd(50_000)
    answers(device, vertices)
    before = resident()
    for _ in range(20):
        answers(device, vertices)
    # Twenty that are kept take 20 * 50 000 * 48 bytes and more.
    assert resident() - before < 30e6


@pytest.mark.parametrize('count', [1, 7, 1001])
def test_turned_is_numpys_product_of_each_triangle(count: int) -> None:
    rng = np.random.default_rng(count)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    np.testing.assert_allclose(
        turned(crowd(count), turn), crowd(count).astype(np.float64) @ turn, atol=1e-5
    )
