# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which frames the monitor is fitted on: labelled frames, pair sets and bags, drive by drive."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.bag_file import bag_groups
from clcp_ros.classes import ClassSet
from clcp_ros.errors import ImageError, LabelError, RecordingError
from clcp_ros.replay_bag import ReplayBag
from training.monitoring.drives import PERIOD_S
from training.monitoring.samples import Item
from training.pairs.pair_set import PairSet
from training.segmentation.frames import LAYOUTS, Frame, FrameSet, open_frames
from training.segmentation.labels import read_image
from training.segmentation.listing import thinned

_logger = logging.getLogger(__name__)

# With fewer, a fit without one of them knows so little of the domain that a dark camera and a new
# street look alike: seen on CamVid's two day drives.
MANY_DRIVES = 4

_UNKNOWN_STEP_NS = 10**10  # between frames whose time nobody knows: too far apart to be a stream
_MOST_LABELLED = 120
_LEAST_LABELLED = 24  # of other drives; fewer tell less than frames that the network has seen
_EARLY = 0.1  # share of the period by which a frame may come early: stamps jitter


@dataclass(frozen=True)
class Source:
    """Frames of one drive.

    Attributes:
        drive: Its name.
        key: Changes with what is read.
        count: Number of frames, or None where only reading tells.
        read: Reads them in the order of time.
    """

    drive: str
    key: str
    count: int | None
    read: Callable[[], Iterator[Item]]


@dataclass(frozen=True)
class Domain:
    """The nominal frames of a fit.

    Attributes:
        fit: What the reference is fitted on.
        calibration: Other drives, for scale and thresholds; empty: each drive of `fit` left out in
            turn.
        labelled: What the expected mIoU is fitted on; may be empty.
        labels_seen: The network was trained on `labelled`.
        pairs: A pair set with scans for the alignment of image and lidar.
        conditions: Conditions that count as nominal in it, where pairs name them.
        how: Origin of the scale and thresholds, for people.
        notes: What is to be known of it, for people.
    """

    fit: tuple[Source, ...]
    calibration: tuple[Source, ...] = ()
    labelled: tuple[Source, ...] = ()
    labels_seen: bool = False
    pairs: Path | None = None
    conditions: tuple[str, ...] = ()
    how: str = ''
    notes: tuple[str, ...] = field(default=())

    @property
    def thirds(self) -> bool:
        """Too few drives: thirds of them are left out in turn."""
        return not self.calibration and len({s.drive for s in self.fit}) < MANY_DRIVES


def frame_sources(
    frames: FrameSet, most: int, labelled: bool = False, drives: Iterable[str] | None = None
) -> tuple[Source, ...]:
    """Frames of a data set.

    Stamps are those of a folder `timestamp/` where the layout has one (nanoseconds, as Cityscapes
    distributes them); without, frames count as too far apart to follow each other.

    Args:
        frames: The data set.
        most: Most frames, evenly spread.
        labelled: Read labels, too.
        drives: Of these drives only.
    """
    wanted = None if drives is None else set(drives)
    chosen = thinned([f for f in frames.frames if wanted is None or f.drive in wanted], most)
    by_drive: dict[str, list[Frame]] = {}
    for frame in chosen:
        by_drive.setdefault(frame.drive, []).append(frame)
    return tuple(
        _frames_of(frames, drive, own, labelled) for drive, own in sorted(by_drive.items())
    )


def _frames_of(frames: FrameSet, drive: str, own: list[Frame], labelled: bool) -> Source:
    def read() -> Iterator[Item]:
        for i, frame in enumerate(own):
            image, label = frames.read(frame) if labelled else (read_image(frame.image), None)
            stamp_ns = _stamp_of(frame)
            yield Item(
                image, label, drive, i * _UNKNOWN_STEP_NS if stamp_ns is None else stamp_ns,
                frame.condition,
            )  # fmt: skip

    names = [f.name for f in own]
    return Source(drive, _key(str(frames.root.resolve()), str(labelled), *names), len(own), read)


