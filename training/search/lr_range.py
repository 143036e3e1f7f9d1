# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning-rate range test (Smith 2017, arXiv 1506.01186): one short run, the rate ever higher.

The loss falls where the rate is of use and rises where it is too large; once it has exploded, the
test ends. Takes the options and recipes of training/pretrain.py; `--max_steps` is the length of
the whole test.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from clcp_ros.errors import ModelError
from training.callbacks import rank_zero_print
from training.cli import atomic_path, next_step, with_the_same_options
from training.loop import METRICS, read_metrics
from training.methods import find_method
from training.methods.config import OptimizerConfig
from training.nonfinite import DivergedError
from training.pretrain import pretrain
from training.search.explosion import Explosion, explosion, smooth
from training.search.signature import with_options_of
from training.watch.watch import WatchConfig


class Suggestion(NamedTuple):
    """Learning rates that a test speaks for.

    Attributes:
        steepest: Where the loss fell fastest; None where it did not fall.
        tenth: A tenth of where it was smallest.
    """

    steepest: float | None
    tenth: float


@with_options_of(pretrain)
def lr_range(
    lowest: float = 1e-6, highest: float = 0.1, stop_factor: float = 4.0, **settings: Any
) -> Path:
    """Run a learning-rate range test in `out`/lr_range; go on with one that was interrupted.

    Args:
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step; a loss that explodes ends the test before.
        stop_factor: The test ends where the smoothed loss is above this many times its smallest;
            0 goes on while the loss is finite.
        settings: Those of pretraining.

    Returns:
        The plot. Beside it is `lr_range.csv`: step, lr, loss, smoothed.

    Raises:
        ModelError: The rates or the factor make no sense, the test is too short, or the method
            has learning rates of its own.
    """
    method = settings.get('method', 'clcp')
    if find_method(method).own_rates:
        raise ModelError(
            f'{method} has learning rates of its own, which --optimizer.lr does not change: try '
            f'some with grid --values \'{{"{method}.head_lr": [1e-4, 1e-3]}}\''
        )
    if not 0 < lowest < highest:
        raise ModelError(f'--lowest must be positive and less than --highest, not {lowest:g}')
    if stop_factor and not 1 < stop_factor < math.inf:
        raise ModelError(
            f'--stop_factor must be more than 1, or 0 for no such end, not {stop_factor:g}'
        )
    steps = settings.get('max_steps', 150)
    if steps < 10:
        raise ModelError(f'a range test of {steps} steps tells nothing: --max_steps 100')
    out = Path(settings.pop('out', Path('runs/pretrain'))) / 'lr_range'
    own: OptimizerConfig = settings.pop('optimizer', OptimizerConfig())
    own.check()
    scale = highest / own.lr
    optimizer = dataclasses.replace(
        own, schedule='exponential', lr=highest, min_lr=lowest,
        lidar_lr=own.lidar_lr and own.lidar_lr * scale,
        head_lr=own.head_lr and own.head_lr * scale,
    )  # fmt: skip
    settings |= {
        'validate_every': 0, 'patience': 0, 'keep': 'last', 'tolerance': 0, 'watch': WatchConfig(),
    }  # fmt: skip
    try:
        watchers = [Explosion(stop_factor)]
        pretrain(out=out, optimizer=optimizer, hint=False, watchers=watchers, **settings)
    except DivergedError as error:
        rank_zero_print(f'\n{error}: the test ends there')
    _conclude(out, own, optimizer, stop_factor)
    return out / 'lr_range.png'


@rank_zero_only
def _conclude(
    out: Path, own: OptimizerConfig, optimizer: OptimizerConfig, stop_factor: float
) -> None:
    """Write and say what a test has shown, in the process that wrote its metrics."""
    highest = optimizer.lr
    rates, losses = _used(read_metrics(out / METRICS))
    # What is logged is the rate of the heads.
    rates *= highest / (optimizer.head_lr or highest)
    smoothed = smooth(losses)
    end = explosion(smoothed, stop_factor)
    if end is not None and end + 1 < len(losses):
        # Of a test that went on, with another factor.
        print(f'\nthe loss explodes in step {end + 1}: what comes after it is left out')
        rates, losses, smoothed = rates[: end + 1], losses[: end + 1], smoothed[: end + 1]
    _write(out / 'lr_range.csv', rates, losses, smoothed)
    best = suggest(rates, smoothed)
    plot(out / 'lr_range.png', rates, losses, smoothed, best)
    steepest = f'{best.steepest:.2g}' if best.steepest else 'nowhere'
    print(
        f'\nthe loss falls fastest at {steepest} and is smallest at {10 * best.tenth:.2g}; '
        f'see {out / "lr_range.png"}'
    )
    if math.isclose(10 * best.tenth, highest, rel_tol=1e-4):
        print(
            'that is where the test ends, so it does not tell what is too large: choose a larger '
            '--highest, unless the loss is flat there, which is a collapse'
        )
    next_step(
        with_the_same_options(
            'python training/pretrain.py',
            without=('lowest', 'highest', 'stop_factor', 'max_steps', 'overwrite'),
            then=_rates_for(own, float(f'{best.tenth:.1g}')),
        )
    )


