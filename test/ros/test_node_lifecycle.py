# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle: fifty rounds without a leak, failures with their reasons, no residue."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter

from clcp_ros.node_statistics import InputStatistics
from clcp_ros.pipeline import FramePipeline


def resident_mb() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def change(rig: Any, transition_id: int) -> str:
    answer = rig.call(ChangeState, 'change_state', transition=Transition(id=transition_id))
    assert answer.success, rig.node.failure
    return rig.call(GetState, 'get_state').current_state.label


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def entities(rig: Any) -> dict[str, int]:
    node = rig.node
    return {
        'threads': threading.active_count(),
        'subscriptions': len(list(node.subscriptions)),
        'publishers': len(list(node.publishers)),
        'services': len(list(node.services)),
        'timers': len(list(node.timers)),
        'waitables': len(list(node.waitables)),
        'managed': len(node._managed_entities),
        'parameters': len(node._parameters),
        'callbacks': len(node.default_callback_group.entities),
    }


def test_fifty_rounds_leave_nothing_behind(make_rig, daylight_image):
    rig = make_rig(cameras=['front', 'rear'])
    rig.spin()
    image = daylight_image(0)
    seen: list[dict[str, int]] = []
    memory: list[float] = []
    pipelines, statistics = alive(FramePipeline), alive(InputStatistics)
    for cycle in range(50):
        assert change(rig, Transition.TRANSITION_CONFIGURE) == 'inactive'
        assert change(rig, Transition.TRANSITION_ACTIVATE) == 'active'
        if cycle % 10 == 0:
            rig._publishers.clear()
            rig.listen('front/mask')
            rig.send(image, time.time_ns(), 'front/image')
            rig.until(lambda: rig.got['front/mask'])
        assert change(rig, Transition.TRANSITION_DEACTIVATE) == 'inactive'
        assert change(rig, Transition.TRANSITION_CLEANUP) == 'unconfigured'
        seen.append(entities(rig))
        memory.append(resident_mb())
    assert seen[-1] == seen[1]
    assert alive(FramePipeline) == pipelines
    assert alive(InputStatistics) == statistics
    # What the first rounds allocate stays; after them there is no growth but the allocator's.
    assert memory[-1] - memory[14] < 20, memory
    assert change(rig, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN) == 'finalized'


def test_activation_can_be_repeated_while_the_model_is_still_busy(
    make_rig, daylight_image, monkeypatch
):
    rig = make_rig().start().listen('mask', 'shift')
    segmenter = rig.node._pipeline.segmenter
    real = segmenter.run
    busy: list[int] = []

    def slow(batch: Any) -> Any:
        busy.append(threading.get_ident())
        time.sleep(0.5)
        return real(batch)

    monkeypatch.setattr(segmenter, 'run', slow)
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: busy)
    start = time.monotonic()
    change(rig, Transition.TRANSITION_DEACTIVATE)
    change(rig, Transition.TRANSITION_ACTIVATE)
    assert time.monotonic() - start < 0.4  # nothing waits for the model
    rig._publishers.clear()
    rig.send(daylight_image(1), time.time_ns())
    rig.until(lambda: rig.got['mask'] and rig.got['shift'])
    # The frame of the activation that ended gave no mask and left the monitor alone.
    assert len(rig.got['mask']) == 1
    values = {v.key: v.value for v in rig.got['shift'][-1].status[0].values}
    assert values['samples'] == '1'


def test_wrong_bundle_fails_configuration_with_its_reason(make_rig, tiny_bundle, tmp_path):
    bad = tmp_path / 'bad'
    shutil.copytree(tiny_bundle, bad)
    with (bad / 'model.onnx').open('ab') as file:
        file.write(b'x')
    rig = make_rig(bundle__path=str(bad))
    before = entities(rig)
    assert not rig.node.start()
    assert 'hash' in rig.node.failure
    assert entities(rig) == before
    rig.spin()
    rig.listen()
    rig.until(lambda: rig.status('inference'))
    assert rig.status('inference').level == DiagnosticStatus.ERROR
    assert 'hash' in rig.status('inference').message
    # The node is still there, and starts once the bundle is right.
    rig.node.set_parameters([Parameter('bundle.path', value=str(tiny_bundle))])
    assert rig.node.start()


def test_wrong_qos_override_fails_activation_with_its_reason(make_rig):
    rig = make_rig()
    key = f'qos_overrides.{rig.namespace}/image.subscription.reliability'
    rig.node._parameter_overrides[key] = Parameter(key, value='sometimes')
    assert not rig.node.start()
    assert 'SOMETIMES' in rig.node.failure.upper()
    rig.spin()
    assert rig.call(GetState, 'get_state').current_state.label == 'inactive'
    assert rig.node._worker is None
    assert not [s for s in rig.node.subscriptions if s.topic_name.startswith(rig.namespace)]


def test_importing_the_node_starts_nothing(root: Path):
    code = (
        'import threading, signal; before = signal.getsignal(signal.SIGINT);'
        'import clcp_ros.segment_node; import rclpy;'
        'assert not rclpy.ok(); assert threading.active_count() == 1;'
        'assert signal.getsignal(signal.SIGINT) is before;'
        'import sys; assert "onnxruntime" not in sys.modules; assert "torch" not in sys.modules'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_two_nodes_share_a_process_and_an_executor(ros, tiny_bundle, daylight_image):
    """As a component container would have it."""
    from rclpy.executors import MultiThreadedExecutor
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from clcp_ros.ros_messages import image_message
    from clcp_ros.segment_node import SegmentNode

    overrides = [Parameter('bundle.path', value=str(tiny_bundle))]
    nodes = [
        SegmentNode(name, namespace='/composed', parameter_overrides=overrides)
        for name in ('left', 'right')
    ]
    peer = ros.create_node('composer', namespace='/composed')
    got: list[str] = []
    executor = MultiThreadedExecutor(2)
    thread = threading.Thread(target=executor.spin, daemon=True)
    try:
        for node in (*nodes, peer):
            executor.add_node(node)
        for node in nodes:
            assert node.start()
            name = node.get_name()
            peer.create_subscription(Image, f'{name}/mask', lambda _, n=name: got.append(n), 10)
        publisher = peer.create_publisher(Image, 'image', 10)
        thread.start()
        end = time.monotonic() + 20
        while set(got) != {'left', 'right'} and time.monotonic() < end:
            publisher.publish(image_message(daylight_image(0), Header()))
            time.sleep(0.05)
        assert set(got) == {'left', 'right'}
    finally:
        executor.shutdown(timeout_sec=5)
        for node in (*nodes, peer):
            node.destroy_node()