def _stamp_of(frame: Frame) -> int | None:
    """Of Cityscapes' `timestamp/<split>/<city>/<name>_timestamp.txt`."""
    stem = frame.image.stem.removesuffix('_leftImg8bit')
    city = frame.image.parent
    file = city.parents[2] / 'timestamp' / city.parent.name / city.name / f'{stem}_timestamp.txt'
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def bag_sources(
    paths: Sequence[Path], conditions: Sequence[str] = (), image_topic: str | None = None
) -> tuple[Source, ...]:
    """Bags; of several cameras the first, since they see the same drive.

    Args:
        paths: Bags, or folders of bags.
        conditions: Simulated conditions to take where a bag names them; empty takes all.
        image_topic: Topic of the images.

    Raises:
        RecordingError: There is no bag, or no camera in it.
    """
    found = []
    for path in paths:
        groups = bag_groups(path)
        if not groups:
            raise RecordingError(f'{path}: no bag there (.mcap, .db3 or .bag)')
        # What a recorder split is one drive.
        found += [
            _bag(name, file, conditions, image_topic) for name, files in groups for file in files
        ]
    return tuple(found)


def _bag(drive: str, path: Path, conditions: Sequence[str], image_topic: str | None) -> Source:
    def read() -> Iterator[Item]:
        with ReplayBag(path, image_topic) as bag:
            camera = bag.cameras[0].name
            last_ns: int | None = None
            seen = repeated = 0
            for frame in bag.frames():
                if frame.camera != camera:
                    continue
                seen += 1
                if frame.repeat:
                    repeated += 1
                    continue
                if not due(frame.stamp_ns, last_ns):
                    continue
                if frame.condition and conditions and frame.condition not in conditions:
                    continue
                try:
                    image = frame.image
                except ImageError as error:
                    _logger.warning('%s: a frame is left out: %s', path, error)
                    continue
                last_ns = frame.stamp_ns
                yield Item(image, None, drive, frame.stamp_ns, frame.condition or 'nominal')
        if repeated and repeated == seen - 1:
            raise RecordingError(
                f'{path}: all {seen} images have the same stamp, so nothing is known of their '
                'time: let the driver stamp them and record again'
            )
        if repeated:
            _logger.warning(
                '%s: %d of %d images are left out, since their stamps came before: is it a bag '
                'that was played in a loop?', path, repeated, seen,
            )  # fmt: skip

    files = sorted(path.rglob('*')) if path.is_dir() else [path]
    sizes = [f'{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}' for f in files]
    return Source(
        drive, _key(str(path.resolve()), *sizes, *conditions, image_topic or ''), None, read
    )


def pair_sources(folder: Path, conditions: Sequence[str] = ()) -> tuple[Source, ...]:
    """Images of a pair set; of several cameras the first by name.

    Args:
        folder: The pair set.
        conditions: Conditions to take where the pairs' tags name one; empty takes all.

    Raises:
        PairSetError: It cannot be read.
        LabelError: It has no such pairs.
    """
    pairs = PairSet(folder)
    camera = min(pairs.column('camera').tolist(), default='')
    found = []
    for sequence in pairs.sequences:
        rows = []
        last_ns: int | None = None
        for row in pairs.rows(sequence=sequence).tolist():
            entry = pairs.row(row)
            condition = str(entry['tags'].get('condition', ''))
            if entry['camera'] != camera or (
                condition and conditions and condition not in conditions
            ):
                continue
            if due(entry['camera_stamp_ns'], last_ns):
                last_ns = entry['camera_stamp_ns']
                rows.append(row)
        if rows:
            found.append(_pairs_of(pairs, sequence, rows))
    if not found:
        raise LabelError(f'{folder}: no pairs of condition {", ".join(conditions) or "any"}')
    return tuple(found)


