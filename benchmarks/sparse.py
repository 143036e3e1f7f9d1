# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How close the sparse convolution comes to this machine's matrix multiplication.

The limit is the time that the multiplications alone would take: pairs of voxels times channels, at
the rate of large matrix products measured in the same run. Every timed call sees a new scan, since
a fixed one would flatter caches.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import time
from collections.abc import Callable

import numpy as np
import torch

from training.cli import run_command
from training.models.minkunet import MinkUNet
from training.sparse import KernelMap, SparseConv, batch_voxels, voxelize


def scan(rng: np.random.Generator, beams: int, columns: int) -> np.ndarray:
    """A street seen by a spinning lidar at 1.7 m: ground, two house fronts, boxes; (N, 4)."""
    azimuth = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, columns, endpoint=False)
    elevation = np.deg2rad(np.linspace(-24, 3, beams))
    a, e = (g.ravel() for g in np.meshgrid(azimuth, elevation))
    direction = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=1)
    with np.errstate(divide='ignore'):
        ground = np.where(direction[:, 2] < 0, -1.7 / direction[:, 2], np.inf)
        front = rng.uniform(8, 12, 2)[(direction[:, 1] > 0).astype(int)] / np.abs(direction[:, 1])
    distance = np.minimum(ground, front)
    for x in rng.uniform(-40, 40, 12):  # parked cars, seen as vertical bands
        band = np.abs(a - np.arctan2(rng.choice([-4, 4]), x)) < 2 / np.hypot(x, 4)
        distance = np.where(band, np.minimum(distance, np.hypot(x, 4)), distance)
    distance += rng.normal(0, 0.02, len(distance))
    kept = (distance < 60) & (rng.random(len(distance)) < 0.9)
    points = direction[kept] * distance[kept, None]
    return np.column_stack([points, rng.random(len(points))]).astype(np.float32)


def gemm_rate(rows: int = 15_000, channels: int = 96) -> float:
    """GFLOP/s of a tall matrix product, best of ten."""
    a, b = torch.randn(rows, channels), torch.randn(channels, channels)
    best = min(_seconds(lambda: a @ b) for _ in range(10))
    return 2 * rows * channels**2 / best / 1e9


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class _Counter:
    """Counts the multiplications of every convolution of a network, from its real pairs."""

    def __init__(self, net: MinkUNet) -> None:
        self.flops = 0
        for module in net.modules():
            if isinstance(module, SparseConv):
                module.register_forward_hook(self._count)

    def _count(self, module: SparseConv, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        c_in, c_out = module.kernel.shape[-2:]
        pairs = inputs[1] if len(inputs) > 1 else None
        rows = len(output)
        if isinstance(pairs, KernelMap):
            rows = len(pairs.source) + (pairs.n_targets if pairs.centre is not None else 0)
        self.flops += 2 * rows * c_in * c_out


def benchmark(
    architecture: str = 'minkunet34_w32', voxel_size_m: float = 0.05, repeats: int = 3,
    threads: int = 0,
) -> None:  # fmt: skip
    """Time a lidar encoder against the floor of its multiplications.

    Args:
        architecture: minkunet34_w32, minkunet18_w32 or minkunet_tiny.
        voxel_size_m: Edge of a voxel.
        repeats: Scans per size; the median is printed.
        threads: Threads of torch; 0 leaves its default.
    """
    if threads:
        torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    net = MinkUNet(architecture)
    counter = _Counter(net)
    rate = gemm_rate()
    print(f'{architecture}, {torch.get_num_threads()} threads, GEMM {rate:.0f} GFLOP/s')
    print('| voxels | GFLOP | voxelize | forward | of GEMM rate | training step | of GEMM rate |')
    print('|---:|---:|---:|---:|---:|---:|---:|')
    for beams, columns in ((16, 250), (32, 780), (64, 2048)):
        rows = []
        for _ in range(repeats + 1):  # the first warms up
            points = scan(rng, beams, columns)
            voxel_s = _seconds(lambda p=points: voxelize(p, voxel_size_m))  # type: ignore[misc]
            voxels = voxelize(points, voxel_size_m)
            counter.flops = 0
            with torch.no_grad():
                forward_s = _seconds(lambda v=voxels: net.eval()(*batch_voxels([v])))  # type: ignore[misc]
            flops = counter.flops
            step_s = _seconds(lambda v=voxels: net.train()(*batch_voxels([v])).sum().backward())  # type: ignore[misc]
            rows.append((len(voxels.coords), flops / 1e9, voxel_s, forward_s, step_s))
        n, gflop, voxel_s, forward_s, step_s = np.median(rows[1:], axis=0)
        print(
            f'| {n:,.0f} | {gflop:.0f} | {voxel_s * 1e3:.1f} ms | {forward_s * 1e3:.0f} ms '
            f'| {gflop / forward_s / rate:.0%} | {step_s * 1e3:.0f} ms '
            f'| {3 * gflop / step_s / rate:.0%} |'
        )


if __name__ == '__main__':
    run_command(benchmark)
