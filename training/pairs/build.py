# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From recordings to a pair set: matching, reading, writing, and a report of all three."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from clcp_ros import __version__, image_codec
from clcp_ros.errors import PairSetError, RecordingError
from training.pairs.engine import Engine
from training.pairs.job import BuildOptions, Job, Update, matched, staged_sequences
from training.pairs.lock import exclusive
from training.pairs.pair_set import PairSet
from training.pairs.preview import contact_sheet
from training.pairs.splits import Split
from training.pairs.staging import expand, remote_fingerprint
from training.pairs.storage import Folder, LocalFolder, RemoteFolder, is_remote, remote_url
from training.pairs.writer import PairSetWriter, safe_name
from training.reporting.conversion import report_page
from training.sources.base import Recording, SourceOptions

__all__ = ['BuildOptions', 'Job', 'build', 'plan', 'plan_remote']

BUILD_VERSION = 2
"""Part of the fingerprint: raise it when the same input gives other pairs."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def plan(found: list[tuple[str, str, Recording]]) -> list[Job]:
    """Give each recording a name that is unique in the set.

    Args:
        found: Reader, path as given, recording.
    """
    jobs: list[Job] = []
    for reader, path, recording in found:
        name = _unique(safe_name(recording.sequence), jobs)
        jobs.append(Job(name, reader, path, recording))
    return jobs


def plan_remote(url: str, reader: str, options: SourceOptions, jobs: list[Job]) -> list[Job]:
    """Jobs for recordings in an object store, which are fetched only when it is their turn.

    Args:
        url: Of a file or folder, or with a `*` of several.
        reader: Name of a reader, or 'auto'.
        options: What the user said about the recordings.
        jobs: Planned before; names are chosen beside theirs.

    Raises:
        RecordingError: There is nothing.
    """
    planned: list[Job] = []
    for place in expand(url):
        label = place.rstrip('/').rsplit('/', 1)[-1].partition('.')[0]
        name = _unique(safe_name(label), [*jobs, *planned])
        planned.append(Job(name, reader, place, None, options))
    return planned


def _unique(name: str, jobs: list[Job]) -> str:
    taken = {job.sequence for job in jobs}
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f'{name}_{number}', number + 1
    return candidate


class Progress(Protocol):
    """Is told how a build goes on."""

    def start(self, total: int) -> None:
        """Called once, with about the number of pairs to come."""

    def advance(self, update: Update) -> None:
        """Called often."""


def build(
    jobs: list[Job],
    out: Path | str,
    options: BuildOptions,
    overwrite: bool = False,
    preview: bool = True,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
    engine: Engine | None = None,
) -> tuple[dict[str, Any], bool]:
    """Write the pair set of some recordings, or find it already written.

    On disk, work is done in a hidden folder beside `out` that takes its place when whole. In an
    object store there is no renaming: the set is one when its index appears, which is last.
    Interrupted, even killed, the next call goes on behind the last whole recording.

    Args:
        jobs: The recordings.
        out: The set's folder or URL; a set of other input is replaced only with `overwrite`.
        options: See there.
        overwrite: Replace what is there.
        preview: Also write a contact sheet, `preview.png`.
        progress: Is told how it goes on.
        say: Gets lines for the user.
        engine: Where the jobs run; by default in this process.

    Returns:
        The report, and whether everything had been there before.

    Raises:
        RecordingError: No pairs, or a recording cannot be read.
        PairSetError: Something else lies at `out`, or another conversion writes there.
    """
    split = Split.parse(options.split, options.val_fraction)
    work = _Work(jobs, options, split, preview, progress, say, engine or Engine())
    if is_remote(out):
        return work.build_remote(RemoteFolder(remote_url(out)), overwrite)
    out = Path(out).absolute()
    # Nothing is made, not even a lock, for a question that needs no work.
    ready = work.finished(LocalFolder(out), out, overwrite)
    if ready is not None:
        return ready, True
    with exclusive(out.with_name(f'.{out.name}.lock')):
        ready = work.finished(LocalFolder(out), out, overwrite)
        if ready is not None:
            return ready, True
        return work.build_local(out), False


class _Work:
    """One call of `build`."""

    def __init__(
        self,
        jobs: list[Job],
        options: BuildOptions,
        split: Split,
        preview: bool,
        progress: Progress | None,
        say: Callable[[str], None],
        engine: Engine,
    ) -> None:
        self.jobs, self.options, self.split = jobs, options, split
        self.preview, self.progress, self.say, self.engine = preview, progress, say, engine
        recordings = [[job.sequence, job.reader, _recording_fingerprint(job)] for job in jobs]
        content = {k: v for k, v in asdict(options).items() if k not in ('split', 'val_fraction')}
        # What is read and written, and how it is split: another split is no reason to read anew.
        self.work_fingerprint = _hash(BUILD_VERSION, content, recordings)
        self.fingerprint = _hash(self.work_fingerprint, asdict(split))

    def build_local(self, out: Path) -> dict[str, Any]:
        work = out.with_name(f'.{out.name}.partial')
        folder = LocalFolder(work)
        try:
            self._fill(folder, out.with_name(f'.{out.name}.lock'))
        except Exception as error:
            # Recordings that are whole are worth keeping for the next call; else nothing stays.
            if not folder.exists('index.parquet') and not _has_pairs(folder):
                shutil.rmtree(work, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise PairSetError(
                    f'{out} cannot be written: {error.strerror}; make room and run the same '
                    'command again'
                ) from None
            raise
        report = PairSet(work).report
        folder.remove('fingerprint')
        _swap(work, out)
        return report

    def build_remote(self, folder: RemoteFolder, overwrite: bool) -> tuple[dict[str, Any], bool]:
        ready = self.finished(folder, folder.url, overwrite)
        if ready is not None:
            return ready, True
        if folder.exists('index.parquet'):
            # From here on there is no set any more, until the new index is written.
            folder.remove('index.parquet')
            folder.remove('fingerprint')
        try:
            self._fill(folder, None)
        except Exception:
            if not folder.exists('index.parquet') and not _has_pairs(folder):
                for name in ('parts', 'shards', 'fingerprint'):
                    folder.remove(name)
            raise
        folder.remove('fingerprint')
        return PairSet(folder.url).report, False

    def finished(
        self, folder: Folder, place: Path | str, overwrite: bool
    ) -> dict[str, Any] | None:
        """The report of a whole set of the same input; None when it is to be written."""
        if isinstance(place, Path):
            if not place.exists():
                return None
            if not place.is_dir() or (any(place.iterdir()) and not folder.exists('index.parquet')):
                # Not even with --overwrite: it may be anything.
                raise PairSetError(f'{place} exists and is not a pair set; choose another --out')
        if not folder.exists('index.parquet') or overwrite:
            return None
        existing = PairSet(place)
        if existing.report.get('fingerprint') != self.fingerprint:
            raise PairSetError(
                f'{place} holds the pairs of other recordings or options; choose another --out, '
                'or replace it with --overwrite'
            )
        shards = set(existing.column('shard').tolist())
        missing = sorted(shards - set(folder.names('shards')))
        if missing:
            raise PairSetError(
                f'{place} lacks the shard {missing[0]}; write it anew with --overwrite'
            )
        if self.preview and not folder.exists('preview.png'):
            folder.write('preview.png', _preview(existing))
        return existing.report

    def _fill(self, folder: Folder, lock: Path | None) -> None:
        """Bring a work folder to a whole set, from whatever state it is in."""
        writer = PairSetWriter(folder)
        if _report_fingerprint(folder) == self.fingerprint and folder.exists('index.parquet'):
            writer.tidy(set(PairSet(str(folder)).column('shard').tolist()))
            return
        begun = folder.exists('fingerprint') and folder.read('fingerprint').decode()
        if begun != self.work_fingerprint or folder.exists('index.parquet'):
            for name in ('index.parquet', 'parts', 'shards', 'fingerprint'):
                folder.remove(name)
            folder.write('fingerprint', self.work_fingerprint.encode())
        sequences = self._convert(writer, lock)
        self._finish(writer, sequences)

    def _convert(self, writer: PairSetWriter, lock: Path | None) -> list[str]:
        todo: list[Job] = []
        done: dict[str, list[str]] = {}
        for job in self.jobs:
            sequences = _done(writer, job)
            if sequences is not None:
                done[job.sequence] = sequences
                pairs = sum(len((writer.part(s) or {'rows': ()})['rows']) for s in sequences)
                self.say(f'{job.sequence}: whole already, {pairs} pairs')
            else:
                todo.append(job)
        total = 0
        for number, job in enumerate(todo):
            if job.recording is not None and self.engine.alone:
                # Before the first is read: what is missing shows at once. Several processes match
                # side by side instead, since some bags tell their stamps only when read.
                matches = matched(job.recording, self.options)
                todo[number] = replace(job, matches=matches)
                total += len(matches)
        if self.progress is not None:
            self.progress.start(total)
        tell = self.progress.advance if self.progress is not None else _ignore
        written = self.engine.run(todo, str(writer.folder), self.options, tell, lock)
        done.update({job.sequence: s for job, s in zip(todo, written, strict=True)})
        sequences = [s for job in self.jobs for s in done[job.sequence]]
        twice = [s for s, count in Counter(sequences).items() if count > 1]
        if twice:
            raise PairSetError(f'two recordings are called {twice[0]}; rename one of their files')
        return sequences

    def _finish(self, writer: PairSetWriter, sequences: list[str]) -> None:
        infos = [(writer.part(sequence) or {})['info'] for sequence in sequences]
        report = self._report(infos)
        coverage = [info.pop('coverage') for info in infos]

        def extras(table: pa.Table) -> dict[str, bytes]:
            pairs = PairSet(str(writer.folder), index=table)
            files = {'report.html': report_page(report, table, pairs, coverage).encode()}
            if self.preview:
                files['preview.png'] = _preview(pairs)
            return files

        writer.finish(sequences, report, self.split, extras)

    def _report(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        dropped: Counter[str] = Counter()
        for info in infos:
            dropped.update(info['dropped'])
        total = sum(info['pairs'] for info in infos)
        if not total:
            raise RecordingError(f'no pairs: {_reasons(dropped, infos)}')
        return {
            'fingerprint': self.fingerprint,
            'version': __version__,
            'options': asdict(self.options),
            'pairs': total,
            **{
                name: sum(info[name] for info in infos)
                for name in ('points', 'points_on_image', 'camera_frames', 'scans')
            },
            'dropped': dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
            'recordings': infos,
        }


def _reasons(dropped: Mapping[str, int], infos: list[dict[str, Any]]) -> str:
    examples = {k: v for info in infos for k, v in info['examples'].items()}
    return '; '.join(
        f'{reason} ({count}{", first: " + examples[reason] if reason in examples else ""})'
        for reason, count in Counter(dropped).most_common()
    ) or 'the recordings hold no camera frames'  # fmt: skip


def _done(writer: PairSetWriter, job: Job) -> list[str] | None:
    """The sequences of a job that are written already; None where some are missing."""
    if job.recording is None:
        return staged_sequences(writer, job)
    return [job.sequence] if writer.part(job.sequence) is not None else None


def _ignore(_: Update) -> None:
    pass


def _recording_fingerprint(job: Job) -> str:
    if job.recording is not None:
        return job.recording.fingerprint()
    return remote_fingerprint(job.path) + repr(job.options)


def _report_fingerprint(folder: Folder) -> str | None:
    try:
        return json.loads(folder.read('report.json')).get('fingerprint')
    except (FileNotFoundError, ValueError):
        return None


def _hash(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _has_pairs(folder: Folder) -> bool:
    """Whether some recording is done that has pairs."""
    names = [name for name in folder.names('parts') if name.endswith('.json')]
    return any(json.loads(folder.read(f'parts/{name}'))['rows'] for name in names)


def _preview(pairs: PairSet) -> bytes:
    return image_codec.encode_png(contact_sheet(pairs))


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
