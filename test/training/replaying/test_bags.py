# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from clcp_ros.bag_file import Bag
from clcp_ros.image_codec import encode_jpeg
from training.replay import Written, replay_to_folder

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
FOO = 'my_msgs/msg/Foo'


def stores(ros1: bool) -> Any:
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_JAZZY)
    store.register(get_types_from_msg('int32 number\nstd_msgs/Header header\nstring[] words', FOO))
    return store


@pytest.fixture
def write(tmp_path: Path, daylight_image: Any) -> Callable[..., Path]:
    """Write images, their CameraInfo, a message of an own type, and more."""

    def write_bag(
        ros1: bool = False, stamped: bool = True, more: dict[str, tuple[str, Any]] | None = None
    ) -> Path:
        store = stores(ros1)
        types = store.types
        path = tmp_path / ('in.bag' if ros1 else 'in')
        writer: Any = (
            Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        )

        def header(stamp_ns: int) -> Any:
            time = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
            extra = {'seq': 7} if ros1 else {}
            return types['std_msgs/msg/Header'](stamp=time, frame_id='cam', **extra)

        connections: dict[str, Any] = {}

        def put(topic: str, kind: str, stamp_ns: int, message: Any) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            writer.write(connections[topic], stamp_ns, bytes(serialize(message, kind)))

        names = 'DKRP' if ros1 else 'dkrp'
        zeros = dict(zip(names, (np.zeros(5), np.eye(3).ravel(), np.eye(3).ravel(),
                                 np.zeros(12)), strict=True))  # fmt: skip
        roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        with writer:
            foo = types[FOO](number=3, header=header(START_NS), words=['a', 'b'])
            put('/foo', FOO, START_NS, foo)
            for topic, (kind, message) in (more or {}).items():
                put(topic, kind, START_NS, message(types))
            for i in range(3):
                stamp_ns = START_NS + i * STEP_NS
                own = stamp_ns if stamped else 0
                data = np.frombuffer(encode_jpeg(daylight_image(i)), np.uint8)
                kind = 'sensor_msgs/msg/CompressedImage'
                image = types[kind](header=header(own), format='jpeg', data=data)
                put('/cam/image/compressed', kind, stamp_ns, image)
                kind = 'sensor_msgs/msg/CameraInfo'
                info = types[kind](
                    header=header(own), height=96, width=160, distortion_model='plumb_bob',
                    binning_x=0, binning_y=0, roi=roi, **zeros,
                )  # fmt: skip
                put('/cam/camera_info', kind, stamp_ns, info)
        return path

    return write_bag


@pytest.mark.parametrize('ros1', [False, True])
def test_every_topic_is_taken_over(
    ros1: bool, write: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    replay_to_folder(write(ros1), tiny_bundle, tmp_path / 'out')
    with Bag([tmp_path / 'out' / 'bag']) as bag:
        assert bag.is_ros2
        topic, _, raw = next(iter(bag.raw_messages(['/foo'])))
        foo = bag.decode(topic, raw)
        assert (foo.number, foo.words, foo.header.frame_id) == (3, ['a', 'b'], 'cam')
        assert foo.header.stamp.sec == START_NS // 10**9
        topic, _, raw = next(iter(bag.raw_messages(['/cam/camera_info'])))
        info = bag.decode(topic, raw)
        assert (info.k[0], info.width, info.distortion_model) == (1.0, 160, 'plumb_bob')
        assert bag.topics['/cam/image/compressed'] == ('sensor_msgs/msg/CompressedImage', 3)
        assert bag.topics['/segment/mask'][1] == 3


def test_topics_of_a_recorded_node_are_kept_apart(
    write: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    def text(types: Any) -> Any:
        return types['std_msgs/msg/String'](data='recorded')

    kind = 'std_msgs/msg/String'
    bag = write(more={'/segment/shift': (kind, text), '/diagnostics': (kind, text)})
    replay_to_folder(bag, tiny_bundle, tmp_path / 'out')
    with Bag([tmp_path / 'out' / 'bag']) as found:
        assert found.topics['/segment/shift'] == (kind, 1)
        assert found.topics['/diagnostics'] == (kind, 1)
        assert found.topics['/replay/segment/mask'][1] == 3
        assert found.topics['/replay/diagnostics'][0] == 'diagnostic_msgs/msg/DiagnosticArray'
        assert '/segment/mask' not in found.topics


def test_results_alone_on_request(
    write: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    replay_to_folder(
        write(), tiny_bundle, tmp_path / 'out', write=Written(inputs=False, overlays=False)
    )
    with Bag([tmp_path / 'out' / 'bag']) as bag:
        assert set(bag.topics) == {
            '/segment/mask', '/segment/confidence', '/segment/shift', '/segment/label_info',
            '/segment/camera_info', '/diagnostics',
        }  # fmt: skip


def test_images_without_a_stamp_get_the_time_of_recording(
    write: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    result = replay_to_folder(write(stamped=False), tiny_bundle, tmp_path / 'out')
    assert [r.stamp_ns for r in result.records] == [START_NS + i * STEP_NS for i in range(3)]
    assert sum('without a stamp' in note for note in result.notes) == 1


def test_nothing_is_left_of_a_bag_that_breaks_off(
    write: Callable[..., Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """The damage is found in the middle of the work."""
    from clcp_ros.errors import RecordingError

    bag = write()
    file = next(bag.glob('*.mcap'))
    data = bytearray(file.read_bytes())
    # A message longer than its chunk, without touching the index.
    place = data.index(b'\xff\xd8\xff', len(data) // 3)
    data[place - 200 : place] = b'\xff' * 200
    file.write_bytes(bytes(data))
    with pytest.raises(RecordingError):
        replay_to_folder(bag, tiny_bundle, tmp_path / 'out')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['in']
