# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Does pretraining help? Pretrain, finetune and measure every arm with every seed on simdg."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from training.experiments.invariance import measure_runs
from training.experiments.jobs import raise_first, run_jobs, run_script
from training.experiments.plan import DOMAINS, Job, Plan, arguments_of, check, jobs_of, recipes_of
from training.experiments.summary import INVARIANCE, Comparison, write_comparison
from training.simdg.benchmark import model_file, run_benchmark, size_of
from training.simdg.data import BenchmarkData, prepare
from training.simdg.sizes import Size


def compare(
    plan: Plan,
    *,
    size: Size | str = '',
    seeds: list[int] | None = None,
    split: str = 'test',
    data: Path = Path('simdg'),
    out: Path = Path('experiment'),
    parallel: int = 1,
    part: str = '',
) -> Comparison:
    """Run an experiment, or what is missing of it.

    Args:
        plan: What is compared.
        size: Size of the benchmark instead of the plan's.
        seeds: Of pretraining and finetuning; the size's by default.
        split: test, or val to develop on.
        data: Folder of the benchmark.
        out: Folder of the experiment: pretraining runs, logs, results.
        parallel: Jobs at once, which share the processors.
        part: Of the plan, in the names of the files where this is not the whole.

    Returns:
        The figures; also written to `out`, as results-<split>.csv and .md.

    Raises:
        ModelError: Arms that make no sense, or jobs that failed; the others are done first.
    """
    size = size_of(size or plan.size)
    check(plan, size)
    chosen = list(size.seeds if seeds is None else seeds)
    jobs = jobs_of(plan.arms, chosen)
    benchmark = prepare(size, data)
    out.mkdir(parents=True, exist_ok=True)
    failed = run_jobs(jobs, partial(_one, plan, size, split, benchmark, out), parallel)
    done = [job for job in jobs if job.title not in failed]
    comparison = write_comparison(
        done, plan, size, out, data, split, '-'.join(filter(None, (split, part)))
    )
    raise_first(failed, len(jobs))
    return comparison


def _one(
    plan: Plan, size: Size, split: str, benchmark: BenchmarkData, out: Path, job: Job
) -> None:
    runs, data = out / 'pretrain', benchmark.root.parent
    if job.arm is not None:
        run = runs / job.recipe / f'seed{job.seed}'
        pairs = benchmark.root / DOMAINS[job.domain]
        options = {'model.image_encoder': size.architecture, **plan.common}
        log = out / 'logs' / f'{job.recipe}-seed{job.seed}.log'
        run_script('pretrain.py', arguments_of(job, pairs, run, options), log)
    recipes = recipes_of(job, runs, plan, size)
    run_benchmark(size, recipes, data, split, [job.seed], workers=1, report=False)
    models = {
        recipe.name.removesuffix(plan.tag): model_file(size, data, recipe.name, job.seed)
        for recipe in recipes
        if not recipe.frozen
    }
    if models:
        encoder = Path(recipes[0].encoder) if job.arm is not None else None
        notes = out / INVARIANCE / split
        measure_runs(job.seed, encoder, models, benchmark.frames(split), notes)
