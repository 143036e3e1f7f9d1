# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pretrain an image encoder on unlabelled camera-lidar pairs.

Reads a pair set (training/convert.py makes one) and writes `image_encoder.safetensors`, which
training/finetune.py and timm load. Without arguments it works on the simulated drive. Interrupted,
it goes on where it was when the same command is given again.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clcp_ros.errors import ModelError, PairSetError
from training.callbacks import Speed, rank_zero_print
from training.checkpoints import Best
from training.cli import git_commit, next_step, run_command
from training.defaults import PAIRS, ensure_pairs, is_simulated
from training.hardware import HardwareConfig
from training.loop import (
    METRICS,
    RunData,
    StepBatches,
    fit,
    make_trainer,
    prepare_run,
    read_metrics,
    to_settings,
)
from training.methods import find_method
from training.methods.base import IMAGE_ENCODER as RESULT
from training.methods.base import Method, Setup
from training.methods.config import ModelConfig, OptimizerConfig
from training.methods.signature import options_of, with_method_options
from training.pairs.batches import Spacing
from training.pairs.contrastive import ViewConfig
from training.pairs.pair_set import PairSet
from training.sharding import is_sharded
from training.watch.report import Warnings
from training.watch.watch import Watch, WatchConfig
from training.worker_errors import plain_worker_errors

SUBCOMMANDS = {
    'lr-range': ('training.search.lr_range:lr_range', 'a learning-rate range test'),
    'grid': ('training.search.grid:grid', 'a grid search over any options'),
}


