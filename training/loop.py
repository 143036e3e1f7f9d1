# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What training runs share: batches that depend on the step alone, metrics, checkpoints, resume.

A run that was interrupted and resumed gives the same weights as one that was not: which samples a
step sees, how they are augmented and what the step draws at random all follow from the seed and
the number of the step.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Sampler

from clcp_ros.errors import ModelError
from training.averaging import MovingAverage
from training.callbacks import MetricsFile, Progress, SeededSteps, read_metrics
from training.checkpoints import AtomicCheckpoints, Best, Checkpoints
from training.cli import atomic_path
from training.hardware import HardwareConfig
from training.loggers import MLFLOW_RUN, check_loggers, make_loggers, start_loggers
from training.nonfinite import FiniteSteps
from training.pairs.batches import Spacing

__all__ = [
    'CHECKPOINT',
    'METRICS',
    'Run',
    'RunData',
    'StepBatches',
    'fit',
    'make_trainer',
    'prepare_run',
    'read_metrics',
    'to_settings',
]

CHECKPOINT = 'last.ckpt'
SETTINGS = 'settings.json'
METRICS = 'metrics.csv'


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (position, seed) pairs, one per step of the whole run.

    Positions are shuffled anew in every pass over them; a pass ends with its last whole batch. All
    ranks compute the same batches and take every `world_size`-th sample of them.

    Args:
        positions: (N,) what to draw from.
        batch_size: Samples per step over all ranks; at most N.
        max_steps: Steps of the run.
        seed: Seed of the run.
        start: Step to start at, for resuming.
        rank: This process.
        world_size: Number of processes.
        spacing: Keeps samples apart that must not meet in a batch; one entry per position.

    Raises:
        PairSetError: The spacing asks for batches that do not exist.
    """

    def __init__(
        self,
        positions: np.ndarray,
        batch_size: int,
        max_steps: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        spacing: Spacing | None = None,
    ) -> None:
        self.positions = np.asarray(positions)
        self.batch_size = min(batch_size, len(self.positions))
        self.max_steps = max_steps
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.spacing = spacing
        if spacing is not None:
            spacing.check(self.batch_size)
        self._pass: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        # Lightning counts the steps before a resume as fetched, so the whole run is the length.
        return self.max_steps

    def divide(self, rank: int, world_size: int) -> None:
        """Take one rank's share of the batches; all shares are equally large.

        Args:
            rank: This process.
            world_size: Number of processes.

        Raises:
            ModelError: The batch size is no multiple of the number of processes.
        """
        if self.batch_size % world_size:
            raise ModelError(
                f'a batch of {self.batch_size} cannot be divided among {world_size} processes; '
                f'choose a multiple of {world_size}, as --batch_size '
                f'{max(self.batch_size // world_size, 1) * world_size}'
            )
        self.rank, self.world_size = rank, world_size

    @property
    def steps_per_pass(self) -> int:
        """Steps in one pass over the positions."""
        return len(self.positions) // self.batch_size

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The samples of a step and a seed for each."""
        passes, i = divmod(step, self.steps_per_pass)
        chosen = self._order(passes)[i * self.batch_size : (i + 1) * self.batch_size]
        seeds = np.random.default_rng((self.seed, 1, step)).integers(0, 2**31, len(chosen))
        mine = slice(self.rank, None, self.world_size)
        return [(int(p), int(s)) for p, s in zip(chosen[mine], seeds[mine], strict=True)]

    def _order(self, passes: int) -> np.ndarray:
        """The positions in the order of a pass."""
        if self._pass is None or self._pass[0] != passes:
            rng = np.random.default_rng((self.seed, 0, passes))
            if self.spacing is None:
                order = rng.permutation(self.positions)
            else:
                order = self.positions[self.spacing.order(self.batch_size, rng)]
            self._pass = passes, order
        return self._pass[1]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.batch(step) for step in range(self.start, self.max_steps))


class RunData(L.LightningDataModule):
    """The loaders of a run; a resumed run goes on with the batch that comes next.

    Args:
        samples: Training samples, asked for by (position, seed).
        batches: The batches of the run.
        collate: Joins the samples of a batch.
        workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        samples: Dataset[Any],
        batches: StepBatches,
        collate: Callable[[list[Any]], Any],
        workers: int,
    ) -> None:
        super().__init__()
        self.samples, self.batches = samples, batches
        self.collate, self.workers = collate, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the trainer's step on, this rank's part of them."""
        assert self.trainer is not None
        self.batches.start = self.trainer.global_step
        self.batches.divide(self.trainer.global_rank, self.trainer.world_size)
        return TimedLoader(
            self.samples,
            batch_sampler=self.batches,
            collate_fn=self.collate,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if self.workers else None,
            persistent_workers=self.workers > 0,
        )


