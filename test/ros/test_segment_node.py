# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from itertools import groupby

import numpy as np
import pytest

from clcp_ros.image_codec import encode_jpeg
from clcp_ros.monitor import MonitorConfig
from clcp_ros.node_diagnostics import shift_values
from clcp_ros.pipeline import FramePipeline

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from clcp_ros.node_inputs import resolve_topics

STEP_NS = 100_000_000


def test_results_carry_the_image_header_and_the_pipeline_values(
    make_rig, tiny_bundle, daylight_image
):
    rig = make_rig(shift__period_s=0.0).start().listen('mask', 'confidence', 'shift')
    pipeline = FramePipeline(tiny_bundle, monitor=MonitorConfig(period_s=0))
    start_ns = time.time_ns()
    for i in range(6):
        stamp_ns = start_ns + i * STEP_NS
        sent = rig.send(daylight_image(i), stamp_ns)
        rig.until(lambda n=i: all(len(rig.got[t]) == n + 1 for t in rig.got))
        expected = pipeline.process(daylight_image(i), stamp_ns)
        mask, confidence, shift = (rig.got[t][-1] for t in ('mask', 'confidence', 'shift'))
        for message in (mask, confidence, shift):
            assert message.header == sent.header
        assert (mask.encoding, mask.height, mask.width, mask.step) == ('mono8', 48, 80, 80)
        assert np.array_equal(np.frombuffer(mask.data, np.uint8), expected.mask.ravel())
        assert np.array_equal(
            np.frombuffer(confidence.data, np.uint8), expected.confidence.ravel()
        )
        values = {v.key: v.value for v in shift.status[0].values}
        assert values == shift_values(expected.shift, expected.source)
        assert shift.status[0].message == expected.shift.reason
        assert values['novelty_z'] == f'{expected.shift.score.novelty:.6f}'
        assert values['samples'] == str(i + 1)
    assert values['level'] == 'OK'
    assert values['model'] == pipeline.bundle.id
    assert shift.status[0].level == DiagnosticStatus.OK
    assert shift.status[0].name == f'{rig.namespace}/segment: shift'


def test_compressed_images_are_decoded(make_rig, tiny_bundle, daylight_image):
    rig = make_rig().start().listen('mask')
    data = encode_jpeg(daylight_image(0))
    message = CompressedImage(format='bgr8; jpeg compressed bgr8', data=data)
    message.header.frame_id = 'left'
    rig.publisher(CompressedImage, 'image/compressed').publish(message)
    rig.until(lambda: rig.got['mask'])
    assert rig.got['mask'][0].header.frame_id == 'left'


def test_one_camera_on_both_transports_is_segmented_once(make_rig, daylight_image):
    rig = make_rig().start().listen('mask')
    compressed = rig.publisher(CompressedImage, 'image/compressed')
    start_ns = time.time_ns()
    for i in range(3):
        image = rig.send(daylight_image(i), start_ns + i * STEP_NS)
        rig.until(lambda n=i: len(rig.got['mask']) == n + 1)
        compressed.publish(
            CompressedImage(
                header=image.header, format='jpeg', data=encode_jpeg(daylight_image(i))
            )
        )
    rig.until(lambda: rig.values('input').get('duplicate') == '3')
    assert len(rig.got['mask']) == 3


def test_compressed_topic_and_camera_info_follow_a_remapped_image(make_rig):
    rig = make_rig(remap=['image:=/front/image_raw'])
    assert resolve_topics(rig.node, '') == {
        'raw': '/front/image_raw',
        'compressed': '/front/image_raw/compressed',
        'camera_info': '/front/camera_info',
    }
    other = make_rig(remap=['image:=/front/image_raw', 'image/compressed:=/jpeg'])
    assert resolve_topics(other.node, '')['compressed'] == '/jpeg'


def test_best_effort_publisher_is_heard(make_rig, daylight_image):
    rig = make_rig().start().listen('mask')
    rig.publisher(
        Image, 'image', QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    )
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.got['mask'])


def test_incompatible_qos_is_named(make_rig):
    rig = make_rig()
    # The key holds the resolved topic, so the namespace must be known first.
    key = f'qos_overrides.{rig.namespace}/image.subscription.reliability'
    rig.node._parameter_overrides[key] = Parameter(key, value='reliable')
    rig.start().listen('mask')
    rig.peer.create_publisher(
        Image, 'image', QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    )
    rig.until(lambda: 'RELIABILITY' in rig.values('input').get('incompatible_qos', ''))
    assert rig.status('input').level in (DiagnosticStatus.ERROR, DiagnosticStatus.STALE)


