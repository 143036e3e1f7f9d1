# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is done with one recording: read, filtered, written; in any process, on any machine."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import ClcpError, ImageError, PairSetError
from training.pairs.occlusion import hidden_points
from training.pairs.offset import estimate_offset
from training.pairs.pair import Pair
from training.pairs.staging import staged
from training.pairs.statistics import Statistics
from training.pairs.storage import open_folder
from training.pairs.sync import TOO_SOON, Matches, TimeThinner, gap_summary
from training.pairs.writer import PairSetWriter, safe_name
from training.sources import open_source
from training.sources.base import Drops, Recording, SourceOptions, keep_finite

TOO_NEAR = 'nearer than --min-distance to the frame before'
"""Reason of frames that thinning leaves out."""


@dataclass(frozen=True)
class BuildOptions:
    """What decides about the content of a set, besides the recordings.

    Attributes:
        max_gap: Largest distance of the stamps of a pair, seconds.
        val_fraction: Last part of each sequence that is for validation.
        image_format: 'jpg' or 'png'.
        split: See `splits.Split.parse`.
        min_time: Smallest time between two frames, seconds; 0 keeps all.
        min_distance: Shortest way between two frames, metres; 0 keeps all.
        visible_only: Remove the points that something hides from the camera.
        shard_mb: A new shard is begun when one grows beyond this, 10^6 bytes.
        estimate_offset: Also estimate the time between the camera's and the lidar's clock.
    """

    max_gap: float = 0.05
    val_fraction: float = 0.15
    image_format: str = 'jpg'
    split: str = 'time'
    min_time: float = 0.0
    min_distance: float = 0.0
    visible_only: bool = False
    shard_mb: int = 256
    estimate_offset: bool = False

    def __post_init__(self) -> None:
        for name in ('max_gap', 'min_time', 'min_distance'):
            value = getattr(self, name)
            # Also refuses NaN.
            if not 0 <= value < float('inf'):
                words = {'max_gap': 'the maximum gap'}.get(name, f'--{name.replace("_", "-")}')
                raise PairSetError(f'{words} is {value}, it must not be negative')
        if not 0 <= self.val_fraction < 1:
            raise PairSetError(f'the validation fraction is {self.val_fraction}, not in [0, 1)')
        if self.shard_mb < 1:
            raise PairSetError(f'shards of {self.shard_mb} MB: at least 1 MB is needed')


@dataclass(frozen=True)
class Job:
    """A recording and its name in the set.

    Attributes:
        sequence: Unique in the set.
        reader: Name of the source, 'auto' to guess.
        path: As the user gave it.
        recording: The recording; None where it lies in an object store and is still to be fetched.
        options: What the user said about it, where it is still to be opened.
        matches: Its matched frames, where known.
    """

    sequence: str
    reader: str
    path: str
    recording: Recording | None
    options: SourceOptions = field(default_factory=SourceOptions)
    matches: Matches | None = None


@dataclass
class Update:
    """How a job goes on.

    Attributes:
        total: Pairs that are expected in addition to those announced before.
        pairs: Pairs done since the last update, kept or not.
        size: Bytes written since the last update.
        dropped: Reasons of drops since the last update.
    """

    total: int = 0
    pairs: int = 0
    size: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


Tell = Callable[[Update], None]


def run_job(job: Job, folder: str, options: BuildOptions, tell: Tell) -> list[str]:
    """Convert one recording, or all of a staged place, into shards of a work folder.

    Args:
        job: What to convert.
        folder: The work folder, see `PairSetWriter`.
        options: See there.
        tell: Is told how it goes on.

    Returns:
        The sequences written.
    """
    writer = PairSetWriter(open_folder(folder), options.image_format, options.shard_mb * 10**6)
    if job.recording is not None:
        if writer.part(job.sequence) is None:
            if job.matches is None:
                job = replace(job, matches=matched(job.recording, options))
                tell(Update(total=len(job.matches or ())))
            assert job.recording is not None
            _convert(writer, job, job.recording, options, tell)
        return [job.sequence]
    listed = staged_sequences(writer, job)
    if listed is not None:
        return listed
    with staged(job.path) as path, _named_by(job.path, path):
        source, recordings = open_source(path, job.reader, job.options)
        names = [_staged_name(job.sequence, r.sequence, len(recordings)) for r in recordings]
        for name, recording in zip(names, recordings, strict=True):
            matches = matched(recording, options)
            own = replace(job, sequence=name, reader=source.name, matches=matches)
            tell(Update(total=len(matches)))
            if writer.part(name) is None:
                _convert(writer, own, recording, options, tell)
    # Written last: it says that all of them are there.
    writer.folder.write(_list_name(job), json.dumps(names).encode())
    return names


@contextlib.contextmanager
def _named_by(url: str, path: Path) -> Iterator[None]:
    """Name the place in messages that the user knows, not the one that is gone by then."""
    try:
        yield
    except ClcpError as error:
        parent = url.rstrip('/').rsplit('/', 1)[0]
        raise type(error)(str(error).replace(str(path.parent), parent)) from None


def staged_sequences(writer: PairSetWriter, job: Job) -> list[str] | None:
    """The sequences of a staged job that is done, else None."""
    try:
        return json.loads(writer.folder.read(_list_name(job)))
    except FileNotFoundError:
        return None


