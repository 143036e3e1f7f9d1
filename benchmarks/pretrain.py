# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a step of pretraining costs beyond the bare forward and backward of the two encoders.

One run of the real trainer, with everything that training/pretrain.py does in a step: heads, loss
over all pairs, clipping, optimizer, checks, metrics. Before each step the two encoders run alone
on the same batch, so that whatever else the machine does meets both alike. On a CPU processor time
is compared; on a GPU wall time, and throughput, memory and model FLOPs utilisation are told. With
--pairs the loader is measured instead: real batches, read ahead by workers.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from clcp_ros.errors import ModelError
from training.callbacks import Speed
from training.cli import run_command
from training.hardware import HardwareConfig
from training.loop import RunData, StepBatches, fit, make_trainer, prepare_run, read_metrics
from training.methods import find_method
from training.methods.base import Method, Setup
from training.methods.config import ModelConfig, OptimizerConfig
from training.models.lidar.base import mean_per_sample
from training.pairs.contrastive import ViewConfig
from training.pairs.pair_set import PairSet
from training.pretrain import PairData

SKIPPED = 3
"""Steps at the beginning that fill caches and choose kernels."""

PEAKS = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12, 'L40S': 362e12, 'A10': 125e12}
"""Dense bfloat16 FLOP/s, from the makers' data sheets."""


class Point(NamedTuple):
    """Seconds of one step."""

    bare: float
    step: float
    wall: float


class Repeated(Dataset[dict[str, Any]]):
    """A few synthetic samples again and again, ready made: the loader costs nothing.

    Args:
        method: Says how points are prepared.
        points: Per scan.
        count: Different samples.
    """

    def __init__(self, method: Method, points: int, count: int) -> None:
        rng = np.random.default_rng(0)
        size = method.setup_.views.image_size
        self.samples = []
        for i in range(count):
            cloud = street(rng, points)
            self.samples.append(
                {
                    'image': rng.normal(size=(3, size, size)).astype(np.float32),
                    'lidar': method.lidar_encoder.preparation(cloud),
                    'sequence': i,
                    'time_s': float(i),
                }
            )

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        return self.samples[item[0] % len(self.samples)]


def street(rng: np.random.Generator, points: int) -> np.ndarray:
    """A road and walls along it as a lidar sees them in the camera's view: (N, 4) float32."""
    forward = 3 + 47 * rng.random(points) ** 2
    wall = rng.random(points) < 0.4
    side = np.where(wall, rng.choice([-7.0, 7.0], points), rng.uniform(-7, 7, points))
    height = np.where(wall, rng.uniform(-1.7, 3, points), -1.7)
    noise = rng.normal(0, 0.02, (points, 3))
    xyz = np.stack([forward, side, height], axis=1) + noise
    return np.column_stack([xyz, rng.random(points)]).astype(np.float32)


class Bare(Callback):
    """Runs the encoders alone before each step, and times both.

    Args:
        bare: Computes and differentiates the encoders' features of a batch.
    """

    def __init__(self, bare: Callable[[Method, list[Any]], None]) -> None:
        self.bare, self.points = bare, []  # type: ignore[var-annotated]
        self._ended = (0.0, 0.0)
        self._cost = (0.0, 0.0)

    def on_train_start(self, *_: Any) -> None:
        """Begin."""
        self._ended = now()

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, _: int
    ) -> None:
        """The encoders alone."""
        began = now()
        self.bare(module, batch)  # type: ignore[arg-type]
        module.zero_grad()
        ended = now()
        self._cost = ended[0] - began[0], ended[1] - began[1]

    def on_train_batch_end(self, *_: Any) -> None:
        """The rest is the step."""
        ended = now()
        cpu, wall = (b - a - c for a, b, c in zip(self._ended, ended, self._cost, strict=True))
        on_gpu = torch.cuda.is_available()
        self.points.append(
            Point(self._cost[1], wall, wall) if on_gpu else Point(self._cost[0], cpu, wall)
        )
        self._ended = ended