def test_labels_reach_a_late_joiner(make_rig):
    messages = pytest.importorskip('vision_msgs.msg')
    rig = make_rig().start()
    got = []
    rig.peer.create_subscription(
        messages.LabelInfo,
        'segment/label_info',
        got.append,
        QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL),
    )
    rig.until(lambda: got)
    assert [(c.class_id, c.class_name) for c in got[0].class_map] == [
        (0, 'dark'), (1, 'middle'), (2, 'bright'), (255, 'unlabelled'),
    ]  # fmt: skip


def test_labels_need_no_vision_msgs(make_rig):
    import json

    from std_msgs.msg import String

    rig = make_rig().start()
    got = []
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    rig.peer.create_subscription(String, 'segment/labels', got.append, latched)
    rig.until(lambda: got)
    labels = json.loads(got[0].data)
    assert labels['unlabelled'] == 255
    assert labels['class_set'] == 'tiny'
    assert labels['classes'][2] == {'id': 2, 'name': 'bright', 'color': [250, 250, 0]}


def test_overlay_is_rendered_only_for_a_listener(make_rig, daylight_image, monkeypatch):
    import clcp_ros.node_outputs as module

    calls = []
    real = module.overlay
    monkeypatch.setattr(module, 'overlay', lambda *a: calls.append(1) or real(*a))
    rig = make_rig().start().listen('mask')
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.got['mask'])
    assert not calls
    rig.listen('overlay')
    rig.until(lambda: rig.camera.outputs.wanted('overlay'))
    rig.send(daylight_image(1), time.time_ns())
    rig.until(lambda: rig.got['overlay'])
    message = rig.got['overlay'][0]
    assert (message.encoding, message.height, message.width) == ('rgb8', 48, 80)


def test_camera_info_is_scaled_to_the_mask(make_rig, daylight_image):
    rig = make_rig().start().listen('camera_info')
    info = CameraInfo(
        height=96, width=160, distortion_model='plumb_bob', d=[0.1, 0.0, 0.0, 0.0, 0.0]
    )
    info.k = [100.0, 0.0, 79.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0]
    info.p = [100.0, 0.0, 79.5, -20.0, 0.0, 100.0, 47.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    rig.publisher(CameraInfo, 'camera_info').publish(info)
    rig.until(lambda: rig.camera._camera_info is not None)
    sent = rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.got['camera_info'])
    message = rig.got['camera_info'][0]
    assert message.header == sent.header
    assert (message.height, message.width) == (48, 80)
    # The optical axis through the middle of the image goes through the middle of the mask.
    assert np.allclose(message.k, [50, 0, 39.5, 0, 50, 23.5, 0, 0, 1])
    assert np.allclose(message.p, [50, 0, 39.5, -10, 0, 50, 23.5, 0, 0, 0, 1, 0])
    assert list(message.d) == [0.1, 0, 0, 0, 0]


def test_masks_have_the_size_of_the_images_on_request(make_rig, tiny_bundle, daylight_image):
    rig = make_rig(mask__resolution='image').start().listen('mask', 'camera_info', 'overlay')
    info = CameraInfo(height=97, width=161, k=[100.0, 0.0, 79.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0])
    rig.publisher(CameraInfo, 'camera_info').publish(info)
    rig.until(lambda: rig.camera._camera_info is not None)
    image = daylight_image(0, 97, 161)
    stamp_ns = time.time_ns()
    rig.send(image, stamp_ns)
    rig.until(lambda: all(rig.got.values()))
    mask, overlay = rig.got['mask'][0], rig.got['overlay'][0]
    assert (mask.height, mask.width, mask.step) == (97, 161, 161)
    assert (overlay.height, overlay.width) == (97, 161)
    expected = FramePipeline(tiny_bundle, image_resolution=True).process(image, stamp_ns)
    assert np.array_equal(np.frombuffer(mask.data, np.uint8), expected.mask.ravel())
    assert np.allclose(rig.got['camera_info'][0].k, info.k)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'encoding': 'nonsense'}, 'nonsense'),
        ({'data': b'\x00' * 10}, 'bytes'),
        ({'width': 0}, 'impossible'),
        ({'step': 3}, 'step'),
    ],
)
def test_malformed_image_is_counted_and_the_node_goes_on(
    make_rig, daylight_image, changes, reason
):
    rig = make_rig().start().listen('mask')
    rig.send(daylight_image(0), time.time_ns(), **changes)
    rig.until(lambda: rig.values('input').get('bad') == '1')
    assert reason in rig.values('input')['last_problem']
    assert rig.status('input').level == DiagnosticStatus.ERROR
    assert reason in rig.status('input').message
    assert not rig.got['mask']
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.got['mask'])
    rig.until(lambda: rig.status('input').level == DiagnosticStatus.WARN)


