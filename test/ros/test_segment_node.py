# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from clcp_ros.image_codec import encode_jpeg
from clcp_ros.pipeline import FramePipeline

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from clcp_ros.node_inputs import resolve_topics

STEP_NS = 100_000_000


def test_results_carry_the_image_header_and_the_pipeline_values(
    make_rig, tiny_bundle, daylight_image
):
    rig = make_rig().start().listen('mask', 'confidence', 'shift')
    pipeline = FramePipeline(tiny_bundle)
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
        assert values['novelty_z'] == f'{expected.shift.score.novelty:.6f}'
        assert values['novelty_smoothed'] == f'{expected.shift.smoothed:.6f}'
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
    info = CameraInfo(height=96, width=160, distortion_model='plumb_bob', d=[0.1, 0, 0, 0, 0])
    info.k = [100.0, 0, 79.5, 0, 100.0, 47.5, 0, 0, 1]
    info.p = [100.0, 0, 79.5, -20.0, 0, 100.0, 47.5, 0, 0, 0, 1, 0]
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
    for i in range(5):
        rig.send(daylight_image(i), start_ns + i)
        rig.until(lambda n=i: rig.camera.statistics.counts['received'] == n + 1)
    rig.until(lambda: len(rig.got['mask']) == 2)
    stamps = [
        m.header.stamp.sec * 10**9 + m.header.stamp.nanosec - start_ns for m in rig.got['mask']
    ]
    assert stamps == [0, 4]
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
    rig.until(lambda: 'clock mismatch' in (rig.status('input') or DiagnosticStatus()).message)
    assert 'use_sim_time' in rig.status('input').message


def test_level_change_is_told_at_once_and_looped_stamps_start_anew(make_rig, daylight_image):
    rig = make_rig(diagnostics__period_s=60.0).start().listen('mask', 'shift')
    start_ns = time.time_ns()
    black = np.zeros((96, 160, 3), np.uint8)
    images = [daylight_image(i) for i in range(6)] + [black] + [daylight_image(9)]
    stamps = [start_ns + i * STEP_NS for i in range(7)] + [start_ns]
    for i, (image, stamp_ns) in enumerate(zip(images, stamps, strict=True)):
        rig.send(image, stamp_ns)
        rig.until(lambda n=i: len(rig.got['shift']) == n + 1)
    rig.until(lambda: len(rig.diagnostics) >= 4)
    levels = [
        s.level for array in rig.diagnostics for s in array.status if s.name.endswith('shift')
    ]
    said = DiagnosticStatus
    assert levels == [said.STALE, said.OK, said.ERROR, said.STALE]
    last = {v.key: v.value for v in rig.got['shift'][-1].status[0].values}
    assert last['samples'] == '1'


def test_lifecycle_by_services(make_rig, daylight_image):
    rig = make_rig(autostart=False)
    rig.spin()
    rig.listen()
    change = rig.peer.create_client(ChangeState, 'segment/change_state')
    get = rig.peer.create_client(GetState, 'segment/get_state')
    assert change.wait_for_service(20)
    assert get.wait_for_service(20)

    def call(transition_id: int) -> str:
        request = ChangeState.Request(transition=Transition(id=transition_id))
        future = change.call_async(request)
        rig.until(future.done)
        assert future.result().success
        state = get.call_async(GetState.Request())
        rig.until(state.done)
        return state.result().current_state.label

    for cycle in range(3):
        assert call(Transition.TRANSITION_CONFIGURE) == 'inactive'
        rig.listen('mask')
        assert rig.node.count_subscribers(f'{rig.namespace}/image') == 0
        assert call(Transition.TRANSITION_ACTIVATE) == 'active'
        rig.until(lambda: rig.node.count_subscribers(f'{rig.namespace}/image') == 1)
        rig._publishers.clear()
        rig.send(daylight_image(cycle), time.time_ns())
        rig.until(lambda: rig.got['mask'])
        assert call(Transition.TRANSITION_DEACTIVATE) == 'inactive'
        assert call(Transition.TRANSITION_CLEANUP) == 'unconfigured'
        assert rig.node._pipeline is None
    rig.until(lambda: rig.status('input').level == DiagnosticStatus.STALE)
    assert rig.status('input').message == 'not active'
    assert call(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN) == 'finalized'


