# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its topics, counters and last verdict. A node module: imports rclpy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo

from clcp_ros import ros_messages
from clcp_ros.monitor import ShiftSource, ShiftState
from clcp_ros.node_arrivals import fingerprint
from clcp_ros.node_diagnostics import Status, shift_status, stale_shift
from clcp_ros.node_inputs import TRANSPORTS, Inputs, resolve_topics
from clcp_ros.node_outputs import Outputs
from clcp_ros.node_snapshot import Snapshot
from clcp_ros.node_statistics import InputStatistics, Limits, Surroundings
from clcp_ros.pipeline import FrameMask, FrameResult
from clcp_ros.scans import CameraScans

_WARN_EVERY_S = 5.0
_VERDICT_S = 1.0  # that is waited for a verdict; it follows the mask within milliseconds


@dataclass(frozen=True)
class Arrival:
    """An image message as it came in.

    Attributes:
        camera: Whose it is.
        message: sensor_msgs/Image or sensor_msgs/CompressedImage.
        stamp_ns: Its stamp.
        topic: Where it came from.
        epoch: Which activation it belongs to.
    """

    camera: Camera
    message: Any
    stamp_ns: int
    topic: str
    epoch: int


class Camera:
    """One camera, from configuration to cleanup.

    Args:
        node: Owns the topics.
        name: Namespace of the camera; empty for the only one.
        limits: When its input is at fault; the node may change them.
        scans: The lidar's scans as this camera sees them.
    """

    def __init__(
        self, node: LifecycleNode, name: str, limits: Limits, scans: CameraScans | None = None
    ) -> None:
        self.name = name
        self._node = node
        self._limits = limits
        self._scans = scans
        self._label = f'{name.strip("/")}/' if name else ''
        self.topics = resolve_topics(node, name)
        self.statistics = self._new_statistics(TRANSPORTS)
        self.outputs = Outputs(node, f'~/{self._label}', self._on_output_refused)
        self.snapshot: Snapshot | None = None
        """The newest result."""
        self._judged = threading.Event()
        self._judged.set()
        self._mask_s = 0.0
        self._latency_s = 0.0
        self._inputs: Inputs | None = None
        self._camera_info: CameraInfo | None = None
        self._state: ShiftState | None = None
        self._scored: ShiftState | None = None
        self._last: tuple[str, float] | None = None
        self._since_s = 0.0
        self._epoch = 0
        self._put: Callable[[Arrival], None] = _ignore

    def _new_statistics(self, transports: tuple[str, ...]) -> InputStatistics:
        topics = ' or '.join(self.topics[kind] for kind in transports)
        return InputStatistics(topics, self._limits, f'{self._label}input')

    # Lifecycle -----------------------------------------------------------------------------------

    def open(self, transports: tuple[str, ...], put: Callable[[Arrival], None]) -> None:
        """Subscribe, and start counting anew.

        Args:
            transports: Which images to subscribe to.
            put: Takes every image that shall be segmented.
        """
        self.statistics = self._new_statistics(transports)
        self._state, self._scored, self._last = None, None, None
        self._camera_info, self.snapshot = None, None
        self._since_s = time.monotonic()
        self._epoch += 1
        self._put = put
        self._inputs = Inputs(
            self._node, self.topics, transports, self._on_image, self._on_camera_info,
            self._on_lost,
        )  # fmt: skip

    def close(self) -> None:
        """Unsubscribe."""
        self._epoch += 1
        self._put = _ignore
        self._judged.set()  # a verdict under way will not come
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None

    def destroy(self) -> None:
        """Remove all topics."""
        self.close()
        self.outputs.destroy()
        self.snapshot = None

    def reset_verdict(self) -> None:
        """Forget the monitor's verdict: it was another model's."""
        self._state, self._scored = None, None

    # Input: executor thread ----------------------------------------------------------------------

    def _on_image(self, transport: str, message: Any) -> None:
        now_s = time.monotonic()
        stamp_ns = ros_messages.stamp_to_ns(message.header.stamp)
        if self._is_other_transport(transport, now_s):
            self.statistics.count(now_s, 'duplicate')
            return
        self._last = (transport, now_s)
        if self._scans is not None:
            self._scans.image_frame(message.header.frame_id)
        self.statistics.received(
            now_s,
            transport,
            self._age_s(stamp_ns),
            stamp_ns,
            size_bytes=len(message.data),
            encoding=message.encoding if transport == 'raw' else message.format,
            mark=fingerprint(message.data),
        )
        self._put(Arrival(self, message, stamp_ns, self.topics[transport], self._epoch))

    def _is_other_transport(self, transport: str, now_s: float) -> bool:
        """Whether the same camera's frames already come in by the other topic."""
        if self._last is None:
            return False
        current, when_s = self._last
        return transport != current and now_s - when_s <= self.statistics.silent_after_s()

    def _age_s(self, stamp_ns: int) -> float:
        return (self._node.get_clock().now().nanoseconds - stamp_ns) * 1e-9

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message
        if self._scans is not None:
            self._scans.camera_info(message)

    def _on_lost(self, number: int) -> None:
        self.statistics.count(time.monotonic(), 'lost', number=number)

    def _on_output_refused(self, text: str) -> None:
        self.statistics.note(time.monotonic(), 'output_qos', text)
        self._node.get_logger().warning(text, throttle_duration_sec=_WARN_EVERY_S)

    # Results: worker thread ----------------------------------------------------------------------

    def report(self, what: str, reason: str) -> None:
        """Count a frame that gave no result, and say why now and then."""
        self._judged.set()  # its mask may be out; no verdict will follow
        reason = ' '.join(reason.split())
        self.statistics.count(time.monotonic(), what, reason)
        self._node.get_logger().warning(
            f'{self._label}{what} image: {reason[:1000]}', throttle_duration_sec=_WARN_EVERY_S
        )

    def publish_mask(self, arrival: Arrival, mask: FrameMask) -> None:
        """Publish a frame's mask and what is made of it; its verdict follows."""
        if arrival.epoch != self._epoch:  # of an activation that has ended
            return
        self._judged.clear()
        start = time.perf_counter()
        self._check_camera_info(mask.image_size)
        self.outputs.publish_mask(mask, arrival.message.header, self._camera_info)
        self._mask_s = time.perf_counter() - start
        self._latency_s = self._age_s(arrival.stamp_ns)

    def publish_verdict(self, arrival: Arrival, result: FrameResult, provider: str) -> bool:
        """Publish the monitor's verdict on a frame whose mask has been published.

        Returns:
            Whether the monitor's level, or the fault that it names, changed.
        """
        if arrival.epoch != self._epoch:
            return False
        start = time.perf_counter()
        header = arrival.message.header
        changed = self._state is None or self._state.verdict != result.shift.verdict
        shift = None
        if result.monitored or changed:
            shift = self._shift_status(result.shift, result.source, header.frame_id)
        self.outputs.publish_verdict(result, header, shift)
        spent = self._mask_s + time.perf_counter() - start
        self.statistics.processed(
            time.monotonic(),
            latency_s=self._latency_s,
            seconds={
                **result.seconds, 'publish': spent, 'total': result.seconds['total'] + spent
            },
            frame_id=header.frame_id,
            size=result.image_size,
        )  # fmt: skip
        self._state = result.shift
        if result.shift.score is not None or not result.shift.samples:
            self._scored = result.shift
        self.snapshot = Snapshot(
            result, self._last_scored(result.shift), provider, self.name, arrival.topic,
            header.frame_id, self._latency_s,
        )  # fmt: skip
        self._judged.set()
        return changed

    def newest(self) -> Snapshot | None:
        """The newest result; waits for its verdict where only the mask is out yet."""
        self._judged.wait(_VERDICT_S)
        return self.snapshot

    def _last_scored(self, state: ShiftState) -> ShiftState:
        """A verdict with the newest score there is: the monitor scores a few frames a second."""
        scored = self._scored
        if state.score is not None or scored is None or scored.score is None:
            return state
        return replace(state, score=scored.score, stamp_ns=scored.stamp_ns)

    def _check_camera_info(self, size: tuple[int, int]) -> None:
        if self._camera_info is None:
            return
        described = ros_messages.camera_info_size(self._camera_info)
        if described != size and all(described):
            texts = [f'{w}x{h}' for h, w in (described, size)]
            self.statistics.note(
                time.monotonic(),
                'camera_info',
                f'camera_info describes images of {texts[0]}, the images are {texts[1]}: '
                'it is scaled as if both showed the same',
            )

    # Diagnostics ---------------------------------------------------------------------------------

    @property
    def frame_id(self) -> str:
        """The camera's coordinate frame, once an image has told it."""
        return self.statistics.frame_id

    def _shift_status(
        self, state: ShiftState | None, source: ShiftSource, frame_id: str
    ) -> Status:
        return shift_status(state, source, frame_id, f'{self._label}shift')

    def statuses(self, source: ShiftSource, around: Surroundings) -> list[Status]:
        """The statuses of input and monitor.

        Args:
            source: Whose verdicts the monitor's are.
            around: What the node knows; the camera fills in its own part.
        """
        now_s = time.monotonic()
        around = self._surroundings(around)
        state = self._state and self._last_scored(self._state)
        shift = self._shift_status(state, source, self.frame_id)
        if self.statistics.silent(now_s, self._since_s):
            shift = stale_shift(shift)
        own = self.statistics.status(now_s, self._since_s, around)
        if self._scans is not None:
            own.values['lidar_problem'] = self._scans.problem
        return [own, shift]

    def _surroundings(self, around: Surroundings) -> Surroundings:
        """Fill in what the camera itself knows."""
        inputs, expected = self._inputs, 0
        if inputs is None:
            return around
        if self._camera_info is not None:
            height, width = ros_messages.camera_info_size(self._camera_info)
            expected = 3 * height * width
        self.statistics.set_incompatible(inputs.incompatible())
        counts = inputs.publisher_counts()
        return replace(
            around,
            publishers=sum(counts),
            rivals=max(counts, default=0),
            other_types='' if any(counts) else inputs.other_types(),
            expected_bytes=expected,
        )


def _ignore(_: Arrival) -> None:
    pass


def input_names(camera: str) -> tuple[str, str]:
    """Names of a camera's statuses: input and shift."""
    label = f'{camera.strip("/")}/' if camera else ''
    return f'{label}input', f'{label}shift'