def test_truncated_jpeg_is_counted_and_the_node_goes_on(make_rig, daylight_image):
    rig = make_rig().start().listen('mask')
    data = encode_jpeg(daylight_image(0))
    publisher = rig.publisher(CompressedImage, 'image/compressed')
    publisher.publish(CompressedImage(format='jpeg', data=data[: len(data) // 2]))
    rig.until(lambda: rig.values('input').get('bad') == '1')
    assert 'truncated' in rig.values('input')['last_problem']
    publisher.publish(CompressedImage(format='jpeg', data=data))
    rig.until(lambda: rig.got['mask'])


def test_failing_model_is_reported_and_the_node_goes_on(make_rig, daylight_image, monkeypatch):
    rig = make_rig().start().listen('mask')
    segmenter = rig.node._pipeline.segmenter
    real = segmenter.run

    def fail(batch):
        raise MemoryError('no memory on the accelerator')

    monkeypatch.setattr(segmenter, 'run', fail)
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.values('input').get('failed') == '1')
    assert 'no memory on the accelerator' in rig.status('input').message
    monkeypatch.setattr(segmenter, 'run', real)
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.got['mask'])


def test_newest_frame_wins_and_drops_are_counted(make_rig, daylight_image, monkeypatch):
    rig = make_rig().start().listen('mask')
    segmenter = rig.node._pipeline.segmenter
    real = segmenter.run
    monkeypatch.setattr(segmenter, 'run', lambda batch: time.sleep(0.5) or real(batch))
    start_ns = time.time_ns()
    # The first one tells how long the model takes.
    rig.send(daylight_image(9), start_ns - 1)
    rig.until(lambda: rig.got['mask'])
    for i in range(5):
        rig.send(daylight_image(i), start_ns + i)
        rig.until(lambda n=i: rig.camera.statistics.counts['received'] == n + 2)
    rig.until(lambda: len(rig.got['mask']) == 3)
    stamps = [
        m.header.stamp.sec * 10**9 + m.header.stamp.nanosec - start_ns for m in rig.got['mask']
    ]
    assert stamps == [-1, 0, 4]
    rig.until(lambda: rig.values('input').get('dropped') == '3')


def test_silence_is_reported(make_rig, daylight_image):
    rig = make_rig(diagnostics__stale_s=0.3).start().listen('mask')
    rig.until(lambda: rig.status('input') and rig.status('input').level == DiagnosticStatus.STALE)
    assert f'{rig.namespace}/image' in rig.status('input').message
    assert 'no matching publisher' in rig.status('input').message
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: rig.status('input').level == DiagnosticStatus.OK)
    rig.until(lambda: rig.status('shift').message == 'no image')
    assert rig.status('shift').level == DiagnosticStatus.STALE


@pytest.mark.parametrize('offset_ns', [-86400 * 10**9, 5 * 10**9])
def test_clock_mismatch_is_named(make_rig, daylight_image, offset_ns):
    rig = make_rig(diagnostics__max_age_s=10.0).start().listen('mask')
    rig.send(daylight_image(0), time.time_ns() + offset_ns)
    rig.until(lambda: 'clock mismatch' in rig.message('input'))
    assert 'use_sim_time' in rig.status('input').message