def _rates_for(optimizer: OptimizerConfig, lr: float) -> dict[str, str]:
    """Options that change all learning rates as much as the one, which is how they were tested."""
    rates = {'lr': lr}
    for name in ('lidar_lr', 'head_lr'):
        if (rate := getattr(optimizer, name)) is not None:
            rates[name] = rate * lr / optimizer.lr
    if optimizer.min_lr > lr:
        rates['min_lr'] = optimizer.min_lr * lr / optimizer.lr
    return {f'optimizer.{name}': f'{rate:.3g}' for name, rate in rates.items()}


def _used(rows: list[tuple[int, str, float]]) -> tuple[np.ndarray, list[float]]:
    """(N,) learning rate and loss of each step, as they were logged."""
    rate, loss = ({s: v for s, n, v in rows if n == name} for name in ('lr', 'loss'))
    steps = sorted(rate.keys() & loss.keys())
    return np.array([rate[s] for s in steps]), [loss[s] for s in steps]


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> Suggestion:
    """Learning rates that a test speaks for.

    Args:
        rates: (N,) ascending.
        smoothed: (N,) losses.

    Raises:
        ModelError: The test ended after a few steps.
    """
    if len(rates) < 5:
        raise ModelError('the test ended after a few steps: choose a smaller --lowest')
    # The first steps are the noise of few batches, and of an average of few.
    begin = min(max(len(rates) // 10, 3), len(rates) - 2)
    best = begin + int(smoothed[begin:].argmin())
    tenth = float(rates[best]) / 10
    # Smith's rule: the steepest slope before the minimum, on a logarithmic axis; over a tenth of
    # the test, since single steps are noise.
    width = max(len(rates) // 10, 1)
    slopes = [smoothed[i] - smoothed[i - width] for i in range(begin + width, best + 1)]
    if not slopes or min(slopes) >= 0:
        return Suggestion(None, tenth)
    end = begin + width + int(np.argmin(slopes))
    return Suggestion(float(np.sqrt(rates[end] * rates[end - width])), tenth)


def plot(
    path: Path, rates: np.ndarray, losses: list[float], smoothed: np.ndarray, best: Suggestion
) -> None:
    """Draw the loss over the learning rate.

    Args:
        path: A PNG file.
        rates: (N,).
        losses: (N,).
        smoothed: (N,).
        best: Marked.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout='constrained')
    axes = figure.subplots()
    axes.plot(rates, losses, color='0.75', linewidth=1, label='loss of the step')
    axes.plot(rates, smoothed, color='C0', linewidth=2, label='smoothed')
    if best.steepest:
        axes.axvline(
            best.steepest, color='C2', linestyle='--', label=f'steepest: {best.steepest:.2g}'
        )
    axes.axvline(best.tenth, color='C1', linestyle=':', label=f'minimum / 10: {best.tenth:.2g}')
    low = float(smoothed.min())
    high = float(smoothed[: max(int(smoothed.argmin()), 1)].max())
    # A loss that explodes would leave a flat line of all the rest.
    axes.set_ylim(low - 0.3 * (high - low) - 1e-3, high + (high - low) + 1e-3)
    axes.set(xscale='log', xlabel='learning rate', ylabel='training loss')
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png', dpi=120)


def _write(path: Path, rates: np.ndarray, losses: list[float], smoothed: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('step', 'lr', 'loss', 'smoothed'))
        for i, (rate, loss, mean) in enumerate(zip(rates, losses, smoothed, strict=True)):
            if math.isfinite(loss):
                writer.writerow((i + 1, f'{rate:.6g}', f'{loss:.6g}', f'{mean:.6g}'))
