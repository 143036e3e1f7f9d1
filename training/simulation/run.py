# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Simulates whole data sets with several processes; a finished one is reused, a begun one too."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import cv2
from tqdm import tqdm

from clcp_ros.environment import environment
from training.cli import atomic_path
from training.simulation import a2d2
from training.simulation.acdc import Acdc
from training.simulation.bags import TEST_DRIVE, TRAINING_DRIVE, Storage
from training.simulation.cityscapes import Cityscapes
from training.simulation.config import SimulationConfig, SimulationError
from training.simulation.kitti_odometry import KittiOdometry
from training.simulation.nuscenes import NuScenes
from training.simulation.recording import TRUTH, Recording, Shot, read_truths, write_truths

Layout = Literal['a2d2', 'bags', 'cityscapes', 'acdc', 'kitti_odometry', 'nuscenes']

DEFAULT_LAYOUTS: tuple[Layout, ...] = ('a2d2', 'bags', 'cityscapes')
"""What the other commands work on when nothing else is said."""

MARKER = 'simulation.json'
_CHUNK = 8
"""Consecutive frames share most of the scene, so a process takes several at once."""


def recordings_of(layouts: Sequence[str], storage: Storage = 'mcap') -> list[Recording]:
    """The recordings of some layouts.

    Args:
        layouts: Their names.
        storage: Of the bags.

    Raises:
        SimulationError: There is no such layout or storage.
    """
    known: dict[str, Any] = {
        'a2d2': lambda: [a2d2.A2D2()],
        'bags': lambda: [TRAINING_DRIVE.stored_as(storage), TEST_DRIVE.stored_as(storage)],
        'cityscapes': lambda: [Cityscapes()],
        'acdc': lambda: [Acdc()],
        'kitti_odometry': lambda: [KittiOdometry()],
        'nuscenes': lambda: [NuScenes()],
    }
    if unknown := [name for name in layouts if name not in known]:
        raise SimulationError(f'no layout {unknown[0]!r}; there are {", ".join(known)}')
    if storage not in get_args(Storage):
        raise SimulationError(f'no storage {storage!r}; there are {", ".join(get_args(Storage))}')
    return [recording for name in dict.fromkeys(layouts) for recording in known[name]()]


RECORDINGS: tuple[Recording, ...] = tuple(recordings_of(DEFAULT_LAYOUTS))


@dataclass(frozen=True)
class SimulatedData:
    """Where a simulated data set lies; folders of layouts that were not asked for may not exist.

    Attributes:
        a2d2: Folder in the layout of A2D2's `camera_lidar_semantic`, unlabelled use and labels.
        training_bag: rosbag2 of town 2, every condition.
        test_bag: rosbag2 of town 3, out of clear weather and back.
        cityscapes: Labelled frames, `leftImg8bit` and `gtFine`.
        frames: Camera frames of the layouts asked for.
        reused: Everything was there already.
        acdc: Adverse conditions with their clear counterparts, `rgb_anon` and `gt`.
        kitti_odometry: `sequences` and `poses`.
        nuscenes: `v1.0-mini`, `samples`, `sweeps`, ...
        folders: Of the layouts asked for.
    """

    a2d2: Path
    training_bag: Path
    test_bag: Path
    cityscapes: Path
    frames: int
    reused: bool
    acdc: Path
    kitti_odometry: Path
    nuscenes: Path
    folders: dict[str, Path] = field(default_factory=dict)


