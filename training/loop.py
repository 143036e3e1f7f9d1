# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What training runs share: batches that depend on the step alone, metrics, checkpoints, resume.

A run that was interrupted and resumed gives the same weights as one that was not: which samples a
step sees, how they are augmented and what the step draws at random all follow from the seed and
the number of the step.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch.utils.data import DataLoader, Dataset, Sampler

from clcp_ros.errors import ModelError
from training.pairs.batches import Spacing

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
        self.batches.rank = self.trainer.global_rank
        self.batches.world_size = self.trainer.world_size
        return DataLoader(
            self.samples,
            batch_sampler=self.batches,
            collate_fn=self.collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )


class SeededSteps(Callback):
    """Seeds torch before every step, so that drop-out is the same after a resume."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Seed the step."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.global_step)


class MetricsFile(Callback):
    """Appends what is logged to a CSV file with the columns step, name, value.

    Args:
        path: The file. Rows after the step that a resumed run starts at are dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin the file."""
        if not self.path.is_file():
            self._rewrite([])

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Keep what belongs to the run so far."""
        self._rewrite([r for r in read_metrics(self.path) if r[0] <= trainer.global_step])

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write the step's metrics."""
        self._write(trainer, validation=False)

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Write the validation's metrics."""
        self._write(trainer, validation=True)

    def _rewrite(self, rows: list[tuple[int, str, float]]) -> None:
        with self.path.open('w', newline='') as file:
            csv.writer(file).writerows([('step', 'name', 'value'), *rows])

    def _write(self, trainer: L.Trainer, validation: bool) -> None:
        if not trainer.is_global_zero:
            return
        with self.path.open('a', newline='') as file:
            writer = csv.writer(file)
            for name, value in trainer.callback_metrics.items():
                if name.startswith('val_') == validation:
                    writer.writerow((trainer.global_step, name, f'{float(value):.6g}'))


def read_metrics(path: Path) -> list[tuple[int, str, float]]:
    """Read what `MetricsFile` wrote; empty when there is nothing.

    Args:
        path: The file.
    """
    if not path.is_file():
        return []
    with path.open(newline='') as file:
        return [(int(r['step']), r['name'], float(r['value'])) for r in csv.DictReader(file)]


class _Progress(TQDMProgressBar):
    """One bar for the whole run, with rate and time left; silent validation."""

    def init_validation_tqdm(self) -> Tqdm:
        """A bar that shows nothing: validation takes a moment, and its lines would pile up."""
        return Tqdm(disable=True)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar, without Lightning's version of nothing."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop('v_num', None)
        return metrics


class FiniteLoss(Callback):
    """Stops a run whose loss is not a number, before the checkpoint is spoilt."""

    def on_before_backward(self, trainer: L.Trainer, _: Any, loss: torch.Tensor) -> None:
        """Check the loss."""
        if not torch.isfinite(loss):
            raise ModelError(
                f'the loss is {loss.item()} at step {trainer.global_step}; lower the learning rate'
            )


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

    def begin(self) -> None:
        """Make the folder, and clear it for a new run. Nothing is written before."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.state == 'new':
            for path in (self.out / CHECKPOINT, self.out / METRICS, self.result):
                path.unlink(missing_ok=True)
        (self.out / SETTINGS).write_text(self.settings)


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
        ModelError: The folder holds a run with other settings.
    """
    text = json.dumps(settings, indent=2, default=str) + '\n'
    run = Run(out, text, out / result, 'new')
    finished, begun = run.result.is_file(), (out / CHECKPOINT).is_file()
    if overwrite or not (finished or begun) or not (out / SETTINGS).is_file():
        return run
    if (out / SETTINGS).read_text() != text:
        old, new = json.loads((out / SETTINGS).read_text()), json.loads(text)
        changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
        raise ModelError(
            f'{out} holds a run with other settings ({", ".join(changed)} differ); '
            'choose another --out, or add --overwrite'
        )
    return dataclasses.replace(run, state='done' if finished else 'resume')


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
) -> L.Trainer:
    """Begin a run: a Lightning trainer that counts steps, writes `last.ckpt` and `metrics.csv`.

    Args:
        run: From `prepare_run`.
        max_steps: Steps of the whole run.
        seed: Seed of the run.
        validate_every: Steps between validations; 0 for none.
        checkpoint_every: Steps between checkpoints.
        precision: Lightning's name of a precision, such as `bf16-mixed`.
        gradient_clip: Largest norm of the gradient.
        ema: Decay of a moving average of the weights, which takes their place in validations and
            at the end; 0 for none.

    Returns:
        The trainer.
    """
    run.begin()
    # Known and harmless here: our loaders are small, and StepBatches is what makes them resumable.
    for message in (
        '.*num_workers.*',
        '.*LeafSpec.*',
        '.*exists and is not empty.*',
        '.*dataloader is not resumable.*',
    ):
        warnings.filterwarnings('ignore', message)
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    return L.Trainer(
        default_root_dir=run.out,
        max_steps=max_steps,
        max_epochs=-1,
        precision=precision,  # type: ignore[arg-type]  # a Literal upstream, checked there
        gradient_clip_val=gradient_clip,
        val_check_interval=validate_every or None,
        limit_val_batches=1.0 if validate_every else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            ModelCheckpoint(
                run.out, CHECKPOINT.removesuffix('.ckpt'), every_n_train_steps=checkpoint_every,
                save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=False,
            ),
            SeededSteps(seed),
            MetricsFile(run.out / METRICS),
            FiniteLoss(),
            *([EMAWeightAveraging(decay=ema)] if ema else []),
            _Progress(refresh_rate=max(1, max_steps // 200), leave=True),
        ],
    )  # fmt: skip


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
    if trainer.max_steps is not None and trainer.global_step < trainer.max_steps:
        raise KeyboardInterrupt


def to_settings(**values: Any) -> dict[str, Any]:
    """Flatten dataclasses for `prepare_run`."""
    return {
        k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v  # type: ignore[arg-type]
        for k, v in values.items()
    }