def test_level_change_is_told_at_once_and_looped_stamps_start_anew(make_rig, daylight_image):
    rig = make_rig(diagnostics__period_s=60.0, shift__period_s=0.0).start().listen('mask', 'shift')
    start_ns = time.time_ns()
    black = np.zeros((96, 160, 3), np.uint8)
    images = [daylight_image(i) for i in range(6)] + [black] * 11 + [daylight_image(9)]
    stamps = [start_ns + i * STEP_NS for i in range(17)] + [start_ns]
    for i, (image, stamp_ns) in enumerate(zip(images, stamps, strict=True)):
        rig.send(image, stamp_ns)
        rig.until(lambda n=i: len(rig.got['shift']) == n + 1)

    def levels() -> list[bytes]:
        told = (s for array in rig.diagnostics for s in array.status)
        return [level for level, _ in groupby(s.level for s in told if s.name.endswith('shift'))]

    rig.until(lambda: len(levels()) >= 4)
    said = DiagnosticStatus
    assert levels()[:4] == [said.STALE, said.OK, said.ERROR, said.STALE]
    last = {v.key: v.value for v in rig.got['shift'][-1].status[0].values}
    assert last['samples'] == '1'


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('shift.warn_drop', 0.5, 'warn_drop must be positive and below error_drop'),
        ('shift.window_s', 0.0, 'range'),
        ('shift.expected_classes', ['tree'], 'the classes of tiny are dark, middle, bright'),
        ('shift.expected_classes', 'dark', 'list of names'),
        ('input_transport', 'theora', 'one of auto, raw, compressed'),
        ('input_transport', 'raw', 'deactivate it first'),
        ('bundle.path', '/other', 'not a bundle'),
        ('cameras', ['front'], 'clean it up first'),
        ('model.batch', 2, 'deactivate it first'),
        ('diagnostics.frozen_s', -1.0, 'range'),
        ('model.threads', 3, 'clean it up first'),
        ('autostart', False, 'read-only'),
    ],
)
def test_parameters_are_refused_with_a_reason(make_rig, name, value, reason):
    rig = make_rig()
    assert rig.node.start()
    result = rig.node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful
    assert reason in result.reason


def test_thresholds_change_at_run_time(make_rig, daylight_image):
    rig = make_rig(shift__period_s=0.0).start().listen('shift')
    results = rig.node.set_parameters_atomically(
        [
            Parameter('shift.min_samples', value=50),
            Parameter('shift.expected_classes', value=['dark', 'bright']),
        ]
    )
    assert results.successful, results.reason
    start_ns = time.time_ns()
    for i in range(5):
        rig.send(daylight_image(i), start_ns + i * STEP_NS)
        rig.until(lambda n=i: len(rig.got['shift']) == n + 1)
    assert rig.got['shift'][-1].status[0].level == DiagnosticStatus.STALE
    assert '5 of 50' in rig.got['shift'][-1].status[0].message


def test_the_log_says_when_more_is_asked_for_than_is_known(make_rig, ros):
    from rcl_interfaces.msg import Log

    rig, said = make_rig(), []
    log = rig.peer.create_subscription(Log, '/rosout', said.append, 100)
    rig.until(lambda: log.get_publisher_count() > 0)
    rig.start().listen('shift')

    def warnings() -> list[str]:
        own = rig.node.get_logger().name
        return [m.msg for m in said if m.name == own and 'false alarm in' in m.msg]

    rig.until(warnings)
    assert 'one false alarm in 8 h is asked for, but nobody has counted' in warnings()[0]
    for name, value in (('hold_s', 5.0), ('false_alarm_interval_h', 1000.0)):
        rig.node.set_parameters([Parameter(f'shift.{name}', value=value)])
    rig.until(lambda: len(warnings()) > 1)
    assert len(warnings()) == 2
    assert 'one false alarm in 1000 h' in warnings()[1]


def test_heat_map_is_made_only_for_a_listener(make_rig, tiny_bundle, daylight_image, monkeypatch):
    import clcp_ros.pipeline as module

    calls = []
    real = module.heat_map
    monkeypatch.setattr(module, 'heat_map', lambda *a: calls.append(1) or real(*a))
    rig = make_rig().start().listen('mask')
    stamp_ns = time.time_ns()
    rig.send(daylight_image(0), stamp_ns)
    rig.until(lambda: rig.got['mask'] and rig.camera.snapshot is not None)
    assert not calls
    rig.listen('shift/heatmap')
    rig.until(lambda: rig.camera.outputs.wanted('shift/heatmap'))
    sent = rig.send(daylight_image(1), stamp_ns + STEP_NS)
    rig.until(lambda: rig.got['shift/heatmap'])
    message = rig.got['shift/heatmap'][0]
    assert message.header == sent.header
    assert (message.encoding, message.height, message.width, message.step) == ('32FC1', 6, 10, 40)
    expected = FramePipeline(tiny_bundle).process(daylight_image(1), 1).heat()
    assert np.array_equal(np.frombuffer(message.data, np.float32), expected.ravel())
