# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a bag to the real node, in its own process, over real DDS, with `/clock`.

A node module: needs rclpy. For what the model and the monitor do, `replay.replay_direct` is faster
and deterministic; this shows what the whole node does at a rate: drops, latency, diagnostics.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clcp_ros.bundle import load_bundle
from clcp_ros.environment import environment
from clcp_ros.errors import ClcpError
from clcp_ros.image_codec import encode_png
from clcp_ros.monitor import Level
from clcp_ros.replay import (
    BagFrame,
    Evaluation,
    LiveFigures,
    OnFrame,
    ReplayBag,
    ReplayResult,
    Track,
    finish,
)
from clcp_ros.transport import FASTDDS_VARIABLE, ROS_HINT, fastdds_profile

try:
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CompressedImage, Image

    from clcp_ros.ros_messages import stamp_to_ns
except ImportError as error:
    raise ClcpError(f'a live replay needs ROS 2 ({error}): {ROS_HINT}') from None

_START_S = 60.0
_QUIET_S = 5.0
_END_S = 20.0
_CLOCK_S = 0.01
_HEARTBEAT_S = 0.2
_SCORES = ('novelty_z', 'novelty_smoothed', 'low_z', 'early_z', 'deep_z')
_ROOT = Path(__file__).resolve().parents[1]


def replay_live(
    bag: str | Path,
    bundle: str | Path,
    *,
    rate: float = 1.0,
    image_topic: str | None = None,
    on_frame: OnFrame | None = None,
    track: Track | None = None,
    threads: int = 0,
    domain_id: int | None = None,
) -> ReplayResult:
    """Play a bag to the segment node and collect what it answers.

    Args:
        bag: The bag.
        bundle: Folder of the bundle.
        rate: Speed relative to the recording.
        image_topic: Topic of the images; default: the only one there is.
        on_frame: Called after the playing with every frame that has a mask, in the bag's order.
        track: Wraps the iterator of frames while they are played; gets it and its length.
        threads: Threads inside a layer of the model; 0 leaves it to ONNX Runtime.
        domain_id: ROS domain of the two processes; default: one made from this process' id.

    Returns:
        As `replay_direct`, with `live` set. The monitor of the node saw only the frames that were
        not dropped.

    Raises:
        RecordingError: The bag cannot be read or no mask came back.
        BundleError: The bundle cannot be used.
        ClcpError: The node does not start, or does not end cleanly.
    """
    if not rate > 0:
        raise ClcpError(f'the rate must be positive, not {rate:g}')
    start = time.perf_counter()
    # Domains up to 101 keep their ports below those that the kernel gives to anyone.
    domain = 1 + os.getpid() % 100 if domain_id is None else domain_id
    with ReplayBag(bag, image_topic) as source:
        result = ReplayResult(load_bundle(bundle), source.image_topic)
        with environment(_variables(domain)), _NodeProcess(source, bundle, threads) as process:
            player = _Player(source, domain)
            try:
                player.wait(process)
                player.play(process, rate, track)
            finally:
                player.close()
            exit_code = process.stop()
        result.live = player.figures(exit_code)
        evaluation = Evaluation(source, result, on_frame)
        for frame in source.frames():
            answer = player.answers.get(frame.stamp_ns)
            if evaluation.accepts(frame) and answer and answer.complete:
                evaluation.add(frame, answer.mask(), *answer.verdict())
    finish(result, start)
    return result


