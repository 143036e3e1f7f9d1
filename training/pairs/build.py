# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From recordings to a pair set: matching, reading, writing, and a report of all three."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from clcp_ros import __version__, image_codec
from clcp_ros.errors import ImageError, PairSetError, RecordingError
from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.preview import contact_sheet
from training.pairs.sync import Matches, gap_summary
from training.pairs.writer import PairSetWriter, safe_name
from training.sources.base import Drops, Recording, keep_finite

BUILD_VERSION = 1
"""Part of the fingerprint: raise it when the same input gives other pairs."""


@dataclass(frozen=True)
class BuildOptions:
    """What decides about the content of a set, besides the recordings.

    Attributes:
        max_gap: Largest distance of the stamps of a pair, seconds.
        val_fraction: Last part of each sequence that is for validation.
        image_format: 'jpg' or 'png'.
    """

    max_gap: float = 0.05
    val_fraction: float = 0.15
    image_format: str = 'jpg'

    def __post_init__(self) -> None:
        if not self.max_gap >= 0:
            raise PairSetError(f'the maximum gap is {self.max_gap}, it must not be negative')
        if not 0 <= self.val_fraction < 1:
            raise PairSetError(f'the validation fraction is {self.val_fraction}, not in [0, 1)')


@dataclass(frozen=True)
class Job:
    """A recording and its name in the set.

    Attributes:
        sequence: Unique in the set.
        reader: Name of the source.
        path: As the user gave it.
        recording: The recording.
    """

    sequence: str
    reader: str
    path: str
    recording: Recording


def plan(found: list[tuple[str, str, Recording]]) -> list[Job]:
    """Give each recording a name that is unique in the set.

    Args:
        found: Reader, path as given, recording.
    """
    jobs, taken = [], set()
    for reader, path, recording in found:
        name = candidate = safe_name(recording.sequence)
        number = 2
        while candidate in taken:
            candidate, number = f'{name}_{number}', number + 1
        taken.add(candidate)
        jobs.append(Job(candidate, reader, path, recording))
    return jobs


class Progress(Protocol):
    """Is told how a build goes on."""

    def start(self, total: int) -> None:
        """Called once, with the number of matched pairs."""

    def advance(self, pairs: int, dropped: Counter[str]) -> None:
        """Called often: pairs done since the last call, and all reasons of drops so far."""


def build(
    jobs: list[Job],
    out: Path,
    options: BuildOptions,
    overwrite: bool = False,
    preview: bool = True,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Any], bool]:
    """Write the pair set of some recordings, or find it already written.

    Work is done in a hidden folder beside `out` that takes its place when whole. Interrupted, even
    killed, the next call goes on behind the last whole recording.

    Args:
        jobs: The recordings.
        out: The set's folder; a set of other input is replaced only with `overwrite`.
        options: See there.
        overwrite: Replace what is there.
        preview: Also write a contact sheet, `preview.png`.
        progress: Is told how it goes on.
        say: Gets lines for the user.

    Returns:
        The report, and whether everything had been there before.

    Raises:
        RecordingError: No pairs, or a recording cannot be read.
        PairSetError: Something else lies at `out`.
    """
    out = out.absolute()
    fingerprint = _fingerprint(jobs, options)
    ready = _finished_report(out, fingerprint, overwrite)
    if ready is not None:
        if preview and not (out / 'preview.png').is_file():
            _write_preview(out)
        return ready, True
    work = out.with_name(f'.{out.name}.partial')
    stamp = work / 'fingerprint'
    if work.exists() and (not stamp.is_file() or stamp.read_text() != fingerprint):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    stamp.write_text(fingerprint)
    try:
        if not (work / 'index.parquet').is_file():
            writer = PairSetWriter(work, options.image_format)
            _write_recordings(writer, jobs, options, progress, say)
            _finish(writer, jobs, options, fingerprint)
        if preview:
            _write_preview(work)
    except Exception:
        # Recordings that are whole are worth keeping for the next call; else nothing stays.
        parts = (work / 'parts').glob('*.json')
        if not (work / 'index.parquet').is_file() and not any(map(_pairs_of_part, parts)):
            shutil.rmtree(work, ignore_errors=True)
        raise
    stamp.unlink()
    report = PairSet(work).report
    _swap(work, out)
    return report, False


def _write_recordings(
    writer: PairSetWriter,
    jobs: list[Job],
    options: BuildOptions,
    progress: Progress | None,
    say: Callable[[str], None],
) -> None:
    todo: list[tuple[Job, Matches]] = []
    for job in jobs:
        part = writer.part(job.sequence)
        if part is None:
            todo.append((job, job.recording.match(options.max_gap)))
        else:
            say(f'{job.sequence}: whole already, {len(part["rows"])} pairs')
    if progress is not None:
        progress.start(sum(len(matches) for _, matches in todo))
    before: Counter[str] = Counter()
    for job, matches in todo:
        info = _describe(job, matches)
        pairs = _clean(job, matches, info, before, progress)
        writer.write_sequence(job.sequence, pairs, info)
        before.update(info['dropped'])