def now() -> tuple[float, float]:
    """Processor and wall time, with nothing left on the way."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def encoders_alone(precision: str) -> Callable[[Method, list[Any]], None]:
    """The forward and backward that a step cannot do without.

    Args:
        precision: Of the run.
    """

    def run(method: Method, batch: list[Any]) -> None:
        for chunk in batch:
            device = chunk['image'].device
            with torch.autocast(device.type, torch.bfloat16, enabled='bf16' in precision):
                image: Tensor = method.encode_image(chunk['image']).pooled
                tokens, sample = method.encode_lidar(chunk)
                lidar = mean_per_sample(tokens, sample, len(image))
            (image.float().square().sum() + lidar.float().square().sum()).backward()

    return run


def benchmark(
    size: Literal['small', 'thesis'] = 'small',
    method: str = 'clcp',
    batch_size: int = 32,
    chunk: int = 0,
    steps: int = 20,
    precision: str = '32-true',
    compile: bool = False,
    peak: float = 0.0,
    pairs: Path | None = None,
    workers: int = -1,
) -> None:
    """Measure.

    Args:
        size: small is the command's defaults; thesis is ViT-S at 224 with MinkUNet34-W32.
        method: Pretraining method.
        batch_size: Pairs.
        chunk: Pairs at once; 0 for all.
        steps: How many are measured.
        precision: Such as bf16-mixed.
        compile: Compile the image encoder.
        peak: FLOP/s of the GPU; 0 looks it up.
        pairs: A pair set to read, to measure the loader; synthetic batches otherwise.
        workers: Of the loader, with `pairs`; -1 for as many as the machine suggests.
    """
    if steps < 3:
        raise ModelError('--steps must be at least 3')
    model, views = ModelConfig(), ViewConfig()
    if size == 'thesis':
        model = ModelConfig(
            image_encoder='vit_small_patch16_224', lidar_encoder='minkunet34_w32', embed_dim=384
        )
        views = ViewConfig(image_size=224, voxel_size_m=0.05, max_voxels=80_000)
    hardware = HardwareConfig(compile=compile)
    total = steps + SKIPPED
    torch.manual_seed(0)
    module = find_method(method).make(Setup(model, OptimizerConfig(), views, total))
    if compile:
        module.image_encoder.compile()
    bare = Bare(encoders_alone(precision))
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_run(Path(folder), {}, 'result', overwrite=True)
        if pairs is None:
            samples = Repeated(module, 2500 if size == 'small' else 8200, 2 * batch_size)
            batches = StepBatches(np.arange(2 * batch_size), batch_size, total, 0)
            data: RunData = RunData(samples, batches, _joined(module, chunk), 0)
        else:
            pair_set = PairSet(pairs)
            batches = StepBatches(pair_set.rows(split='train'), batch_size, total, 0)
            count = hardware.loader_workers() if workers < 0 else workers
            data = PairData(module, pair_set, np.zeros(0, int), batches, chunk, count)
        speed: list[Callback] = [Speed(batches.batch_size)]
        # With a pair set the steps run as they do in training, nothing between them.
        trainer = make_trainer(
            run, max_steps=total, seed=0, validate_every=0, checkpoint_every=10**9,
            precision=precision, callbacks=speed if pairs else [*speed, bare], hardware=hardware,
        )  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        fit(trainer, module, data)
        rows = read_metrics(Path(folder) / 'metrics.csv')
    print()
    if pairs is None:
        _tell_steps(bare.points[SKIPPED:])
    _tell_run(rows)
    if torch.cuda.is_available():
        _tell_gpu(module, data, rows, peak)


def _joined(module: Method, chunk: int) -> Callable[[list[Any]], list[Any]]:
    collate = module.collate

    def join(samples: list[Any]) -> list[Any]:
        size = chunk or len(samples)
        return [collate(samples[i : i + size]) for i in range(0, len(samples), size)]

    return join


def _tell_steps(points: list[Point]) -> None:
    bare, step = (np.array([p[i] for p in points]) for i in (0, 1))
    kind = 'wall' if torch.cuda.is_available() else 'processor'
    ratios = step / bare
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(
        f'encoders alone {np.median(bare):.3f} s, training step {np.median(step):.3f} s '
        f'({kind} time, medians of {len(points)}): {middle - 1:+.1%} '
        f'(quartiles {low - 1:+.1%} to {high - 1:+.1%})'
    )


def _tell_run(rows: list[tuple[int, str, float]]) -> None:
    """Throughput, and how long the loader kept steps waiting, over all steps but the first."""
    kept = {n: [v for s, m, v in rows if m == n and s > SKIPPED] for n in ('step_s', 'waited')}
    seconds, waited = np.array(kept['step_s']), np.array(kept['waited'])
    rate = [v for s, m, v in rows if m == 'pairs_per_s' and s > SKIPPED]
    print(
        f'{np.median(rate):.4g} pairs/s, {(seconds * waited).sum() / seconds.sum():.1%} of the '
        'time waiting for the loader'
    )


def _tell_gpu(
    module: Method, data: RunData, rows: list[tuple[int, str, float]], peak: float
) -> None:
    name = torch.cuda.get_device_name()
    memory = torch.cuda.max_memory_allocated() / 2**30
    peak = peak or next((v for k, v in PEAKS.items() if k in name), 0.0)
    module = module.cuda().train()
    first = data.collate([data.samples[i] for i in data.batches.batch(0)])
    chunks = [_moved(chunk) for chunk in first]
    with FlopCounterMode(display=False) as counter:
        encoders_alone('bf16-mixed')(module, chunks)
    flops = counter.get_total_flops()
    seconds = float(np.median([v for s, m, v in rows if m == 'step_s' and s > SKIPPED]))
    text = f'{name}: {memory:.1f} GiB, {flops / 1e12:.2f} TFLOP a step'
    if peak:
        text += f', utilisation {flops / seconds / peak:.1%} of {peak / 1e12:.0f} TFLOP/s'
    print(text)


def _moved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cuda()
    return {k: _moved(v) for k, v in value.items()} if isinstance(value, dict) else value


if __name__ == '__main__':
    run_command(benchmark)
