# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 1: simulate the streams, once; what is there is kept.

A Parquet file holds the frames of five minutes of a drive, or of one stop: the JPEG that a camera
would send, the true classes, stamp, condition and severity. The files depend on the plan alone,
not on the network, so that every network is measured on the same streams.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.shift_plan import PLACE, WARM_UP_S, Case, Drive, Size, Stop, stops
from clcp_ros.environment import environment
from clcp_ros.errors import ClcpError
from clcp_ros.image_codec import decode_bytes, encode_jpeg, encode_png
from training.cli import atomic_path
from training.simulation.config import EPOCH_NS, Condition, SimulationConfig
from training.simulation.frame import Frame, Moment

CHUNK = 300
"""Frames of a drive in a file."""

JPEG_QUALITY = 95
PLAN = 'plan.json'
_VERSION = 1  # of what is made of a plan; another one makes all streams anew

_FIELDS: list[tuple[str, pa.DataType]] = [
    ('case', pa.string()), ('stamp_ns', pa.int64()), ('severity', pa.float32()),
    ('image', pa.binary()), ('label', pa.binary()),
]  # fmt: skip
_SCHEMA = pa.schema(_FIELDS)
_ONE_THREAD = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')

CLEAR = 'clear'


class ShiftBenchmarkError(ClcpError):
    """A stage lacks what an earlier one should have left, or finds something else."""


@dataclass(frozen=True)
class StreamFrame:
    """A frame of a stream.

    Attributes:
        case: `clear`, or the name of a `Case`.
        stamp_ns: Of its drive's clock.
        severity: Of the condition.
        jpeg: What the camera sends.
        label: (H, W) uint8 trainIds.
    """

    case: str
    stamp_ns: int
    severity: float
    jpeg: bytes
    label: np.ndarray

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return decode_bytes(self.jpeg)


@dataclass(frozen=True)
class Piece:
    """A file of frames: a chunk of a drive, or a stop.

    Attributes:
        drive: The drive.
        chunk: Number of the chunk; -1 for a stop.
        stop: The stop, or None.
    """

    drive: Drive
    chunk: int = -1
    stop: Stop | None = None

    @property
    def name(self) -> str:
        """Relative path without suffix."""
        if self.stop is not None:
            return f'events/{self.stop.name}'
        return f'{self.drive.part}/{self.drive.name}/{self.chunk:03d}'

    @property
    def frames(self) -> int:
        """How many it holds."""
        if self.stop is not None:
            return self.stop.frames
        return min(CHUNK, self.drive.seconds - CHUNK * self.chunk)

    def stream(self, root: Path) -> Path:
        """The file of frames, in the folder of the size."""
        return root / 'streams' / f'{self.name}.parquet'

    def described(self, folder: Path) -> Path:
        """The file of what is described, in such a folder."""
        return folder / f'{self.name}.npz'


def pieces(size: Size) -> list[Piece]:
    """All files of a size, those of the drives first."""
    found = [piece for drive in size.all_drives for piece in drive_pieces(drive)]
    return found + [Piece(stop.drive, stop=stop) for stop in stops(size)]


