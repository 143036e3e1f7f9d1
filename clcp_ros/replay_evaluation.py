# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Judges what a replay made of a bag's frames: records, and mIoU where there are labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from clcp_ros.classes import CITYSCAPES, UNLABELLED, ClassSet
from clcp_ros.monitor.state import TEXTS
from clcp_ros.replay_bag import CONDITION_TOPIC, BagFrame, ReplayBag, Spool
from clcp_ros.replay_records import (
    SCORES,
    BadFrame,
    FrameRecord,
    LabelSource,
    Outcome,
    Output,
    ReplayFrame,
    ReplayResult,
    VersusRecord,
)
from clcp_ros.replay_scores import (
    agreement,
    class_shares,
    class_table,
    confusion_matrix,
    id_table,
    mean_iou,
)

UNSTAMPED = 'images without a stamp have the time of their recording instead'
"""A note; the driver should be told."""


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


class _Times:
    """Seconds since a replay's first frame."""

    def __init__(self) -> None:
        self._first: BagFrame | None = None
        self._shift_ns: dict[str, int] = {}
        self._last_ns: dict[str, int] = {}

    def seconds(self, frame: BagFrame) -> float:
        """Of a frame; to be asked once, in the bag's order."""
        self._first = self._first or frame
        camera, elapsed_ns = frame.camera, frame.stamp_ns - self._first.stamp_ns
        if frame.stamp_ns < self._last_ns.get(camera, frame.stamp_ns):
            # The stamps begin anew, which the clock of the recording does not.
            self._shift_ns[camera] = frame.time_ns - self._first.time_ns - elapsed_ns
        self._last_ns[camera] = frame.stamp_ns
        return (elapsed_ns + self._shift_ns.get(camera, 0)) * 1e-9


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
        self._times = _Times()
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
            self._times.seconds(frame),
            outcome.status.level,
            outcome.status.message,
            **said,
            samples=int(outcome.status.values.get('samples', 0)),
            condition=frame.condition,
            miou=self._score(frame, outcome.mask, classes, result.confusion),
            camera=frame.camera,
            time_ns=frame.time_ns,
            repeat=frame.repeat,
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
