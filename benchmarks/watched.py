# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What would have been seen while an experiment's recipes were pretrained: alarms and curves.

Pretrains each arm of a plan once more, on the clear day and with one seed, with validations and a
probe on labelled frames, and collects what was measured and what was warned of. Runs that are done
are reused.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import csv
import re
from functools import partial
from pathlib import Path
from typing import Any

from training.cli import atomic_path, run_command
from training.experiment import DEFAULT, read_plan
from training.experiments.jobs import raise_first, run_jobs, run_script
from training.experiments.plan import Job, Plan, arguments_of
from training.loop import METRICS, read_metrics

COLUMNS = (
    'loss', 'val_loss', 'val_r1', 'val_r10', 'val_pairs', 'val_patch_cosine', 'val_patch_cka',
    'val_patch_rank', 'val_patch_similarity', 'val_image_rank', 'val_lidar_rank',
    'val_probe_miou',
)  # fmt: skip

_WARNING = re.compile(r'^warning at step (\d+): (.*)$', re.MULTILINE)


def watched(
    plan: Path = DEFAULT,
    pairs: Path = Path('simdg/small/pairs-clear'),
    probe: Path | None = Path('simdg/small/labelled'),
    weights: Path | None = None,
    out: Path = Path('experiments/watched'),
    validate_every: int = 100,
    seed: int = 0,
    parallel: int = 1,
) -> None:
    """Pretrain the arms of a plan with validations, and say what there was to see.

    Args:
        plan: An experiment's.
        pairs: Pair set.
        probe: Labelled frames for the segmentation by nearest neighbours; null for none.
        weights: What all arms start from, for a plan that has such.
        out: Folder of the runs, watched.csv and warnings.csv.
        validate_every: Steps between validations.
        seed: Of the runs.
        parallel: Runs at once.
    """
    chosen = read_plan(plan)
    jobs = [Job(arm, '', seed) for arm in chosen.arms]
    options: dict[str, Any] = {'validate_every': validate_every}
    if probe is not None:
        options['watch.probe'] = str(probe)
    if weights is not None:
        options['model.image_weights'] = str(weights)
    failed = run_jobs(jobs, partial(_pretrain, chosen, pairs, out, options), parallel)
    done = [job for job in jobs if job.title not in failed]
    rows = [
        row for job in done for row in curve(job.recipe, read_metrics(_run(out, job) / METRICS))
    ]
    warnings = [row for job in done for row in warnings_of(job.recipe, _log(out, job).read_text())]
    _write(out / 'watched.csv', ('recipe', 'step', *COLUMNS), rows)
    _write(out / 'warnings.csv', ('recipe', 'step', 'warning'), warnings)
    for recipe, step, text in warnings:
        print(f'{recipe}, step {step}: {text}')
    raise_first(failed, len(jobs))


def curve(recipe: str, metrics: list[tuple[int, str, float]]) -> list[tuple[Any, ...]]:
    """A row for each validation.

    Args:
        recipe: Its name.
        metrics: (step, name, value) of a run.

    Returns:
        Recipe, step and `COLUMNS`, None for what was not measured; the loss is the last before.
    """
    rows: list[tuple[Any, ...]] = []
    loss: float | None = None
    steps: dict[int, dict[str, float]] = {}
    for step, name, value in metrics:
        steps.setdefault(step, {})[name] = value
    for step in sorted(steps):
        values = steps[step]
        loss = values.get('loss', loss)
        if any(name.startswith('val_') for name in values):
            rest = (values.get(name) for name in COLUMNS[1:])
            rows.append((recipe, step, loss, *rest))
    return rows


def warnings_of(recipe: str, log: str) -> list[tuple[str, int, str]]:
    """What a run warned of: recipe, step and text, each once.

    Args:
        recipe: Its name.
        log: What the command said.
    """
    found = {text: int(step) for step, text in reversed(_WARNING.findall(log))}
    return sorted(((recipe, step, text) for text, step in found.items()), key=lambda row: row[1])


def _pretrain(plan: Plan, pairs: Path, out: Path, options: dict[str, Any], job: Job) -> None:
    assert job.arm is not None
    arguments = arguments_of(job, pairs, _run(out, job), plan.common)
    more = [f'--{name}={value}' for name, value in options.items()]
    run_script('pretrain.py', [*arguments, *more], _log(out, job))


def _run(out: Path, job: Job) -> Path:
    return out / job.recipe / f'seed{job.seed}'


def _log(out: Path, job: Job) -> Path:
    return out / 'logs' / f'{job.recipe}-seed{job.seed}.log'


def _write(path: Path, names: tuple[str, ...], rows: list[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            writer.writerow([f'{x:.5g}' if isinstance(x, float) else x for x in row])


if __name__ == '__main__':
    run_command(watched)