class PairData(RunData):
    """The loaders of a run over pairs.

    Args:
        method: Makes the samples.
        pairs: The pair set.
        validation: (N,) positions of the pairs to validate on.
        batches: The batches of the run.
        chunk: Pairs that are embedded at once; 0 for a rank's whole share of a batch.
        workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        method: Method,
        pairs: PairSet,
        validation: np.ndarray,
        batches: StepBatches,
        chunk: int,
        workers: int,
    ) -> None:
        join = partial(in_chunks, collate=method.collate, chunk=chunk)
        super().__init__(method.samples(pairs, train=True), batches, join, workers)
        self._validation = method.samples(pairs, train=False)
        self._collate = method.collate
        self._validation_rows = [(int(p), 0) for p in validation]
        self._chunk = chunk
        self.validation_pairs = len(validation)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split in order, the same crops every time; this rank's part of it."""
        assert self.trainer is not None
        rows, ranks = self._validation_rows, self.trainer.world_size
        # All ranks get equally many, since they gather them: the first ones again, if need be.
        rows = [rows[i % len(rows)] for i in range(-(-len(rows) // ranks) * ranks)]
        return DataLoader(
            self._validation, batch_size=self._chunk or self.batches.batch_size,
            collate_fn=self._collate, sampler=rows[self.trainer.global_rank :: ranks],
            num_workers=self.workers,
        )  # fmt: skip

    def images(self, count: int) -> Tensor | None:
        """Images of the validation split, evenly spread.

        Args:
            count: How many, at most.

        Returns:
            (N, 3, S, S) normalised; None for none.
        """
        rows = self._validation_rows
        places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
        if not len(places):
            return None
        samples = [self._validation[rows[i]] for i in places]
        images: Tensor = self._collate(samples)['image']
        return images


def in_chunks(samples: list[Any], collate: Callable[[list[Any]], Any], chunk: int) -> list[Any]:
    """Collate samples in chunks of a batch.

    Args:
        samples: Of this rank's share of a batch.
        collate: Joins the samples of a chunk.
        chunk: Samples of one; 0 for all.
    """
    size = chunk or len(samples)
    return [collate(samples[i : i + size]) for i in range(0, len(samples), size)]


@with_method_options
def pretrain(
    pairs: Path = PAIRS,
    out: Path = Path('runs/pretrain'),
    method: str = 'clcp',
    model: ModelConfig = ModelConfig(),  # noqa: B008  # shown as defaults, never changed
    views: ViewConfig = ViewConfig(),  # noqa: B008
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    conditions: str = '',
    max_steps: int = 150,
    batch_size: int = 32,
    chunk: int = 0,
    batch_gap: float = 2.0,
    validate_every: int = 50,
    checkpoint_every: int = 50,
    patience: int = 0,
    keep: Literal['last', 'best'] = 'last',
    watch: WatchConfig = WatchConfig(),  # noqa: B008
    loggers: str = 'tensorboard',
    hardware: HardwareConfig = HardwareConfig(),  # noqa: B008
    workers: int = -1,
    precision: str = '32-true',
    tolerance: int = 5,
    seed: int = 0,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Pretrain an image encoder on a pair set; finish or reuse a run with the same settings.

    Args:
        pairs: Pair set; the default one is made from the simulated drive when it is missing.
        out: Folder of the run.
        method: What is learned; one of the files in training/methods.
        model: Encoders and heads.
        views: Crop, image size, voxels.
        optimizer: Optimizer and schedule.
        conditions: Train and validate on pairs of these conditions alone, as in clear,fog: pairs
            that have one of the words among the values of their tags. Empty for all.
        max_steps: Steps of the whole run.
        batch_size: Pairs per step, over all processes.
        chunk: Pairs that a process embeds at once, for batches that do not fit into memory; their
            gradient is that of the whole batch, for a third more time. 0 for all.
        batch_gap: Pairs of one sequence in a batch are at least this many seconds apart, or as far
            as possible where there are too few; 0 lets neighbours meet.
        validate_every: Steps between validations; 0 for none.
        checkpoint_every: Steps between checkpoints.
        patience: Validations without a smaller loss that end the run early; 0 for any number.
        keep: Weights that are saved in the end: the last, or those of the smallest validation
            loss.
        watch: What is measured at validations.
        loggers: Beside metrics.csv: tensorboard, wandb or mlflow; several with commas; none for
            none.
        hardware: Processes and devices.
        workers: Loader processes for each that trains; -1 for as many as the machine suggests.
        precision: Lightning's name of a precision, such as bf16-mixed.
        tolerance: Steps running that are skipped where loss or gradient is not finite, before the
            run ends.
        seed: Of everything that is random.
        overwrite: Start anew whatever is in `out`.
        options: Those of the methods, by group; of others than the chosen one they are refused.

    Returns:
        The file of the image encoder.

    Raises:
        PairSetError: The pair set is too small.
        ModelError: Unknown networks, weights that do not fit, hardware that is not there, or a
            loss that is again and again not finite.
    """
    # A search looks on, and has another next step.
    hint, watchers = options.pop('hint', True), options.pop('watchers', ())
    own = options_of(method, options)
    for config in (model, views, optimizer, watch, hardware):
        config.check()
    _check(
        keep, watch, seed, batch_gap, max_steps=max_steps, batch_size=batch_size, chunk=chunk,
        validate_every=validate_every, checkpoint_every=checkpoint_every, patience=patience,
        workers=workers, tolerance=tolerance,
    )  # fmt: skip
    listens = patience or keep == 'best' or getattr(own, 'follows_validation', False)
    settings = to_settings(
        pairs=str(pairs), method=method, options=own, model=model, views=views,
        optimizer=optimizer, conditions=conditions, max_steps=max_steps, batch_size=batch_size,
        chunk=chunk, batch_gap=batch_gap, patience=patience, keep=keep,
        validate_every=(validate_every or None) if listens else None,
        precision=precision, seed=seed,
    )  # fmt: skip
    run = prepare_run(out, settings, RESULT, overwrite)
    if run.state == 'done':
        print(f'{run.result}: already done with these settings')
        return run.result
    if pairs == PAIRS:
        ensure_pairs(pairs)
    pair_set = PairSet(pairs)
    rows = {split: chosen_pairs(pair_set, split, conditions) for split in ('train', 'val')}
    if validate_every and len(rows['val']) < 2:
        rank_zero_print('fewer than two validation pairs: nothing to compare, so no validation')
        validate_every = 0
        if patience or keep == 'best' or watch.probe is not None:
            raise PairSetError('--patience, --keep best and --probe need validation pairs')
    L.seed_everything(seed, verbose=False)
    make = partial(find_method(method).make, Setup(model, optimizer, views, max_steps, own))
    module = make()
    if (patience or keep == 'best') and not module.contrast_weight:
        raise ModelError(
            '--patience and --keep best compare the validation loss, which is that of the '
            f'contrast: with these options {method} has none'
        )
    spacing = _spacing(pair_set, rows['train'], batch_size, batch_gap)
    batches = StepBatches(rows['train'], batch_size, max_steps, seed, spacing=spacing)
    count = hardware.loader_workers() if workers < 0 else workers
    data = PairData(module, pair_set, rows['val'], batches, chunk, count)
    callbacks: list[L.Callback] = [Speed(batches.batch_size)]
    if validate_every:
        module.watch = Watch(
            watch, module.image_encoder, data.images(watch.images), views.image_size, max_steps,
            model.starts_from_weights,
        )  # fmt: skip
        callbacks.append(Warnings(module.watch, batches.batch_size))
    if hardware.compile:
        module.image_encoder.compile()
    _describe(module, pair_set, rows, batches, max_steps, run.state)
    best = Best(out, keep == 'best', patience)
    trainer = make_trainer(
        run, max_steps=max_steps, seed=seed, validate_every=validate_every,
        checkpoint_every=checkpoint_every, precision=precision, gradient_clip=optimizer.clip,
        tolerance=tolerance, callbacks=[*callbacks, best], watchers=watchers,
        loggers=loggers, hardware=hardware,
    )  # fmt: skip
    with plain_worker_errors():
        if run.state == 'new' and validate_every:
            trainer.validate(module, data, verbose=False)  # where it starts from
        fit(trainer, module, data)
    if is_sharded(module):
        weights = trainer.strategy.lightning_module_state_dict()  # all ranks send their part
        if trainer.is_global_zero:
            module = make()
            module.load_state_dict(weights)
    if trainer.is_global_zero:
        best.restore(module)
        provenance = {'commit': git_commit(), **settings, 'simulated': _simulated(pair_set)}
        module.save(out, method, provenance)
        print(f'\nwrote {out / RESULT}: {summary(out)}')
        if hint:
            next_step(f'python training/finetune.py --encoder {out / RESULT}')
    return out / RESULT


_LEAST = {'max_steps': 1, 'batch_size': 2, 'checkpoint_every': 1, 'workers': -1}


def _check(keep: str, watch: WatchConfig, seed: int, batch_gap: float, **lengths: int) -> None:
    """Complain about numbers that make no sense, before anything is read."""
    for name, value in lengths.items():
        if value < (least := _LEAST.get(name, 0)):
            raise ModelError(f'--{name} must be at least {least}, not {value}')
    if not 0 <= seed < 2**32:
        raise ModelError(f'--seed must be in [0, 2^32), not {seed}')
    if not 0 <= batch_gap < math.inf:
        raise ModelError(f'--batch_gap is a number of seconds from 0 on, not {batch_gap}')
    every, steps = lengths['validate_every'], lengths['max_steps']
    compares = lengths['patience'] or keep == 'best'
    if compares and not 0 < every <= steps:
        raise ModelError(
            f'--patience and --keep best look at validations: set --validate_every to a number '
            f'of steps from 1 to --max_steps ({steps}), not {every}'
        )
    if watch.probe is not None and not every:
        raise ModelError('--probe is measured at validations: set --validate_every')


def chosen_pairs(pairs: PairSet, split: str, conditions: str = '') -> np.ndarray:
    """Positions of the pairs to use.

    Args:
        pairs: The pair set.
        split: `train` or `val`.
        conditions: Words with commas; a pair is taken that has one among the values of its tags.

    Returns:
        (N,) int64.

    Raises:
        PairSetError: There are no pairs of such a condition, or fewer than two to train on.
    """
    positions = pairs.rows(split=split)
    wanted = {c.strip() for c in conditions.split(',')} - {''}
    if wanted:
        tags = pairs.column('tags')
        values = [set(map(str, json.loads(tags[p]).values())) for p in positions]
        known = set().union(*values) if values else set()
        if split == 'train' and (missing := wanted - known):
            raise PairSetError(
                f'{pairs.folder}: no training pairs with the tag {", ".join(sorted(missing))}; '
                f'there are {", ".join(sorted(known)) or "no tags"}'
            )
        positions = positions[[bool(v & wanted) for v in values]]
    if split == 'train' and len(positions) < 2:
        raise PairSetError(
            f'{pairs.folder} has {len(positions)} training pairs; contrastive training needs at '
            'least two'
        )
    return positions


def _spacing(
    pairs: PairSet, positions: np.ndarray, batch_size: int, gap_s: float
) -> Spacing | None:
    """What keeps neighbours out of a batch, as far as that is possible."""
    if gap_s <= 0:
        return None
    batch_size = min(batch_size, len(positions))
    spacing = Spacing.of(pairs, positions, gap_s)
    possible = spacing.largest_gap(batch_size)
    if possible < gap_s:
        rank_zero_print(
            f'{len(positions)} pairs are too few for batches of {batch_size} with {gap_s:g} s '
            f'between pairs of one sequence: {possible:.2g} s it is'
        )
    return replace(spacing, gap_s=min(gap_s, possible))


def _frozen_noise(module: Method) -> bool:
    """Whether a lidar encoder stays as it was drawn at random."""
    model = module.setup_.model
    loaded = model.lidar_weights or getattr(module.setup_.options, 'weights', None)
    return model.freeze_lidar and not loaded


def _describe(
    method: Method,
    pairs: PairSet,
    rows: dict[str, np.ndarray],
    batches: StepBatches,
    max_steps: int,
    state: str,
) -> None:
    model = method.setup_.model
    million = [
        sum(p.numel() for p in m.parameters()) / 1e6
        for m in (method.image_encoder, method.lidar_encoder)
    ]
    rank_zero_print(
        f'pairs: {len(rows["train"])} to train on, {len(rows["val"])} to validate '
        f'on, from {len(pairs.sequences)} sequences{" (simulated)" if _simulated(pairs) else ""}\n'
        f'image encoder: {method.image_encoder.architecture} ({million[0]:.1f} M parameters), '
        f'lidar encoder: {model.lidar_encoder} ({million[1]:.1f} M'
        f'{", frozen" if model.freeze_lidar else ""})\n'
        f'{"going on with" if state == "resume" else "starting"} {max_steps} steps of '
        f'{batches.batch_size} pairs, {batches.steps_per_pass} steps a pass'
    )
    if _frozen_noise(method):
        rank_zero_print(
            'warning: the lidar encoder is frozen and its weights are random: give '
            '--model.lidar_weights, or train it (--no-freeze_lidar)'
        )


def _simulated(pairs: PairSet) -> bool:
    recordings = pairs.report.get('recordings', [])
    return any(is_simulated(Path(recording['path'])) for recording in recordings)


def summary(out: Path) -> str:
    """One line on how a run went, from its metrics.

    Args:
        out: Folder of the run.
    """
    rows = read_metrics(out / METRICS)
    final = {name: value for _, name, value in rows}
    if 'loss' not in final:
        return 'no metrics'
    first = {name: value for _, name, value in reversed(rows)}
    text = f'training loss {first["loss"]:.3f} -> {final["loss"]:.3f}'
    if 'val_r1' in final:
        pairs = max(final['val_pairs'], 1)
        # Only of CLIP's loss, which has a scale, is the level of chance known.
        chance = f' (chance {np.log(pairs):.3f})' if 'logit_scale' in final else ''
        text = (
            f'validation loss {first["val_loss"]:.3f} -> {final["val_loss"]:.3f}{chance}, '
            f'partner found first among {pairs:.0f}: {final["val_r1"]:.1%} '
            f'(chance {1 / pairs:.1%}), among the first five: {final["val_r5"]:.1%}'
        )
    if final.get('skipped'):
        text += f'; {final["skipped"]:.0f} steps skipped, not finite'
    return f'{text}\n{speed(rows)}'


def speed(rows: list[tuple[int, str, float]], skipped: int = 1) -> str:
    """Pairs per second and the share of the time in which the loader kept the step waiting.

    Args:
        rows: Metrics of a run.
        skipped: Steps at the beginning that do not count; the first one starts the workers.
    """
    seconds, waited, rates = (
        {step: value for step, name, value in rows if name == wanted}
        for wanted in ('step_s', 'waited', 'pairs_per_s')
    )
    steps = sorted(seconds)[skipped:]
    rate = [rates[s] for s in steps if s in rates]
    total = sum(seconds[s] for s in steps)
    if not total:
        return 'too few steps to tell the speed'
    share = sum(seconds[s] * waited.get(s, 0) for s in steps) / total
    return f'{np.median(rate):.3g} pairs/s, {share:.1%} of the time waiting for the loader'


if __name__ == '__main__':
    torch.set_float32_matmul_precision('high')
    run_command(pretrain, subcommands=SUBCOMMANDS)
