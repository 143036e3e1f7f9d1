# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node answered in a live replay. A node module: imports rclpy."""

from __future__ import annotations

import math
import time
import zlib
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from clcp_ros.bag_file import header_stamp
from clcp_ros.monitor import Level
from clcp_ros.monitor.state import STANDING_NUMBERS, TEXTS
from clcp_ros.node_diagnostics import Status
from clcp_ros.replay_bag import BagFrame, Camera, FrameKey, Spool
from clcp_ros.replay_records import SCORES, LiveFigures, Outcome, Output
from clcp_ros.ros_messages import stamp_to_ns

_ANSWERED = ('processed', 'dropped', 'bad', 'failed')
_COUNTS = ('received', *_ANSWERED, 'lost', 'duplicate')
_NOTHING = Status('shift', Level.STALE, 'no verdict yet')


class Answers:
    """What the node answered, kept on disk: a drive of masks would be gigabytes.

    Args:
        cameras: The cameras.
    """

    def __init__(self, cameras: tuple[Camera, ...]) -> None:
        self._cameras = cameras
        self._spool = Spool()
        self._verdicts: dict[FrameKey, tuple[Status, dict[str, float]]] = {}
        self._last: dict[str, tuple[Status, dict[str, float]]] = {}
        self._times: list[int] = []
        self._given = 0
        self._latency_s: dict[FrameKey, float] = {}
        self._sent_at: dict[FrameKey, float] = {}
        self._sent: dict[str, list[FrameKey]] = {}
        self._reached: dict[tuple[str, str], int] = {}
        self.parts: dict[str, dict[str, str]] = {}
        """The newest values of each part of the node's diagnostics."""
        self.exit_code = 0

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def sent(self, frame: BagFrame) -> None:
        """Note that an image was sent just now."""
        self._sent_at[frame.key] = time.perf_counter()
        self._sent.setdefault(frame.camera, []).append(frame.key)

    def _answered(self, what: str, camera: str, stamp_ns: int) -> FrameKey | None:
        """The image that an answer belongs to; None where no such image was sent.

        A looped recording holds every stamp several times. The node answers a camera's images in
        their order, so the answer is to the first one after that of the answer before.
        """
        sent, reached = self._sent.get(camera, []), self._reached.get((what, camera), 0)
        for place in range(reached, len(sent)):
            if sent[place][1] == stamp_ns:
                self._reached[what, camera] = place + 1
                return sent[place]
        return None

    def take_image(self, what: str, camera: str, raw: bytes) -> None:
        """Keep a mask or a confidence."""
        key = self._answered(what, camera, header_stamp(raw, True))
        if key is None:
            return
        if what == 'mask':
            self._latency_s[key] = time.perf_counter() - self._sent_at[key]
        self._spool.put((what, *key), zlib.compress(raw, 1))

    def take_verdict(self, camera: str, message: Any) -> None:
        """Keep a message of the monitor."""
        status = message.status[0]
        values = {entry.key: entry.value for entry in status.values}
        found = Status('shift', Level[values['level']], status.message, values, status.hardware_id)
        scores = {name: float(values[name]) for name in SCORES if name in values}
        key = self._answered('shift', camera, stamp_to_ns(message.header.stamp))
        if key is not None:
            self._verdicts[key] = (found, scores)

    def take_diagnostics(self, raw: bytes, time_ns: int) -> None:
        """Keep a message of /diagnostics; `time_ns` is the bag's time at its arrival."""
        message = deserialize_message(raw, DiagnosticArray)
        for status in message.status:
            part = status.name.rpartition(': ')[2]
            self.parts[part] = {entry.key: entry.value for entry in status.values}
        self._spool.put(('diagnostics', len(self._times)), raw)
        self._times.append(time_ns)

    def done(self, part: str) -> bool:
        """Whether an input's newest counts have an answer to every image that it took in."""
        values = self.parts.get(part)
        if not values:  # nothing has come, or the node is not active
            return False
        return int(values['received']) <= sum(int(values[name]) for name in _ANSWERED)

    def has(self, key: FrameKey) -> bool:
        """Whether the image's mask has come back."""
        return ('mask', *key) in self._spool

    def outcome(self, frame: BagFrame) -> Outcome | None:
        """What was made of a frame; None without a mask. To be asked in the bag's order."""
        key = frame.key
        mask = self._pixels('mask', key)
        # The monitor tells its verdict a few times a second: in between the last one stands.
        verdict = self._verdicts.get(key)
        if verdict is not None:
            self._last[frame.camera] = verdict
        if mask is None:
            return None
        status, scores = verdict or self._last.get(frame.camera, (_NOTHING, {}))
        monitored = verdict is not None and not math.isnan(scores['novelty_z'])
        if verdict is None:
            scores = {name: value for name, value in scores.items() if name in STANDING_NUMBERS}
        seconds = {'latency': self._latency_s[key]} if key in self._latency_s else {}
        return Outcome(
            mask,
            self._pixels('confidence', key),
            status,
            monitored,
            scores,
            {name: status.values.get(name, '') for name in TEXTS},
            seconds,
        )

    def _pixels(self, what: str, key: FrameKey) -> np.ndarray | None:
        data = self._spool.get((what, *key))
        if data is None:
            return None
        message = deserialize_message(zlib.decompress(data), Image)
        pixels = np.frombuffer(message.data, np.uint8)
        return pixels.reshape(message.height, message.width)

    def hand_over_diagnostics(self, until_ns: int | None, output: Output) -> None:
        """Give an output what /diagnostics said before a time of the bag, or the rest."""
        while self._given < len(self._times):
            time_ns = self._times[self._given]
            if until_ns is not None and time_ns >= until_ns:
                return
            raw = self._spool.get(('diagnostics', self._given))
            assert raw is not None
            self._given += 1
            message = deserialize_message(raw, DiagnosticArray)
            output.diagnostics(
                time_ns,
                [
                    Status(
                        status.name,
                        Level(int.from_bytes(status.level, 'little')),
                        status.message,
                        {entry.key: entry.value for entry in status.values},
                        status.hardware_id,
                    )
                    for status in message.status
                ],
            )

    def figures(self) -> LiveFigures:
        """Counts and latencies."""
        counts: dict[str, int] = {}
        for part, values in self.parts.items():
            if part.rpartition('/')[2] == 'input':
                for name in _COUNTS:
                    if name in values:
                        counts[name] = counts.get(name, 0) + int(values[name])
        by_camera = {}
        for camera in self._cameras:
            keys = self._sent.get(camera.name, [])
            by_camera[camera.name] = (len(keys), sum(map(self.has, keys)))
        return LiveFigures(
            sum(sent for sent, _ in by_camera.values()),
            sum(received for _, received in by_camera.values()),
            list(self._latency_s.values()),
            counts,
            self.parts.get('inference', {}).get('provider', ''),
            self.exit_code,
            by_camera,
        )
