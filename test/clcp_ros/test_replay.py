# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros.errors import BundleError, RecordingError
from clcp_ros.image_codec import encode_png
from clcp_ros.monitor import Level, MonitorConfig
from clcp_ros.pipeline import FramePipeline
from clcp_ros.read_ahead import read_ahead
from clcp_ros.replay import (
    CONDITION_TOPIC,
    LABELS_TOPIC,
    FrameRecord,
    ReplayBag,
    changed_settings,
    confusion_matrix,
    mean_iou,
    replay_direct,
)
from clcp_ros.replay_bag import short_names
from clcp_ros.replay_scores import agreement, class_table

pytest.importorskip('rosbags')

from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

STEP_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


@pytest.fixture
def write_bag(tmp_path: Path) -> Callable[..., Path]:
    """Write images at 10 Hz, and what simulated bags have beside them."""

    def write(
        images: list[np.ndarray],
        *,
        ros1: bool = False,
        compressed: bool = False,
        truncated: list[int] | None = None,
        conditions: dict[int, str] | None = None,
        labels: list[np.ndarray] | None = None,
        second_camera: bool = False,
        rounds: int = 1,
    ) -> Path:
        store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
        path = tmp_path / f'bag{len(list(tmp_path.iterdir()))}{".bag" if ros1 else ""}'
        writer: Any = (
            Writer1(path) if ros1 else Writer2(path, version=9, storage_plugin=StoragePlugin.MCAP)
        )
        connections: dict[str, Any] = {}

        late_ns = 0

        def put(topic: str, kind: str, stamp_ns: int, **fields: Any) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            message = store.types[kind](**fields)
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            time_ns = stamp_ns + late_ns
            writer.write(connections[topic], time_ns, bytes(serialize(message, kind)))

        def header(stamp_ns: int) -> Any:
            sec, nanosec = divmod(stamp_ns, 1_000_000_000)
            time = store.types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec)
            extra = {'seq': 0} if ros1 else {}
            return store.types['std_msgs/msg/Header'](stamp=time, frame_id='camera', **extra)

        def encoded(stamp_ns: int, topic: str, data: bytes) -> None:
            put(
                topic, 'sensor_msgs/msg/CompressedImage', stamp_ns, header=header(stamp_ns),
                format='', data=np.frombuffer(data, np.uint8),
            )  # fmt: skip

        with writer:
            for n, (i, image) in enumerate(list(enumerate(images)) * rounds):
                late_ns = n // len(images) * len(images) * STEP_NS
                stamp_ns = START_NS + i * STEP_NS
                if i in (conditions or {}):
                    put(CONDITION_TOPIC, 'std_msgs/msg/String', stamp_ns, data=conditions[i])
                if labels:
                    encoded(stamp_ns, LABELS_TOPIC, encode_png(labels[i]))
                if compressed:
                    data = encode_png(image)
                    data = data[:500] if i in (truncated or []) else data
                    encoded(stamp_ns, '/camera/front/image/compressed', data)
                    continue
                for name in ('front', 'rear') if second_camera else ('front',):
                    put(
                        f'/camera/{name}/image', 'sensor_msgs/msg/Image', stamp_ns,
                        header=header(stamp_ns), height=image.shape[0], width=image.shape[1],
                        encoding='rgb8', is_bigendian=0, step=image.shape[1] * 3,
                        data=image.ravel(),
                    )  # fmt: skip
        return path

    return write


def said(record: FrameRecord) -> list[str]:
    return [str(getattr(record, f.name)) for f in fields(record) if f.compare]