def simulate(
    out: Path,
    config: SimulationConfig | None = None,
    workers: int | None = None,
    layouts: Sequence[str] = DEFAULT_LAYOUTS,
    storage: Storage = 'mcap',
) -> SimulatedData:
    """Write a simulated data set in some layouts, or what of it is missing.

    Args:
        out: Folder to write to.
        config: Seed, sensors and lengths.
        workers: Processes; as many as processors when left out. The bytes do not depend on it.
            More than one needs the caller's `if __name__ == '__main__'`, as multiprocessing does.
        layouts: Which; those written before with the same parameters stay.
        storage: Of the bags.

    Raises:
        SimulationError: `out` holds something that is not a simulated data set, or there is no
            such layout.
    """
    config = config or SimulationConfig()
    frames, reused = write_recordings(out, config, recordings_of(layouts, storage), workers)
    return SimulatedData(
        out / 'a2d2' / 'camera_lidar_semantic',
        out / TRAINING_DRIVE.path,
        out / TEST_DRIVE.path,
        out / 'cityscapes',
        frames,
        reused,
        out / 'acdc',
        out / 'kitti_odometry',
        out / 'nuscenes',
        {name: out / name for name in dict.fromkeys(layouts)},
    )


def write_recordings(
    out: Path,
    config: SimulationConfig,
    recordings: Sequence[Recording],
    workers: int | None = None,
) -> tuple[int, bool]:
    """Write recordings, or what of them is missing.

    Frames that an interrupted run has finished are not simulated again. A recording appears under
    its name when it is whole.

    Args:
        out: Folder to write to.
        config: Seed, sensors and lengths.
        recordings: What to write.
        workers: Processes; as many as processors when left out.

    Returns:
        Camera frames in all recordings, and whether everything was there already.

    Raises:
        SimulationError: `out` holds something that is not a simulated data set.
    """
    if workers is None:
        workers = os.cpu_count() or 1
    if workers < 1:
        raise SimulationError(f'workers must be at least 1, not {workers}')
    done = _prepare(out, config, recordings)
    missing = [r for r in recordings if r.path not in done]
    frames = {r.path: sum(len(s.conditions) for s in r.shots(config)) for r in recordings}
    if missing:
        total = sum(frames[r.path] for r in missing)
        with (
            tqdm(total=total, unit='frame', desc='simulate', smoothing=0.1) as bar,
            _pool(workers) as pool,
        ):
            for recording in missing:
                bar.set_postfix_str(recording.path)
                _write(out, config, recording, pool, bar)
                done[recording.path] = recording.settings()
                _mark(out, config, done)
    return sum(frames.values()), not missing


# BLAS threads that wait for work eat half a processor.
_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')


def _start_worker() -> None:
    cv2.setNumThreads(1)


