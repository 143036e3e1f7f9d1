# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Did weights forget, or did BatchNorm's statistics move? An experiment's encoders with the first.

Takes the encoders that an experiment on labelled frames has pretrained, gives them the statistics
of the weights that they started from, and measures them frozen, as the experiment did. What is
done is reused.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import csv
import json
from functools import partial
from pathlib import Path

import torch

from clcp_ros.errors import ModelError
from training.cli import atomic_path, run_command
from training.experiment import read_plan
from training.experiments.frames import FrameRow
from training.experiments.jobs import raise_first, run_jobs, run_script
from training.experiments.plan import FROZEN, Job, Plan, as_arguments, variants
from training.models.image_encoder import ImageEncoder, read_weights
from training.reporting.evaluation import RESULT

FOLDER = 'first_statistics'
ENDING = ', first statistics'

_STATISTICS = ('running_mean', 'running_var')


def first_statistics(
    data: Path = Path('data/camvid'),
    weights: Path = Path('weights.pth'),
    plan: Path = Path('config/experiments/camvid.yaml'),
    experiment: Path = Path('experiments/camvid'),
    seeds: int = 3,
    parallel: int = 1,
) -> None:
    """Measure an experiment's frozen encoders with the statistics that they started from.

    Args:
        data: Folder of labelled frames.
        weights: What all arms started from.
        plan: Of the experiment.
        experiment: Its folder; first_statistics.csv is written there.
        seeds: How many.
        parallel: Runs at once.
    """
    chosen = read_plan(plan)
    if chosen.frames is None:
        raise ModelError(f'{plan} is not on labelled frames')
    jobs = [Job(arm, '', seed) for seed in range(seeds) for arm in chosen.arms]
    failed = run_jobs(jobs, partial(_one, chosen, data, weights, experiment), parallel)
    rows = [row for job in jobs if job.title not in failed for row in _rows(job, experiment)]
    with atomic_path(experiment / f'{FOLDER}.csv') as path, path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(FrameRow._fields)
        writer.writerows((*row[:-1], f'{row.miou:.3f}') for row in rows)
    raise_first(failed, len(jobs))


def with_first_statistics(encoder: Path, weights: Path, out: Path) -> int:
    """Write an encoder with the statistics of other weights of its network.

    Args:
        encoder: File of pretraining.
        weights: What it started from.
        out: File to write.

    Returns:
        How many tensors changed.

    Raises:
        ModelError: The network has no statistics.
    """
    metadata = read_weights(encoder)[1]
    architecture, size = metadata['architecture'], json.loads(metadata['input_size'])
    trained, first = ImageEncoder(architecture, encoder), ImageEncoder(architecture, weights)
    before, changed = first.model.state_dict(), 0
    for name, value in trained.model.state_dict().items():
        if name.endswith(_STATISTICS):
            changed += not torch.equal(value, before[name])
            value.copy_(before[name])
    if not changed:
        raise ModelError(f'{encoder}: no statistics of BatchNorm that pretraining moved')
    out.parent.mkdir(parents=True, exist_ok=True)
    trained.save(out, (size[0], size[1]), {'encoder': str(encoder), 'statistics': str(weights)})
    return changed


def _one(plan: Plan, data: Path, weights: Path, experiment: Path, job: Job) -> None:
    assert plan.frames is not None
    folder = _folder(experiment, job)
    if (folder / RESULT).is_file():
        return
    run = experiment / 'pretrain' / job.recipe / f'seed{job.seed}'
    encoder = folder / 'image_encoder.safetensors'
    with_first_statistics(run / 'image_encoder.safetensors', weights, encoder)
    log = experiment / 'logs' / f'{FOLDER}-{job.recipe}-seed{job.seed}.log'
    config = ['--config', plan.frames.config] if plan.frames.config else []
    options = {'encoder': str(encoder), **variants(plan, job)[FROZEN], 'freeze_encoder': True}
    options |= {'data': str(data), 'out': str(folder), 'seed': job.seed}
    run_script('finetune.py', [*config, *as_arguments(options)], log)
    options = {'model': str(folder / 'model.safetensors'), 'data': str(data)}
    options |= {'split': plan.frames.split, 'source': plan.frames.source, 'pictures': 0}
    run_script('evaluate.py', as_arguments({**options, 'boundary': False}), log)


def _rows(job: Job, experiment: Path) -> list[FrameRow]:
    found = json.loads((_folder(experiment, job) / RESULT).read_text())
    name = f'{job.recipe}{FROZEN}{ENDING}'
    return [
        FrameRow(name, job.seed, condition, values['frames'], values['miou'])
        for condition, values in found['conditions'].items()
    ]


def _folder(experiment: Path, job: Job) -> Path:
    return experiment / FOLDER / job.recipe / f'seed{job.seed}'


if __name__ == '__main__':
    run_command(first_statistics)
