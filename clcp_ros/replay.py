# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the node's own code straight from a bag: no ROS, no clock, the same bytes every time.

`replay_node` does the same through the real node; both give the same `ReplayResult`.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clcp_ros.bundle import Bundle
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ClcpError, ImageError, RecordingError
from clcp_ros.image_codec import decode_compressed, decode_image
from clcp_ros.monitor import Level
from clcp_ros.pipeline import FramePipeline

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CONDITION_TOPIC = '/simulation/condition'
LABELS_TOPIC = '/simulation/labels/compressed'
"""What the simulator adds to its bags: std_msgs/String, and PNG of Cityscapes ids."""


@dataclass(frozen=True)
class BagFrame:
    """An image message of a bag.

    Attributes:
        stamp_ns: The header's stamp.
        time_ns: When it was recorded.
        raw: The serialised message.
        message: The message.
        condition: The simulated condition in force; empty where the bag names none.
    """

    stamp_ns: int
    time_ns: int
    raw: bytes
    message: Any
    condition: str

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Raises:
            ImageError: It cannot be decoded.
        """
        decode = decode_image if hasattr(self.message, 'encoding') else decode_compressed
        return decode(self.message)


@dataclass(frozen=True)
class FrameRecord:
    """What was found of one frame; NaN stands for what is not known.

    Attributes:
        stamp_ns: Stamp of the frame.
        time_s: Seconds since the first frame.
        level: The monitor's level.
        reason: The monitor's line for people.
        novelty_z: Novelty of the frame in standard deviations.
        novelty_smoothed: Smoothed novelty.
        low_z: Part of the raw image statistics.
        early_z: Part of the early features.
        deep_z: Part of the deep features.
        condition: Simulated condition, or empty.
        miou: Mean IoU over the classes present in the labels.
    """

    stamp_ns: int
    time_s: float
    level: Level
    reason: str
    novelty_z: float
    novelty_smoothed: float
    low_z: float
    early_z: float
    deep_z: float
    condition: str = ''
    miou: float = math.nan


@dataclass(frozen=True)
class ReplayFrame:
    """A frame as it is handed to `on_frame`.

    Attributes:
        record: Its scores.
        image: (H, W, 3) uint8 RGB.
        mask: (h, w) uint8 class ids.
    """

    record: FrameRecord
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class LiveFigures:
    """What only a live replay knows.

    Attributes:
        published: Images sent.
        received: Masks that came back.
        latency_s: Time from sending an image to receiving its mask, of each that came back.
        node_counts: The node's own counters (received, dropped, bad, lost, ...).
        provider: Execution provider that the node used.
        exit_code: Of the node after SIGINT.
    """

    published: int
    received: int
    latency_s: list[float]
    node_counts: dict[str, int]
    provider: str
    exit_code: int

    @property
    def dropped(self) -> int:
        """Images without a mask."""
        return self.published - self.received


@dataclass
class ReplayResult:
    """A replay.

    Attributes:
        bundle: The bundle used.
        image_topic: Topic of the images.
        records: One per segmented frame, in the order of the bag.
        bad: Stamp and reason of frames that could not be used.
        confusion: (C, C) int64 by condition, rows are labels; empty without labels.
        notes: What a reader should know.
        seconds: Duration of the replay.
        live: Figures of a live replay.
    """

    bundle: Bundle
    image_topic: str
    records: list[FrameRecord] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    confusion: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    live: LiveFigures | None = None


OnFrame = Callable[[ReplayFrame], None]
Track = Callable[[Iterator[BagFrame], int], Iterable[BagFrame]]


class ReplayBag:
    """The images of one camera in a bag: rosbag2 (folder, MCAP, sqlite3) or ROS 1.

    Args:
        path: The bag.
        image_topic: Topic of the images; default: the only one there is.

    Raises:
        RecordingError: The bag cannot be read, or it is not clear which topic is meant.
    """

    def __init__(self, path: str | Path, image_topic: str | None = None) -> None:
        self.path = Path(path)
        self._stack = contextlib.ExitStack()
        if not self.path.exists():
            raise RecordingError(f'{self.path}: no such bag')
        if self.path.is_dir() and not (self.path / 'metadata.yaml').is_file():
            raise RecordingError(f'{self.path} is not a bag: there is no metadata.yaml in it')
        with self._errors():
            self._reader = self._stack.enter_context(_open(self.path))
        self.types = {c.topic: c.msgtype for c in self._reader.connections}
        self.counts = {
            topic: sum(c.msgcount for c in self._reader.connections if c.topic == topic)
            for topic in self.types
        }
        self.image_topic = image_topic or self._guess_topic()
        kind = self.types.get(self.image_topic)
        if kind not in IMAGE_TYPES:
            what = f'is a {kind}' if kind else 'does not exist'
            raise RecordingError(
                f'{self.path}: topic {self.image_topic} {what}; {self._listing()}'
            )
        self.compressed = kind == IMAGE_TYPES[1]
        self.is_ros2 = bool(self._reader.is2)
        self._conditions = self._read_conditions()

    def __enter__(self) -> ReplayBag:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def frame_count(self) -> int:
        """Number of images."""
        return self.counts[self.image_topic]

    def _guess_topic(self) -> str:
        found = [
            topic
            for topic, kind in self.types.items()
            if kind in IMAGE_TYPES
            and self.counts[topic]
            and not topic.startswith('/simulation/')
            and not topic.endswith(('/compressedDepth', '/theora'))
        ]
        cameras = {topic.removesuffix('/compressed') for topic in found}
        if not cameras:
            raise RecordingError(f'{self.path}: no images; {self._listing()}')
        if len(cameras) > 1:
            raise RecordingError(
                f'{self.path}: more than one camera, name one with --image-topic; '
                f'{self._listing()}'
            )
        # The shorter name is the raw image, free of compression artefacts.
        return min(found, key=len)

    def _listing(self) -> str:
        topics = ', '.join(f'{topic} ({kind})' for topic, kind in sorted(self.types.items()))
        return f'its topics: {topics or "none"}'

    def frames(self) -> Iterator[BagFrame]:
        """The images in the order of recording.

        Raises:
            RecordingError: The bag is damaged.
        """
        times = [when for when, _ in self._conditions]
        for when, raw in self._raw(self.image_topic):
            with self._errors():
                message: Any = self._reader.deserialize(raw, self.types[self.image_topic])
            stamp = message.header.stamp
            stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
            at = bisect.bisect_right(times, stamp_ns) - 1
            condition = self._conditions[at][1] if at >= 0 else ''
            yield BagFrame(stamp_ns, when, raw, message, condition)

    def labels(self) -> dict[int, np.ndarray]:
        """Encoded label images by stamp; they stay encoded, since a drive of them is large."""
        found = {}
        for _, raw in self._raw(LABELS_TOPIC):
            with self._errors():
                message: Any = self._reader.deserialize(raw, self.types[LABELS_TOPIC])
            stamp = message.header.stamp
            data = np.array(message.data, np.uint8)
            found[int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)] = data
        return found

    def _read_conditions(self) -> list[tuple[int, str]]:
        found = []
        for when, raw in self._raw(CONDITION_TOPIC):
            with self._errors():
                message: Any = self._reader.deserialize(raw, self.types[CONDITION_TOPIC])
            found.append((when, str(message.data)))
        return found

    def _raw(self, topic: str) -> Iterator[tuple[int, bytes]]:
        connections = [c for c in self._reader.connections if c.topic == topic]
        if not connections:
            return
        messages = self._reader.messages(connections=connections)
        while True:
            with self._errors():
                entry = next(messages, None)
            if entry is None:
                return
            yield entry[1], bytes(entry[2])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the reader raises for a damaged bag depends on where the damage is."""
        try:
            yield
        except ClcpError:
            raise
        except Exception as error:
            raise RecordingError(
                f'{self.path}: cannot be read: {str(error).rstrip(".") or repr(error)}'
            ) from None


