# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from clcp_ros.errors import ModelError
from training.cli import run_command
from training.loop import read_metrics
from training.methods.clcp_anchored import AnchoredConfig
from training.methods.config import ModelConfig, OptimizerConfig
from training.metric_directions import smaller_is_better
from training.pairs.contrastive import ViewConfig
from training.pairs.pair import Pair
from training.pairs.writer import PairSetWriter
from training.pretrain import SUBCOMMANDS, pretrain
from training.search.explosion import explosion, smooth
from training.search.grid import changed, grid, name_of
from training.search.lr_range import lr_range, suggest
from training.watch.watch import WatchConfig

K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
QUICK: dict[str, Any] = {
    'views': ViewConfig(image_size=32, voxel_size_m=0.6, min_points=5), 'batch_size': 8,
    'batch_gap': 0.0, 'workers': 0, 'loggers': '', 'watch': WatchConfig(images=0),
}  # fmt: skip


@pytest.fixture(scope='module')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('pairs')
    writer = PairSetWriter(folder)
    rng = np.random.default_rng(0)
    writer.write_sequence(
        's',
        (
            Pair(
                f's/{i:06d}', 's', 'front', 'top', i * 10**9, i * 10**9,
                rng.integers(0, 255, (64, 96, 3)).astype(np.uint8),
                rng.uniform([3, -3, -1, 0], [9, 3, 1, 1], (80, 4)).astype(np.float32), K,
                T_CAMERA_LIDAR,
            )
            for i in range(16)
        ),
    )  # fmt: skip
    writer.finish(['s'], {}, 0.25)
    return folder


def test_a_valley_is_found() -> None:
    rates = np.logspace(-6, -1, 101)
    losses = (
        3 - 2 * np.exp(-((np.log10(rates) + 2.5) ** 2)) + 5 * np.maximum(np.log10(rates) + 2, 0)
    )
    best = suggest(rates, losses)
    assert best.tenth == pytest.approx(10**-3.5, rel=0.1)
    assert best.steepest is not None
    assert 10**-3.7 < best.steepest < 10**-2.8
    assert suggest(rates, np.linspace(1, 2, 101)).steepest is None
    with pytest.raises(ModelError, match='smaller --lowest'):
        suggest(rates[:3], losses[:3])


def test_the_average_is_not_drawn_to_zero() -> None:
    assert smooth([2.0, 2.0, 2.0]).tolist() == pytest.approx([2, 2, 2])
    assert smooth([1.0, 2.0])[1] == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 2) / 0.19)


