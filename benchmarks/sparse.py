# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the sparse convolution is: against spconv, and against matrix multiplication alone.

The limit is the time that the multiplications alone would take: pairs of voxels times channels, at
the rate of large matrix products measured in the same run. Every timed call sees a new scan, since
a fixed one would flatter caches, and what is compared takes turns on the same scan. Times include
voxels to tensors and neighbour maps.

With one thread on a CPU, processor time is counted, so that other work on the machine disturbs
little. spconv's CPU build is right with one thread only.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

# A program runs one network; here four take turns, and the sizes that oneDNN has prepared for one
# would push those of the others out of its cache. Read when torch loads.
_CACHE = 'ONEDNN_PRIMITIVE_CACHE_CAPACITY'
os.environ.setdefault(_CACHE, '16384')

import torch
from torch import Tensor, nn

from training.allocator import keep_freed_memory
from training.cli import run_command
from training.models.minkunet import ARCHITECTURES, MinkUNet
from training.sparse import SparseGrid, Voxels, join_voxels, voxelize
from training.sparse.matmul import multiply

# About 3,000, 21,000 and 86,000 voxels of 5 cm.
_SCANS = {'3k': (16, 250), '20k': (32, 780), '86k': (64, 2048)}
_WARM_UP = 3


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


@dataclass
class Bench:
    """The networks with the same weights, and how they are timed.

    Attributes:
        net: In evaluation or training, as it comes.
        folded: Frozen, BatchNorm folded.
        bfloat16: The same in bfloat16.
        spconv: Of spconv's modules; None without spconv.
        device: Where they run.
        threads: Of torch.
    """

    net: MinkUNet
    folded: MinkUNet
    bfloat16: MinkUNet
    spconv: nn.Module | None
    device: torch.device
    threads: int

    def seconds(self, work: Callable[[], object]) -> float:
        """Time of a call."""
        one = self.device.type == 'cpu' and self.threads == 1
        clock = time.process_time if one else time.perf_counter
        self._wait()
        start = clock()
        work()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def batch(self, voxels: list[Voxels]) -> tuple[Tensor, Tensor]:
        """Coordinates and features on the device."""
        coords, features = join_voxels(voxels)
        return coords.to(self.device), features.to(self.device)

    def ours(self, net: MinkUNet, voxels: list[Voxels]) -> Tensor:
        """Run one of our networks, from the voxels."""
        coords, features = self.batch(voxels)
        return net(SparseGrid(coords, len(voxels)), features)

    def theirs(self, voxels: list[Voxels]) -> Tensor:
        """Run spconv's network, from the voxels."""
        assert self.spconv is not None
        coords, features = self.batch(voxels)
        return self.spconv(coords.int(), features, len(voxels))

    def evaluate(self, run: Callable[[], Tensor]) -> float:
        """Time of a forward pass."""
        for net in (self.net, self.spconv):
            if net is not None:
                net.eval()
        with torch.no_grad():
            return self.seconds(run)

    def train(self, run: Callable[[], Tensor]) -> float:
        """Time of a forward and a backward pass."""
        for net in (self.net, self.spconv):
            if net is not None:
                net.train().zero_grad()
        return self.seconds(lambda: run().sum().backward())

    def maps(self, voxels: list[Voxels]) -> float:
        """Time of building every map that the network needs, and the order of visiting it."""

        def build() -> None:
            coords, _ = self.batch(voxels)
            grid = SparseGrid(coords, len(voxels))
            for level in range(5):
                _ = grid.neighbours.chunks
                if level < 4:
                    grid, down = grid.coarser
                    _ = down.chunks, down.transposed.chunks

        return self.seconds(build)

    def rate(self, dtype: torch.dtype, rows: int = 4096, channels: int = 256) -> float:
        """GFLOP/s of a large matrix product, best of twenty."""
        a = torch.randn(rows, channels, device=self.device).to(dtype)
        b = torch.randn(channels, channels, device=self.device).to(dtype)
        out = torch.empty_like(a)
        best = min(self.seconds(lambda: multiply([a], [b], [out])) for _ in range(20))
        return 2 * rows * channels**2 / best / 1e9


def gflop(net: MinkUNet, coords: Tensor, batch_size: int) -> tuple[float, list[int]]:
    """Multiplications and additions of real pairs, in 1e9, and the voxels of each level."""
    w = ARCHITECTURES[net.architecture]
    grid = SparseGrid(coords, batch_size)
    pairs, voxels = [], []
    for _ in range(5):
        pairs.append(grid.neighbours.n_pairs)
        voxels.append(len(grid))
        grid, _ = grid.coarser
    total = pairs[0] * (net.conv_input[0].net[0].kernel.shape[1] * w.base + w.base**2)
    c, laterals = w.base, [w.base]
    for i, (c_out, blocks) in enumerate(zip(w.encoder, w.encoder_blocks, strict=True)):
        total += voxels[i] * c * c + _blocks(c, c_out, blocks, pairs[i + 1], voxels[i + 1])
        c = c_out
        laterals.append(c)
    for i, (c_out, blocks) in enumerate(zip(w.decoder, w.decoder_blocks, strict=True)):
        level = 3 - i
        joined = c_out + laterals[level]
        total += voxels[level] * c * c_out
        total += _blocks(joined, c_out, blocks, pairs[level], voxels[level])
        c = c_out
    return 2 * total / 1e9, voxels