def _variables(domain: int) -> dict[str, str]:
    """What both processes read when they join: domain, this machine only, large images."""
    values = {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    profile = fastdds_profile()
    if profile and FASTDDS_VARIABLE not in os.environ:
        values[FASTDDS_VARIABLE] = str(profile)
    return values


class _NodeProcess:
    """The node, started as a user does; killed if it does not end by itself."""

    def __init__(self, source: ReplayBag, bundle: str | Path, threads: int) -> None:
        topic = '/' + source.image_topic.lstrip('/')
        transport = 'compressed' if source.compressed else 'raw'
        base = topic.removesuffix('/compressed') if source.compressed else topic
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [
                sys.executable, '-m', 'clcp_ros.segment_node', '--ros-args',
                '-p', f'bundle.path:={Path(bundle).resolve()}',
                '-p', f'input_transport:={transport}',
                '-p', f'model.threads:={threads}',
                '-p', 'use_sim_time:=true',
                '-p', f'diagnostics.period_s:={_HEARTBEAT_S}',
                '-r', f'image:={base}',
                *(['-r', f'image/compressed:={topic}'] if source.compressed else []),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join(
                    [str(_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
                ),
            },
        )  # fmt: skip

    def __enter__(self) -> _NodeProcess:
        return self

    def check(self) -> None:
        """Raise when the node has ended."""
        if self._process.poll() is not None:
            raise ClcpError(
                f'the node ended with exit code {self._process.returncode}: {self._last_line()}'
            )

    def stop(self) -> int:
        """Interrupt the node; returns its exit code.

        Raises:
            ClcpError: It does not end, or not cleanly.
        """
        self.check()
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise ClcpError(f'the node did not end within {_END_S:g} s of Ctrl-C') from None
        if code:
            self.check()
        return code

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else 'it said nothing'


class _Answer:
    """What came back for one image."""

    def __init__(self) -> None:
        self._mask: bytes | None = None
        self._shape = (0, 0)
        self._status: Any = None

    @property
    def complete(self) -> bool:
        return self._mask is not None and self._status is not None

    def take_mask(self, message: Any) -> None:
        self._shape = (message.height, message.width)
        pixels = np.frombuffer(message.data, np.uint8).reshape(self._shape)
        # A drive of raw masks would be gigabytes.
        self._mask = encode_png(pixels)

    def take_shift(self, message: Any) -> None:
        self._status = message.status[0]

    def mask(self) -> np.ndarray:
        assert self._mask is not None
        mask = cv2.imdecode(np.frombuffer(self._mask, np.uint8), cv2.IMREAD_UNCHANGED)
        return np.asarray(mask, np.uint8)

    def verdict(self) -> tuple[Level, str, dict[str, float]]:
        values = {entry.key: entry.value for entry in self._status.values}
        return (
            Level[values['level']],
            self._status.message,
            {name: float(values[name]) for name in _SCORES},
        )


class _Player:
    """Publishes the images of a bag with `/clock` and listens to the node."""

    def __init__(self, source: ReplayBag, domain: int) -> None:
        self._source = source
        self._type = CompressedImage if source.compressed else Image
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node('clcp_replay', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        deep = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        topic = '/' + source.image_topic.lstrip('/')
        # Depth 1: a robot's driver does not keep old frames either.
        self._images = self._node.create_publisher(self._type, topic, 1)
        self._clock = self._node.create_publisher(Clock, '/clock', 10)
        subscribe = self._node.create_subscription
        self._outputs = [
            subscribe(Image, '/segment/mask', self._on_mask, deep),
            subscribe(DiagnosticArray, '/segment/shift', self._on_shift, deep),
            subscribe(DiagnosticArray, '/diagnostics', self._on_diagnostics, deep),
        ]
        self.answers: dict[int, _Answer] = {}
        self._sent_at: dict[int, float] = {}
        self._latency_s: list[float] = []
        self._published = 0
        self._last_news = 0.0
        self._figures: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait(self, process: _NodeProcess) -> None:
        """Wait until both sides have found each other."""
        end = time.perf_counter() + _START_S
        while not (
            self._images.get_subscription_count()
            and self._clock.get_subscription_count()
            and all(output.get_publisher_count() for output in self._outputs)
            # Matched on this side is not yet matched on the other.
            and int(self._figures.get('input', {}).get('publishers', 0))
        ):
            process.check()
            if time.perf_counter() > end:
                raise ClcpError(
                    f'the node was not found over DDS within {_START_S:g} s; is UDP or shared '
                    'memory between processes blocked on this machine?'
                )
            self._executor.spin_once(timeout_sec=0.05)

    def play(self, process: _NodeProcess, rate: float, track: Track | None) -> None:
        """Send every image when its time has come, then wait for the last answers."""
        frames = self._source.frames()
        origin_ns, start = -1, 0.0
        for frame in track(frames, self._source.frame_count) if track else frames:
            if origin_ns < 0:
                origin_ns, start = frame.time_ns, time.perf_counter()
            due = start + (frame.time_ns - origin_ns) * 1e-9 / rate
            while (now := time.perf_counter()) < due:
                self._tick(origin_ns + int((now - start) * rate * 1e9))
                self._executor.spin_once(timeout_sec=min(due - now, _CLOCK_S))
            process.check()
            self._tick(frame.time_ns)
            self._send(frame)
            self._executor.spin_once(timeout_sec=0)
        self._last_news = time.perf_counter()
        while self._pending() and time.perf_counter() - self._last_news < _QUIET_S:
            self._tick(origin_ns + int((time.perf_counter() - start) * rate * 1e9))
            self._executor.spin_once(timeout_sec=_CLOCK_S)
            process.check()
        # The counters come with the next heartbeat.
        self._figures.clear()
        end = time.perf_counter() + _QUIET_S
        while not self._figures and time.perf_counter() < end:
            self._executor.spin_once(timeout_sec=_CLOCK_S)

    def _pending(self) -> bool:
        """Whether an answer to the last image is missing: older ones may have been dropped."""
        if not self._sent_at:
            return False
        last = self.answers.get(next(reversed(self._sent_at)))
        return last is None or not last.complete

    def _tick(self, time_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(time_ns, 1_000_000_000)
        self._clock.publish(message)

    def _send(self, frame: BagFrame) -> None:
        # CDR goes out as it was recorded; ROS 1 bags hold another serialisation.
        message = frame.raw if self._source.is_ros2 else self._convert(frame.message)
        self._sent_at[frame.stamp_ns] = time.perf_counter()
        self._images.publish(message)
        self._published += 1

    def _convert(self, source: Any) -> Any:
        message = self._type()
        stamp = source.header.stamp
        message.header.stamp.sec, message.header.stamp.nanosec = int(stamp.sec), int(stamp.nanosec)
        message.header.frame_id = source.header.frame_id
        names = ('format',) if self._source.compressed else (
            'height', 'width', 'encoding', 'is_bigendian', 'step'
        )  # fmt: skip
        for name in names:
            setattr(message, name, getattr(source, name))
        message.data.frombytes(np.ascontiguousarray(source.data))
        return message

    def _on_mask(self, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._last_news = time.perf_counter()
        self._latency_s.append(self._last_news - self._sent_at.get(stamp_ns, self._last_news))
        self.answers.setdefault(stamp_ns, _Answer()).take_mask(message)

    def _on_shift(self, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self.answers.setdefault(stamp_ns, _Answer()).take_shift(message)

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            part = status.name.rpartition(': ')[2]
            self._figures[part] = {entry.key: entry.value for entry in status.values}

    def figures(self, exit_code: int) -> LiveFigures:
        counts = self._figures.get('input', {})
        names = ('received', 'processed', 'dropped', 'bad', 'failed', 'lost', 'duplicate')
        return LiveFigures(
            self._published,
            sum(answer.complete for answer in self.answers.values()),
            self._latency_s,
            {name: int(counts[name]) for name in names if name in counts},
            self._figures.get('inference', {}).get('provider', ''),
            exit_code,
        )