def _clean(
    job: Job,
    matches: Matches,
    info: dict[str, Any],
    before: Counter[str],
    progress: Progress | None,
) -> Iterator[Pair]:
    """A recording's pairs without the unusable ones; fills `info` when through."""
    dropped = Drops()
    dropped.update(matches.dropped)
    points = yielded = 0
    for pair in job.recording.read(matches, job.sequence, dropped):
        pair.points = keep_finite(pair.points, dropped)
        problem = _image_problem(pair)
        if problem is not None:
            dropped.add(f'image: {problem}', pair.key)
        elif not len(pair.points):
            dropped.add('scan: no points', pair.key)
        else:
            points += len(pair.points)
            yielded += 1
            yield pair
            if progress is not None:
                progress.advance(1, before + dropped)
    if progress is not None:
        progress.advance(len(matches) - yielded, before + dropped)
    # The notes are taken last: reading may have added some.
    info.update(
        pairs=yielded,
        points=points,
        dropped=dict(dropped),
        examples=dropped.examples,
        notes=list(job.recording.notes),
    )


def _image_problem(pair: Pair) -> str | None:
    """Why the image cannot be used, without the particulars that would make each reason unique."""
    try:
        # Also a file that is kept as recorded: damage between intact ends shows only so.
        pair.pixels()
    except ImageError as error:
        return str(error).partition(':')[0]
    return None


def _describe(job: Job, matches: Matches) -> dict[str, Any]:
    return {
        'sequence': job.sequence,
        'reader': job.reader,
        'path': job.path,
        'camera': job.recording.camera,
        'lidar': job.recording.lidar,
        'camera_frames': matches.cameras,
        'scans': matches.scans,
        'matched': len(matches),
        'gaps': gap_summary(matches.gaps_ns),
    }


def _finish(
    writer: PairSetWriter, jobs: list[Job], options: BuildOptions, fingerprint: str
) -> None:
    infos = [(writer.part(job.sequence) or {})['info'] for job in jobs]
    dropped: Counter[str] = Counter()
    for info in infos:
        dropped.update(info['dropped'])
    total = sum(info['pairs'] for info in infos)
    if not total:
        examples = {k: v for info in infos for k, v in info['examples'].items()}
        reasons = '; '.join(
            f'{reason} ({count}{", first: " + examples[reason] if reason in examples else ""})'
            for reason, count in dropped.most_common()
        )
        raise RecordingError(f'no pairs: {reasons or "the recordings hold no camera frames"}')
    report = {
        'fingerprint': fingerprint,
        'version': __version__,
        'options': asdict(options),
        'pairs': total,
        'points': sum(info['points'] for info in infos),
        'camera_frames': sum(info['camera_frames'] for info in infos),
        'scans': sum(info['scans'] for info in infos),
        'dropped': dict(dropped.most_common()),
        'recordings': infos,
    }
    writer.finish([job.sequence for job in jobs], report, options.val_fraction)


def _finished_report(out: Path, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """The report of a whole set of the same input at `out`; None when it is to be written."""
    if not out.exists():
        return None
    if not out.is_dir() or (any(out.iterdir()) and not (out / 'index.parquet').is_file()):
        # Not even with --overwrite: it may be anything.
        raise PairSetError(f'{out} exists and is not a pair set; choose another --out')
    if not any(out.iterdir()) or overwrite:
        return None
    existing = PairSet(out)
    if existing.report.get('fingerprint') != fingerprint:
        raise PairSetError(
            f'{out} holds the pairs of other recordings or options; choose another --out, or '
            'replace it with --overwrite'
        )
    shards = set(existing.column('shard').tolist())
    missing = [name for name in sorted(shards) if not (out / 'shards' / name).is_file()]
    if missing:
        raise PairSetError(f'{out} lacks the shard {missing[0]}; write it anew with --overwrite')
    return existing.report


def _fingerprint(jobs: list[Job], options: BuildOptions) -> str:
    content = [
        BUILD_VERSION,
        asdict(options),
        [[job.sequence, job.reader, job.recording.fingerprint()] for job in jobs],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _pairs_of_part(path: Path) -> int:
    return len(json.loads(path.read_text(encoding='utf-8'))['rows'])


def _write_preview(folder: Path) -> None:
    sheet = image_codec.encode_png(contact_sheet(PairSet(folder)))
    partial = folder / '.preview.png.partial'
    partial.write_bytes(sheet)
    partial.replace(folder / 'preview.png')


def _swap(work: Path, out: Path) -> None:
    """Put the work folder in the place of `out`."""
    old = out.with_name(f'.{out.name}.old')
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        out.replace(old)
    work.replace(out)
    if old.exists():
        shutil.rmtree(old)
