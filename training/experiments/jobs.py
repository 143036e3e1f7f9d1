# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the jobs of an experiment side by side; one that fails does not end the others."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from clcp_ros.errors import ModelError
from training.experiments.plan import Job

ROOT = Path(__file__).resolve().parents[2]


def run_jobs(jobs: list[Job], one: Callable[[Job], None], parallel: int) -> dict[str, str]:
    """Run jobs.

    Args:
        jobs: In the order in which they are begun.
        one: Does a job; a function of a module, or a partial one, for other processes.
        parallel: Jobs at once, which share the processors.

    Returns:
        The reasons of those that failed, by title.
    """
    failed: dict[str, str] = {}
    bar = tqdm(total=len(jobs), desc='experiment', unit='job')

    def note(job: Job, reason: str) -> None:
        bar.update()
        bar.set_postfix_str(job.title)
        if reason:
            failed[job.title] = reason

    if parallel <= 1:
        for job in jobs:
            note(job, _caught(one, job))
    else:
        # Processes that share the processors evenly instead of fighting for them.
        os.environ['OMP_NUM_THREADS'] = str(max(1, (os.cpu_count() or 1) // parallel))
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(parallel, mp_context=context) as pool:
            futures = {pool.submit(_caught, one, job): job for job in jobs}
            for future in as_completed(futures):
                note(futures[future], future.result())
    bar.close()
    return failed


def raise_first(failed: dict[str, str], jobs: int) -> None:
    """Complain of jobs that failed.

    Args:
        failed: From `run_jobs`.
        jobs: How many there were.

    Raises:
        ModelError: Some failed.
    """
    if failed:
        first = next(iter(failed))
        raise ModelError(f'{len(failed)} of {jobs} jobs failed; {first}: {failed[first]}')


def run_script(script: str, arguments: Sequence[str], log: Path) -> None:
    """A command that a user would type, in a process of its own; its output goes to a file.

    Args:
        script: Its file in training/.
        arguments: Of the command.
        log: What it says is appended to this file.

    Raises:
        ModelError: It failed.
    """
    command = [sys.executable, str(ROOT / 'training' / script), *arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open('a') as file:
        file.write(f'{shlex.join(command)}\n')
        file.flush()
        code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        file.write(f'exit {code} after {time.monotonic() - start:.0f} s\n')
    if code:
        errors = [line for line in log.read_text().splitlines() if line.startswith('error:')]
        raise ModelError(f'{script} ended with {code}: {errors[-1] if errors else log}')


def _caught(one: Callable[[Job], None], job: Job) -> str:
    """One job; why it failed, or nothing. One that fails must not end the others."""
    try:
        one(job)
    except Exception as error:  # reported by the caller with the job's name
        return ' '.join(str(error).split()) or type(error).__name__
    return ''
