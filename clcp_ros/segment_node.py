# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: images in, class masks and the shift monitor's verdict out.

Callbacks only take messages in; one worker thread decodes, segments and publishes the newest one,
so that services and timers answer while the model runs and no frame waits behind older ones.
Interface, parameters and limits: docs/node.md.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from clcp_ros.transport import ROS_HINT, tune_malloc

try:
    import rclpy
except ImportError as error:
    if __name__ == '__main__':
        sys.exit(f'error: the node needs ROS 2 ({error}): {ROS_HINT}')
    raise
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import (
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from clcp_ros import node_parameters, ros_messages
from clcp_ros.errors import ClcpError, ImageError
from clcp_ros.image_codec import decode_compressed, decode_image
from clcp_ros.latest_slot import LatestSlot
from clcp_ros.monitor import Level, ShiftState
from clcp_ros.node_diagnostics import (
    InputStatistics,
    Status,
    inference_status,
    shift_status,
)
from clcp_ros.node_outputs import Outputs
from clcp_ros.pipeline import FramePipeline

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

_NEWEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
_JOIN_S = 30.0
_WARN_EVERY_S = 5.0


@dataclass(frozen=True)
class _Arrival:
    """A message as it came in."""

    message: Any
    compressed: bool


class SegmentNode(LifecycleNode):
    """Segments the images of one camera and watches its domain.

    Args:
        **kwargs: For `rclpy.node.Node`: namespace, context, parameter_overrides, ...
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('segment', **kwargs)
        self._pipeline: FramePipeline | None = None
        self._slot: LatestSlot[_Arrival] = LatestSlot()
        self._worker: threading.Thread | None = None
        self._inputs: dict[str, Any] = {}
        self._camera_info: CameraInfo | None = None
        self._active_since_s = time.monotonic()
        self._state: ShiftState | None = None
        self._last_arrival: tuple[int, str, float] | None = None
        self._diagnostics_lock = threading.Lock()
        self.failure = ''
        """Why the last configuration failed."""

        node_parameters.declare_parameters(self)
        reason = node_parameters.check_parameters(
            {}, list(self._parameters.values()), configured=False, active=False
        )
        if reason:
            raise ClcpError(reason)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._on_parameters_set)

        self._topics = self._resolve_topics()
        self.statistics = self._new_statistics()
        self._outputs = Outputs(self)
        # Not managed: a node that is not active must be able to say so.
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Wall time: the heartbeat must go on when /clock stops.
        self._timer = self.create_timer(
            self._value('diagnostics.period_s'),
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    # Parameters and names ------------------------------------------------------------------------

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _values(self) -> dict[str, Any]:
        return {name: self._value(name) for name in node_parameters.PARAMETERS}

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        reason = node_parameters.check_parameters(
            self._values(),
            parameters,
            configured=self._pipeline is not None,
            active=self._worker is not None,
        )
        return SetParametersResult(successful=not reason, reason=reason)

    def _on_parameters_set(self, parameters: list[Parameter]) -> None:
        if self._pipeline is not None:
            self._pipeline.monitor.config = node_parameters.monitor_config(self._values())
        self.statistics.stale_s = self._value('diagnostics.stale_s')
        self.statistics.max_age_s = self._value('diagnostics.max_age_s')
        if any(parameter.name == 'diagnostics.period_s' for parameter in parameters):
            self._timer.timer_period_ns = round(self._value('diagnostics.period_s') * 1e9)

    def _resolve_topics(self) -> dict[str, str]:
        """Names after remapping; what is not remapped itself follows the image.

        A ROS remapping matches whole names: `image:=/front/image` leaves `image/compressed` alone,
        which nobody who writes it means.
        """
        image = self.resolve_topic_name('image')
        followers = {
            'compressed': ('image/compressed', f'{image}/compressed'),
            'camera_info': ('camera_info', f'{image.rsplit("/", 1)[0]}/camera_info'),
        }
        topics = {'raw': image}
        for key, (name, following) in followers.items():
            resolved = self.resolve_topic_name(name)
            plain = self.resolve_topic_name(name, only_expand=True)
            topics[key] = following if resolved == plain else resolved
        return topics

    def _new_statistics(self) -> InputStatistics:
        transport = self._value('input_transport')
        wanted = ('raw', 'compressed') if transport == 'auto' else (transport,)
        return InputStatistics(
            ' or '.join(self._topics[kind] for kind in wanted),
            self._value('diagnostics.stale_s'),
            self._value('diagnostics.max_age_s'),
        )

    # Lifecycle -----------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and run its model once."""
        self.failure = ''
        try:
            self._pipeline = self._load()
        except Exception as error:  # a transition must not end the process
            self.failure = ' '.join(str(error).split()) or type(error).__name__
            self.get_logger().error(f'cannot configure: {self.failure}')
            if not isinstance(error, ClcpError):
                self.get_logger().error(traceback.format_exc())
            return FAILURE
        self._outputs.publish_labels(self._pipeline.bundle.classes)
        return super().on_configure(state)

    def _load(self) -> FramePipeline:
        path = self._value('bundle.path')
        if not path:
            raise ClcpError(
                'no bundle: set the parameter bundle.path to the folder that '
                'training/export.py wrote'
            )
        start = time.perf_counter()
        pipeline = FramePipeline(
            path,
            monitor=node_parameters.monitor_config(self._values()),
            providers=self._wanted_providers() or None,
            threads=self._value('model.threads'),
            image_resolution=self._value('mask.resolution') == 'image',
        )
        spec = pipeline.bundle.input
        # The first run allocates and optimises: not while a robot waits for its first mask.
        pipeline.segmenter.predict(np.full((spec.height, spec.width, 3), 128, np.uint8))
        self.get_logger().info(
            f'{pipeline.bundle.name} ({pipeline.bundle.id}, {len(pipeline.bundle.classes)} '
            f'classes, {spec.width}x{spec.height}) on {pipeline.segmenter.provider}, '
            f'ready in {time.perf_counter() - start:.1f} s'
        )
        return pipeline

    def _wanted_providers(self) -> list[str]:
        wanted = list(self._value('model.providers'))
        return [] if wanted == list(node_parameters.AUTO_PROVIDERS) else wanted

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        assert self._pipeline is not None
        result = super().on_activate(state)
        self._pipeline.monitor.reset()
        self._state, self._last_arrival, self._camera_info = None, None, None
        self.statistics = self._new_statistics()
        self._active_since_s = time.monotonic()
        self._slot = LatestSlot()
        self._worker = threading.Thread(
            target=self._work, args=(self._slot, self._pipeline), name='segment', daemon=True
        )
        self._worker.start()
        # rclpy has no lifecycle subscriptions: one that existed while inactive would be called.
        self._subscribe()
        self.get_logger().info(f'active: waiting for images on {self.statistics.topics}')
        return result

    def _subscribe(self) -> None:
        transport = self._value('input_transport')
        for kind, message_type in (('raw', Image), ('compressed', CompressedImage)):
            if transport in ('auto', kind):
                self._create_input(
                    message_type, kind, functools.partial(self._on_image, kind == 'compressed')
                )
        self._create_input(CameraInfo, 'camera_info', self._on_camera_info)

    def _create_input(self, message_type: Any, kind: str, callback: Any) -> None:
        topic = self._topics[kind]
        self._inputs[kind] = self.create_subscription(
            message_type,
            topic,
            callback,
            _NEWEST,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=functools.partial(self._on_incompatible_qos, topic),
                message_lost=None if kind == 'camera_info' else self._on_message_lost,
            ),
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model."""
        self._pipeline = None
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, from any state."""
        self._stop()
        self._pipeline = None
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where a new start is possible."""
        self._stop()
        self._pipeline = None
        return SUCCESS

    def _stop(self) -> None:
        self._slot.close()
        if self._worker is not None:
            self._worker.join(_JOIN_S)
            self._worker = None
        while self._inputs:
            self.destroy_subscription(self._inputs.pop(next(iter(self._inputs))))

    def start(self) -> bool:
        """Configure and activate without a manager; False when configuring failed."""
        if self.trigger_configure() != SUCCESS:
            return False
        return self.trigger_activate() == SUCCESS

    def destroy_node(self) -> None:
        """Stop the worker, then destroy."""
        self._stop()
        super().destroy_node()

    # Input: executor thread ----------------------------------------------------------------------

    def _on_image(self, compressed: bool, message: Any) -> None:
        now_s = time.monotonic()
        transport = 'compressed' if compressed else 'raw'
        stamp_ns = ros_messages.stamp_to_ns(message.header.stamp)
        if self._is_other_transport(transport, now_s):
            self.statistics.count(now_s, 'duplicate')
            return
        self._last_arrival = (stamp_ns, transport, now_s)
        self.statistics.received(now_s, transport, self._age_s(stamp_ns), stamp_ns)
        if self._slot.put(_Arrival(message, compressed)):
            self.statistics.count(now_s, 'dropped')

    def _is_other_transport(self, transport: str, now_s: float) -> bool:
        """Whether the same camera's frames already come in by the other topic."""
        if self._last_arrival is None:
            return False
        _, current, when_s = self._last_arrival
        return transport != current and now_s - when_s <= self.statistics.stale_s

    def _age_s(self, stamp_ns: int) -> float:
        return (self.get_clock().now().nanoseconds - stamp_ns) * 1e-9

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_incompatible_qos(self, topic: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.statistics.incompatible_qos(topic, policy)
        self.get_logger().warning(
            f'a publisher of {topic} offers a QoS that this node cannot use: {policy}'
        )

    def _on_message_lost(self, event: Any) -> None:
        self.statistics.count(time.monotonic(), 'lost', number=event.total_count_change)

    # Work: worker thread -------------------------------------------------------------------------

    def _work(self, slot: LatestSlot[_Arrival], pipeline: FramePipeline) -> None:
        while (arrival := slot.take()) is not None:
            try:
                self._handle(arrival, pipeline)
            except ImageError as error:
                self._report('bad', str(error))
            except Exception as error:
                # One frame must never end the worker: memory, the accelerator, a context that is
                # being shut down.
                if not self.context.ok():
                    return
                self._report('failed', f'{type(error).__name__}: {error}')
                self.get_logger().debug(traceback.format_exc())

    def _report(self, what: str, reason: str) -> None:
        reason = ' '.join(reason.split())
        self.statistics.count(time.monotonic(), what, reason)
        self.get_logger().warning(f'{what} image: {reason}', throttle_duration_sec=_WARN_EVERY_S)

    def _handle(self, arrival: _Arrival, pipeline: FramePipeline) -> None:
        start = time.perf_counter()
        message = arrival.message
        decode = decode_compressed if arrival.compressed else decode_image
        image = decode(message)
        decoded = time.perf_counter()
        stamp_ns = ros_messages.stamp_to_ns(message.header.stamp)
        result = pipeline.process(image, stamp_ns)
        self._outputs.publish(result, image, message.header, pipeline.bundle, self._camera_info)
        seconds = {
            'decode': decoded - start,
            'model': result.seconds['model'],
            'total': time.perf_counter() - start,
        }
        self.statistics.processed(
            time.monotonic(),
            latency_s=self._age_s(stamp_ns),
            seconds=seconds,
            frame_id=message.header.frame_id,
            size=image.shape[:2],
        )
        changed = self._state is None or self._state.level != result.shift.level
        self._state = result.shift
        if changed:
            self._publish_diagnostics()

    # Diagnostics: both threads -------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        with self._diagnostics_lock:
            header = Header(stamp=self.get_clock().now().to_msg())
            self._diagnostics.publish(
                ros_messages.diagnostic_array(
                    header, self._statuses(), self.get_fully_qualified_name()
                )
            )

    def _statuses(self) -> list[Status]:
        pipeline, statistics = self._pipeline, self.statistics
        if pipeline is None or self._worker is None:
            reason = self.failure if pipeline is None and self.failure else 'not active'
            level = Level.ERROR if reason is self.failure else Level.STALE
            return [Status(name, level, reason) for name in ('input', 'inference', 'shift')]
        now_s, since_s = time.monotonic(), self._active_since_s
        publishers = sum(
            self._inputs[kind].get_publisher_count()
            for kind in ('raw', 'compressed')
            if kind in self._inputs
        )
        sim_time = bool(self._value('use_sim_time'))
        shift = shift_status(self._state, pipeline.bundle.id, statistics.frame_id)
        if statistics.silent(now_s, since_s):
            # A verdict on a frame long gone says nothing of the camera now.
            shift = Status(shift.name, Level.STALE, 'no image', shift.values, shift.hardware_id)
        return [
            statistics.status(now_s, since_s, publishers, sim_time),
            inference_status(
                model=f'{pipeline.bundle.name} {pipeline.bundle.id}',
                provider=pipeline.segmenter.provider,
                wanted=self._wanted_providers(),
                seconds=statistics.seconds,
                frame_id=statistics.frame_id,
            ),
            shift,
        ]


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted.

    Returns:
        0, or 1 when it could not start.
    """
    tune_malloc()
    rclpy.init(args=args)
    node: SegmentNode | None = None
    code = 0
    try:
        node = SegmentNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.get_parameter('autostart').value and not node.start():
            code = int(rclpy.ok())  # else it was interrupted while starting
        else:
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ClcpError, ParameterException, InvalidParameterTypeException) as error:
        print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
        code = 1
    except RuntimeError:
        # rclpy's own errors when SIGTERM shuts the context down between two of its steps.
        if rclpy.ok():
            raise
    finally:
        # A terminal and `ros2 launch` both send SIGINT; the second must not interrupt the ending.
        signal.signal(signal.SIGINT, lambda *_: None)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # Python's ending restores the default action for handlers, but leaves an ignored signal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == '__main__':
    sys.exit(main())