class _pool:  # noqa: N801  # used like a function
    """The processes, or None for this one."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.stack = ExitStack()

    def __enter__(self) -> ProcessPoolExecutor | None:
        if self.workers == 1:
            return None
        self.stack.enter_context(environment(_ONE_THREAD))
        # Not fork: the caller may hold threads (torch, ROS) that a forked child would hang on.
        pool = self.stack.enter_context(
            ProcessPoolExecutor(self.workers, multiprocessing.get_context('spawn'), _start_worker)
        )
        self.stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        return pool

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)


def _write(
    out: Path,
    config: SimulationConfig,
    recording: Recording,
    pool: ProcessPoolExecutor | None,
    bar: tqdm[Any],
) -> None:
    """Write one recording: the chunks that are missing, then what belongs to the whole."""
    work = out / f'.building-{recording.path.replace("/", "-")}'
    target = out / recording.path
    # rosbags names the file in a bag after its folder, so the final name is used from the
    # beginning, inside the work folder.
    folder, journal = work / target.name, work / 'journal'
    parameters = json.dumps(_described(config, recording))
    stamp = work / 'parameters.json'
    if work.exists() and (not stamp.is_file() or stamp.read_text() != parameters):
        shutil.rmtree(work)
    folder.mkdir(parents=True, exist_ok=True)
    journal.mkdir(exist_ok=True)
    stamp.write_text(parameters)
    sensors = recording.sensors(config)
    chunks = _chunks(recording.shots(config))
    jobs = []
    for number, chunk in enumerate(chunks):
        page = journal / f'{number:06d}.jsonl'
        if page.is_file():
            bar.update(_frames(chunk))
        else:
            jobs.append((recording, sensors, chunk, folder, page))
    for count in _completed(pool, jobs):
        bar.update(count)
    truths = [t for number in range(len(chunks)) for t in read_truths(_page(journal, number))]
    recording.finish(folder, sensors, truths)
    write_truths(folder / TRUTH, truths)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    shutil.rmtree(work)


_Job = tuple[Recording, SimulationConfig, list[Shot], Path, Path]


def _completed(pool: ProcessPoolExecutor | None, jobs: list[_Job]) -> Iterator[int]:
    """Frames of each job as it is done."""
    if pool is None:
        yield from (_run_chunk(*job) for job in jobs)
        return
    futures: list[Future[int]] = [pool.submit(_run_chunk, *job) for job in jobs]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _run_chunk(
    recording: Recording, config: SimulationConfig, shots: list[Shot], folder: Path, page: Path
) -> int:
    truths = [truth for shot in shots for truth in recording.take(config, shot, folder)]
    # The page says that the chunk's files are whole, so it comes last and at once.
    with atomic_path(page) as temporary:
        write_truths(temporary, truths, with_facts=True)
    return len(truths)


def _page(journal: Path, number: int) -> Path:
    return journal / f'{number:06d}.jsonl'


def _chunks(shots: list[Shot]) -> list[list[Shot]]:
    chunks: list[list[Shot]] = [[]]
    for shot in shots:
        if _frames(chunks[-1]) >= _CHUNK:
            chunks.append([])
        chunks[-1].append(shot)
    return chunks


def _frames(shots: list[Shot]) -> int:
    return sum(len(shot.conditions) for shot in shots)


def _prepare(
    out: Path, config: SimulationConfig, recordings: Sequence[Recording]
) -> dict[str, Any]:
    """Settings by path of the recordings that `out` holds for these parameters; clears others."""
    if out.exists() and not out.is_dir():
        raise SimulationError(f'{out} is not a folder; choose another --out')
    marker = out / MARKER
    if not marker.is_file():
        foreign = [r.path for r in recordings if (out / r.path).exists()]
        if foreign:
            raise SimulationError(
                f'{out} holds {", ".join(foreign)} but no {MARKER}: not a simulated data set; '
                f'choose another --out'
            )
        out.mkdir(parents=True, exist_ok=True)
        _mark(out, config, {})
        return {}
    try:
        content = dict(json.loads(marker.read_text()))
        # A list was written by an earlier version, whose data cannot be reused anyway.
        found = content.get('done')
        done = dict(found) if isinstance(found, dict) else {}
    except (ValueError, TypeError, OSError) as error:
        raise SimulationError(f'{marker} cannot be read ({error}); remove {out}') from error
    same = content.get('parameters') == _parameters(config)
    wanted = {r.path: r.settings() for r in recordings}
    keep = {
        path: settings
        for path, settings in done.items()
        if same and (out / path).exists() and wanted.get(path, settings) == settings
    }
    if keep != done or any((out / path).exists() for path in wanted if path not in keep):
        _mark(out, config, keep)
        for path in {*done, *wanted} - set(keep):
            # The file may be anybody's: nothing outside the folder is removed on its word.
            if '..' not in PurePosixPath(path).parts and not PurePosixPath(path).is_absolute():
                shutil.rmtree(out / path, ignore_errors=True)
    elif not same:
        _mark(out, config, keep)
    return keep


def _described(config: SimulationConfig, recording: Recording) -> dict[str, Any]:
    return {'parameters': _parameters(config), 'settings': recording.settings()}


def _parameters(config: SimulationConfig) -> dict[str, Any]:
    """What decides the bytes: the configuration and the simulator's own source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob('*.py')):
        digest.update(path.read_bytes())
    parameters: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return {**parameters, 'source_sha256': digest.hexdigest()}


def _mark(out: Path, config: SimulationConfig, done: dict[str, Any]) -> None:
    content = {
        'simulated': True,
        'parameters': _parameters(config),
        'a2d2_scenes': a2d2.scenes(config),
        'done': done,
    }
    with atomic_path(out / MARKER) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n')
