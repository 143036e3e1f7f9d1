# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Does pretraining help on somebody's labelled frames? The comparison of simdg, on real data."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from clcp_ros.bundle import sha256_of
from clcp_ros.errors import ModelError
from training.cli import atomic_path, git_commit
from training.experiments.jobs import raise_first, run_jobs, run_script
from training.experiments.plan import (
    BASELINE,
    FROZEN,
    KEPT,
    Frames,
    Job,
    Plan,
    arguments_of,
    as_arguments,
    check_arms,
    variants,
)
from training.experiments.summary import signed
from training.reporting.evaluation import RESULT
from training.simdg.report import Spread, relative_performance


class FrameRow(NamedTuple):
    """What one run reached in one condition.

    Attributes:
        recipe: Its name.
        seed: Of the run.
        condition: Of the frames.
        frames: How many.
        miou: Percent.
    """

    recipe: str
    seed: int
    condition: str
    frames: int
    miou: float


def compare_frames(
    plan: Plan,
    data: Path,
    pairs: Path,
    weights: Path,
    seeds: list[int],
    out: Path,
    parallel: int = 1,
    part: str = '',
) -> str:
    """Run an experiment on labelled frames, or what is missing of it.

    Args:
        plan: What is compared, with `frames`; each arm has one pretraining.
        data: Folder of labelled frames.
        pairs: Pair set to pretrain on.
        weights: What all arms and the baseline start from.
        seeds: Of pretraining and finetuning.
        out: Folder of the experiment: runs, logs, results.csv and .md.
        parallel: Jobs at once, which share the processors.
        part: Of the plan, in the names of the files where this is not the whole.

    Returns:
        The table, as Markdown.

    Raises:
        ModelError: Arms that make no sense, missing files, or jobs that failed; the others are
            done first.
    """
    assert plan.frames is not None
    check_arms(plan)
    if 'model.image_encoder' not in plan.common:
        raise ModelError('a plan on frames names the network: common, model.image_encoder')
    for path in (data, pairs, weights):
        if not path.exists():
            raise ModelError(f'{path}: no such file or folder; docs/experiments.md has the steps')
    out.mkdir(parents=True, exist_ok=True)
    jobs = [Job(arm, '', seed) for seed in seeds for arm in (None, *plan.arms)]
    failed = run_jobs(jobs, partial(_one, plan, data, pairs, weights, out), parallel)
    done = [job for job in jobs if job.title not in failed]
    rows = [row for job in done for row in _rows(job, plan, out)]
    rows.sort(key=lambda row: row.recipe.removesuffix(FROZEN) != BASELINE)
    table = frames_table(rows, plan.frames.source)
    name = '-'.join(filter(None, ('results', part)))
    with atomic_path(out / f'{name}.csv') as temporary, temporary.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(FrameRow._fields)
        writer.writerows((*row[:-1], f'{row.miou:.3f}') for row in rows)
    with atomic_path(out / f'{name}.md') as temporary:
        temporary.write_text(f'{table}\nCommit {git_commit()}.\n')
    raise_first(failed, len(jobs))
    return table


def frames_table(rows: Iterable[FrameRow], source: str) -> str:
    """Markdown: recipes down, conditions across, and what is kept of the source.

    Args:
        rows: Of all recipes, seeds and conditions.
        source: The condition that was trained on.
    """
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        runs.setdefault(row.recipe, {}).setdefault(row.seed, {})[row.condition] = row.miou
    found = dict.fromkeys(c for run in runs.values() for r in run.values() for c in r)
    others = [c for c in found if c != source]
    lines = [
        f'| recipe | seeds | {" | ".join([f"{source} (source)", *others])} | '
        f'{" | ".join(f"rPD {c}" for c in others)} | '
        f'{" | ".join(f"{c} against none" for c in [*others, source])} |',
        f'|---|---:|{"---:|" * (2 + 3 * len(others))}',
    ]
    baseline = runs.get(BASELINE, {})
    for recipe, run in runs.items():
        cells = [recipe, str(len(run))]
        cells += [Spread.of(r[c] for r in run.values()).text() for c in (source, *others)]
        cells += [
            Spread.of(relative_performance(r[c], r[source]) for r in run.values()).text(3)
            for c in others
        ]
        for condition in (*others, source):
            paired = [
                r[condition] - baseline[s][condition] for s, r in run.items() if s in baseline
            ]
            cells.append('' if recipe == BASELINE else signed(Spread.of(paired)))
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _one(plan: Plan, data: Path, pairs: Path, weights: Path, out: Path, job: Job) -> None:
    frames = plan.frames
    assert isinstance(frames, Frames)
    log = out / 'logs' / f'{job.recipe}-seed{job.seed}.log'
    encoder = {'encoder': plan.common['model.image_encoder'], 'weights': str(weights)}
    run = out / 'pretrain' / job.recipe / f'seed{job.seed}'
    if job.arm is not None:
        options = {**plan.common, 'model.image_weights': str(weights)}
        run_script('pretrain.py', arguments_of(job, pairs, run, options), log)
        encoder = {'encoder': str(run / 'image_encoder.safetensors')}
    config = ['--config', frames.config] if frames.config else []
    for end, wanted in variants(plan, job).items():
        folder = out / 'runs' / (job.recipe + end) / f'seed{job.seed}'
        options = {**encoder, **wanted, 'data': str(data), 'out': str(folder), 'seed': job.seed}
        options |= {'freeze_encoder': end == FROZEN}
        if end == KEPT:
            options['keep.run'] = str(run)
        run_script('finetune.py', [*config, *as_arguments(options)], log)
        model, result = folder / 'model.safetensors', folder / RESULT
        if result.is_file() and json.loads(result.read_text())['model_sha256'] == sha256_of(model):
            continue
        options = {'model': str(model), 'data': str(data), 'split': frames.split}
        options |= {'source': frames.source, 'pictures': 0, 'boundary': False}
        run_script('evaluate.py', as_arguments(options), log)


def _rows(job: Job, plan: Plan, out: Path) -> list[FrameRow]:
    rows = []
    for name in (job.recipe + end for end in variants(plan, job)):
        found = json.loads((out / 'runs' / name / f'seed{job.seed}' / RESULT).read_text())
        rows += [
            FrameRow(name, job.seed, condition, values['frames'], values['miou'])
            for condition, values in found['conditions'].items()
        ]
    return rows
