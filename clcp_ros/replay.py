# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the node's own code straight from a bag: no ROS, no clock, the same bytes every time.

`replay_node` does the same through the real node; both give the same `ReplayResult`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from clcp_ros.bundle import Bundle
from clcp_ros.classes import CITYSCAPES, UNLABELLED, ClassSet
from clcp_ros.errors import ClcpError, RecordingError
from clcp_ros.monitor import Level
from clcp_ros.monitor.state import TEXTS
from clcp_ros.node_diagnostics import Status, shift_status
from clcp_ros.pipeline import FramePipeline, FrameResult, Prepared
from clcp_ros.read_ahead import read_ahead
from clcp_ros.replay_bag import (
    CONDITION_TOPIC,
    LABELS_TOPIC,
    BagFrame,
    Camera,
    Part,
    ReplayBag,
    Spool,
)
from clcp_ros.replay_lidar import BagLidar, points_topic
from clcp_ros.replay_records import (
    SCORES,
    BadFrame,
    FrameRecord,
    LabelSource,
    LiveFigures,
    OnFrame,
    Outcome,
    Output,
    ReplayFrame,
    ReplayResult,
    Track,
    Versus,
    VersusRecord,
    callback_output,
)
from clcp_ros.replay_scores import (
    agreement,
    class_shares,
    class_table,
    confusion_matrix,
    id_table,
    mean_iou,
)

__all__ = [
    'CONDITION_TOPIC',
    'LABELS_TOPIC',
    'BagFrame',
    'BagLabels',
    'Camera',
    'Evaluation',
    'FrameRecord',
    'LabelSource',
    'LiveFigures',
    'Outcome',
    'Output',
    'ReplayBag',
    'ReplayFrame',
    'ReplayResult',
    'Versus',
    'VersusRecord',
    'callback_output',
    'confusion_matrix',
    'finish',
    'mean_iou',
    'new_versus',
    'replay_direct',
    'status_prefixes',
]

SEEN = 'its stamp was seen before'
"""Why a frame cannot be used: results are found again by camera and stamp."""

UNSTAMPED = 'images without a stamp have the time of their recording instead'
"""A note; the driver should be told."""

_DIAGNOSTICS_NS = 1_000_000_000

T = TypeVar('T')


class BagLabels:
    """The true labels in a bag: the simulator's, or those `training/frames_to_bag.py` wrote.

    Args:
        bag: The bag.
        notes: Gets why labels are of no use.
        classes: Class set of the bundle.
    """

    def __init__(self, bag: ReplayBag, notes: list[str], classes: ClassSet) -> None:
        self._spools: dict[str, Spool] = {}
        self._names: dict[str, dict[int, str]] = {}
        self._tables: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
        for camera in bag.cameras:
            if camera.labels is None:
                continue
            names = bag.label_names(camera)
            if names is None:
                simulated = camera.labels.startswith('/simulation/')
                names = dict(enumerate(CITYSCAPES.names if simulated else classes.names))
            unknown = [name for name in names.values() if name not in classes.names]
            if unknown:
                notes.append(
                    f'no mIoU: the labels of {camera.topic} have classes that the bundle '
                    f'({classes.name}) does not: {", ".join(unknown[:4])}'
                )
                continue
            self._names[camera.name] = names
            self._spools[camera.name] = bag.labels(camera)

    def __bool__(self) -> bool:
        return bool(self._spools)

    def get(self, frame: BagFrame, names: Sequence[str]) -> np.ndarray | None:
        """See `LabelSource.get`."""
        spool = self._spools.get(frame.camera)
        data = None if spool is None else spool.get(frame.stamp_ns)
        if data is None:
            return None
        labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
            return None
        key = (frame.camera, tuple(names))
        if key not in self._tables:
            table = id_table(self._names[frame.camera], names)
            table[table >= len(names)] = UNLABELLED
            self._tables[key] = table
        return np.asarray(cv2.LUT(labels, self._tables[key]), np.uint8)

    def close(self) -> None:
        """Give the disk space back."""
        for spool in self._spools.values():
            spool.close()


