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
from training.methods.clcp import Clcp, ModelConfig, OptimizerConfig
from training.pairs.batches import Spacing
from training.pairs.contrastive import ContrastivePairs, ViewConfig, collate
from training.pairs.pair_set import PairSet

RESULT = 'image_encoder.safetensors'


class PairData(RunData):
    """The loaders of a run over pairs.

    Attributes:
        validation: Samples of the validation split.
    """

    validation: ContrastivePairs

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split in order, the same crops every time."""
        return DataLoader(
            self.validation, batch_size=self.batches.batch_size, collate_fn=collate,
            sampler=[(int(p), 0) for p in self.validation.pairs.rows(split='val')],
        )  # fmt: skip


def pretrain(
    pairs: Path = PAIRS,
    out: Path = Path('runs/pretrain'),
    model: ModelConfig = ModelConfig(),  # noqa: B008  # shown as defaults, never changed
    views: ViewConfig = ViewConfig(),  # noqa: B008
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    max_steps: int = 150,
    batch_size: int = 32,
    batch_gap: float = 2.0,
    validate_every: int = 50,
    checkpoint_every: int = 50,
    workers: int = 0,
    precision: str = '32-true',
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Pretrain an image encoder on a pair set; finish or reuse a run with the same settings.

    Args:
        pairs: Pair set; the default one is made from the simulated drive when it is missing.
        out: Folder of the run.
        model: Encoders and heads.
        views: Crop, image size, voxels.
        optimizer: Optimizer and schedule.
        max_steps: Steps of the whole run.
        batch_size: Pairs per step, over all processes.
        batch_gap: Pairs of one sequence in a batch are at least this many seconds apart, or as far
            as possible where there are too few; 0 lets neighbours meet.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints.
        workers: Loader processes.
        precision: Lightning's name of a precision, such as bf16-mixed.
        seed: Of everything that is random.
        overwrite: Start anew whatever is in `out`.

    Returns:
        The file of the image encoder.

    Raises:
        PairSetError: The pair set is too small.
        ModelError: Unknown networks, weights that do not fit, a loss that is not finite.
    """
    settings = to_settings(
        pairs=str(pairs), model=model, views=views, optimizer=optimizer, max_steps=max_steps,
        batch_size=batch_size, batch_gap=batch_gap, precision=precision, seed=seed,
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
    method = Clcp(model, optimizer, max_steps, views.image_size)
    spacing = _spacing(pair_set, positions, batch_size, batch_gap)
    batches = StepBatches(positions, batch_size, max_steps, seed, spacing=spacing)
    stats = method.image_encoder.mean, method.image_encoder.std
    data = PairData(
        ContrastivePairs(pair_set, views, *stats, train=True), batches, collate, workers
    )
    data.validation = ContrastivePairs(pair_set, views, *stats, train=False)
    _describe(method, pair_set, batches, max_steps, run.state)
    trainer = make_trainer(
        run, max_steps=max_steps, seed=seed, validate_every=validate_every,
        checkpoint_every=checkpoint_every, precision=precision,
    )  # fmt: skip
    if run.state == 'new' and validate_every:
        trainer.validate(method, data, verbose=False)  # where it starts from
    fit(trainer, method, data)
    if trainer.is_global_zero:
        size = (views.image_size, views.image_size)
        provenance = {'commit': git_commit(), **settings, 'simulated': _simulated(pair_set)}
        method.image_encoder.save(out / RESULT, size, provenance)
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
    method: Clcp, pairs: PairSet, batches: StepBatches, max_steps: int, state: str
) -> None:
    million = [
        sum(p.numel() for p in m.parameters()) / 1e6
        for m in (method.image_encoder, method.lidar_encoder)
    ]
    print(
        f'pairs: {len(batches.positions)} to train on, {len(pairs.rows(split="val"))} to validate '
        f'on, from {len(pairs.sequences)} sequences{" (simulated)" if _simulated(pairs) else ""}\n'
        f'image encoder: {method.image_encoder.architecture} ({million[0]:.1f} M parameters), '
        f'lidar encoder: {method.lidar_encoder.architecture} ({million[1]:.1f} M'
        f'{", frozen" if method.lidar_encoder.frozen else ""})\n'
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