def test_settings_of_the_monitor_are_the_pipelines(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    bag = write_bag([daylight_image(i) for i in range(12)])
    monitor = MonitorConfig(period_s=0.0, min_samples=2, false_alarm_interval_h=1000.0)
    result = replay_direct(bag, tiny_bundle, monitor=monitor)
    pipeline = FramePipeline(tiny_bundle, monitor=monitor)
    for i, record in enumerate(result.records):
        expected = pipeline.process(daylight_image(i), record.stamp_ns).shift
        assert record.cusum_threshold == expected.cusum_threshold or i < 2
        assert (record.level, record.reason) == (expected.level, expected.reason)
        assert expected.score is not None
        assert record.novelty_z == expected.score.novelty
    assert result.records[2].level != Level.STALE
    # Not what the defaults give.
    assert [said(r) for r in replay_direct(bag, tiny_bundle).records] != [
        said(r) for r in result.records
    ]


def test_settings_that_do_not_fit_a_bundle_are_refused(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    with pytest.raises(BundleError, match="'tram' is expected"):
        replay_direct(
            write_bag([daylight_image(0)]),
            tiny_bundle,
            monitor=MonitorConfig(expected_classes=('tram',)),
        )


def test_settings_are_told_as_ros_reads_them() -> None:
    assert changed_settings(MonitorConfig()) == {}
    changed = MonitorConfig(warn_drop=0.08, hold_s=7, expected_classes=('road', 'traffic light'))
    assert changed_settings(changed) == {
        'warn_drop': '0.08', 'hold_s': '7.0', 'expected_classes': '["road", "traffic light"]',
    }  # fmt: skip


def test_a_looped_recording_is_judged_round_by_round(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    images = [daylight_image(i) for i in range(14)]
    frames: list[Any] = []
    result = replay_direct(write_bag(images, rounds=2), tiny_bundle, on_frame=frames.append)
    assert not result.bad
    assert [r.repeat for r in result.records] == [0] * 14 + [1] * 14
    # Time goes on, for plots.
    times = [r.time_s for r in result.records]
    assert times == pytest.approx([i * STEP_NS * 1e-9 for i in range(28)])
    pipeline = FramePipeline(tiny_bundle)
    for i, (record, frame) in enumerate(zip(result.records, frames, strict=True)):
        expected = pipeline.process(images[i % 14], START_NS + i % 14 * STEP_NS)
        assert record.stamp_ns == expected.stamp_ns
        assert (record.level, record.reason) == (expected.shift.level, expected.shift.reason)
        assert record.samples == expected.shift.samples
        assert record.monitored == expected.monitored
        assert np.array_equal(frame.mask, expected.mask)
    assert 'stamps went back' in result.records[14].reason


def test_records_are_those_of_the_pipeline(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    black = np.zeros((96, 160, 3), np.uint8)
    images = [daylight_image(i) for i in range(6)] + [black] * 11
    frames = []
    result = replay_direct(write_bag(images), tiny_bundle, on_frame=frames.append)
    pipeline = FramePipeline(tiny_bundle)
    for i, (image, record, frame) in enumerate(zip(images, result.records, frames, strict=True)):
        expected = pipeline.process(image, START_NS + i * STEP_NS)
        assert record.stamp_ns == START_NS + i * STEP_NS
        assert record.time_s == pytest.approx(i * 0.1)
        assert record.level == expected.shift.level
        score = expected.shift.score  # of a few frames a second
        assert record.novelty_z == score.novelty if score else math.isnan(record.novelty_z)
        said = expected.shift.numbers | expected.shift.texts
        assert repr({name: getattr(record, name) for name in said}) == repr(said)
        assert record.samples == expected.shift.samples
        assert np.array_equal(frame.mask, expected.mask)
        assert np.array_equal(frame.image, image)
        assert frame.record is record
    assert sum(not math.isnan(record.novelty_z) for record in result.records) == 4
    assert [r.level for r in result.records[-2:]] == [Level.STALE, Level.ERROR]


def test_compressed_images_and_ros1_bags_are_read(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    images = [daylight_image(0)]
    raw = replay_direct(write_bag(images, ros1=True), tiny_bundle)
    assert raw.records[0].stamp_ns == START_NS
    compressed = replay_direct(write_bag(images, compressed=True), tiny_bundle)
    assert compressed.image_topic == '/camera/front/image/compressed'
    assert compressed.records == raw.records


def test_condition_is_the_one_in_force(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    images = [daylight_image(i) for i in range(4)]
    bag = write_bag(images, conditions={1: 'clear', 3: 'night'})
    records = replay_direct(bag, tiny_bundle).records
    assert [r.condition for r in records] == ['', 'clear', 'clear', 'night']


def test_labels_of_other_classes_are_left_out_with_a_note(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    bag = write_bag([daylight_image(0)], labels=[np.zeros((96, 160), np.uint8)])
    result = replay_direct(bag, tiny_bundle)
    assert math.isnan(result.records[0].miou)
    assert 'no mIoU' in result.notes[0]


def test_bad_images_are_noted_and_the_replay_goes_on(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    images = [daylight_image(i) for i in range(3)]
    result = replay_direct(write_bag(images, compressed=True, truncated=[1]), tiny_bundle)
    assert [r.stamp_ns for r in result.records] == [START_NS, START_NS + 2 * STEP_NS]
    assert result.bad[0][0] == START_NS + STEP_NS
    assert 'truncated' in result.bad[0][1]
    assert '1 of 3' in result.notes[0]


def test_bag_without_a_usable_image_is_an_error(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    bag = write_bag([daylight_image(0)], compressed=True, truncated=[0])
    with pytest.raises(RecordingError, match='truncated'):
        replay_direct(bag, tiny_bundle)


def test_unclear_topics_are_listed(
    tmp_path: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    bag = write_bag([daylight_image(0)])
    with pytest.raises(RecordingError, match=r'/nothing does not exist.*/camera/front/image \('):
        ReplayBag(bag, '/nothing')
    two = write_bag([daylight_image(0)], second_camera=True)
    with ReplayBag(two, '/camera/rear/image') as chosen:
        assert chosen.frame_count == 1
    with pytest.raises(RecordingError, match="no camera 'left'; it has front, rear"):
        ReplayBag(two, cameras='left')
    with pytest.raises(RecordingError, match='2 names in --cameras for 1 topics'):
        ReplayBag(two, '/camera/rear/image', 'a,b')
    with pytest.raises(RecordingError, match='no such bag'):
        ReplayBag(tmp_path / 'nowhere')
    damaged = next(bag.glob('*.mcap'))
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(RecordingError, match='cannot be read'):
        ReplayBag(bag)


def test_cameras_are_replayed_side_by_side(
    tiny_bundle: Path, write_bag: Callable[..., Path], daylight_image: Any
) -> None:
    images = [daylight_image(i) for i in range(4)]
    bag = write_bag(images, second_camera=True)
    result = replay_direct(bag, tiny_bundle)
    assert [camera.name for camera in result.cameras] == ['front', 'rear']
    assert [r.camera for r in result.records] == ['front', 'rear'] * 4
    alone = replay_direct(bag, tiny_bundle, cameras='rear').records
    assert [r.camera for r in alone] == ['rear'] * 4
    # Each has a monitor of its own; cameras share the false alarms that are accepted.
    rear = [r for r in result.records if r.camera == 'rear']
    assert rear[0].cusum_threshold > alone[0].cusum_threshold
    assert [replace(r, cusum_threshold=alone[0].cusum_threshold) for r in rear] == alone
    named = replay_direct(bag, tiny_bundle, image_topic='camera/front/image', cameras='left')
    assert {r.camera for r in named.records} == {'left'}


@pytest.mark.parametrize(
    ('topics', 'names'),
    [
        (['/image'], ['image']),
        (['/camera/image/compressed'], ['camera']),
        (['/camera/front/image', '/camera/rear/image_raw/compressed'], ['front', 'rear']),
        (['/a/cam/image', '/b/cam/image'], ['a_cam', 'b_cam']),
        (['/cam/image_raw', '/cam/image_rect'], ['camera_cam_image_raw', 'camera_cam_image_rect']),
        (['/0/image', '/1/image'], ['camera_0', 'camera_1']),
    ],
)
def test_names_of_cameras_are_short_and_valid(topics: list[str], names: list[str]) -> None:
    assert short_names(topics) == names


def test_what_is_read_ahead_comes_in_order_and_fails_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise ValueError('after four')

    found: list[int] = []
    with pytest.raises(ValueError, match='after four'):
        found.extend(read_ahead(numbers(), depth=2))
    assert found == list(range(5))


def test_reading_ahead_ends_when_nobody_takes() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    before = threading.active_count()
    ahead = read_ahead(read_ahead(endless()))
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead.close()
    assert closed.is_set()
    assert threading.active_count() == before


def test_agreement_leaves_out_what_has_no_class() -> None:
    first = np.array([[0, 0, 1, 255]], np.uint8)
    assert agreement(first, np.array([[0, 1, 1, 1]], np.uint8)) == pytest.approx(2 / 3)
    assert agreement(first, np.array([[0, 1]], np.uint8)) == pytest.approx(1.0)
    assert math.isnan(agreement(first, np.full((1, 4), 255, np.uint8)))


def test_class_table_goes_by_names() -> None:
    table = class_table(('sky', 'road', 'moon'), ('road', 'sky'))
    assert table[:4].tolist() == [1, 0, 254, 255]
    assert table[255] == 255


def test_mean_iou_by_hand() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    mask = np.array([[0, 0, 1, 0], [0, 2, 255, 2]], np.uint8)
    confusion = confusion_matrix(mask, labels, 3)
    # Class 0: 3 hit of 4 labels and 1 false; class 1: 1 hit of 3 labels, one of them unlabelled by
    # the mask; class 2 is not in the labels.
    assert mean_iou(confusion) == pytest.approx((3 / 5 + 1 / 3) / 2)
    half = np.array([[0, 1]], np.uint8)
    assert mean_iou(confusion_matrix(half, labels[:1], 3)) == pytest.approx(1.0)
    assert math.isnan(mean_iou(np.zeros((3, 4), np.int64)))


def test_live_replay_without_ros_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['rclpy'] = None\n"
        'from clcp_ros.errors import ClcpError\n'
        'try:\n    import clcp_ros.replay_node\n'
        'except ClcpError as error:\n    print(error)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert 'needs ROS 2' in done.stdout, done.stderr
    assert 'pip install' in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_node_without_ros_says_how_to_get_it() -> None:
    code = (
        "import runpy, sys; sys.modules['rclpy'] = None\n"
        "runpy.run_module('clcp_ros.segment_node', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith('error: the node needs ROS 2')
    assert len(done.stderr.splitlines()) == 1
