# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Simulates a whole data set with several processes; a finished one is reused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from clcp_ros.environment import environment
from training.cli import atomic_path
from training.simulation import a2d2
from training.simulation.bags import TEST_DRIVE, TRAINING_DRIVE
from training.simulation.cityscapes import Cityscapes
from training.simulation.config import SimulationConfig, SimulationError
from training.simulation.recording import Recording, Shot

RECORDINGS: tuple[Recording[Any], ...] = (a2d2.A2D2(), TRAINING_DRIVE, TEST_DRIVE, Cityscapes())
MARKER = 'simulation.json'
_CHUNK = 8
"""Consecutive frames share most of the scene, so a process takes several at once."""


@dataclass(frozen=True)
class SimulatedData:
    """Where a simulated data set lies.

    Attributes:
        a2d2: Folder in the layout of A2D2's `camera_lidar_semantic`, unlabelled use and labels.
        training_bag: rosbag2 of town 2, every condition.
        test_bag: rosbag2 of town 3, out of clear weather and back.
        cityscapes: Labelled frames, `leftImg8bit` and `gtFine`.
        frames: Camera frames written in all.
        reused: Everything was there already.
    """

    a2d2: Path
    training_bag: Path
    test_bag: Path
    cityscapes: Path
    frames: int
    reused: bool


def simulate(
    out: Path, config: SimulationConfig | None = None, workers: int | None = None
) -> SimulatedData:
    """Write the whole simulated data set, or what of it is missing.

    Args:
        out: Folder to write to.
        config: Seed, sensors and lengths.
        workers: Processes; as many as processors when left out. The bytes do not depend on it.
            More than one needs the caller's `if __name__ == '__main__'`, as multiprocessing does.

    Raises:
        SimulationError: `out` holds something that is not a simulated data set.
    """
    config = config or SimulationConfig()
    if workers is None:
        workers = os.cpu_count() or 1
    if workers < 1:
        raise SimulationError(f'workers must be at least 1, not {workers}')
    done = _prepare(out, config)
    missing = [r for r in RECORDINGS if r.path not in done]
    frames = {r.path: sum(len(s.conditions) for s in r.shots(config)) for r in RECORDINGS}
    if missing:
        total = sum(frames[r.path] for r in missing)
        with tqdm(total=total, unit='frame', desc='simulate', smoothing=0.1) as bar:
            _write_recordings(out, config, missing, done, workers, bar)
    return SimulatedData(
        out / 'a2d2' / 'camera_lidar_semantic',
        out / TRAINING_DRIVE.path,
        out / TEST_DRIVE.path,
        out / 'cityscapes',
        sum(frames.values()),
        not missing,
    )


def _write_recordings(
    out: Path,
    config: SimulationConfig,
    missing: list[Recording[Any]],
    done: list[str],
    workers: int,
    bar: tqdm[Any],
) -> None:
    with ExitStack() as stack:
        pool = None
        if workers > 1:
            stack.enter_context(environment(_ONE_THREAD))
            # Not fork: the caller may hold threads (torch, ROS) that a forked child would hang on.
            pool = stack.enter_context(
                ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), _start_worker)
            )
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for recording in missing:
            bar.set_postfix_str(recording.path)
            # rosbags names the file in a bag after its folder, so the final name must be used
            # from the beginning, inside a temporary folder.
            target = out / recording.path
            with atomic_path(out / f'.building-{target.name}') as temporary:
                temporary.mkdir()
                recording.write(
                    temporary / target.name,
                    config,
                    _encoded(pool, recording, config, workers, bar),
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                (temporary / target.name).rename(target)
            shutil.rmtree(out / f'.building-{target.name}')
            done.append(recording.path)
            _mark(out, config, done)


# BLAS threads that wait for work eat half a processor.
_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')


def _start_worker() -> None:
    cv2.setNumThreads(1)


def _encoded(
    pool: ProcessPoolExecutor | None,
    recording: Recording[Any],
    config: SimulationConfig,
    workers: int,
    bar: tqdm[Any],
) -> Iterator[Any]:
    """The recording's encoded frames in order, never more than a few chunks ahead."""
    shots = recording.shots(config)
    index = RECORDINGS.index(recording)
    chunks = _chunks(shots)
    if pool is None:
        for chunk in chunks:
            for encoded in _encode_chunk(index, config, chunk):
                bar.update()
                yield encoded
        return
    waiting: deque[Future[list[Any]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(_encode_chunk, index, config, chunk))
        while len(waiting) > 2 * workers or (waiting and waiting[0].done()):
            yield from _counted(waiting.popleft(), bar)
    while waiting:
        yield from _counted(waiting.popleft(), bar)


def _chunks(shots: list[Shot]) -> list[list[Shot]]:
    chunks: list[list[Shot]] = [[]]
    for shot in shots:
        if sum(len(s.conditions) for s in chunks[-1]) >= _CHUNK:
            chunks.append([])
        chunks[-1].append(shot)
    return chunks


def _counted(future: Future[list[Any]], bar: tqdm[Any]) -> Iterator[Any]:
    for encoded in future.result():
        bar.update()
        yield encoded


def _encode_chunk(index: int, config: SimulationConfig, shots: list[Shot]) -> list[Any]:
    recording = RECORDINGS[index]
    return [encoded for shot in shots for encoded in recording.encode_shot(config, shot)]


def _prepare(out: Path, config: SimulationConfig) -> list[str]:
    """Paths of the recordings that `out` holds already for these parameters; clears others."""
    if out.exists() and not out.is_dir():
        raise SimulationError(f'{out} is not a folder; choose another --out')
    marker = out / MARKER
    if not marker.is_file():
        foreign = [r.path for r in RECORDINGS if (out / r.path).exists()]
        if foreign:
            raise SimulationError(
                f'{out} holds {", ".join(foreign)} but no {MARKER}: not a simulated data set; '
                f'choose another --out'
            )
        out.mkdir(parents=True, exist_ok=True)
        _mark(out, config, [])
        return []
    try:
        content = dict(json.loads(marker.read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise SimulationError(f'{marker} cannot be read ({error}); remove {out}') from error
    if content.get('parameters') == _parameters(config):
        return [
            r.path
            for r in RECORDINGS
            if r.path in content.get('done', []) and (out / r.path).exists()
        ]
    _mark(out, config, [])
    for recording in RECORDINGS:
        shutil.rmtree(out / recording.path, ignore_errors=True)
    return []


def _parameters(config: SimulationConfig) -> dict[str, Any]:
    """What decides the bytes: the configuration and the simulator's own source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob('*.py')):
        digest.update(path.read_bytes())
    parameters: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return {**parameters, 'source_sha256': digest.hexdigest()}


def _mark(out: Path, config: SimulationConfig, done: list[str]) -> None:
    content = {
        'simulated': True,
        'parameters': _parameters(config),
        'a2d2_scenes': a2d2.scenes(config),
        'done': done,
    }
    with atomic_path(out / MARKER) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n')
