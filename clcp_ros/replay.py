# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the node's own code straight from a bag: no ROS, no clock, the same bytes every time.

`replay_node` does the same through the real node; both give the same `ReplayResult`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from clcp_ros.bundle import Bundle
from clcp_ros.errors import ClcpError, RecordingError
from clcp_ros.monitor import Level, MonitorConfig
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
)
from clcp_ros.replay_evaluation import BagLabels, Evaluation
from clcp_ros.replay_lidar import BagLidar, points_topic
from clcp_ros.replay_records import (
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
from clcp_ros.replay_scores import confusion_matrix, mean_iou

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
    'changed_settings',
    'confusion_matrix',
    'finish',
    'mean_iou',
    'new_versus',
    'replay_direct',
    'status_prefixes',
]

_DIAGNOSTICS_NS = 1_000_000_000


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
    monitor: MonitorConfig | None = None,
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
        monitor: Settings of the monitor, of both bundles; default: the node's defaults.

    Returns:
        Records and sums; images and masks go to the output only.

    Raises:
        RecordingError: The bag cannot be read or no image in it could be used.
        BundleError: A bundle cannot be used, or not with these settings.
    """
    start = time.perf_counter()
    output = output or callback_output(on_frame)
    with ExitStack() as stack:
        source = stack.enter_context(ReplayBag.of(bag, image_topic, cameras))
        names = [camera.name for camera in source.cameras]
        pipelines = [
            FramePipeline(path, cameras=names, monitor=monitor, threads=threads)
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


def changed_settings(config: MonitorConfig) -> dict[str, str]:
    """Settings of the monitor that are not the defaults, as text.

    Args:
        config: The settings.

    Returns:
        JSON by name: also what YAML, and so ROS, reads, with every bit of the numbers.
    """
    usual = dataclasses.asdict(MonitorConfig())
    # ROS takes no whole number for a double.
    values = {
        name: float(value) if isinstance(usual[name], float) else value
        for name, value in dataclasses.asdict(config).items()
    }
    return {name: json.dumps(value) for name, value in values.items() if value != usual[name]}


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
    for part in source.parts(others):
        frame = part.frame
        if frame is None:
            yield part, ''
            continue
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
