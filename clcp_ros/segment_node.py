# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: images of one camera or several in, class masks and the monitors' verdicts out.

Callbacks only take messages in; a worker's threads decode, segment and publish the newest ones, so
that services and timers answer while the model runs and no frame waits behind older ones.
Interface, parameters and limits: docs/node.md.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import cv2

from clcp_ros.transport import ROS_HINT, fastdds_profile, tune_malloc

try:
    import rclpy
except ImportError as error:
    if __name__ == '__main__':
        sys.exit(f'error: the node needs ROS 2 ({error}): {ROS_HINT}')
    raise
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from clcp_ros import node_parameters
from clcp_ros.errors import ClcpError, ImageError
from clcp_ros.frame_worker import FrameWorker
from clcp_ros.monitor import Level
from clcp_ros.node_bundle import load_pipeline
from clcp_ros.node_camera import Arrival, Camera, input_names
from clcp_ros.node_diagnostics import ModelState, Status, inference_status
from clcp_ros.node_heartbeat import Heartbeat
from clcp_ros.node_inputs import TRANSPORTS
from clcp_ros.node_lidar import Lidar
from clcp_ros.node_outputs import Labels
from clcp_ros.node_services import Answer, Services
from clcp_ros.node_statistics import Limits, Surroundings
from clcp_ros.pipeline import FrameMask, FramePipeline, FrameResult
from clcp_ros.runtime import offered_providers
from clcp_ros.scans import CameraScans

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

_JOIN_S = 30.0


