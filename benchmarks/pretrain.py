# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a step of pretraining costs beyond the bare forward and backward of the two encoders.

One run of the real trainer, with everything that training/pretrain.py does in a step: heads, loss
over all pairs, clipping, optimizer, checks, metrics. Before each step the two encoders run alone
on the same batch, so that whatever else the machine does meets both alike. On a CPU processor time
is compared; on a GPU wall time, and throughput, memory and model FLOPs utilisation are told. With
--pairs the loader is measured instead: real batches, read ahead by workers. With --memory it is
the peak of memory of a chunk, of a large batch in such chunks, and of the same batch whole, and
how far the gradients of the two differ.
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
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from clcp_ros.errors import ModelError
from training.allocator import keep_freed_memory
from training.callbacks import Speed
from training.cli import run_command
from training.hardware import HardwareConfig
from training.loop import RunData, StepBatches, fit, make_trainer, prepare_run, read_metrics
from training.methods import find_method
from training.methods.base import Method, Setup
from training.methods.config import ModelConfig, OptimizerConfig
from training.models.lidar.base import mean_per_sample
from training.pairs.contrastive import Extras, ViewConfig
from training.pairs.pair_set import PairSet
from training.pretrain import PairData, in_chunks, speed

Size = Literal['small', 'thesis', 'vit']

POINTS = {'small': 2500, 'thesis': 8200, 'vit': 2500}
"""Of a synthetic scan."""

SKIPPED = 3
"""Steps at the beginning that fill caches and choose kernels."""

PEAKS = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12, 'L40S': 362e12, 'A10': 125e12}
"""Dense bfloat16 FLOP/s, from the makers' data sheets."""


class Point(NamedTuple):
    """Seconds of one step: processor time on a CPU, wall time with a GPU."""

    bare: float
    step: float


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
                    **seen(cloud, rng, size, method.extras),
                }
            )

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        return self.samples[item[0] % len(self.samples)]


def seen(
    cloud: np.ndarray, rng: np.random.Generator, size: int, extras: Extras
) -> dict[str, np.ndarray | float]:
    """What a method asks for beside image and points, see `ContrastivePairs`.

    Args:
        cloud: (N, 4) of `street`, seen by a camera in the origin with a view of 53 degrees.
        rng: Source of the clean image.
        size: Of the image.
        extras: What is asked for.
    """
    x, y, z, intensity = cloud.T
    found: dict[str, np.ndarray | float] = {}
    if extras.clean:
        found['clean'] = rng.normal(size=(3, size, size)).astype(np.float32)
    if extras.points:
        uv = np.column_stack([0.5 - y / x, 0.5 - z / x])
        found |= {'uv': uv, 'visible': np.all((uv >= 0) & (uv < 1), axis=1)}
    if extras.geometry:
        distance = np.linalg.norm(cloud[:, :3], axis=1)
        up = np.tile(np.array([0, 0, 1], np.float32), (len(cloud), 1))
        found['geometry'] = np.column_stack([np.log(distance), z + 1.7, up, intensity])
    if extras.reach:
        found['reach'] = 0.3
    return found


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
        self._ended = self._cost = 0.0

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
        self._cost = now() - began

    def on_train_batch_end(self, *_: Any) -> None:
        """The rest is the step."""
        ended = now()
        self.points.append(Point(self._cost, ended - self._ended - self._cost))
        self._ended = ended


