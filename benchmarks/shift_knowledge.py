# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits the monitor on the benchmark's own drives, none of which is tested on, as export does.

The reference comes of the drives through the network's training towns, scale, thresholds, the
expected mIoU and the kinds of degradation of the calibration drives. The corruption ladder that
they are degraded with is one of pictures; the conditions of the test are the simulator's.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.shift_evidence import (
    Described,
    Describer,
    Sight,
    described_drive,
    measurements_digest,
    scores_of,
    segmenter_of,
)
from benchmarks.shift_plan import Clip, Drive, Size, clips
from benchmarks.shift_streams import (
    CHUNK,
    CLEAR,
    Piece,
    drive_pieces,
    read_frames,
    run_jobs,
)
from clcp_ros.bundle import MODEL, load_bundle
from clcp_ros.errors import BundleError
from clcp_ros.monitor.harm import tap_scores
from clcp_ros.monitor.knowledge import Knowledge
from training.cli import atomic_path
from training.monitoring.corruptions import FAMILIES, degrade
from training.monitoring.domain import Domain, Source
from training.monitoring.fit import FitOptions, fit_knowledge
from training.monitoring.harm import HarmFit, HarmFrames, fit_frames, fit_temperature
from training.monitoring.reader import EVERY, Reader
from training.monitoring.samples import Item, Samples

KNOWLEDGE = 'reference.npz'
CARD = 'card.json'


def families_of(size: Size) -> tuple[str, ...]:
    """Of the corruption ladder."""
    return size.families or tuple(FAMILIES)