class SegmentNode(LifecycleNode):
    """Segments the images of one camera or several and watches their domain.

    Args:
        node_name: Its name where no remapping gives another.
        **kwargs: For `rclpy.node.Node`: namespace, context, parameter_overrides, ...
    """

    def __init__(self, node_name: str = 'segment', **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._pipeline: FramePipeline | None = None
        self._worker: FrameWorker | None = None
        self._old_worker: FrameWorker | None = None
        self._labels: Labels | None = None
        self._lidar: Lidar | None = None
        self._scans: dict[str, CameraScans] = {}
        self._reloaded = (False, '')
        self.cameras: dict[str, Camera] = {}
        """The cameras by name, while configured."""
        self.failure = ''
        """Why the last configuration or activation failed."""

        node_parameters.declare_parameters(self)
        reason = node_parameters.check_parameters(
            {}, list(self._parameters.values()), configured=False, active=False
        )
        if reason:
            raise ClcpError(reason)
        self._limits = Limits()
        self._apply_limits()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._on_parameters_set)
        self._own_services = Services(self, self)
        self._profile = str(fastdds_profile() or 'config/fastdds.xml')
        self._offered = offered_providers()
        self._loaded_on = ''
        self._fastdds = 'fastrtps' in rclpy.get_rmw_implementation_identifier()
        self._heartbeat = Heartbeat(self, self._statuses)

    # Parameters ----------------------------------------------------------------------------------

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
        if not reason and self._pipeline is not None:
            changes = {parameter.name: parameter.value for parameter in parameters}
            try:
                self._pipeline.check_config(
                    node_parameters.monitor_config(self._values() | changes)
                )
            except ClcpError as error:
                reason = f'shift: {error}'
        return SetParametersResult(successful=not reason, reason=reason)

    def _on_parameters_set(self, _: list[Parameter]) -> None:
        self._apply_limits()
        if self._pipeline is not None:
            self._set_config(self._pipeline)

    def _set_config(self, pipeline: FramePipeline) -> None:
        before = pipeline.reservation
        pipeline.set_config(node_parameters.monitor_config(self._values()))
        if (reason := pipeline.reservation) and reason != before:
            self.get_logger().warning(f'shift monitor: {reason}')

    def _apply_limits(self) -> None:
        self._limits.stale_s = self._value('diagnostics.stale_s')
        self._limits.max_age_s = self._value('diagnostics.max_age_s')
        self._limits.frozen_s = self._value('diagnostics.frozen_s')
        # A clock that is published ten times a second is behind what it stamps.
        self._limits.ahead_s = 0.5 if self._value('use_sim_time') else 0.1

    def _camera_names(self) -> list[str]:
        return node_parameters.camera_names(self._value('cameras'))

    # Lifecycle -----------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, run its model once, and create the outputs."""
        return self._guarded('configure', lambda: self._configure(state))

    def _configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._pipeline = self._load()
        self._loaded_on = self._pipeline.segmenter.provider
        names = self._camera_names()
        self._lidar = self._new_lidar()
        self.cameras = {
            name: Camera(self, name, self._limits, self._scans.get(name)) for name in names
        }
        self._labels = Labels(self)
        self._labels.publish(self._pipeline.bundle.classes)
        self._own_services.add_cameras(names)
        self._reloaded = (False, '')
        return super().on_configure(state)

    def _new_lidar(self) -> Lidar | None:
        """The lidar that images are compared with, if there is one."""
        self._scans = {}
        if not self._value('lidar.topic'):
            return None
        lidar = Lidar(
            self, self._value('lidar.topic'), node_parameters.lidar_transform(self._values())
        )
        rectified = self._value('lidar.rectified')
        self._scans = {name: lidar.scans(rectified) for name in self._camera_names()}
        assert self._pipeline is not None
        self._use_scans(self._pipeline)
        return lidar

    def _use_scans(self, pipeline: FramePipeline) -> None:
        """Give the monitors the scans, if the bundle knows what to make of them."""
        if not self._scans:
            return
        if pipeline.knowledge.alignment is None:
            self.get_logger().warning(
                f'{pipeline.bundle.name} was fitted without a lidar: images are not compared with '
                f'{self._value("lidar.topic")}'
            )
            return
        pipeline.scans.update(self._scans)

    def _guarded(
        self, what: str, transition: Callable[[], TransitionCallbackReturn]
    ) -> TransitionCallbackReturn:
        """Say why a transition failed, which rclpy hides, and leave the node as it was."""
        self.failure = ''
        try:
            return transition()
        except Exception as error:  # a transition must not end the process
            self.failure = ' '.join(str(error).split()) or type(error).__name__
            if self.context.ok():  # else it was interrupted, which is no failure
                self.get_logger().error(f'cannot {what}: {self.failure}')
                if not isinstance(error, ClcpError):
                    self.get_logger().error(traceback.format_exc())
            if what == 'configure':
                self._release()
            else:
                self._stop()
            return FAILURE

    def _load(self) -> FramePipeline:
        return load_pipeline(self._values(), self.get_logger())

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        return self._guarded('activate', lambda: self._activate(state))

    def _activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._pipeline is not None
        self._worker = FrameWorker(
            self._pipeline,
            on_mask=self._on_mask,
            on_result=self._on_result,
            on_error=self._on_error,
            on_dropped=self._on_dropped,
            max_batch=self._value('model.batch'),
            # Which may still be inside the model.
            after=self._old_worker,
        )
        transport = self._value('input_transport')
        transports = TRANSPORTS if transport == 'auto' else (transport,)
        for camera in self.cameras.values():
            camera.open(transports, self._put)
            self.get_logger().info(f'active: waiting for images on {camera.statistics.topics}')
        if self._lidar is not None and self._pipeline.scans:
            self._lidar.open()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker, without waiting for the model."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and the outputs."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, from any state."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where a new start is possible."""
        self._release()
        return SUCCESS

    def _stop(self) -> None:
        # First of all: from now on a result under way asks nothing of topics that go away.
        if self._worker is not None:
            self._worker.close()
            self._old_worker, self._worker = self._worker, None
        for camera in self.cameras.values():
            camera.close()
        if self._lidar is not None:
            self._lidar.close()

    def _release(self) -> None:
        self._stop()
        if self._old_worker is not None:
            self._old_worker.close(_JOIN_S)
            self._old_worker = None
        self._pipeline = None
        self._own_services.remove_cameras()
        while self.cameras:
            self.cameras.popitem()[1].destroy()
        if self._labels is not None:
            self._labels.destroy()
            self._labels = None
        self._lidar, self._scans = None, {}

    def start(self) -> bool:
        """Configure and activate without a manager; False when that failed."""
        if self.trigger_configure() != SUCCESS:
            return False
        return self.trigger_activate() == SUCCESS

    def destroy_node(self) -> None:
        """Stop the worker, then destroy."""
        self._own_services.close(_JOIN_S)
        self._release()
        super().destroy_node()

    # Frames --------------------------------------------------------------------------------------

    def _put(self, arrival: Arrival) -> None:
        worker = self._worker
        if worker is not None:
            worker.put(arrival.camera.name, arrival.message, arrival.stamp_ns, arrival)

    def _on_dropped(self, camera: str, number: int) -> None:
        self.cameras[camera].statistics.count(time.monotonic(), 'dropped', number=number)

    def _on_mask(self, arrival: Arrival, mask: FrameMask) -> None:
        if self._pipeline is not None:
            arrival.camera.publish_mask(arrival, mask)

    def _on_result(self, arrival: Arrival, result: FrameResult) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        if arrival.camera.publish_verdict(arrival, result, pipeline.segmenter.provider):
            self._heartbeat.tell()

    def _on_error(self, arrival: Arrival, error: Exception) -> None:
        # One frame must never end the worker: memory, the accelerator, a context that is being
        # shut down.
        if not self.context.ok():
            return
        if isinstance(error, ImageError):
            arrival.camera.report('bad', str(error))
        elif isinstance(error, ClcpError):
            arrival.camera.report('failed', str(error))
        else:
            arrival.camera.report('failed', f'{type(error).__name__}: {error}')
            self.get_logger().debug(''.join(traceback.format_exception(error)))

    # Services: see node_services -----------------------------------------------------------------

    def set_active(self, active: bool) -> Answer:
        """Subscribe and segment, or stop; as the lifecycle transitions do."""
        state = self._state_machine.current_state[1]
        if state == ('active' if active else 'inactive'):
            return True, f'already {state}'
        if state not in ('active', 'inactive'):
            hint = f': {self.failure}' if self.failure else ''
            return False, f'the node is {state}{hint}; configure it first'
        done = self.trigger_activate() if active else self.trigger_deactivate()
        return done == SUCCESS, self.failure or ('active' if active else 'inactive')

    def save_frames(self, camera: str | None) -> Callable[[], str]:
        """Work that saves the newest frame of one camera or of all.

        Returns:
            A function that writes and returns the paths of the JSON files.

        Raises:
            ClcpError: There is no frame.
        """
        cameras = [c for name, c in self.cameras.items() if camera in (None, name)]
        folder = node_parameters.save_folder(self._value('save.folder'))

        def save() -> str:
            snapshots = [found for c in cameras if (found := c.newest()) is not None]
            if not snapshots:
                raise ClcpError('no frame to save: none has been segmented since activation')
            return ', '.join(str(snapshot.save(folder)) for snapshot in snapshots)

        return save

    def start_reload(self) -> Callable[[], FramePipeline]:
        """Work that loads the bundle at `bundle.path` and tests it, beside the one that serves.

        Raises:
            ClcpError: The node is not configured.
        """
        if self._pipeline is None:
            raise ClcpError('the node is not configured; configuring it loads the bundle')
        return self._load

    def finish_reload(self, loaded: FramePipeline) -> str:
        """Let a new bundle serve from the next frame on.

        Raises:
            ClcpError: The node has been cleaned up meanwhile, or the new bundle had to leave the
                accelerator that the old one runs on.
        """
        if self._pipeline is None or loaded.cameras != self._pipeline.cameras:
            raise ClcpError('the node was cleaned up while the bundle was loading')
        reason = loaded.segmenter.fallback_reason
        if reason and not self._pipeline.segmenter.fallback_reason:
            # Two models at once may be too much for an accelerator.
            raise ClcpError(f'it would run on {loaded.segmenter.provider}: {reason}')
        # The settings may have changed while it was loading.
        loaded.check_config(node_parameters.monitor_config(self._values()))
        self._set_config(loaded)
        self._use_scans(loaded)
        if self._lidar and self._worker and loaded.scans and not self._pipeline.scans:
            self._lidar.open()
        before, self._pipeline = self._pipeline, loaded
        self._loaded_on = loaded.segmenter.provider
        if self._worker is not None:
            self._worker.replace(loaded)
        for camera in self.cameras.values():
            camera.reset_verdict()
        if self._labels is not None and loaded.bundle.classes != before.bundle.classes:
            self._labels.publish(loaded.bundle.classes)
        text = f'{loaded.bundle.name} {loaded.bundle.id} serves, before it {before.bundle.id}'
        self._reloaded = (False, text)
        self.get_logger().info(text)
        return text

    def refuse_reload(self, reason: str) -> None:
        """Keep the old bundle, and say why."""
        self._reloaded = (True, f'reload refused, the bundle before goes on: {reason}')
        self.get_logger().error(self._reloaded[1])

    # Diagnostics: all threads --------------------------------------------------------------------

    def _statuses(self) -> list[Status]:
        pipeline, cameras = self._pipeline, list(self.cameras.values())
        if pipeline is None or self._worker is None:
            reason = self.failure or 'not active'
            level = Level.ERROR if self.failure else Level.STALE
            names = [name for camera in self._camera_names() for name in input_names(camera)]
            names.insert(1, 'inference')
            return [Status(name, level, reason) for name in names]
        around = Surroundings(
            sim_time=bool(self._value('use_sim_time')),
            clock_published=self.count_publishers('/clock') > 0,
            fastdds=self._fastdds,
            profile=self._profile,
        )
        statuses = [s for camera in cameras for s in camera.statuses(pipeline.source, around)]
        state = self._model_state(pipeline)
        statuses.insert(1, inference_status(state, cameras[0].frame_id if cameras else ''))
        return statuses

    def _model_state(self, pipeline: FramePipeline) -> ModelState:
        worker, cameras = self._worker, list(self.cameras.values())
        failed, reload = self._reloaded
        slowest = max((c.statistics.seconds for c in cameras), key=_total_s, default={})
        return ModelState(
            model=f'{pipeline.bundle.name} {pipeline.bundle.id}',
            path=str(pipeline.bundle.path),
            provider=pipeline.segmenter.provider,
            wanted=pipeline.segmenter.wanted,
            offered=self._offered,
            fallback_reason=pipeline.segmenter.fallback_reason,
            loaded_on=self._loaded_on,
            busy_s=worker.busy_s() if worker is not None else 0.0,
            reload=reload,
            reload_failed=failed,
            seconds=slowest,
        )


def _total_s(seconds: dict[str, float]) -> float:
    return seconds.get('total', 0.0)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted.

    Returns:
        0, or 1 when it could not start.
    """
    tune_malloc()
    # OpenCV's threads would take cores from the model, and images this small gain nothing by them.
    cv2.setNumThreads(1)
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