def _pairs_of(pairs: PairSet, sequence: str, rows: list[int]) -> Source:
    def read() -> Iterator[Item]:
        for row in rows:
            pair = pairs[row]
            yield Item(pair.pixels(), None, sequence, pairs.row(row)['camera_stamp_ns'], 'nominal')

    key = _key(pairs.index_sha256, sequence, *(str(row) for row in rows))
    return Source(sequence, key, len(rows), read)


def thirds(drive: np.ndarray) -> np.ndarray:
    """Name the thirds of each drive.

    Args:
        drive: (N,) str, the drive of each frame; each drive in the order of time.

    Returns:
        (N,) str; `drive_of` undoes it.
    """
    counts, seen, names = Counter(drive.tolist()), Counter[str](), []
    for name in drive.tolist():
        names.append(f'{name}, third {3 * seen[name] // counts[name] + 1}')
        seen[name] += 1
    return np.array(names)


def drive_of(name: str) -> str:
    """The drive that a third belongs to."""
    return name.rpartition(', third ')[0] or name


def due(stamp_ns: int, last_ns: int | None) -> bool:
    """As the monitor takes frames in; a stamp that goes back starts anew."""
    return last_ns is None or not 0 <= stamp_ns - last_ns < (1 - _EARLY) * PERIOD_S * 1e9


def _key(*parts: str) -> str:
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class LabelledDomain:
    """The training domain of a data set.

    Attributes:
        frames: Frames that the reference is fitted on.
        read: Reads a frame's image and label.
        domain: Nominal frames for the monitor.
    """

    frames: list[Frame]
    read: Callable[[Frame], tuple[np.ndarray, np.ndarray]]
    domain: Domain


def labelled_domain(
    data: Path,
    classes: ClassSet,
    trained: Mapping[str, Any],
    split: str = 'train',
    conditions: str = '',
    held_out: str = '',
    layout: str = 'auto',
    most: int = 400,
) -> LabelledDomain:
    """Choose the frames of a data set that the monitor is fitted on.

    Args:
        data: The data set.
        classes: Class set of the network.
        trained: What finetune wrote of the data that the network was trained on.
        split: Frames that the reference is fitted on.
        conditions: Conditions that count as the training domain, with commas; empty takes those of
            the training.
        held_out: Split whose drives calibrate the monitor; empty leaves out drives of `split`.
        layout: Layout of the data.
        most: Most frames for the fit, and for the calibration.

    Raises:
        LabelError: The data are missing, or too few.
    """
    wanted = [c.strip() for c in conditions.split(',') if c.strip()]
    found = _in_domain(open_frames(data, split, layout), trained, wanted)
    labels = _labels(data, found, classes, trained, wanted, held_out, layout, most)
    number = len(found.drives)
    fit = frame_sources(found, most)
    frames = thinned(found.frames, most)
    common: dict[str, Any] = {'labelled': labels[0], 'labels_seen': labels[1], 'notes': labels[2]}
    if held_out:
        other = _in_domain(open_frames(data, held_out, layout), trained, wanted)
        calibration = frame_sources(other, most, drives=set(other.drives) - set(found.drives))
        if not calibration:
            raise LabelError(f'{data}: {held_out} has no drives that {split} does not have')
        how = f'{number} drives, calibrated on {len(calibration)} of {held_out}'
        domain = Domain(fit, calibration, how=how, **common)
    elif number >= MANY_DRIVES:
        domain = Domain(fit, how=f'{number} drives, each left out in turn', **common)
    else:
        _logger.warning(
            '%s: %d drive%s only, so the monitor is calibrated on thirds of drives; its scores '
            'will be too high on other drives', data, number, 's' if number > 1 else '',
        )  # fmt: skip
        how = f'{number} drive{"s" if number > 1 else ""}, each third of a drive left out in turn'
        domain = Domain(fit, how=how, **common)
    return LabelledDomain(frames, found.read, domain)