def now() -> float:
    """Seconds of processor time, or of wall time with a GPU and nothing left on the way."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


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


def make_method(size: Size, method: str, steps: int) -> Method:
    """The method to measure, the same each time.

    Args:
        size: Of its encoders.
        method: Its name.
        steps: Of the run.
    """
    model, views = ModelConfig(), ViewConfig()
    if size == 'thesis':
        model = ModelConfig(
            image_encoder='vit_small_patch16_224', lidar_encoder='minkunet34_w32', embed_dim=384
        )
        views = ViewConfig(image_size=224, voxel_size_m=0.05, max_voxels=80_000)
    elif size == 'vit':
        model = ModelConfig(
            image_encoder='test_vit', lidar_encoder='range_test_vit',
            lidar_settings={'image_size': (96, 96)},
        )  # fmt: skip
        views = ViewConfig(image_size=96)
    torch.manual_seed(0)
    return find_method(method).make(Setup(model, OptimizerConfig(), views, steps))


def benchmark(
    size: Size = 'small',
    method: str = 'clcp',
    batch_size: int = 32,
    chunk: int = 0,
    steps: int = 20,
    precision: str = '32-true',
    compile: bool = False,
    peak: float = 0.0,
    pairs: Path | None = None,
    workers: int = -1,
    memory: bool = False,
) -> None:
    """Measure.

    Args:
        size: small is the command's defaults; thesis is ViT-S at 224 with MinkUNet34-W32; vit is
            two of timm's test_vit, on images and range images of 96 pixels, without BatchNorm.
        method: Pretraining method.
        batch_size: Pairs.
        chunk: Pairs at once; 0 for all.
        steps: How many are measured.
        precision: Such as bf16-mixed.
        compile: Compile the image encoder.
        peak: FLOP/s of the GPU; 0 looks it up.
        pairs: A pair set to read, to measure the loader; synthetic batches otherwise.
        workers: Of the loader, with `pairs`; -1 for as many as the machine suggests.
        memory: Measure memory instead: batches of `chunk` pairs, and of `batch_size` pairs in
            chunks and whole.
    """
    if memory:
        compare_memory(size, method, batch_size, chunk, precision)
        return
    if steps < 3:
        raise ModelError('--steps must be at least 3')
    hardware = HardwareConfig(compile=compile)
    total = steps + SKIPPED
    module = make_method(size, method, total)
    if compile:
        module.image_encoder.compile()
    bare = Bare(encoders_alone(precision))
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_run(Path(folder), {}, 'result', overwrite=True)
        if pairs is None:
            samples = Repeated(module, POINTS[size], 2 * batch_size)
            batches = StepBatches(np.arange(2 * batch_size), batch_size, total, 0)
            join = partial(in_chunks, collate=module.collate, chunk=chunk)
            data: RunData = RunData(samples, batches, join, 0)
        else:
            pair_set = PairSet(pairs)
            batches = StepBatches(pair_set.rows(split='train'), batch_size, total, 0)
            count = hardware.loader_workers() if workers < 0 else workers
            data = PairData(module, pair_set, np.zeros(0, int), batches, chunk, count)
        own: list[Callback] = [Speed(batches.batch_size)]
        # With a pair set the steps run as they do in training, nothing between them.
        trainer = make_trainer(
            run, max_steps=total, seed=0, validate_every=0, checkpoint_every=10**9,
            precision=precision, callbacks=own if pairs else [*own, bare], hardware=hardware,
        )  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        fit(trainer, module, data)
        rows = read_metrics(Path(folder) / 'metrics.csv')
    print()
    if pairs is None:
        _tell_steps(bare.points[SKIPPED:])
    print(speed(rows, SKIPPED))
    if torch.cuda.is_available():
        _tell_gpu(module, data, rows, peak)


class Memory(Callback):
    """Measures what a step takes beyond what stands before it, and keeps its gradient.

    Attributes:
        before: Bytes before the first step.
        seconds: Of the last step, see `now`.
        gradient: (N,) of the first step, all parameters one after the other.
    """

    def __init__(self) -> None:
        self.before, self.seconds = 0, 0.0
        self.gradient = torch.zeros(0)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin."""
        if trainer.global_step == 0:
            self.before = memory_now()[0]
        self._began = now()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the gradient, before it is clipped."""
        if trainer.global_step == 0:
            trained = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.gradient = torch.cat([g.flatten().cpu() for g in trained])

    def on_train_batch_end(self, *_: Any) -> None:
        """End."""
        self.seconds = now() - self._began


def memory_now() -> tuple[int, int]:
    """Bytes in use and their peak so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    lines = Path('/proc/self/status').read_text().splitlines()
    sizes = {line.split(':')[0]: line.split()[1] for line in lines if line.endswith(' kB')}
    return 1024 * int(sizes['VmRSS']), 1024 * int(sizes['VmHWM'])