def matched(recording: Recording, options: BuildOptions) -> Matches:
    """Which frames of a recording to read; reads its stamps only."""
    return recording.match(options.max_gap).thinned(options.min_time)


def _list_name(job: Job) -> str:
    return f'parts/{job.sequence}.list'


def _staged_name(label: str, sequence: str, count: int) -> str:
    name = safe_name(sequence)
    if name == label or (count > 1 and name.startswith(f'{label}_')):
        return name
    return label if count == 1 else safe_name(f'{label}-{name}')


def _convert(
    writer: PairSetWriter,
    job: Job,
    recording: Recording,
    options: BuildOptions,
    tell: Tell,
) -> None:
    info: dict[str, Any] = {}
    if options.estimate_offset:
        estimate = estimate_offset(recording)
        info['offset'] = estimate.to_json()
        recording.notes.append(estimate.text)
    pairs = _Reading(job, recording, options, info, tell)
    sizes = _Sizes(writer, tell)
    writer.write_sequence(job.sequence, sizes.watch(iter(pairs)), info)


class _Sizes:
    """Tells how many bytes were written between two pairs."""

    def __init__(self, writer: PairSetWriter, tell: Tell) -> None:
        self.writer, self.tell, self.before = writer, tell, writer.written

    def watch(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        for pair in pairs:
            yield pair
            size, self.before = self.writer.written - self.before, self.writer.written
            self.tell(Update(pairs=1, size=size))


class _Reading:
    """A recording's pairs without the unusable ones; fills `info` when through."""

    def __init__(
        self,
        job: Job,
        recording: Recording,
        options: BuildOptions,
        info: dict[str, Any],
        tell: Tell,
    ) -> None:
        self.job, self.recording, self.options = job, recording, options
        self.info, self.tell = info, tell
        self.dropped = Drops()
        self.told: Counter[str] = Counter()
        self.statistics = Statistics()
        self.thinner = TimeThinner(options.min_time)
        self.last_place: np.ndarray | None = None
        self.without_pose = 0

    def __iter__(self) -> Iterator[Pair]:
        matches = self.job.matches
        if matches is None:
            matches = matched(self.recording, self.options)
        passed = 0
        for pair in self.recording.read(matches, self.job.sequence, self.dropped):
            passed += 1
            pair.points = keep_finite(pair.points, self.dropped)
            reason = self._unwanted(pair)
            if reason is not None:
                self.dropped.add(reason, pair.key)
                self._tell(1)
                continue
            self.statistics.add(pair)
            yield pair
            self._tell(0)
        for reason, count in matches.dropped.items():
            self.dropped.add(reason, count=count)
        self._tell(max(0, len(matches) - passed))
        self._describe(matches)

    def _unwanted(self, pair: Pair) -> str | None:
        """Why a pair is left out; hides points of one that is not."""
        if not self.thinner.keep(pair.camera_stamp_ns):
            return TOO_SOON
        problem = _image_problem(pair)
        if problem is not None:
            return f'image: {problem}'
        if self._too_near(pair):
            return TOO_NEAR
        if self.options.visible_only:
            width, height = pair.size()
            hidden = hidden_points(pair.xyz, pair.K, pair.T_camera_lidar, width, height)
            if hidden.any():
                self.dropped.add('points: hidden from the camera', count=int(hidden.sum()))
                pair.points = pair.points[~hidden]
        return None if len(pair.points) else 'scan: no points'

    def _too_near(self, pair: Pair) -> bool:
        if not self.options.min_distance:
            return False
        if pair.T_world_ego is None:
            self.without_pose += 1
            return False
        place = np.asarray(pair.T_world_ego, np.float64)[:3, 3]
        if self.last_place is not None:
            way = float(np.linalg.norm(place - self.last_place))
            if way < self.options.min_distance:
                return True
        self.last_place = place
        return False

    def _tell(self, pairs: int) -> None:
        new = Counter(self.dropped)
        new.subtract(self.told)
        self.told = Counter(self.dropped)
        self.tell(Update(pairs=pairs, dropped=+new))

    def _describe(self, matches: Matches) -> None:
        # The notes are taken last: reading may have added some.
        notes = list(self.recording.notes)
        if self.without_pose:
            notes.append(
                f'{self.without_pose} frames without a pose: --min-distance left them as they are'
            )
        self.info.update(
            sequence=self.job.sequence,
            drive=str(getattr(self.recording, 'drive', self.job.sequence)),
            reader=self.job.reader,
            path=self.job.path,
            camera=self.recording.camera,
            lidar=self.recording.lidar,
            camera_frames=matches.cameras,
            scans=matches.scans,
            matched=len(matches),
            gaps=gap_summary(matches.gaps_ns),
            **self.statistics.describe(),
            dropped=dict(sorted(self.dropped.items())),
            examples=dict(sorted(self.dropped.examples.items())),
            notes=notes,
        )


def _image_problem(pair: Pair) -> str | None:
    """Why the image cannot be used, without the particulars that would make each reason unique."""
    try:
        # Also a file that is kept as recorded: damage between intact ends shows only so.
        if pair.encoded is None:
            pair.pixels()
        elif not pair.checked:
            image_codec.verify_bytes(pair.encoded)
    except ImageError as error:
        return str(error).partition(':')[0]
    return None