def test_a_range_test_runs_and_is_reused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a recipe measures at validations is no part of the test.
    watch = WatchConfig(probe=Path('nowhere'))
    options = {**QUICK, 'watch': watch, 'max_steps': 12, 'out': tmp_path / 'run', 'pairs': pairs}
    plot = lr_range(lowest=1e-5, highest=1e-2, **options)
    assert plot.read_bytes().startswith(b'\x89PNG')
    with (plot.parent / 'lr_range.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r['step']) for r in rows] == list(range(1, 13))
    assert float(rows[0]['lr']) == pytest.approx(1e-5)
    assert float(rows[-1]['lr']) == pytest.approx(1e-2)
    with (plot.parent / 'metrics.csv').open() as file:
        used = [float(r['value']) for r in csv.DictReader(file) if r['name'] == 'lr']
    assert used == pytest.approx([float(r['lr']) for r in rows], rel=1e-4)
    lr_range(lowest=1e-5, highest=1e-2, **options)
    out = capsys.readouterr().out
    assert 'already done' in out
    assert 'does not tell what is too large' not in out
    fall = [(i + 1, n, v) for i in range(12) for n, v in (('lr', used[i]), ('loss', 3 - i / 9))]
    with (plot.parent / 'metrics.csv').open('w') as file:
        csv.writer(file).writerows(fall)
    lr_range(lowest=1e-5, highest=1e-2, **options)
    assert 'does not tell what is too large: choose a larger --highest' in capsys.readouterr().out
    with pytest.raises(ModelError, match='--lowest'):
        lr_range(lowest=1.0, highest=0.1, **options)


def test_an_explosion_is_a_multiple_of_the_smallest_loss_before() -> None:
    assert explosion(np.array([3.0, 1.0, 2.0, 4.0, 4.1, 0.5]), 4) == 4
    assert explosion(np.array([3.0, 1.0, 2.0, 4.0, 4.1, 0.5]), 5) is None
    assert explosion(np.array([9.0, 8.0, 1.0]), 4) is None
    # Of a loss that may be negative as far above it as of a positive one.
    assert explosion(np.array([1.0, -1.0, 1.9, 2.1]), 4) == 3
    assert explosion(np.array([1.0, 1e9]), 0) is None
    assert explosion(np.array([]), 4) is None


EXPLODING: dict[str, Any] = {
    **QUICK, 'method': 'clcp_anchored', 'model': ModelConfig('test_vit', embed_dim=16),
    'clcp_anchored': AnchoredConfig(cls=1.0, nce=0.0, geometry=1.0, width=16),
    'lowest': 1e-2, 'highest': 100.0, 'max_steps': 16, 'checkpoint_every': 4,
}  # fmt: skip
"""A loss that is not bounded: the depth of points, which weights of that size miss by far."""


def test_a_range_test_ends_where_the_loss_explodes_and_is_finite(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So it does when it is resumed; with 0 it goes on, and what it finds then can be cut."""
    options = {**EXPLODING, 'pairs': pairs, 'out': tmp_path}

    def rows() -> list[dict[str, str]]:
        with (tmp_path / 'lr_range' / 'lr_range.csv').open() as file:
            return list(csv.DictReader(file))

    lr_range(**options)
    out, stopped = capsys.readouterr().out, rows()
    smoothed = np.array([float(r['smoothed']) for r in stopped])
    assert 5 < len(stopped) < 16
    assert f'after step {len(stopped)} the smoothed loss' in out
    assert 'is more than 4 times its smallest' in out
    assert smoothed[-1] > 4 * smoothed.min()
    assert all(smoothed[:-1] <= 4 * np.minimum.accumulate(smoothed[:-1]))
    assert not (tmp_path / 'lr_range' / 'image_encoder.safetensors').exists()

    lr_range(**options)
    assert 'going on with' in capsys.readouterr().out
    assert rows() == stopped

    lr_range(**options, stop_factor=0)
    assert 'times its smallest' not in capsys.readouterr().out
    assert len(rows()) == 16
    assert rows()[: len(stopped)] == stopped
    lr_range(**options)
    out = capsys.readouterr().out
    assert 'already done' in out
    assert f'the loss explodes in step {len(stopped)}: what comes after it is left out' in out
    assert rows() == stopped


@pytest.mark.slow
def test_a_range_test_of_two_processes_is_told_once(
    pairs: Path, tmp_path: Path, root: Path
) -> None:
    """Each has other losses; both end where the first one does, which alone writes."""
    command = [
        sys.executable, str(root / 'training' / 'pretrain.py'), 'lr-range', '--method',
        'clcp_anchored', '--clcp_anchored.cls', '1', '--clcp_anchored.nce', '0',
        '--clcp_anchored.geometry', '1', '--clcp_anchored.width', '16', '--image-encoder',
        'test_vit', '--embed-dim', '16', '--lowest', '1e-2', '--highest', '100', '--max_steps',
        '16', '--devices', '2', '--accelerator', 'cpu', '--strategy', 'ddp',
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *typed(pairs, tmp_path)[:-2]],
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'error' not in done.stderr
    for line in ('the test ends there', 'the loss falls fastest', 'next: '):
        assert done.stdout.count(line) == 1, done.stdout


@pytest.mark.parametrize('factor', [-1.0, 0.5, 1.0, float('nan'), float('inf')])
def test_a_factor_that_ends_every_test_is_refused(factor: float, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='--stop_factor must be more than 1, or 0'):
        lr_range(stop_factor=factor, out=tmp_path, pairs=tmp_path / 'nowhere')


def test_a_range_test_of_a_method_with_its_own_rates_is_refused(
    pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r'lip_loc has learning rates of its own.*head_lr'):
        lr_range(method='lip_loc', out=tmp_path, pairs=pairs, **QUICK)
    assert not list(tmp_path.iterdir())


def test_the_rates_of_a_range_test_are_those_used(pairs: Path, tmp_path: Path) -> None:
    """Those of --optimizer.lr, also where the heads have another."""
    optimizer = OptimizerConfig(lr=1e-3, head_lr=5e-3)
    plot = lr_range(
        lowest=1e-5, highest=1e-2, **QUICK, max_steps=10, out=tmp_path, pairs=pairs,
        optimizer=optimizer,
    )  # fmt: skip
    with (plot.parent / 'lr_range.csv').open() as file:
        rates = [float(r['lr']) for r in csv.DictReader(file)]
    assert rates == pytest.approx(np.geomspace(1e-5, 1e-2, 10).tolist(), rel=1e-4)
    used = [v for _, n, v in read_metrics(plot.parent / 'metrics.csv') if n == 'lr']
    assert used == pytest.approx([5 * r for r in rates], rel=1e-4)


def test_a_grid_goes_on_where_it_was(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**QUICK, 'max_steps': 2, 'validate_every': 2, 'out': tmp_path, 'pairs': pairs}
    values: dict[str, Any] = {'optimizer.lr': [1e-4, 1e-3], 'seed': [0]}
    grid(values, **options)
    assert (tmp_path / 'grid' / 'lr=0.0001,seed=0' / 'image_encoder.safetensors').is_file()
    capsys.readouterr()
    values['seed'] = [0, 1]
    table = grid(values, **options)
    out = capsys.readouterr().out
    assert out.count('already done') == 2
    assert 'best val_loss' in out
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(float(r['optimizer.lr']), r['seed']) for r in rows] == [
        (1e-4, '0'), (1e-4, '1'), (1e-3, '0'), (1e-3, '1'),
    ]  # fmt: skip
    assert all(float(r['val_loss']) > 0 for r in rows)
    assert (tmp_path / 'grid' / 'grid.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(ModelError, match='no run logged val_probe_miou; there are val_alignment'):
        grid(values, 'val_probe_miou', **options)
    for metric in ('val_nothing', 'lr'):
        with pytest.raises(ModelError, match=f'{metric} is no metric of which more or less'):
            grid(values, metric, **options)
    # A rank of embeddings is a number of directions: more is better.
    capsys.readouterr()
    table = grid(values, 'val_image_rank', **options)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda r: float(r['val_image_rank']))
    name = f'best val_image_rank, {float(best["val_image_rank"]):.4g}'
    assert f'{name}: lr={float(best["optimizer.lr"]):g},seed={best["seed"]}\n' in (
        capsys.readouterr().out
    )


def test_every_metric_of_a_run_has_its_direction(pairs: Path, tmp_path: Path) -> None:
    options = {**QUICK, 'watch': WatchConfig(images=4)}
    pretrain(pairs, tmp_path, max_steps=2, validate_every=1, **options)
    logged = {name for _, name, _ in read_metrics(tmp_path / 'metrics.csv')}
    without = {'lr', 'grad_norm', 'logit_scale', 'pairs', 'val_pairs'}
    assert without < logged
    smaller = {name for name in logged - without if smaller_is_better(name)}
    assert {'val_loss', 'val_rank', 'val_image_to_lidar_rank', 'val_uniformity_image'} < smaller
    assert not smaller & {'val_r1', 'val_image_rank', 'val_lidar_rank', 'val_patch_rank'}
    assert smaller_is_better('term_geometry')


class Infinite(Callback):
    """Makes the loss of a step infinite, as of a learning rate far too high."""

    def __init__(self, step: int, least_rate: float = 0.0) -> None:
        self.step, self.least_rate = step, least_rate

    def on_before_backward(self, trainer: L.Trainer, _: Any, loss: torch.Tensor) -> None:
        peak = trainer.optimizers[0].param_groups[-1]['initial_lr']
        if trainer.global_step == self.step and peak >= self.least_rate:
            loss.data.fill_(float('inf'))


def add(callback: Callback, monkeypatch: pytest.MonkeyPatch) -> None:
    real = L.Trainer.fit

    def fit(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.callbacks.insert(0, callback)
        real(self, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, 'fit', fit)


def test_a_range_test_ends_where_the_loss_is_infinite(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    add(Infinite(step=8), monkeypatch)
    plot = lr_range(lowest=1e-5, highest=1e-2, **QUICK, max_steps=12, out=tmp_path, pairs=pairs)
    assert 'the loss is inf at step 8' in capsys.readouterr().out
    with (plot.parent / 'lr_range.csv').open() as file:
        assert [int(r['step']) for r in csv.DictReader(file)] == list(range(1, 9))


def test_a_combination_that_diverges_is_a_result_of_a_grid(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(Infinite(step=1, least_rate=0.5), monkeypatch)
    table = grid(
        {'optimizer.lr': [1.0, 1e-4]}, **QUICK, max_steps=2, validate_every=2, tolerance=0,
        out=tmp_path, pairs=pairs,
    )  # fmt: skip
    with table.open() as file:
        diverged, other = csv.DictReader(file)
    assert 'the loss is inf' in diverged['failure']
    assert not diverged['val_loss']
    assert float(other['val_loss']) > 0
    assert not other['failure']


def test_a_combination_that_a_library_cannot_take_does_not_end_a_grid(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Singular(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.optimizers[0].param_groups[-1]['initial_lr'] > 0.5:
                raise torch.linalg.LinAlgError('did not converge\nbecause of NaN')

    add(Singular(), monkeypatch)
    table = grid(
        {'optimizer.lr': [1.0, 1e-4]}, **QUICK, max_steps=1, validate_every=1, out=tmp_path,
        pairs=pairs,
    )  # fmt: skip
    with table.open() as file:
        failed, other = csv.DictReader(file)
    assert 'did not converge' in failed['failure']
    assert '\n' not in failed['failure']
    assert not failed['val_loss']
    assert float(other['val_loss']) > 0
    with pytest.raises(ModelError, match=r'no run logged val_loss \(\w+: did not converge\)'):
        grid(
            {'optimizer.lr': [1.0]}, **QUICK, max_steps=1, validate_every=1, out=tmp_path,
            pairs=pairs,
        )  # fmt: skip


def typed(pairs: Path, out: Path) -> list[str]:
    """Options that are not the defaults, as one types them."""
    return [
        '--pairs', str(pairs), '--out', str(out), '--image-size', '32', '--views.min_points=5',
        '--views.voxel_size_m', '0.6', '--batch_size', '8', '--batch-gap', '0', '--workers', '0',
        '--loggers', 'none', '--images', '0', '--no-overwrite', '--optimizer.lr', '0.002',
    ]  # fmt: skip


def next_line(capsys: pytest.CaptureFixture[str]) -> Any:
    """What the last `next:` line gives to pretraining."""
    from jsonargparse import ArgumentParser

    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith('next: python training/pretrain.py ')
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--config', action='config')
    parser.add_function_arguments(pretrain, as_positional=True)
    return parser.parse_args(shlex.split(line)[3:])


def test_what_is_next_after_a_grid_keeps_its_options(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('max_steps: 1\nvalidate_every: 1\n')
    values = '{"optimizer.lr": [1.2345678e-3], "views.crop_fraction": [[0.7, 0.9]]}'
    run_command(
        grid, ['--config', str(recipe), *typed(pairs, tmp_path / 'run'), '--values', values]
    )
    given = next_line(capsys)
    assert given.optimizer.lr == 1.2345678e-3
    assert given.views.crop_fraction == [0.7, 0.9]
    assert (given.views.image_size, given.max_steps, given.validate_every) == (32, 1, 1)
    assert (given.pairs, given.out) == (pairs, tmp_path / 'run')


def test_what_is_next_after_a_range_test_is_taken(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rates as they were tested, and none below the lowest."""
    more = [
        '--max_steps',
        '10',
        '--lowest',
        '1e-7',
        '--highest',
        '1e-6',
        '--optimizer.lidar-lr',
        '0.004',
    ]
    run_command(lr_range, [*typed(pairs, tmp_path / 'run'), *more])
    given = next_line(capsys)
    assert given.optimizer.lr <= 1e-7
    assert given.optimizer.lidar_lr == pytest.approx(2 * given.optimizer.lr, rel=0.01)
    assert given.optimizer.head_lr is None
    assert (given.views.image_size, given.max_steps) == (32, 150)
    OptimizerConfig(**vars(given.optimizer)).check()


def test_any_other_error_ends_a_grid(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='nothing_known'):
        grid({'model.image_encoder': ['nothing_known']}, **QUICK, out=tmp_path, pairs=pairs)


def test_options_of_a_grid() -> None:
    settings = changed({'optimizer': OptimizerConfig(clip=2.0)}, {'optimizer.lr': 0.5, 'seed': 3})
    assert settings['optimizer'] == OptimizerConfig(clip=2.0, lr=0.5)
    assert settings['seed'] == 3
    assert changed({}, {'clcp.temperature': 0.2})['clcp'].temperature == 0.2
    inner = changed({}, {'clcp_anchored.negatives.scope': 'batch'})['clcp_anchored']
    assert inner.negatives.scope == 'batch'
    assert changed({}, {'watch.probe': 'a/b'})['watch'].probe == Path('a/b')
    assert changed({}, {'views.crop_fraction': [0.5, 1]})['views'].crop_fraction == [0.5, 1.0]
    assert changed({}, {'model.image_weights': None})['model'].image_weights is None
    for option, value in (
        ('views.crop', 'round'), ('seed', 'x'), ('views', {}), ('clcp_anchored.negatives', 1),
        ('max_steps', 1.5), ('optimizer.lr', 'high'),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=f'^{option} '):
            changed({}, {option: value})
    for wrong in (
        'optimiser.lr', 'optimizer.lrr', 'out', 'overwrite', 'nothing', 'optimizer.lr.x',
        'clcp_anchored.negatives.y',
    ):  # fmt: skip
        with pytest.raises(ModelError, match='no option'):
            changed({}, {wrong: 1})
    with pytest.raises(ModelError, match='--values'):
        grid({})
    name = name_of({'optimizer.lr': 1e-4, 'model.image_encoder': 'a/b c', 'views.flip': True})
    assert name == 'lr=0.0001,image_encoder=a_b_c,flip=true'


@pytest.mark.parametrize('name', SUBCOMMANDS)
def test_subcommands_read_the_recipes_of_pretraining(root: Path, name: str) -> None:
    from jsonargparse import ArgumentParser

    from training.cli import normalize_arguments, subcommand

    function = subcommand(SUBCOMMANDS, name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--config', action='config')
    parser.add_function_arguments(function, as_positional=True)
    recipe = str(root / 'config/pretrain/clcp.yaml')
    own = (
        ['--values', '{"optimizer.lr": [1e-4, 1e-3]}'] if name == 'grid' else ['--lowest', '1e-5']
    )
    given = ['--config', recipe, '--max-steps', '30', *own]
    parsed = parser.parse_args(normalize_arguments(function, given))
    assert parsed.model.lidar_encoder == 'minkunet34_w32'
    assert parsed.max_steps == 30
    assert 'Pairs per step' in parser.format_help()
    assert pretrain.__doc__ is not None
