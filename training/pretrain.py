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

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from clcp_ros.errors import PairSetError
from training.cli import git_commit, next_step, run_command
from training.defaults import PAIRS, ensure_pairs, is_simulated
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


class PairData(RunData):
    """The loaders of a run over pairs.

    Args:
        method: Makes the samples.
        pairs: The pair set.
        batches: The batches of the run.
        chunk: Pairs that are embedded at once; 0 for a rank's whole share of a batch.
        workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self, method: Method, pairs: PairSet, batches: StepBatches, chunk: int, workers: int
    ) -> None:
        join = partial(_in_chunks, collate=method.collate, chunk=chunk)
        super().__init__(method.samples(pairs, train=True), batches, join, workers)
        self._validation = method.samples(pairs, train=False)
        self._collate = method.collate
        self._validation_rows = [(int(p), 0) for p in pairs.rows(split='val')]
        self._chunk = chunk
        self.validation_pairs = len(self._validation_rows)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split in order, the same crops every time; this rank's part of it."""
        assert self.trainer is not None
        rows, ranks = self._validation_rows, self.trainer.world_size
        # All ranks get equally many, since they gather them: the first ones again, if need be.
        rows = rows + rows[: -len(rows) % ranks]
        return DataLoader(
            self._validation, batch_size=self._chunk or self.batches.batch_size,
            collate_fn=self._collate, sampler=rows[self.trainer.global_rank :: ranks],
        )  # fmt: skip


def _in_chunks(samples: list[Any], collate: Callable[[list[Any]], Any], chunk: int) -> list[Any]:
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
    max_steps: int = 150,
    batch_size: int = 32,
    chunk: int = 0,
    batch_gap: float = 2.0,
    validate_every: int = 50,
    checkpoint_every: int = 50,
    workers: int = 0,
    precision: str = '32-true',
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
        max_steps: Steps of the whole run.
        batch_size: Pairs per step, over all processes.
        chunk: Pairs that are embedded at once, for batches that do not fit into memory; their
            gradient is that of the whole batch, for a third more time. 0 for all.
        batch_gap: Pairs of one sequence in a batch are at least this many seconds apart, or as far
            as possible where there are too few; 0 lets neighbours meet.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints.
        workers: Loader processes.
        precision: Lightning's name of a precision, such as bf16-mixed.
        seed: Of everything that is random.
        overwrite: Start anew whatever is in `out`.
        options: Those of the methods, by group; of others than the chosen one they are refused.

    Returns:
        The file of the image encoder.

    Raises:
        PairSetError: The pair set is too small.
        ModelError: Unknown networks, weights that do not fit, a loss that is not finite.
    """
    own = options_of(method, options)
    settings = to_settings(
        pairs=str(pairs), method=method, options=own, model=model, views=views,
        optimizer=optimizer, max_steps=max_steps, batch_size=batch_size, chunk=chunk,
        batch_gap=batch_gap, precision=precision, seed=seed,
    )  # fmt: skip
    run = prepare_run(out, settings, RESULT, overwrite)
    if run.state == 'done':
        print(f'{run.result}: already done with these settings')
        return run.result
    if pairs == PAIRS:
        ensure_pairs(pairs)
    pair_set = PairSet(pairs)
    positions = pair_set.rows(split='train')
    if len(positions) < 2:
        raise PairSetError(
            f'{pairs} has {len(positions)} training pairs; contrastive training needs at least two'
        )
    if validate_every and len(pair_set.rows(split='val')) < 2:
        print('fewer than two validation pairs: nothing to compare, so no validation')
        validate_every = 0
    L.seed_everything(seed, verbose=False)
    module = find_method(method).make(Setup(model, optimizer, views, max_steps, own))
    spacing = _spacing(pair_set, positions, batch_size, batch_gap)
    batches = StepBatches(positions, batch_size, max_steps, seed, spacing=spacing)
    data = PairData(module, pair_set, batches, chunk, workers)
    _describe(module, pair_set, batches, max_steps, run.state)
    trainer = make_trainer(
        run, max_steps=max_steps, seed=seed, validate_every=validate_every,
        checkpoint_every=checkpoint_every, precision=precision, gradient_clip=optimizer.clip,
    )  # fmt: skip
    if run.state == 'new' and validate_every:
        trainer.validate(module, data, verbose=False)  # where it starts from
    fit(trainer, module, data)
    if trainer.is_global_zero:
        provenance = {'commit': git_commit(), **settings, 'simulated': _simulated(pair_set)}
        module.save(out, method, provenance)
        print(f'\nwrote {out / RESULT}: {summary(out)}')
        next_step(f'python training/finetune.py --encoder {out / RESULT}')
    return out / RESULT


def _spacing(
    pairs: PairSet, positions: np.ndarray, batch_size: int, gap_s: float
) -> Spacing | None:
    """What keeps neighbours out of a batch, as far as that is possible."""
    if gap_s <= 0:
        return None
    batch_size = min(batch_size, len(positions))
    possible = Spacing.of(pairs, positions, gap_s).largest_gap(batch_size)
    if possible < gap_s:
        print(
            f'{len(positions)} pairs are too few for batches of {batch_size} with {gap_s:g} s '
            f'between pairs of one sequence: {possible:.2g} s it is'
        )
    return Spacing.of(pairs, positions, min(gap_s, possible))


def _describe(
    method: Method, pairs: PairSet, batches: StepBatches, max_steps: int, state: str
) -> None:
    model = method.setup_.model
    million = [
        sum(p.numel() for p in m.parameters()) / 1e6
        for m in (method.image_encoder, method.lidar_encoder)
    ]
    print(
        f'pairs: {len(batches.positions)} to train on, {len(pairs.rows(split="val"))} to validate '
        f'on, from {len(pairs.sequences)} sequences{" (simulated)" if _simulated(pairs) else ""}\n'
        f'image encoder: {method.image_encoder.architecture} ({million[0]:.1f} M parameters), '
        f'lidar encoder: {model.lidar_encoder} ({million[1]:.1f} M'
        f'{", frozen" if model.freeze_lidar else ""})\n'
        f'{"going on with" if state == "resume" else "starting"} {max_steps} steps of '
        f'{batches.batch_size} pairs, {batches.steps_per_pass} steps a pass'
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
    first = {name: value for _, name, value in reversed(rows)}
    if 'val_pairs' not in final:
        return f'training loss {first["loss"]:.3f} -> {final["loss"]:.3f}'
    pairs = max(final['val_pairs'], 1)
    return (
        f'validation loss {first["val_loss"]:.3f} -> {final["val_loss"]:.3f} '
        f'(chance {np.log(pairs):.3f}), partner found first among {pairs:.0f}: '
        f'{final["val_r1"]:.1%} (chance {1 / pairs:.1%}), among the first five: '
        f'{final["val_r5"]:.1%}'
    )


if __name__ == '__main__':
    torch.set_float32_matmul_precision('high')
    run_command(pretrain)