def drive_pieces(drive: Drive) -> list[Piece]:
    """The files of a clear drive, in order."""
    return [Piece(drive, chunk) for chunk in range(-(-drive.seconds // CHUNK))]


def stamp_of(drive: Drive, k: int) -> int:
    """Stamp of frame `k` of a drive: a second apart, drives an hour and more."""
    return EPOCH_NS + (drive.town * 100_000 + k) * 1_000_000_000


def prepare(size: Size, root: Path) -> None:
    """Note what lies in a folder, or complain that it is something else.

    Raises:
        ShiftBenchmarkError: The folder holds streams of another plan or another simulator.
    """
    marker, facts = root / PLAN, _facts(size)
    if not marker.is_file():
        with atomic_path(marker) as partial:
            partial.write_text(json.dumps(facts, indent=1) + '\n')
    elif json.loads(marker.read_text()) != facts:
        raise ShiftBenchmarkError(
            f'{marker} is of another plan, or the simulator has changed since: '
            f'remove {root}, or choose another --out'
        )


def _facts(size: Size) -> dict[str, Any]:
    """What decides the bytes."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / 'training' / 'simulation').rglob('*.py')):
        digest.update(path.read_bytes())
    plan = [asdict(piece) for piece in pieces(size)]
    digest.update(json.dumps([plan, asdict(size.simulation)], sort_keys=True).encode())
    return {
        'simulated': True, 'version': _VERSION, 'size': size.name, 'camera': list(size.camera),
        'jpeg_quality': JPEG_QUALITY, 'sha256': digest.hexdigest(),
    }  # fmt: skip


def simulate(size: Size, root: Path, workers: int) -> None:
    """Write the files that are missing.

    Args:
        size: How much.
        root: Folder of the size.
        workers: Processes; the bytes do not depend on it.
    """
    prepare(size, root)
    simulate_pieces(size, root, pieces(size), workers)


def simulate_pieces(size: Size, root: Path, chosen: Sequence[Piece], workers: int) -> None:
    """Write those files of a prepared folder that are missing.

    Args:
        size: Of the folder.
        root: The folder.
        chosen: Which files.
        workers: Processes; the bytes do not depend on it.
    """
    # A drive's chunks go to one process in their order: traffic is simulated from its beginning.
    jobs: dict[str, list[Piece]] = {}
    for piece in chosen:
        jobs.setdefault(piece.name if piece.stop else piece.drive.name, []).append(piece)
    run_jobs(
        'simulate', [(_write_pieces, size, root, todo) for todo in jobs.values()],
        [(p.stream(root), p.frames) for p in chosen], workers,
    )  # fmt: skip


Job = tuple[Any, ...]
"""A function and its arguments."""


def run_jobs(
    title: str, jobs: Sequence[Job], files: Sequence[tuple[Path, int]], workers: int
) -> None:
    """Run jobs in processes, with a bar that counts the frames of the files that are there.

    Args:
        title: Of the bar.
        jobs: Function and arguments; each skips what is there.
        files: What the jobs write, and the frames of each.
        workers: Processes; 1 runs them in this one.
    """
    done = sum(frames for path, frames in files if path.exists())
    with tqdm(
        total=sum(frames for _, frames in files), initial=done, unit='frame', desc=title
    ) as bar:
        if done == bar.total:
            return

        def show() -> None:
            bar.update(sum(f for path, f in files if path.exists()) - bar.n)

        if workers <= 1:
            for function, *arguments in jobs:
                function(*arguments)
                show()
            return
        with environment(_ONE_THREAD):
            pool = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context('spawn'), start_worker
            )
            try:
                running = {pool.submit(job[0], *job[1:]) for job in jobs}
                while running:
                    ended, running = concurrent.futures.wait(running, timeout=2.0)
                    for future in ended:
                        future.result()
                    show()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def start_worker() -> None:
    """In every process: one thread each."""
    cv2.setNumThreads(1)


def _write_pieces(size: Size, root: Path, todo: Sequence[Piece]) -> None:
    for piece in todo:
        path = piece.stream(root)
        if not path.exists():
            frames = list(_stop_frames(size.simulation, piece.stop) if piece.stop
                          else _drive_frames(size.simulation, piece))  # fmt: skip
            columns: dict[str, list[Any]] = {
                'case': [f.case for f in frames], 'stamp_ns': [f.stamp_ns for f in frames],
                'severity': [f.severity for f in frames], 'image': [f.jpeg for f in frames],
                'label': [bytes(encode_png(f.label)) for f in frames],
            }  # fmt: skip
            with atomic_path(path) as partial:
                # JPEG and PNG do not get smaller.
                pq.write_table(pa.table(columns, _SCHEMA), partial, compression='none')


def _drive_frames(config: SimulationConfig, piece: Piece) -> Iterator[StreamFrame]:
    for k in range(CHUNK * piece.chunk, CHUNK * piece.chunk + piece.frames):
        moment = Moment(config, piece.drive.town, piece.drive.time(k), with_lidar=False)
        yield _seen(moment.frame(Condition(CLEAR)), CLEAR, stamp_of(piece.drive, k), 0.0)


def _stop_frames(config: SimulationConfig, stop: Stop) -> Iterator[StreamFrame]:
    onset = stop.drive.time(stop.begin)
    for k in range(stop.seconds):
        when = stop.drive.time(stop.begin + k)
        stamp_ns = stamp_of(stop.drive, stop.begin + k)
        moment = None
        for case in stop.cases:
            severity = case.severity_at(k)
            if case.condition == PLACE:
                # Its own time: another place's traffic would have to be simulated up to this one.
                own = WARM_UP_S + k
                other = Moment(config, case.town, own, with_lidar=False)
                yield _seen(other.frame(Condition(CLEAR)), case.name, stamp_ns, severity)
                continue
            moment = moment or Moment(config, stop.drive.town, when, with_lidar=False)
            frame = moment.frame(_condition(case, severity, onset))
            yield _seen(frame, case.name, stamp_ns, severity)


def _condition(case: Case, severity: float, onset: float) -> Condition:
    since = onset if case.condition == 'frozen' else None
    return Condition(case.condition, severity, since)


def _seen(frame: Frame, case: str, stamp_ns: int, severity: float) -> StreamFrame:
    return StreamFrame(
        case, stamp_ns, severity, bytes(encode_jpeg(frame.image, JPEG_QUALITY)), frame.labels
    )


def read_frames(path: Path) -> Iterator[StreamFrame]:
    """The frames of a file, a few at a time.

    Args:
        path: That `simulate` wrote.

    Raises:
        ShiftBenchmarkError: It is not there.
    """
    if not path.is_file():
        raise ShiftBenchmarkError(f'{path} is missing; run the stage streams first')
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(32):
            for row in batch.to_pylist():
                label = cv2.imdecode(np.frombuffer(row['label'], np.uint8), cv2.IMREAD_UNCHANGED)
                yield StreamFrame(
                    row['case'],
                    row['stamp_ns'],
                    row['severity'],
                    row['image'],
                    np.asarray(label),
                )