def _blocks(c_in: int, c_out: int, blocks: int, pairs: int, voxels: int) -> int:
    shortcut = voxels * c_in * c_out if c_in != c_out else 0
    return pairs * (c_in * c_out + (2 * blocks - 1) * c_out**2) + shortcut


def benchmark(
    architecture: str = 'minkunet34_w32',
    voxel_size_m: float = 0.05,
    repeats: int = 3,
    threads: int = 1,
    device: Literal['auto', 'cpu', 'cuda'] = 'auto',
    sizes: list[str] | None = None,
    memory: bool = True,
) -> None:
    """Time a lidar encoder against spconv and against the floor of its multiplications.

    Args:
        architecture: minkunet34_w32, minkunet18_w32 or minkunet_tiny.
        voxel_size_m: Edge of a voxel.
        repeats: Scans per size; medians are printed.
        threads: Threads of torch; 0 leaves its default. spconv races at more than one on a CPU.
        device: Where to run; auto takes a GPU if there is one.
        sizes: Of 3k, 20k and 86k; all if not given.
        memory: Also measure the peak memory of training at 86k voxels, in processes of their own.
    """
    if threads:
        torch.set_num_threads(threads)
    bench = _networks(architecture, device)
    rates = {d: bench.rate(d) for d in (torch.float32, torch.bfloat16)}
    print(
        f'{architecture} on {bench.device}, {bench.threads} thread(s); matrix products '
        f'{rates[torch.float32]:.0f} GFLOP/s in float32, {rates[torch.bfloat16]:.0f} in bfloat16'
    )
    if bench.spconv is None:
        print('without spconv (pip install spconv): no comparison')
    rng = np.random.default_rng(0)
    print(
        '| voxels | GFLOP | what | ms | spconv, ms | times as fast | of the rate |\n'
        '|---:|---:|---|---:|---:|---:|---:|'
    )
    shares = []
    for size in sizes or list(_SCANS):
        shares.append(_measure(bench, size, voxel_size_m, repeats, rng, rates))
    print('\n| voxels | voxelization, ms | of folded | maps, ms | of eval | ns per voxel, eval |')
    print('|---:|---:|---:|---:|---:|---:|')
    print('\n'.join(shares))
    _batches(bench, voxel_size_m, repeats, rng)
    if memory:
        _memory(architecture, voxel_size_m, bench.device)


def _networks(architecture: str, device: str) -> Bench:
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    where = torch.device(device)
    net = MinkUNet(architecture)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):  # as after training, not as made
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_(0, 0.1)
    frozen = [MinkUNet(architecture, frozen=True, precision=p) for p in ('float32', 'bfloat16')]
    for other in frozen:
        other.load_state_dict(net.state_dict())
    spconv: nn.Module | None = None
    try:
        from benchmarks.sparse_spconv import SpconvMinkUNet

        spconv = SpconvMinkUNet(net).to(where)
    except Exception as error:  # also what fails to link
        print('spconv does not load:', f'{type(error).__name__}: {error}'.splitlines()[0])
    threads = torch.get_num_threads()
    folded, bfloat16 = (other.to(where) for other in frozen)
    return Bench(net.to(where), folded, bfloat16, spconv, where, threads)


def _measure_once(
    bench: Bench, points: np.ndarray, voxel_size_m: float, turn: int
) -> dict[str, float]:
    """Times of everything on one scan, in an order that depends on the turn."""
    voxels = [voxelize(points, voxel_size_m)]
    coords, _ = bench.batch(voxels)
    work, levels = gflop(bench.net, coords, 1)
    now = {
        'voxelize': bench.seconds(lambda: voxelize(points, voxel_size_m)),
        'maps': bench.maps(voxels),
        'gflop': work,
        'voxels': levels[0],
    }
    runs: dict[str, Callable[[], Tensor]] = {
        'eval': lambda: bench.ours(bench.net, voxels),
        'folded': lambda: bench.ours(bench.folded, voxels),
        'folded, bfloat16': lambda: bench.ours(bench.bfloat16, voxels),
        'train': lambda: bench.ours(bench.net, voxels),
    }
    if bench.spconv is not None:
        runs['spconv eval'] = runs['spconv train'] = lambda: bench.theirs(voxels)
    names = list(runs)
    turn %= len(names)
    for name in names[turn:] + names[:turn]:
        now[name] = (bench.train if 'train' in name else bench.evaluate)(runs[name])
    return now


