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
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clcp_ros.bundle import load_bundle
from clcp_ros.environment import environment
from clcp_ros.errors import ClcpError, ImageError
from clcp_ros.monitor import MonitorConfig
from clcp_ros.replay import (
    BagFrame,
    Evaluation,
    LabelSource,
    OnFrame,
    Output,
    ReplayBag,
    ReplayResult,
    Track,
    callback_output,
    changed_settings,
    finish,
    new_versus,
    status_prefixes,
)
from clcp_ros.replay_bag import FrameKey
from clcp_ros.replay_lidar import lidar_topic, mounting, rectified
from clcp_ros.transport import ROS_HINT

try:
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    from clcp_ros.bag_player import TICK_S, BagPlayer, transport_variables
    from clcp_ros.replay_answers import Answers
except ImportError as error:
    raise ClcpError(f'a live replay needs ROS 2 ({error}): {ROS_HINT}') from None

_START_S = 60.0
_QUIET_S = 5.0
_END_S = 20.0
_HEARTBEAT_S = 0.2
_ROOT = Path(__file__).resolve().parents[1]


def replay_live(
    bag: str | Path | ReplayBag,
    bundle: str | Path,
    *,
    rate: float = 1.0,
    image_topic: str | None = None,
    cameras: str | None = None,
    versus: str | Path | None = None,
    labels: LabelSource | None = None,
    on_frame: OnFrame | None = None,
    output: Output | None = None,
    others: Iterable[str] | None = (),
    track: Track | None = None,
    threads: int = 0,
    domain_id: int | None = None,
    points: str | None = None,
    monitor: MonitorConfig | None = None,
) -> ReplayResult:
    """Play a bag to the segment node and collect what it answers.

    Args:
        bag: The bag; an open one has its cameras chosen already.
        bundle: Folder of the bundle.
        rate: Speed relative to the recording.
        image_topic: Topics of the images, with commas; default: one of each camera there is.
        cameras: Names of cameras, see `ReplayBag`.
        versus: Folder of another bundle: the bag is played a second time, to that one.
        labels: True masks; default: the bag's own.
        on_frame: Called after the playing with every frame that has a mask, in the bag's order.
        output: Instead of `on_frame`: gets everything, after the playing.
        others: Topics that `output` gets beside the frames; None for all.
        track: Wraps the iterator of frames while they are played; gets it and its length.
        threads: Threads inside a layer of the model; 0 leaves it to ONNX Runtime.
        domain_id: ROS domain of the two processes; default: one made from this process' id.
        points: As of `replay_direct`; of ROS 2 bags only.
        monitor: As of `replay_direct`; given to the node as its parameters.

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
    output = output or callback_output(on_frame)
    with ExitStack() as stack:
        source = stack.enter_context(ReplayBag.of(bag, image_topic, cameras))
        result = ReplayResult(load_bundle(bundle), source.image_topic)
        if versus is not None:
            result.versus = new_versus(result.bundle, load_bundle(versus), '')
        answers = []
        for path in (bundle, versus):
            if path is not None:
                answers.append(stack.enter_context(Answers(source.cameras)))
                topic = lidar_topic(source, load_bundle(path), points)
                points_topic = topic if source.is_ros2 else None
                settings = monitor or MonitorConfig()
                run = _Run(source, path, threads, domain, points_topic, settings)
                _play(run, answers[-1], rate, track)
        result.live = answers[0].figures()
        result.provider = result.live.provider
        if result.versus is not None:
            result.versus.live = answers[1].figures()
            result.versus.provider = result.versus.live.provider
        evaluation = Evaluation(source, result, output, labels)
        stack.callback(evaluation.close)
        _gather(source, evaluation, output, answers, others)
    finish(result, start)
    return result


@dataclass(frozen=True)
class _Run:
    """What is played to which node."""

    source: ReplayBag
    bundle: str | Path
    threads: int
    domain: int
    points: str | None
    monitor: MonitorConfig


def _play(run: _Run, answers: Answers, rate: float, track: Track | None) -> None:
    variables = {
        'ROS_DOMAIN_ID': str(run.domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        **transport_variables(),
    }
    with environment(variables), _NodeProcess(run) as process:
        peer = _Peer(run, answers)
        try:
            peer.wait(process)
            peer.play(process, rate, track)
        finally:
            peer.close()
        answers.exit_code = process.stop()


def _gather(
    source: ReplayBag,
    evaluation: Evaluation,
    output: Output,
    answers: list[Answers],
    others: Iterable[str] | None,
) -> None:
    """Go through the bag again, with what the node answered."""
    first = answers[0]
    for part in source.parts(others):
        if part.others:
            output.others(part.others)
        frame = part.frame
        if frame is None:
            continue
        first.hand_over_diagnostics(frame.time_ns, output)
        found = [one.outcome(frame) for one in answers]
        if found[0] is not None:
            evaluation.add(frame, found[0], found[1] if len(found) > 1 else None)
        else:
            try:
                _ = frame.image
            except ImageError as error:
                evaluation.reject(frame, str(error))
            else:
                evaluation.skip(frame)
    first.hand_over_diagnostics(None, output)


class _NodeProcess:
    """The node, started as a user does; killed if it does not end by itself."""

    def __init__(self, run: _Run) -> None:
        source = run.source
        kinds = {camera.compressed for camera in source.cameras}
        transport = 'auto' if len(kinds) > 1 else 'compressed' if True in kinds else 'raw'
        names = [camera.name for camera in source.cameras]
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [
                sys.executable, '-m', 'clcp_ros.segment_node', '--ros-args',
                '-p', f'bundle.path:={Path(run.bundle).resolve()}',
                '-p', f'input_transport:={transport}',
                '-p', f'model.threads:={run.threads}',
                '-p', 'use_sim_time:=true',
                '-p', f'diagnostics.period_s:={_HEARTBEAT_S}',
                *(['-p', f'cameras:=[{", ".join(names)}]'] if len(names) > 1 else []),
                *self._monitor_arguments(run),
                *self._lidar_arguments(run),
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

    @staticmethod
    def _monitor_arguments(run: _Run) -> list[str]:
        settings = changed_settings(run.monitor)
        return [part for n, v in settings.items() for part in ('-p', f'shift.{n}:={v}')]

    @staticmethod
    def _lidar_arguments(run: _Run) -> list[str]:
        if run.points is None:
            return []
        flag = str(all(rectified(camera) for camera in run.source.cameras)).lower()
        found = ['-p', f'lidar.topic:={run.points}', '-p', f'lidar.rectified:={flag}']
        T = mounting(run.source, run.points)
        if T is not None:
            # The wheels of ROS 2 have no tf2.
            found += ['-p', f'lidar.T_camera_lidar:={T.ravel().tolist()}']
        return found

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


class _Peer:
    """Plays the bag and listens to the node."""

    def __init__(self, run: _Run, answers: Answers) -> None:
        source = run.source
        self._answers = answers
        self._context = Context()
        rclpy.init(context=self._context, domain_id=run.domain)
        self._node = rclpy.create_node('clcp_replay', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._player = BagPlayer(self._node, source)
        if run.points is not None:
            self._player.add_lidar(self._node, run.points)
        self._prefixes = status_prefixes(source.cameras)
        deep = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        self._now_ns = 0
        self._last_news = 0.0
        self._outputs = [
            self._node.create_subscription(
                DiagnosticArray,
                '/diagnostics',
                lambda raw: answers.take_diagnostics(raw, self._now_ns),
                deep,
                raw=True,
            )
        ]
        for name, prefix in self._prefixes.items():
            for what in ('mask', 'confidence'):
                self._listen(Image, f'{prefix}{what}', self._taker(what, name), deep, raw=True)
            self._listen(
                DiagnosticArray,
                f'{prefix}shift',
                lambda message, name=name: answers.take_verdict(name, message),
                deep,
            )

    def _listen(self, kind: Any, topic: str, take: Any, qos: Any, raw: bool = False) -> None:
        self._outputs.append(
            self._node.create_subscription(kind, f'/segment/{topic}', take, qos, raw=raw)
        )

    def _taker(self, what: str, camera: str) -> Any:
        def take(raw: bytes) -> None:
            self._last_news = time.perf_counter()
            self._answers.take_image(what, camera, raw)

        return take

    def close(self) -> None:
        # A callback that was interrupted never counts as done.
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait(self, process: _NodeProcess) -> None:
        """Wait until both sides have found each other."""
        end = time.perf_counter() + _START_S
        while not (
            all(p.get_subscription_count() for p in self._player.images.values())
            and self._player.clock.get_subscription_count()
            and all(output.get_publisher_count() for output in self._outputs)
            # Matched on this side is not yet matched on the other.
            and all(
                int(self._answers.parts.get(f'{prefix}input', {}).get('publishers', 0))
                for prefix in self._prefixes.values()
            )
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
        last: dict[str, FrameKey] = {}

        def wait(seconds: float) -> None:
            process.check()
            self._executor.spin_once(timeout_sec=seconds)

        def on_sent(frame: BagFrame) -> None:
            self._now_ns = frame.time_ns
            self._answers.sent(frame)
            last[frame.camera] = frame.key

        tick = self._player.play(rate, wait, track=track, on_sent=on_sent)
        self._last_news = time.perf_counter()
        # Older ones may have been dropped.
        while (
            not all(map(self._answers.has, last.values()))
            and time.perf_counter() - self._last_news < _QUIET_S
        ):
            tick()
            wait(TICK_S)
        # The counters come with a heartbeat, and verdicts after their masks: once the counters say
        # that all is done, what was said before them is here by the heartbeat after that one.
        for _ in range(2):
            self._answers.parts.clear()
            end = time.perf_counter() + _QUIET_S
            while not self._complete() and time.perf_counter() < end:
                self._executor.spin_once(timeout_sec=TICK_S)

    def _complete(self) -> bool:
        inputs = [f'{prefix}input' for prefix in self._prefixes.values()]
        return 'inference' in self._answers.parts and all(map(self._answers.done, inputs))
