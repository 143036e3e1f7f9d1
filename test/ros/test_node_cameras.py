# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one node."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from clcp_ros.pipeline import FramePipeline

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage

from clcp_ros.image_codec import encode_jpeg
from clcp_ros.node_inputs import resolve_topics

STEP_NS = 100_000_000
OUTPUTS = ('mask', 'mask/compressed', 'confidence', 'overlay', 'camera_info', 'shift')


class SlowModel:
    """Makes a rig's model slow, and notes the batches that it got."""

    def __init__(self, rig: Any, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        segmenter = rig.node._pipeline.segmenter
        real = segmenter.run
        self.batches: list[int] = []
        self.seconds = seconds
        self.started = threading.Event()

        def run(batch: np.ndarray) -> Any:
            self.batches.append(len(batch))
            self.started.set()
            time.sleep(self.seconds)
            return real(batch)

        monkeypatch.setattr(segmenter, 'run', run)


def test_each_camera_has_its_own_topics_headers_and_verdicts(
    make_rig, tiny_bundle, daylight_image
):
    import cv2

    rig = make_rig(cameras=['front', 'rear'], shift__period_s=0.0).start()
    rig.listen(*(f'{camera}/{topic}' for camera in ('front', 'rear') for topic in OUTPUTS))
    cameras = rig.node.cameras
    rig.until(
        lambda: all(cameras[c].outputs.wanted(t) for c in ('front', 'rear') for t in OUTPUTS)
    )
    pipeline = FramePipeline(tiny_bundle, cameras=['front', 'rear'])
    rig.publisher(CameraInfo, 'front/camera_info').publish(
        CameraInfo(height=96, width=160, k=[100.0, 0.0, 79.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0])
    )
    rig.until(lambda: cameras['front']._camera_info is not None)
    start_ns = time.time_ns()
    black = np.zeros((96, 160, 3), np.uint8)
    for i in range(12):
        for camera, image in (('front', daylight_image(i)), ('rear', black)):
            sent = rig.send(image, start_ns + i * STEP_NS, f'{camera}/image')
            own = [f'{camera}/{topic}' for topic in OUTPUTS if topic != 'camera_info']
            rig.until(lambda own=own, n=i: all(len(rig.got[t]) > n for t in own))
            expected = pipeline.process(image, start_ns + i * STEP_NS, camera)
            mask = rig.got[f'{camera}/mask'][-1]
            assert mask.header == sent.header
            assert np.array_equal(np.frombuffer(mask.data, np.uint8), expected.mask.ravel())
            packed = rig.got[f'{camera}/mask/compressed'][-1]
            assert packed.header == sent.header
            assert packed.format == 'mono8; png compressed '
            unpacked = cv2.imdecode(np.frombuffer(packed.data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(unpacked, expected.mask)
    rig.until(lambda: len(rig.got['front/camera_info']) == 12)
    assert not rig.got['rear/camera_info']
    front, rear = (rig.got[f'{camera}/shift'][-1].status[0] for camera in ('front', 'rear'))
    name = rig.node.get_fully_qualified_name()
    assert (front.name, rear.name) == (f'{name}: front/shift', f'{name}: rear/shift')
    # The black camera is broken, and the other one's monitor knows nothing of it.
    assert rear.level == DiagnosticStatus.ERROR
    assert front.level != DiagnosticStatus.ERROR
    rig.until(lambda: rig.values('rear/input').get('processed') == '12')
    assert {s.name for s in rig.diagnostics[-1].status} == {
        f'{name}: {part}'
        for part in ('front/input', 'front/shift', 'rear/input', 'rear/shift', 'inference')
    }


def test_frames_that_wait_together_go_through_the_model_together(
    make_rig, daylight_image, monkeypatch
):
    names = ['a', 'b', 'c']
    rig = make_rig(cameras=names).start().listen(*(f'{name}/mask' for name in names))
    for name in names:
        rig.publisher(*_image(name))
    model = SlowModel(rig, 0.4, monkeypatch)
    start_ns = time.time_ns()
    # The first one tells how long the model takes.
    rig.send(daylight_image(0), start_ns - 1, 'a/image')
    rig.until(lambda: rig.got['a/mask'])
    model.started.clear()
    rig.send(daylight_image(0), start_ns, 'a/image')
    assert model.started.wait(10)
    counts = {name: rig.node.cameras[name].statistics.counts for name in names}
    for i in (1, 2, 3):
        before = {name: counts[name]['received'] for name in names}
        for name in names:
            rig.send(daylight_image(i), start_ns + i, f'{name}/image')
        # One by one: of two that wait in the middleware only the newer one reaches the node.
        rig.until(lambda old=before: all(counts[n]['received'] > old[n] for n in names))
    rig.until(lambda: rig.got['c/mask'] and rig.got['b/mask'] and len(rig.got['a/mask']) >= 3)
    assert max(model.batches) == 3
    # Of each camera the newest frame won, and what it displaced was counted as its own.
    for name in names:
        assert _stamp(rig.got[f'{name}/mask'][-1]) == start_ns + 3
    for name in names:
        rig.until(lambda n=name: _accounted(rig.values(f'{n}/input')))
        assert int(rig.values(f'{name}/input')['dropped']) >= 1


def test_model_batch_limits_how_many_frames_go_together(make_rig, daylight_image, monkeypatch):
    rig = make_rig(cameras=['a', 'b'], model__batch=1).start().listen('a/mask', 'b/mask')
    rig.publisher(*_image('b'))
    model = SlowModel(rig, 0.1, monkeypatch)
    for i in range(3):
        for name in 'ab':
            rig.send(daylight_image(i), time.time_ns(), f'{name}/image')
    rig.until(lambda: rig.got['a/mask'] and rig.got['b/mask'])
    assert set(model.batches) == {1}


def test_a_slow_camera_is_not_starved_by_fast_ones(make_rig, daylight_image, monkeypatch):
    rig = make_rig(cameras=['fast', 'faster', 'slow'], model__batch=1).start()
    rig.listen('fast/mask', 'faster/mask', 'slow/mask')
    for name in rig.node.cameras:
        rig.publisher(*_image(name))
    SlowModel(rig, 0.04, monkeypatch)
    image, sent = daylight_image(0), 0
    for i in range(100):
        rig.send(image, time.time_ns(), 'fast/image')
        rig.send(image, time.time_ns(), 'faster/image')
        if i % 25 == 0:
            rig.send(image, time.time_ns(), 'slow/image')
            sent += 1
        rig.spin_for(0.01)
    rig.until(lambda: len(rig.got['slow/mask']) == sent)
    rig.until(lambda: rig.values('slow/input').get('processed') == str(sent))
    assert rig.values('slow/input')['dropped'] == '0'
    assert int(rig.values('fast/input')['dropped']) > 0
    rates = [int(rig.values(f'{name}/input')['processed']) for name in ('fast', 'faster')]
    assert min(rates) > 0.5 * max(rates)


def test_a_camera_at_fault_leaves_the_others_alone(make_rig, daylight_image):
    names = ['bad', 'good', 'silent']
    rig = make_rig(cameras=names, shift__false_alarm_interval_h=10000.0).start()
    rig.listen('bad/mask', 'good/mask')
    packed = rig.publisher(CompressedImage, 'good/image/compressed')
    for i in range(12):
        rig.send(daylight_image(i), time.time_ns(), 'bad/image', encoding='nonsense')
        message = CompressedImage(format='jpeg', data=encode_jpeg(daylight_image(i)))
        now_ns = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        packed.publish(message)
        rig.until(lambda n=i: len(rig.got['good/mask']) == n + 1)
        rig.spin_for(0.1)
    rig.until(lambda: rig.status('silent/input').level == DiagnosticStatus.STALE)
    assert rig.status('good/input').level == DiagnosticStatus.OK
    assert rig.status('good/shift').level == DiagnosticStatus.OK
    assert rig.status('bad/input').level == DiagnosticStatus.ERROR
    assert not rig.got['bad/mask']


def test_camera_topics_are_remapped_one_by_one(make_rig):
    rig = make_rig(
        remap=['front/image:=/hardware/front/image_raw'], cameras=['front', '/vehicle/rear']
    )
    assert resolve_topics(rig.node, 'front') == {
        'raw': '/hardware/front/image_raw',
        'compressed': '/hardware/front/image_raw/compressed',
        'camera_info': '/hardware/front/camera_info',
    }
    assert resolve_topics(rig.node, '/vehicle/rear')['raw'] == '/vehicle/rear/image'
    assert rig.node.start()
    topics = dict(rig.node.get_topic_names_and_types())
    assert f'{rig.namespace}/segment/vehicle/rear/mask' in topics
    assert f'{rig.namespace}/segment/front/mask' in topics


def test_an_override_of_one_topic_reaches_no_other(make_rig):
    from rclpy.parameter import Parameter
    from rclpy.qos import QoSReliabilityPolicy

    rig = make_rig(cameras=['front', 'rear'])
    key = f'qos_overrides.{rig.namespace}/front/image.subscription.reliability'
    rig.node._parameter_overrides[key] = Parameter(key, value='reliable')
    rig.start()
    reliable = {
        s.topic_name.removeprefix(rig.namespace): s.qos_profile.reliability
        == QoSReliabilityPolicy.RELIABLE
        for s in rig.node.subscriptions
        if s.topic_name.startswith(rig.namespace)
    }
    assert [topic for topic, yes in reliable.items() if yes] == ['/front/image']
    assert len(reliable) == 6


def _accounted(values: dict[str, str]) -> bool:
    received, processed, dropped = (
        int(values.get(name, 0)) for name in ('received', 'processed', 'dropped')
    )
    return received > 1 and received == processed + dropped


def _image(camera: str) -> tuple[Any, str]:
    from sensor_msgs.msg import Image

    return Image, f'{camera}/image'


def _stamp(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
