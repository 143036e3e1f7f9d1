# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Does pretraining help? Pretrain, finetune and measure every arm with every seed on simdg."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clcp_ros.errors import ModelError
from training.experiments.plan import DOMAINS, Job, Plan, arguments_of, check, jobs_of, recipes_of
from training.experiments.summary import Comparison, write_comparison
from training.simdg.benchmark import run_benchmark, size_of
from training.simdg.data import prepare
from training.simdg.sizes import Size

ROOT = Path(__file__).resolve().parents[2]


def compare(
    plan: Plan,
    *,
    size: Size | str = '',
    seeds: list[int] | None = None,
    split: str = 'test',
    data: Path = Path('simdg'),
    out: Path = Path('experiment'),
    parallel: int = 1,
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

    Returns:
        The figures; also written to `out`.

    Raises:
        ModelError: Arms that make no sense, or jobs that failed; the others are done first.
    """
    size = size_of(size or plan.size)
    check(plan, size)
    chosen = list(size.seeds if seeds is None else seeds)
    jobs = jobs_of(plan.arms, chosen)
    prepare(size, data)
    out.mkdir(parents=True, exist_ok=True)
    settings = (plan, size, split, data, out)
    failed = _run_all(jobs, settings, parallel)
    done = [job for job in jobs if job.title not in failed]
    comparison = write_comparison(done, plan, size, out, data, split)
    if failed:
        first = next(iter(failed))
        raise ModelError(f'{len(failed)} of {len(jobs)} jobs failed; {first}: {failed[first]}')
    return comparison


def _run_all(jobs: list[Job], settings: tuple[Any, ...], parallel: int) -> dict[str, str]:
    """Run jobs; the reasons of those that failed, by title."""
    failed: dict[str, str] = {}
    bar = tqdm(total=len(jobs), desc='experiment', unit='job')
    if parallel <= 1:
        for job in jobs:
            _note(failed, job, _caught(job, *settings), bar)
    else:
        # Processes that share the processors evenly instead of fighting for them.
        os.environ['OMP_NUM_THREADS'] = str(max(1, (os.cpu_count() or 1) // parallel))
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(parallel, mp_context=context) as pool:
            futures = {pool.submit(_caught, job, *settings): job for job in jobs}
            for future in as_completed(futures):
                _note(failed, futures[future], future.result(), bar)
    bar.close()
    return failed


def _note(failed: dict[str, str], job: Job, reason: str, bar: Any) -> None:
    bar.update()
    bar.set_postfix_str(job.title)
    if reason:
        failed[job.title] = reason


def _caught(job: Job, *settings: Any) -> str:
    """One job; why it failed, or nothing. One that fails must not end the others."""
    try:
        _one(job, *settings)
    except Exception as error:  # reported by the caller with the job's name
        return ' '.join(str(error).split()) or type(error).__name__
    return ''


def _one(job: Job, plan: Plan, size: Size, split: str, data: Path, out: Path) -> None:
    runs = out / 'pretrain'
    if job.arm is not None:
        run = runs / job.recipe / f'seed{job.seed}'
        pairs = data / size.name / DOMAINS[job.domain]
        options = {'model.image_encoder': size.architecture, **plan.common}
        _pretrain(arguments_of(job, pairs, run, options), out / 'logs', job)
    recipes = recipes_of(job, runs, plan, size)
    run_benchmark(size, recipes, data, split, [job.seed], workers=1, report=False)


def _pretrain(arguments: list[str], logs: Path, job: Job) -> None:
    """The command that a user would type, in a process of its own; its output goes to a file."""
    command = [sys.executable, str(ROOT / 'training' / 'pretrain.py'), *arguments]
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f'{job.recipe}-seed{job.seed}.log'
    start = time.monotonic()
    with log.open('a') as file:
        file.write(f'{shlex.join(command)}\n')
        file.flush()
        code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        file.write(f'exit {code} after {time.monotonic() - start:.0f} s\n')
    if code:
        errors = [line for line in log.read_text().splitlines() if line.startswith('error:')]
        raise ModelError(f'pretraining ended with {code}: {errors[-1] if errors else log}')