class Evaluation:
    """Makes records of frames and their outcomes, with mIoU where there are labels.

    Args:
        bag: The bag.
        result: Gets records, sums and notes.
        output: Gets the frames.
        labels: True masks; default: the bag's own.
    """

    def __init__(
        self, bag: ReplayBag, result: ReplayResult, output: Output, labels: LabelSource | None
    ) -> None:
        self._result = result
        self._output = output
        self._own: BagLabels | None = None
        if labels is None:
            self._own = BagLabels(bag, result.notes, result.bundle.classes)
            labels = self._own if self._own else None
        self._labels = labels
        self._start_ns: int | None = None
        # training/frames_to_bag.py writes conditions of real images to the same topic.
        result.simulated = any(
            topic.startswith('/simulation/') and topic != CONDITION_TOPIC for topic in bag.topics
        )
        result.cameras = bag.cameras
        if result.versus is not None:
            self._table = class_table(
                result.versus.bundle.classes.names, result.bundle.classes.names
            )

    def close(self) -> None:
        """Give back what the labels took."""
        if self._own is not None:
            self._own.close()

    def reject(self, frame: BagFrame, reason: str) -> None:
        """Note a frame that cannot be used."""
        self._result.bad.append(BadFrame(frame.stamp_ns, reason, frame.camera))
        self._output.unused(frame)

    def skip(self, frame: BagFrame) -> None:
        """Note a frame that the node left out."""
        self._result.unanswered[frame.camera] = self._result.unanswered.get(frame.camera, 0) + 1
        self._output.unused(frame)

    def add(self, frame: BagFrame, outcome: Outcome, versus: Outcome | None = None) -> FrameRecord:
        """Take in what was made of a frame."""
        if self._start_ns is None:
            self._start_ns = frame.stamp_ns
        result = self._result
        if not frame.stamped and UNSTAMPED not in result.notes:
            result.notes.append(UNSTAMPED)
        classes = result.bundle.classes
        other = None
        if versus is not None:
            other = self._compare(frame, outcome, versus)
        confidence = outcome.confidence
        said: dict[str, Any] = {name: outcome.scores.get(name, math.nan) for name in SCORES}
        said |= {name: outcome.texts.get(name, '') for name in TEXTS}
        record = FrameRecord(
            frame.stamp_ns,
            (frame.stamp_ns - self._start_ns) * 1e-9,
            outcome.status.level,
            outcome.status.message,
            **said,
            samples=int(outcome.status.values.get('samples', 0)),
            condition=frame.condition,
            miou=self._score(frame, outcome.mask, classes, result.confusion),
            camera=frame.camera,
            time_ns=frame.time_ns,
            monitored=outcome.monitored,
            confidence=math.nan if confidence is None else float(confidence.mean()) / 255,
            shares=tuple(class_shares(outcome.mask, len(classes)).tolist()),
            seconds=outcome.seconds,
            versus=other,
        )
        result.records.append(record)
        self._output.frame(ReplayFrame(record, frame, outcome, versus))
        return record

    def _compare(self, frame: BagFrame, outcome: Outcome, versus: Outcome) -> VersusRecord:
        found = self._result.versus
        assert found is not None
        classes = found.bundle.classes
        mapped = np.asarray(cv2.LUT(versus.mask, self._table), np.uint8)
        found.crossed += confusion_matrix(versus.mask, outcome.mask, found.crossed.shape[1] - 1)[
            : found.crossed.shape[0]
        ]
        return VersusRecord(
            versus.status.level,
            versus.scores.get('novelty_z', math.nan),
            versus.scores.get('miou_est', math.nan),
            agreement(outcome.mask, mapped),
            self._score(frame, versus.mask, classes, found.confusion),
            tuple(class_shares(versus.mask, len(classes)).tolist()),
            versus.seconds,
        )

    def _score(
        self,
        frame: BagFrame,
        mask: np.ndarray,
        classes: ClassSet,
        confusion: dict[tuple[str, str], np.ndarray],
    ) -> float:
        labels = None if self._labels is None else self._labels.get(frame, classes.names)
        if labels is None:
            return math.nan
        counts = confusion_matrix(mask, labels, len(classes))
        key = (frame.camera, frame.condition)
        confusion[key] = confusion.get(key, 0) + counts
        return mean_iou(counts)