def _measure(
    bench: Bench,
    size: str,
    voxel_size_m: float,
    repeats: int,
    rng: np.random.Generator,
    rates: dict[torch.dtype, float],
) -> str:
    """Print a size's rows; return its row of the second table."""
    times: dict[str, list[float]] = {}
    # Sizes of products that were never seen cost a preparation that a running program has behind
    # it; spconv prepares nothing.
    for _ in range(_WARM_UP):
        voxels = [voxelize(scan(rng, *_SCANS[size]), voxel_size_m)]
        for net in (bench.net, bench.folded, bench.bfloat16):
            bench.evaluate(lambda n=net, v=voxels: bench.ours(n, v))  # type: ignore[misc]
        bench.train(lambda v=voxels: bench.ours(bench.net, v))  # type: ignore[misc]
    for i in range(repeats + 1):  # the first warms up, too
        now = _measure_once(bench, scan(rng, *_SCANS[size]), voxel_size_m, i)
        if i:
            for key, value in now.items():
                times.setdefault(key, []).append(value)
    median = {k: float(np.median(v)) for k, v in times.items()}
    for name in ('eval', 'folded', 'folded, bfloat16', 'train'):
        rival = 'spconv train' if name == 'train' else 'spconv eval'
        rate = rates[torch.bfloat16 if 'bfloat16' in name else torch.float32]
        work = (3 if name == 'train' else 1) * median['gflop']
        ratio = theirs = '-'
        if rival in median:
            ratio = f'{np.median(np.array(times[rival]) / times[name]):.2f}'
            theirs = f'{median[rival] * 1e3:.0f}'
        print(
            f'| {median["voxels"]:,.0f} | {work:.0f} | {name} | {median[name] * 1e3:.0f} '
            f'| {theirs} | {ratio} | {work / median[name] / rate:.0%} |',
            flush=True,
        )
    return (
        f'| {median["voxels"]:,.0f} | {median["voxelize"] * 1e3:.1f} '
        f'| {median["voxelize"] / median["folded"]:.1%} | {median["maps"] * 1e3:.1f} '
        f'| {median["maps"] / median["eval"]:.1%} '
        f'| {median["eval"] / median["voxels"] * 1e9:.0f} |'
    )


def _batches(bench: Bench, voxel_size_m: float, repeats: int, rng: np.random.Generator) -> None:
    """Print how the time of a sample changes with the samples of a batch."""
    print('\n| samples of 3k voxels | eval, ms per sample | folded, ms per sample |')
    print('|---:|---:|---:|')
    for samples in (1, 2, 4, 8):
        rows = []
        for _ in range(repeats + 1):
            voxels = [voxelize(scan(rng, *_SCANS['3k']), voxel_size_m) for _ in range(samples)]
            rows.append(
                [
                    bench.evaluate(lambda n=net, v=voxels: bench.ours(n, v)) / samples  # type: ignore[misc]
                    for net in (bench.net, bench.folded)
                ]
            )
        plain, folded = np.median(rows[1:], axis=0) * 1e3
        print(f'| {samples} | {plain:.0f} | {folded:.0f} |', flush=True)


def _memory(architecture: str, voxel_size_m: float, device: torch.device) -> None:
    """Print the peak memory of a training step at 86k voxels."""
    os.environ.pop(
        _CACHE, None
    )  # one network in a process of its own needs no more than the default
    print('\n| training step at 86k voxels | peak memory, GB | s |')
    print('|---|---:|---:|')
    for checkpointed in (False, True):
        context = multiprocessing.get_context('spawn')
        with context.Pool(1) as pool:
            peak, seconds = pool.apply(
                _train_once, (architecture, voxel_size_m, device.type, checkpointed)
            )
        name = 'activation checkpointing' if checkpointed else 'all activations kept'
        print(f'| {name} | {peak:.1f} | {seconds:.1f} |', flush=True)


def _train_once(
    architecture: str, voxel_size_m: float, device: str, checkpointed: bool
) -> tuple[float, float]:
    """Train two steps; the peak memory in GB, and seconds of the second."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do
    net = MinkUNet(architecture, checkpoint_activations=checkpointed).to(device)
    optimizer = torch.optim.AdamW(net.parameters())
    rng = np.random.default_rng(0)
    start = 0.0
    for _ in range(2):
        start = time.process_time()
        coords, features = join_voxels([voxelize(scan(rng, *_SCANS['86k']), voxel_size_m)])
        grid = SparseGrid(coords.to(device), 1)
        net(grid, features.to(device)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.process_time() - start
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e9, seconds
    return _peak_memory(), seconds


def _peak_memory() -> float:
    """Peak of this process in GB; getrusage would count that of the process it came from, too."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) * 1024 / 1e9


if __name__ == '__main__':
    run_command(benchmark)