class TimedLoader(DataLoader[Any]):
    """A loader that knows how long it let others wait."""

    _waited = 0.0

    def __iter__(self) -> Any:
        batches = super().__iter__()
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield batch

    def take_waited(self) -> float:
        """Seconds of waiting since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder, and what to do with it.

    Attributes:
        out: The folder.
        settings: Everything that the result depends on, as JSON text.
        result: The file that exists when the run is finished.
        state: `new`, `resume` or `done`.
    """

    out: Path
    settings: str
    result: Path
    state: str

    @rank_zero_only
    def begin(self) -> None:
        """Make the folder, and clear it for a new run. Nothing is written before."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.state == 'new':
            old = (CHECKPOINT, Best.FILE, METRICS, MLFLOW_RUN, self.result.name)
            for path in (self.out / name for name in old):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.out / 'tensorboard', ignore_errors=True)
        with atomic_path(self.out / SETTINGS) as temporary:
            temporary.write_text(self.settings)


def prepare_run(out: Path, settings: dict[str, Any], result: str, overwrite: bool) -> Run:
    """Decide what to do with a run's folder.

    Args:
        out: Folder of the run.
        settings: Everything that the result depends on; JSON-serialisable.
        result: Name of the file that exists when the run is finished.
        overwrite: Start anew whatever is there.

    Returns:
        The run; `make_trainer` begins it.

    Raises:
        ModelError: The folder holds a run with other settings, or none that can be read.
    """
    text = json.dumps(settings, indent=2, default=str) + '\n'
    run = Run(out, text, out / result, 'new')
    finished, begun = run.result.is_file(), (out / CHECKPOINT).is_file()
    if overwrite or not (finished or begun) or not (out / SETTINGS).is_file():
        return run
    # Not the texts: 0 and 0.0 are the same.
    old, new = _read_settings(out / SETTINGS), json.loads(text)
    if old != new:
        changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
        raise ModelError(
            f'{out} holds a run with other settings ({", ".join(changed)} differ); '
            'choose another --out, or add --overwrite'
        )
    return dataclasses.replace(run, state='done' if finished else 'resume')


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        content = error
    if not isinstance(content, dict):
        raise ModelError(
            f'{path} is damaged, so nobody knows what the run in the folder is; choose another '
            '--out, or add --overwrite'
        )
    return content


def make_trainer(
    run: Run,
    *,
    max_steps: int,
    seed: int,
    validate_every: int,
    checkpoint_every: int,
    precision: str = '32-true',
    gradient_clip: float = 1.0,
    ema: float = 0.0,
    tolerance: int = 0,
    callbacks: Sequence[Callback] = (),
    watchers: Sequence[Callback] = (),
    loggers: str = '',
    hardware: HardwareConfig | None = None,
) -> L.Trainer:
    """Begin a run: a Lightning trainer that counts steps, writes `last.ckpt` and `metrics.csv`.

    Args:
        run: From `prepare_run`.
        max_steps: Steps of the whole run.
        seed: Seed of the run.
        validate_every: Steps between validations; 0 for none.
        checkpoint_every: Steps between checkpoints.
        precision: Lightning's name of a precision, such as `bf16-mixed`.
        gradient_clip: Largest norm of the gradient; 0 for any.
        ema: Decay of a moving average of the weights, which takes their place in validations and
            at the end; 0 for none.
        tolerance: How many steps running are skipped where loss or gradient is not finite.
        callbacks: More of them. They see a validation's metrics before these are written.
        watchers: And those that see a step after its metrics were written, before its checkpoint.
        loggers: See `make_loggers`.
        hardware: Processes and devices.

    Returns:
        The trainer.

    Raises:
        ModelError: The hardware or the precision is not there, or a logger cannot be used; then
            what the folder holds is as it was.
    """
    hardware = hardware or HardwareConfig()
    hardware.check()
    check_loggers(loggers)
    # Known and harmless here: our loaders are small, and StepBatches is what makes them resumable.
    for message in (
        '.*num_workers.*',
        '.*LeafSpec.*',
        '.*exists and is not empty.*',
        '.*dataloader is not resumable.*',
        '.*sync_dist=True.*',  # all processes measure the same
        '.*in eval mode at the start.*',  # what is frozen is meant to be
    ):
        warnings.filterwarnings('ignore', message)
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    trainer = _trainer(
        default_root_dir=run.out,
        max_steps=max_steps,
        max_epochs=-1,
        precision=precision,
        val_check_interval=validate_every or None,
        limit_val_batches=1.0 if validate_every else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        log_every_n_steps=min(10, max_steps),
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpoints()],
        callbacks=[
            SeededSteps(seed),
            FiniteSteps(gradient_clip, tolerance),
            *([MovingAverage(ema)] if ema else []),
            *callbacks,
            MetricsFile(run.out / METRICS),
            Progress(max(1, max_steps // 200)),
            *watchers,
            Checkpoints(run.out / CHECKPOINT, checkpoint_every, validate_every),
        ],
        **hardware.trainer_arguments(),
    )
    trainer.loggers = make_loggers(loggers, run.out, run.state == 'new')
    run.begin()  # last: it removes what stood there
    start_loggers(trainer.loggers, run.out, json.loads(run.settings))
    return trainer


def _trainer(**arguments: Any) -> L.Trainer:
    """A trainer; what Lightning does not know, or not have here, is one line."""
    try:
        return L.Trainer(**arguments)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        asked = ' '.join(
            f'--{name} {arguments[name]}'
            for name in ('precision', 'accelerator', 'strategy', 'devices')
            if isinstance(arguments.get(name), str | int)
        )
        raise ModelError(f'{asked}: {" ".join(str(error).split())}') from error


def fit(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> None:
    """Train from the run's checkpoint, if there is one, to the last step.

    Args:
        trainer: From `make_trainer`.
        module: What to train.
        data: Its batches.

    Raises:
        KeyboardInterrupt: Ctrl-C, which Lightning turns into the end of the process.
    """
    checkpoint = Path(trainer.default_root_dir) / CHECKPOINT
    try:
        trainer.fit(
            module,
            data,
            ckpt_path=checkpoint if checkpoint.is_file() else None,
            weights_only=True,  # a checkpoint is data: nothing in it is executed
        )
    except SystemExit:
        raise KeyboardInterrupt from None
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stopped = any(isinstance(c, Best) and c.stopped for c in callbacks)
    if trainer.global_step < trainer.max_steps and not stopped:
        raise KeyboardInterrupt


def to_settings(**values: Any) -> dict[str, Any]:
    """Flatten dataclasses for `prepare_run`."""
    return {
        k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v  # type: ignore[arg-type]
        for k, v in values.items()
    }