def test_wrong_bundle_fails_configuration_with_its_reason(make_rig, tiny_bundle, tmp_path):
    bad = tmp_path / 'bad'
    shutil.copytree(tiny_bundle, bad)
    with (bad / 'model.onnx').open('ab') as file:
        file.write(b'x')
    rig = make_rig(bundle__path=str(bad))
    assert not rig.node.start()
    assert 'hash' in rig.node.failure
    rig.spin()
    rig.listen()
    rig.until(lambda: rig.status('inference'))
    assert rig.status('inference').level == DiagnosticStatus.ERROR
    assert 'hash' in rig.status('inference').message
    # The node is still there, and starts once the bundle is right.
    rig.node.set_parameters([Parameter('bundle.path', value=str(tiny_bundle))])
    assert rig.node.start()


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('shift.warn_enter', 1.0, 'warn_exit must be below warn_enter'),
        ('shift.smoothing_s', 0.0, 'range'),
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
    rig = make_rig().start().listen('shift')
    results = rig.node.set_parameters_atomically(
        [Parameter('shift.warn_enter', value=-2.0), Parameter('shift.warn_exit', value=-3.0)]
    )
    assert results.successful, results.reason
    start_ns = time.time_ns()
    for i in range(5):
        rig.send(daylight_image(i), start_ns + i * STEP_NS)
        rig.until(lambda n=i: len(rig.got['shift']) == n + 1)
    assert rig.got['shift'][-1].status[0].level == DiagnosticStatus.WARN


def test_every_parameter_is_described_and_in_the_parameter_file(make_rig, root: Path):
    import yaml

    from clcp_ros.node_parameters import PARAMETERS

    rig = make_rig()
    descriptions = rig.node.describe_parameters(list(PARAMETERS))
    assert all(d.description for d in descriptions)
    document = yaml.safe_load((root / 'config' / 'segment.yaml').read_text())
    flat = {}

    def walk(prefix, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f'{prefix}{key}.', inner)
        else:
            flat[prefix[:-1]] = value

    walk('', document['/**']['ros__parameters'])
    flat = {k: v for k, v in flat.items() if not k.startswith('qos_overrides')}
    assert flat == {
        name: parameter.default
        for name, parameter in PARAMETERS.items()
        if name not in ('bundle.path', 'autostart')
    }


def test_bytes_that_are_no_message_do_not_end_the_node(make_rig, daylight_image):
    from rclpy.serialization import serialize_message

    rig = make_rig().start().listen('mask')
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: len(rig.got['mask']) == 1)
    good = rig.send(daylight_image(1), time.time_ns())
    rig.until(lambda: len(rig.got['mask']) == 2)
    data = serialize_message(good)
    publisher = rig.publisher(Image, 'image')
    no_text = data.replace(b'camera_optical', b'\xff\xfe\xfd\xfcra_optical')
    huge = data.replace((96 * 160 * 3).to_bytes(4, 'little'), b'\xff\xff\xff\x7f')
    for raw in (data[:40], b'\x00\x01\x00\x00', no_text, huge, data[:-1000]):
        publisher.publish(raw)
        time.sleep(0.1)
    assert rig._thread.is_alive()
    rig.send(daylight_image(2), time.time_ns())
    count = len(rig.got['mask'])
    rig.until(lambda: len(rig.got['mask']) > count)


def test_nonsense_never_ends_the_node_and_every_frame_is_accounted_for(make_rig, daylight_image):
    from clcp_ros.image_codec import ENCODINGS

    rig = make_rig().start().listen('mask')
    publisher = rig.publisher(Image, 'image')
    infos = rig.publisher(CameraInfo, 'camera_info')
    choose = random.Random(0).choice
    for i in range(300):
        message = Image(
            encoding=choose([*ENCODINGS, '', 'x' * 1000, '32FC1', '\u00fc']),
            height=choose([0, 1, 7, 48, 2**31]),
            width=choose([0, 1, 3, 80, 2**32 - 1]),
            step=choose([0, 1, 240, 2**32 - 1]),
            is_bigendian=choose([0, 255]),
            data=array.array('B', bytes(choose([0, 1, 100, 48 * 240]))),
        )
        message.header.frame_id = choose(['', 'a' * 5000])
        message.header.stamp.sec = choose([0, -(2**31), 2**31 - 1])
        message.header.stamp.nanosec = choose([0, 2**32 - 1])
        if i % 10 == 0:
            info = CameraInfo(k=[float('nan')] * 9, p=[float('inf')] * 12)
            info.roi.x_offset = 2**32 - 1
            infos.publish(info)
        publisher.publish(message)
        time.sleep(0.002)
    counts = rig.camera.statistics.counts
    rig.until(
        lambda: (
            counts['received'] == sum(counts[k] for k in ('processed', 'dropped', 'bad', 'failed'))
        )
    )
    assert counts['bad'] > 50
    seen = len(rig.got['mask'])
    rig.send(daylight_image(0), time.time_ns())
    rig.until(lambda: len(rig.got['mask']) > seen)