class _Heartbeat:
    """The node's diagnostics of a direct replay: once a second of the bag, and at every change."""

    def __init__(self, cameras: Sequence[Camera], result: ReplayResult, output: Output) -> None:
        self._prefixes = status_prefixes(cameras)
        self._output = output
        model, provider = result.bundle.id, result.provider
        self._inference = Status(
            '/segment: inference',
            Level.OK,
            f'{model} on {provider}',
            {'model': model, 'provider': provider},
        )
        self._levels: dict[str, Level] = {}
        self._last_ns: dict[str, int] = {}

    def beat(self, frame: BagFrame, outcome: Outcome) -> None:
        camera, status = frame.camera, outcome.status
        changed = self._levels.get(camera) != status.level
        elapsed = frame.time_ns - self._last_ns.get(camera, -_DIAGNOSTICS_NS)
        if changed or not 0 <= elapsed < _DIAGNOSTICS_NS:
            self._levels[camera], self._last_ns[camera] = status.level, frame.time_ns
            name = f'/segment: {self._prefixes[camera]}shift'
            shift = dataclasses.replace(status, name=name)
            self._output.diagnostics(frame.time_ns, [shift, self._inference])


def replay_direct(
    bag: str | Path | ReplayBag,
    bundle: str | Path,
    *,
    image_topic: str | None = None,
    cameras: str | None = None,
    versus: str | Path | None = None,
    labels: LabelSource | None = None,
    on_frame: OnFrame | None = None,
    output: Output | None = None,
    others: Iterable[str] | None = (),
    track: Track | None = None,
    threads: int = 0,
    points: str | None = None,
) -> ReplayResult:
    """Segment and judge every image of a bag, as fast as the model.

    Reading and decoding, the model, and what becomes of its results run at the same time; the
    result is that of one after the other.

    Args:
        bag: The bag; an open one has its cameras chosen already.
        bundle: Folder of the bundle.
        image_topic: Topics of the images, with commas; default: one of each camera there is.
        cameras: Names of cameras, see `ReplayBag`.
        versus: Folder of another bundle, to compare with.
        labels: True masks; default: the bag's own.
        on_frame: Called with every frame and its mask, in order.
        output: Instead of `on_frame`: gets everything.
        others: Topics that `output` gets beside the frames; None for all.
        track: Wraps the iterator of frames, for example in a progress bar; gets it and its length.
        threads: Threads inside a layer of the model; 0 leaves it to ONNX Runtime.
        points: Topic of the lidar's scans, for bundles that were fitted with a lidar; default: the
            likeliest.

    Returns:
        Records and sums; images and masks go to the output only.

    Raises:
        RecordingError: The bag cannot be read or no image in it could be used.
        BundleError: A bundle cannot be used.
    """
    start = time.perf_counter()
    output = output or callback_output(on_frame)
    with ExitStack() as stack:
        source = stack.enter_context(ReplayBag.of(bag, image_topic, cameras))
        names = [camera.name for camera in source.cameras]
        pipelines = [
            FramePipeline(path, cameras=names, threads=threads)
            for path in (bundle, versus)
            if path is not None
        ]
        result = ReplayResult(pipelines[0].bundle, source.image_topic)
        lidar = _open_lidar(source, pipelines, points)
        result.provider = pipelines[0].segmenter.provider
        if versus is not None:
            result.versus = new_versus(
                result.bundle, pipelines[1].bundle, pipelines[1].segmenter.provider
            )
        evaluation = Evaluation(source, result, output, labels)
        stack.callback(evaluation.close)
        heartbeat = _Heartbeat(source.cameras, result, output)

        def frames() -> Iterator[tuple[BagFrame, list[Outcome] | str]]:
            wanted = None if others is None else {*others}
            topics = wanted if wanted is None or lidar is None else wanted | lidar.topics
            prepared = read_ahead(_prepare(source, topics, pipelines))
            found = read_ahead(_segment(prepared, pipelines, lidar))
            stack.callback(found.close)
            for part, outcomes in found:
                asked = [m for m in part.others if wanted is None or m[0] in wanted]
                if asked:
                    output.others(asked)
                if part.frame is not None:
                    yield part.frame, outcomes

        found = frames()
        for frame, outcomes in track(found, source.frame_count) if track else found:
            if isinstance(outcomes, str):
                evaluation.reject(frame, outcomes)
            else:
                evaluation.add(frame, *outcomes)
                heartbeat.beat(frame, outcomes[0])
    finish(result, start)
    return result