def items_of(root: Path, clip: Clip) -> Iterator[Item]:
    """The clear frames of a clip."""
    end = clip.begin + clip.frames
    for chunk in range(clip.begin // CHUNK, (end - 1) // CHUNK + 1):
        path = Piece(clip.drive, chunk).stream(root)
        for k, frame in enumerate(read_frames(path), CHUNK * chunk):
            if clip.begin <= k < end:
                yield Item(frame.image, frame.label, clip.drive.name, frame.stamp_ns, CLEAR)


def ladder_file(size: Size, folder: Path, clip: Clip) -> Path:
    """Where a degraded clip is kept: another ladder has files of its own.

    Args:
        size: The size.
        folder: Of what is described.
        clip: The clip.
    """
    steps = [families_of(size), size.draws, size.ladder_severities]
    digest = hashlib.sha256(json.dumps(steps).encode()).hexdigest()[:8]
    return folder / f'{clip.name}-{digest}.npz'


def describe_ladder(
    size: Size, root: Path, folder: Path, bundle: Path, part: str, temperature: float, workers: int
) -> None:
    """Describe the clips of a set, clear and degraded.

    Args:
        size: The size.
        root: Its folder, with `streams`.
        folder: Where the results go.
        bundle: Of the network.
        part: `calibration`, some severities of each family; or `test`, all of the size.
        temperature: Of the logits.
        workers: Processes.
    """
    chosen = clips(size, part)
    families = families_of(size)
    tags = size.draws if part == 'calibration' else len(size.ladder_severities)
    jobs = [(_describe_clip, size, bundle, (root, folder, clip, temperature)) for clip in chosen]
    files = [
        (ladder_file(size, folder, c), c.frames * (1 + len(families) * tags)) for c in chosen
    ]  # fmt: skip
    run_jobs(f'ladder, {part}', jobs, files, workers)


def _describe_clip(size: Size, bundle: Path, rest: tuple[Path, Path, Clip, float]) -> None:
    root, folder, clip, temperature = rest
    path = ladder_file(size, folder, clip)
    if path.exists():
        return
    clear = list(items_of(root, clip))
    own = clip.drive.part == 'calibration'
    # A clip keeps its severities throughout, so that its frames can be taken together.
    rng = np.random.default_rng([size.seed, 11, clip.number])
    sights = [_sight(item) for item in clear]
    for family in families_of(size):
        severities = size.ladder_severities
        if own:
            severities = tuple(int(s) for s in rng.permutation(5)[: size.draws] + 1)
        sights += [_sight(item) for item in degrade(clear, (family,), severities)]
    Describer(segmenter_of(bundle), temperature).describe(sights).save(path)


def _sight(item: Item) -> Sight:
    severity = float(item.tag.partition(':')[2] or 0)
    return Sight(item.tag, item.stamp_ns, severity, item.image, item.label)


def _taps(knowledge: Knowledge, frames: Described) -> np.ndarray:
    return np.array([tap_scores(score) for score in scores_of(knowledge, frames)])


@dataclass(frozen=True)
class Ladder:
    """The described clips of a set.

    Attributes:
        frames: By clip.
        drives: Name of the drive of each.
    """

    frames: tuple[Described, ...]
    drives: tuple[str, ...]

    @classmethod
    def load(cls, size: Size, folder: Path, part: str) -> Ladder:
        """Read what `describe_ladder` wrote."""
        chosen = clips(size, part)
        return cls(
            tuple(Described.load(ladder_file(size, folder, clip)) for clip in chosen),
            tuple(clip.drive.name for clip in chosen),
        )

    def samples(self) -> Samples:
        """As the fits take them."""
        return Samples.concat([
            frames.samples(drive) for frames, drive in zip(self.frames, self.drives, strict=True)
        ])  # fmt: skip

    def harm_frames(self, knowledge: Knowledge) -> HarmFrames:
        """As the fit of the expected mIoU takes them."""
        parts = [
            HarmFrames(
                np.full(len(frames), drive), frames.stamp_ns, frames.case,
                frames.soft.astype(np.float64),
                _taps(knowledge, frames),
                frames.confusion.astype(np.int64),
            )
            for frames, drive in zip(self.frames, self.drives, strict=True)
        ]  # fmt: skip
        return HarmFrames.concat(parts)


def fit_monitor(size: Size, root: Path, bundle: Path, interval_h: float, out: Path) -> Knowledge:
    """Fit everything that the monitor knows as export does, or take what was fitted.

    Args:
        size: The size.
        root: Its folder, with `streams`.
        bundle: Of the network.
        interval_h: Hours between two false alarms that are asked for.
        out: Folder of what is written.
    """
    sha = load_bundle(bundle).sha256[MODEL]
    path = out / KNOWLEDGE
    if not _fits(path, sha):
        domain = Domain(
            _drive_sources(root, size, 'fit'),
            _drive_sources(root, size, 'calibration'),
            clip_sources(root, size),
            how='simulated drives of their own',
        )
        options = FitOptions(interval_h, ','.join(size.families) or 'all')
        fitted = fit_knowledge(
            segmenter_of(bundle), domain, options, model_sha256=sha, cache=cache_of(out)
        )
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(out / CARD) as partial:
            partial.write_text(json.dumps(fitted.card, indent=1) + '\n')
        fitted.knowledge.save(path)
    return Knowledge.load(path, sha)


def _fits(path: Path, sha: str) -> bool:
    """Whether this release can read what was fitted before."""
    if not path.is_file():
        return False
    try:
        Knowledge.load(path, sha)
    except BundleError as error:
        print(f'fitted anew: {error}')
        return False
    return True


def cache_of(out: Path) -> Path:
    """Where a fit keeps described frames: with other measurements it is another folder.

    Args:
        out: Folder of the fit.
    """
    return out / f'frames-{measurements_digest()}'


def temperature_of(size: Size, root: Path, bundle: Path, out: Path) -> float:
    """Of the network's logits, as the fit will find it on the clear frames of the clips.

    Args:
        size: The size.
        root: Its folder, with `streams`.
        bundle: Of the network.
        out: Folder of the fit, which finds the frames in its cache.
    """
    clear = _reader(bundle, out).all(clip_sources(root, size), 'clear clips', logits=True)
    return 1.0 if clear is None else fit_temperature(clear)


def keep_drives(
    size: Size, root: Path, folder: Path, bundle: Path, out: Path, temperature: float, workers: int
) -> None:
    """Put the described drives into the cache of the fit, which would describe them again.

    Args:
        size: The size.
        root: Its folder, with `streams`.
        folder: With what is described.
        bundle: Of the network.
        out: Folder of the fit.
        temperature: That they were described with.
        workers: Processes.
    """
    cache = cache_of(out) / f'drives-{temperature:.5f}'
    drives = [drive for part in ('fit', 'calibration') for drive in size.drives_of(part)]
    jobs = [
        (_keep_drive, (root, folder, bundle, out), drive, temperature, cache / drive.name)
        for drive in drives
    ]  # fmt: skip
    files = [(cache / drive.name, drive.seconds) for drive in drives]
    run_jobs('keep for the fit', jobs, files, workers)


def _keep_drive(
    paths: tuple[Path, Path, Path, Path], drive: Drive, temperature: float, marker: Path
) -> None:
    if marker.is_file():
        return
    root, folder, bundle, out = paths
    frames = described_drive(folder, drive)
    stored = (frame for piece in drive_pieces(drive) for frame in read_frames(piece.stream(root)))
    # Not `items_of`, which decodes every picture.
    images = [frame.image for frame in itertools.islice(stored, 0, None, EVERY)]
    samples, asked = frames.samples(drive.name), None
    if drive.part == 'calibration':  # only there does the fit ask for the expected mIoU
        samples, asked = replace(samples, soft=frames.soft), temperature
    _reader(bundle, out).keep(_drive_source(root, drive), samples, images, asked)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _reader(bundle: Path, out: Path) -> Reader:
    return Reader(segmenter_of(bundle), load_bundle(bundle).sha256[MODEL], cache_of(out))


def _drive_sources(root: Path, size: Size, part: str) -> tuple[Source, ...]:
    return tuple(_drive_source(root, drive) for drive in size.drives_of(part))


def _drive_source(root: Path, drive: Drive) -> Source:
    read = functools.partial(_drive_items, root, drive)
    return Source(drive.name, drive.name, drive.seconds, read)


def _drive_items(root: Path, drive: Drive) -> Iterator[Item]:
    return items_of(root, Clip('drive', 0, drive, 0, drive.seconds))


def clip_sources(root: Path, size: Size) -> tuple[Source, ...]:
    """The clear frames that the expected mIoU is fitted on.

    Args:
        root: Folder of the size, with `streams`.
        size: The size.
    """
    # A drive of several clips is one drive: its name says which frames belong together.
    return tuple(
        Source(clip.drive.name, clip.name, clip.frames, functools.partial(items_of, root, clip))
        for clip in clips(size, 'calibration')
    )


def fit_ladder(frames: HarmFrames, temperature: float, without: Sequence[str]) -> HarmFit:
    """Fit the expected mIoU.

    Args:
        frames: Clear and degraded.
        temperature: That they were described with.
        without: Families that are left out.
    """
    clear = frames.tag == CLEAR
    left = ~clear & ~np.isin(frames.family, without)
    return fit_frames(frames.take(clear), frames.take(left), temperature)