def _labels(
    data: Path,
    fitted: FrameSet,
    classes: ClassSet,
    trained: Mapping[str, Any],
    wanted: list[str],
    held_out: str,
    layout: str,
    most: int,
) -> tuple[tuple[Source, ...], bool, tuple[str, ...]]:
    """Labelled nominal frames, best such that the network was not trained on."""
    if fitted.classes.names != classes.names:
        note = f'labels of {fitted.classes.name} are not the classes of the network: left out'
        return (), False, (note,)
    for split in dict.fromkeys((held_out or 'val', 'val')):
        try:
            other = _in_domain(open_frames(data, split, layout), trained, wanted)
        except LabelError:
            continue
        new = set(other.drives) - set(fitted.drives)
        if sum(f.drive in new for f in other.frames) >= _LEAST_LABELLED:
            return frame_sources(other, min(most, _MOST_LABELLED), True, new), False, ()
    return frame_sources(fitted, min(most, _MOST_LABELLED), True), True, ()


def _in_domain(frames: FrameSet, trained: Mapping[str, Any], wanted: Sequence[str]) -> FrameSet:
    known = trained.get('conditions', [])
    wanted = list(wanted) or [c for c in frames.conditions if c in known]
    if not wanted:
        raise LabelError(
            f'{frames.root}: its conditions ({", ".join(frames.conditions)}) are not those of the '
            'training; say with --conditions which are the training domain'
        )
    return frames.only(wanted)


def nominal_sources(
    paths: str, conditions: Sequence[str] = (), image_topic: str | None = None
) -> tuple[Source, ...]:
    """Unlabelled nominal recordings.

    Args:
        paths: Bags, folders of bags, pair sets, or data sets of frames, with commas.
        conditions: Conditions to take, where a recording names them; empty takes all.
        image_topic: Topic of the images in bags.

    Raises:
        ClcpError: One of them is none of these.
    """
    found: list[tuple[Path, Source]] = []
    for path in (Path(p.strip()) for p in paths.split(',') if p.strip()):
        own: tuple[Source, ...]
        if (path / 'index.parquet').is_file():
            own = pair_sources(path, conditions)
        elif bag_groups(path):
            own = bag_sources([path], conditions, image_topic)
        elif path.is_dir() and any(module.recognises(path) for module in LAYOUTS.values()):
            module = next(m for m in LAYOUTS.values() if m.recognises(path))
            frames = open_frames(path, ','.join(module.splits(path)), labelled=False)
            if conditions and set(conditions) & set(frames.conditions):
                frames = frames.only([c for c in frames.conditions if c in conditions])
            own = frame_sources(frames, len(frames))
        else:
            raise RecordingError(
                f'{path}: neither a bag, nor a folder of bags, nor a pair set, nor frames of a '
                'known layout'
            )
        found += [(path, source) for source in own]
    return _told_apart(found)


def _told_apart(found: Sequence[tuple[Path, Source]]) -> tuple[Source, ...]:
    """Sources whose drives have the same name only where they are the same drive.

    Drives of one name from several folders get so much of the folders' names that they differ;
    what was given twice is taken once.
    """
    owners: dict[str, set[Path]] = {}
    unique: dict[str, tuple[Path, Source]] = {}
    for path, source in found:
        unique.setdefault(source.key, (path.resolve(), source))
    for path, source in unique.values():
        owners.setdefault(source.drive, set()).add(path)
    return tuple(
        source if len(owners[source.drive]) == 1 else _within(path, source, owners[source.drive])
        for path, source in unique.values()
    )


def _within(path: Path, source: Source, others: set[Path]) -> Source:
    """A source whose drive is named by its folder, too."""
    depth = 1
    while len({p.parts[-depth:] for p in others}) < len(others):
        depth += 1
    folders = path.parts[-depth:]
    if path.name.partition('.')[0] == source.drive:  # the recording itself
        folders = folders[:-1]
    drive = '/'.join([*folders, source.drive])

    def read() -> Iterator[Item]:
        return (item._replace(drive=drive) for item in source.read())

    return replace(source, drive=drive, key=_key(source.key, drive), read=read)
