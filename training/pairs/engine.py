# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in this process, in several on this machine, or as Ray Data tasks on many machines.

What a job writes depends on the job alone, so the engines give the same set.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from clcp_ros.errors import ClcpError, PairSetError
from training.pairs.job import BuildOptions, Job, Tell, Update, run_job
from training.pairs.lock import hold_for_worker

EngineName = Literal['local', 'ray']

_TELL_EVERY_S = 0.2


class _Stopped(Exception):  # noqa: N818  # no error: this worker is asked to give up
    pass


@dataclass(frozen=True)
class Engine:
    """Where jobs run.

    Attributes:
        name: 'local' or 'ray'.
        workers: Processes of the local engine; 0 takes as many as there are processors. Ray takes
            what its cluster has.
    """

    name: EngineName = 'local'
    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise PairSetError(f'--workers {self.workers}: it must not be negative')

    @property
    def alone(self) -> bool:
        """Whether jobs run one after the other in this process."""
        return self.name == 'local' and (self.workers or _processors()) <= 1

    def run(
        self,
        jobs: Sequence[Job],
        folder: str,
        options: BuildOptions,
        tell: Tell,
        lock: Path | None = None,
    ) -> list[list[str]]:
        """Run jobs to the end.

        Args:
            jobs: What to convert.
            folder: The work folder.
            options: See there.
            tell: Is told how it goes on, in this process.
            lock: Lock file that worker processes hold, see `lock`.

        Returns:
            The sequences that each job wrote.

        Raises:
            ClcpError: The first job that failed; the others are given up.
        """
        shared = folder.startswith('memory:')
        if shared and (self.name == 'ray' or self.workers != 1):
            raise PairSetError(f'{folder} exists in one process only; use --workers 1')
        if self.name == 'ray':
            return _run_ray(jobs, folder, options, tell)
        workers = min(self.workers or _processors(), len(jobs))
        if workers <= 1:
            return [run_job(job, folder, options, tell) for job in jobs]
        return _run_processes(jobs, folder, options, tell, workers, lock)


def _processors() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_processes(
    jobs: Sequence[Job],
    folder: str,
    options: BuildOptions,
    tell: Tell,
    workers: int,
    lock: Path | None,
) -> list[list[str]]:
    # Not forked: threads of OpenCV and pyarrow do not survive that.
    context = multiprocessing.get_context('spawn')
    updates, stop = context.Queue(), context.Event()
    with ProcessPoolExecutor(
        workers, context, _begin_worker, (updates, stop, os.getpid(), lock)
    ) as pool:
        futures = [pool.submit(_run_in_worker, job, folder, options) for job in jobs]
        try:
            _follow(futures, updates, tell)
        except BaseException:
            # Those that run take notice at their next pair, and clear away what is not whole.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _follow(futures: list[Future[list[str]]], updates: Any, tell: Tell) -> None:
    """Pass updates on until all is done or something failed."""
    pending = set(futures)
    while pending:
        with contextlib.suppress(queue.Empty):
            tell(updates.get(timeout=_TELL_EVERY_S))
        for future in [f for f in pending if f.done()]:
            pending.remove(future)
            try:
                future.result()
            except BrokenProcessPool:
                raise PairSetError(
                    'a worker process was killed, perhaps for lack of memory: run the same '
                    'command again to go on, with fewer --workers'
                ) from None
    # A worker's last update was sent before its result, but may arrive after it.
    with contextlib.suppress(queue.Empty):
        while True:
            tell(updates.get(timeout=0.05))


_worker: dict[str, Any] = {}


def _begin_worker(updates: Any, stop: Any, parent: int, lock: Path | None) -> None:
    import cv2

    # Ctrl-C goes to all processes of a terminal: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    cv2.setNumThreads(1)
    updates.cancel_join_thread()
    # Held to this process' end: a conversion that is started again waits for it.
    handle = hold_for_worker(lock) if lock is not None else None
    _worker.update(updates=updates, stop=stop, lock=handle)


def _die_with(parent: int) -> None:
    """End this process when its parent is killed: an orphan would write beside its successor."""
    if sys.platform == 'linux':
        with contextlib.suppress(OSError, AttributeError):
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_in_worker(job: Job, folder: str, options: BuildOptions) -> list[str]:
    messages = _Batched(_worker['updates'].put, _worker['stop'].is_set)
    try:
        return run_job(job, folder, options, messages.tell)
    finally:
        messages.flush()


class _Batched:
    """Joins updates, so that there are a few a second."""

    def __init__(self, send: Tell, stopped: Callable[[], bool]) -> None:
        self.send, self.stopped = send, stopped
        self.update, self.sent = Update(), time.monotonic()

    def tell(self, update: Update) -> None:
        if self.stopped():
            raise _Stopped
        self.update.total += update.total
        self.update.pairs += update.pairs
        self.update.size += update.size
        self.update.dropped.update(update.dropped)
        if time.monotonic() - self.sent > _TELL_EVERY_S:
            self.flush()

    def flush(self) -> None:
        self.send(self.update)
        self.update, self.sent = Update(), time.monotonic()


def _run_ray(
    jobs: Sequence[Job], folder: str, options: BuildOptions, tell: Tell
) -> list[list[str]]:
    if not jobs:
        return []
    try:
        import ray
        import ray.data
    except ImportError:
        raise PairSetError("--engine ray needs Ray: pip install 'ray[data]'") from None
    with _ray_running(ray):
        ray.data.DataContext.get_current().enable_progress_bars = False
        stored = ray.put(list(jobs))
        task = partial(_ray_task, jobs=stored, folder=folder, options=options)
        items = ray.data.from_items(
            [{'number': n} for n in range(len(jobs))], override_num_blocks=len(jobs)
        )
        found: dict[int, list[str]] = {}
        for row in items.map(task, num_cpus=1).iter_rows():
            tell(row['update'])
            if row['error'] is not None:
                raise row['error']
            found[row['number']] = row['sequences']
    return [found[number] for number in range(len(jobs))]


def _ray_task(row: dict[str, Any], jobs: Any, folder: str, options: BuildOptions) -> Any:
    """A row of the data set: one job."""
    import ray

    updates: list[Update] = []
    joined = _Batched(updates.append, lambda: False)
    joined.sent = float('inf')  # nobody listens before the end
    error: Exception | None = None
    sequences: list[str] = []
    try:
        sequences = run_job(ray.get(jobs)[row['number']], folder, options, joined.tell)
    except (ClcpError, OSError) as caught:
        # As data: Ray would wrap it and try again.
        error = caught
    return {
        'number': row['number'],
        'sequences': sequences,
        'update': joined.update,
        'error': error,
    }


@contextlib.contextmanager
def _ray_running(ray: Any) -> Iterator[None]:
    """A connection to the cluster that RAY_ADDRESS names, or a Ray on this machine for a while."""
    if ray.is_initialized():
        yield
        return
    root = Path(__file__).resolve().parents[2]
    if os.environ.get('RAY_ADDRESS'):
        environment: dict[str, Any] = {
            'py_modules': [str(root / 'training'), str(root / 'clcp_ros')]
        }
    else:
        environment = {'env_vars': {'PYTHONPATH': str(root)}}
    for name in ('ray', 'ray.data'):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.init(
        runtime_env=environment,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()