def new_versus(first: Bundle, second: Bundle, provider: str) -> Versus:
    """An empty comparison of two bundles."""
    missing = tuple(n for n in second.classes.names if n not in first.classes.names)
    size = max(len(first.classes), len(second.classes))
    return Versus(
        second, provider, {}, np.zeros((len(first.classes), size + 1), np.int64), missing
    )


def status_prefixes(cameras: Sequence[Camera]) -> dict[str, str]:
    """What the node puts before a status' name, by camera: nothing where there is only one."""
    if len(cameras) == 1:
        return {cameras[0].name: ''}
    return {camera.name: f'{camera.name}/' for camera in cameras}


_Ready = tuple[Part, list[Prepared] | str]


def _prepare(
    source: ReplayBag, others: Iterable[str] | None, pipelines: Sequence[FramePipeline]
) -> Iterator[_Ready]:
    """Read and decode; a frame that cannot be comes with the reason."""
    seen: set[tuple[str, int]] = set()
    for part in source.parts(others):
        frame = part.frame
        if frame is None:
            yield part, ''
            continue
        # Neither the model nor the monitor may see a stamp twice.
        if (frame.camera, frame.stamp_ns) in seen:
            yield part, SEEN
            continue
        seen.add((frame.camera, frame.stamp_ns))
        try:
            message = frame.usable
            yield (
                part,
                [p.prepare(frame.camera, message, frame.stamp_ns) for p in pipelines],
            )
        except ClcpError as error:
            yield part, str(error)


def _open_lidar(
    source: ReplayBag, pipelines: Sequence[FramePipeline], wanted: str | None
) -> BagLidar | None:
    """Give the monitors that know a lidar the bag's."""
    knowing = [p for p in pipelines if p.knowledge.alignment is not None]
    topic = points_topic(source, wanted) if knowing else None
    if topic is None:
        return None
    lidar = BagLidar(source, topic)
    for pipeline in knowing:
        pipeline.scans.update(lidar.scans)
    return lidar


def _segment(
    items: Generator[_Ready, None, None],
    pipelines: Sequence[FramePipeline],
    lidar: BagLidar | None,
) -> Iterator[tuple[Part, list[Outcome] | str]]:
    """Run the models and the monitors."""
    with closing(items):
        for part, prepared in items:
            # Here and not where the bag is read, which is ahead by some frames.
            if lidar is not None:
                lidar.take(part.others, part.frame)
            if isinstance(prepared, str):
                yield part, prepared
                continue
            assert part.frame is not None
            predictions = [p.infer([one])[0] for p, one in zip(pipelines, prepared, strict=True)]
            failures = [str(p) for p in predictions if isinstance(p, ClcpError)]
            if failures:
                yield part, failures[0]
                continue
            yield (
                part,
                [
                    outcome_of(p.finish(one, prediction), part.frame)
                    for p, one, prediction in zip(pipelines, prepared, predictions, strict=True)
                    if not isinstance(prediction, ClcpError)
                ],
            )


def outcome_of(found: FrameResult, frame: BagFrame) -> Outcome:
    """A pipeline's result as an outcome."""
    state = found.shift
    status = shift_status(state, found.source, str(frame.message.header.frame_id))
    return Outcome(
        found.mask,
        found.confidence,
        status,
        found.monitored,
        state.numbers,
        state.texts,
        dict(found.seconds),
        found.small,
    )


def finish(result: ReplayResult, start: float) -> None:
    """Note the duration since `start` (perf_counter), and refuse a replay without any frame.

    Raises:
        RecordingError: No frame was segmented.
    """
    result.seconds = time.perf_counter() - start
    if result.bad:
        bad = result.bad[0]
        result.notes.append(
            f'{len(result.bad)} of {len(result.bad) + len(result.records)} images could not be '
            f'used; the first at {bad.stamp_ns}: {bad.reason}'
        )
    if result.versus is not None and result.versus.missing:
        result.notes.append(
            f'classes that only {result.versus.bundle.name} has agree with nothing: '
            f'{", ".join(result.versus.missing)}'
        )
    if not result.records:
        why = result.bad[0].reason if result.bad else 'there is none'
        raise RecordingError(f'no image of {result.image_topic} could be used: {why}')