def _open(path: Path) -> Any:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise RecordingError('bags are read with rosbags: pip install rosbags') from None
    # Old sqlite3 bags carry no definitions.
    return AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))


def confusion_matrix(mask: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by label and prediction.

    Args:
        mask: (h, w) uint8 class ids; resized to the labels' size when it differs.
        labels: (H, W) uint8 class ids; ids outside the class set are left out.
        classes: Number of classes C.

    Returns:
        (C, C) int64, rows are labels.
    """
    if mask.shape != labels.shape:
        mask = cv2.resize(mask, labels.shape[::-1], interpolation=cv2.INTER_NEAREST)
    # A last column for pixels that were not given a class: they count against the label.
    predicted = np.minimum(mask, classes).astype(np.int64)
    known = labels < classes
    index = labels[known].astype(np.int64) * (classes + 1) + predicted[known]
    counts = np.bincount(index, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that the labels contain.

    Args:
        confusion: (C, C + 1) from `confusion_matrix`, or a sum of such.

    Returns:
        In [0, 1]; NaN without labels.
    """
    classes = confusion.shape[0]
    hit = np.diagonal(confusion)[:classes]
    present = confusion.sum(axis=1) > 0
    union = confusion.sum(axis=1) + confusion[:, :classes].sum(axis=0) - hit
    return float((hit[present] / union[present]).mean()) if present.any() else math.nan


class Evaluation:
    """Makes records of frames and their results, with mIoU where the bag has labels."""

    def __init__(self, bag: ReplayBag, result: ReplayResult, on_frame: OnFrame | None) -> None:
        self._result = result
        self._on_frame = on_frame
        self._start_ns: int | None = None
        self._seen: set[int] = set()
        self._labels: dict[int, np.ndarray] = {}
        if bag.counts.get(LABELS_TOPIC):
            if result.bundle.classes.names == CITYSCAPES.names:
                self._labels = bag.labels()
            else:
                result.notes.append(
                    'no mIoU: the labels of the bag are Cityscapes ids, the classes of the bundle '
                    f'are {result.bundle.classes.name}'
                )

    def accepts(self, frame: BagFrame) -> bool:
        """Whether a frame can be used; what cannot is noted with its reason."""
        if self._start_ns is None:
            self._start_ns = frame.stamp_ns
        reason = ''
        if frame.stamp_ns in self._seen:
            reason = 'its stamp was seen before'
        else:
            self._seen.add(frame.stamp_ns)
            try:
                _ = frame.image
            except ImageError as error:
                reason = str(error)
        if reason:
            self._result.bad.append((frame.stamp_ns, reason))
        return not reason

    def add(
        self,
        frame: BagFrame,
        mask: np.ndarray,
        level: Level,
        reason: str,
        scores: dict[str, float],
    ) -> None:
        """Take in a frame's result; `scores` are the record's fields from novelty_z to deep_z."""
        assert self._start_ns is not None
        record = FrameRecord(
            frame.stamp_ns,
            (frame.stamp_ns - self._start_ns) * 1e-9,
            level,
            reason,
            **scores,
            condition=frame.condition,
            miou=self._score(frame, mask),
        )
        self._result.records.append(record)
        if self._on_frame:
            self._on_frame(ReplayFrame(record, frame.image, mask))

    def _score(self, frame: BagFrame, mask: np.ndarray) -> float:
        encoded = self._labels.get(frame.stamp_ns)
        labels = None if encoded is None else cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        if labels is None or labels.ndim != 2:
            return math.nan
        confusion = confusion_matrix(mask, labels, len(self._result.bundle.classes))
        total = self._result.confusion.get(frame.condition, 0)
        self._result.confusion[frame.condition] = total + confusion
        return mean_iou(confusion)


def replay_direct(
    bag: str | Path,
    bundle: str | Path,
    *,
    image_topic: str | None = None,
    on_frame: OnFrame | None = None,
    track: Track | None = None,
    threads: int = 0,
) -> ReplayResult:
    """Segment and judge every image of a bag, as fast as the model.

    Args:
        bag: The bag.
        bundle: Folder of the bundle.
        image_topic: Topic of the images; default: the only one there is.
        on_frame: Called with every frame and its mask, in order.
        track: Wraps the iterator of frames, for example in a progress bar; gets it and its length.
        threads: Threads inside a layer of the model; 0 leaves it to ONNX Runtime.

    Returns:
        Records and sums; images and masks go to `on_frame` only.

    Raises:
        RecordingError: The bag cannot be read or no image in it could be used.
        BundleError: The bundle cannot be used.
    """
    start = time.perf_counter()
    pipeline = FramePipeline(bundle, threads=threads)
    with ReplayBag(bag, image_topic) as source:
        result = ReplayResult(pipeline.bundle, source.image_topic)
        evaluation = Evaluation(source, result, on_frame)
        frames = source.frames()
        for frame in track(frames, source.frame_count) if track else frames:
            if not evaluation.accepts(frame):
                continue
            found = pipeline.process(frame.image, frame.stamp_ns)
            state = found.shift
            score = state.score
            scores = {
                'novelty_z': score.novelty if score else math.nan,
                'novelty_smoothed': state.smoothed,
                'low_z': score.low if score else math.nan,
                'early_z': score.early if score else math.nan,
                'deep_z': score.deep if score else math.nan,
            }
            evaluation.add(frame, found.mask, state.level, state.reason, scores)
    finish(result, start)
    return result


def finish(result: ReplayResult, start: float) -> None:
    """Note the duration since `start` (perf_counter), and refuse a replay without any frame.

    Raises:
        RecordingError: No frame was segmented.
    """
    result.seconds = time.perf_counter() - start
    if result.bad:
        stamp_ns, reason = result.bad[0]
        result.notes.append(
            f'{len(result.bad)} of {len(result.bad) + len(result.records)} images could not be '
            f'used; the first at {stamp_ns}: {reason}'
        )
    if not result.records:
        why = result.bad[0][1] if result.bad else 'there is none'
        raise RecordingError(f'no image of {result.image_topic} could be used: {why}')