def compare_memory(size: Size, method: str, batch_size: int, chunk: int, precision: str) -> None:
    """Tell the peaks of memory of a chunk, of a batch in chunks, and of the batch at once.

    Args:
        size: Of the encoders.
        method: Pretraining method.
        batch_size: Pairs of the large batch.
        chunk: Pairs of a chunk.
        precision: Of the run.

    Raises:
        ModelError: Sizes that are no batch and its chunk.
    """
    if not 2 <= chunk < batch_size:
        raise ModelError('--memory compares chunks with the whole: --batch_size 768 --chunk 64')
    print(f'{"pairs":>6} {"at once":>8} {"peak MiB":>10} {"step MiB":>10} {"s a pair":>9}')
    gradients, per_pair = [], 0.0
    for pairs, at_once in ((chunk, chunk), (batch_size, chunk), (batch_size, batch_size)):
        if at_once > chunk and (needed := per_pair * pairs) > 0.9 * _memory_free():
            print(f'{pairs:>6} {at_once:>8} does not fit: about {needed / 2**20:,.0f} MiB')
            continue
        # Each in a process of its own: what one has freed, another would not ask for again.
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
            settings = (size, method, pairs, at_once, batch_size, precision)
            before, peak, seconds, gradient = process.submit(measure_memory, *settings).result()
        per_pair = per_pair or (peak - before) / pairs
        print(
            f'{pairs:>6} {at_once:>8} {peak / 2**20:>10,.0f} {(peak - before) / 2**20:>10,.0f} '
            f'{seconds / pairs:>9.4f}'
        )
        gradients.append(gradient)
    if len(gradients) == 3:
        _, chunked, whole = gradients
        difference = np.linalg.norm(chunked - whole) / np.linalg.norm(whole)
        print(f'the gradient in chunks differs from the whole one by {difference:.1e} of its norm')


def measure_memory(
    size: Size, method: str, pairs: int, chunk: int, samples: int, precision: str
) -> tuple[int, int, float, np.ndarray]:
    """Two steps of the real trainer, to be called in a process of its own.

    Args:
        size: Of the encoders.
        method: Pretraining method.
        pairs: Of a step.
        chunk: Pairs at once.
        samples: Different ones.
        precision: Of the run.

    Returns:
        Bytes before the first step, their peak, seconds of the second step, and the gradient of
        the first.
    """
    keep_freed_memory()  # as every command does
    module = make_method(size, method, 2)
    batches = StepBatches(np.arange(samples), pairs, 2, 0)
    join = partial(in_chunks, collate=module.collate, chunk=chunk)
    data = RunData(Repeated(module, POINTS[size], samples), batches, join, 0)
    measured = Memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            prepare_run(Path(folder), {}, 'result', overwrite=True), max_steps=2, seed=0,
            validate_every=0, checkpoint_every=10**9, precision=precision, callbacks=[measured],
        )  # fmt: skip
        fit(trainer, module, data)
    return measured.before, memory_now()[1], measured.seconds, measured.gradient.numpy()


def _memory_free() -> int:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    lines = Path('/proc/meminfo').read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith('MemAvailable'))


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


def _tell_gpu(
    module: Method, data: RunData, rows: list[tuple[int, str, float]], peak: float
) -> None:
    name = torch.cuda.get_device_name()
    memory = torch.cuda.max_memory_allocated() / 2**30
    peak = peak or next((v for k, v in PEAKS.items() if k in name), 0.0)
    module = module.cuda().train()
    first = data.collate([data.samples[i] for i in data.batches.batch(0)])
    chunks = move_data_to_device(first, torch.device('cuda'))
    with FlopCounterMode(display=False) as counter:
        encoders_alone('bf16-mixed')(module, chunks)
    flops = counter.get_total_flops()
    seconds = float(np.median([v for s, m, v in rows if m == 'step_s' and s > SKIPPED]))
    text = f'{name}: {memory:.1f} GiB, {flops / 1e12:.2f} TFLOP a step'
    if peak:
        text += f', utilisation {flops / seconds / peak:.1%} of {peak / 1e12:.0f} TFLOP/s'
    print(text)


if __name__ == '__main__':
    run_command(benchmark)
