# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The same drive out of every container, whole, split, and left behind by a crash."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from clcp_ros.bag_file import Bag
from clcp_ros.errors import ClcpError, RecordingError


def test_every_container_gives_the_same_pairs(bags, tmp_path, container):
    found = bags.read(bags.Drive().write(tmp_path / 'drive', container))
    assert [p.key for p in found.pairs] == [f'drive/{i:06d}' for i in range(4)]
    for i, pair in enumerate(found.pairs):
        np.testing.assert_array_equal(pair.image, bags.picture(i))
        wanted = bags.points(i)
        for column, name in enumerate(('x', 'y', 'z')):
            np.testing.assert_array_equal(pair.points[:, column], wanted[name])
        np.testing.assert_allclose(pair.points[:, 3], wanted['intensity'] / 255, rtol=1e-6)
        np.testing.assert_array_equal(pair.points[:, 4], wanted['ring'])
        np.testing.assert_array_equal(pair.points[:, 5], wanted['time'])
        np.testing.assert_allclose(pair.T_camera_lidar, bags.T_CAMERA_LIDAR, atol=1e-12)
        np.testing.assert_array_equal(pair.K, bags.K)
        assert pair.camera_stamp_ns == bags.START + i * bags.STEP
        assert pair.lidar_stamp_ns == pair.camera_stamp_ns + 7_000_000


def test_stamps_of_the_index_are_those_of_the_messages(bags, tmp_path, container):
    """Also with unknown types between, in several chunks, and when nothing is in order."""
    drive = bags.Drive(12)
    rng = np.random.default_rng(0)
    odd = bags.make('acme_msgs/msg/Odd', secrets=np.arange(90_000, dtype=np.int32), owner='x')
    for _ in range(12):
        time = bags.START + int(rng.integers(0, 12 * bags.STEP))
        drive.add('/odd', time, odd)
    path = drive.write(tmp_path / 'drive', container)
    with Bag([path]) as bag:
        topics = ['/cam/image_raw', '/lidar/points']
        quick, slow = bag.stamps(topics), bag._stamps(topics, bag.raw_messages(topics))
        for topic in topics:
            np.testing.assert_array_equal(quick[topic].header_ns, slow[topic].header_ns)
            np.testing.assert_array_equal(quick[topic].receive_ns, slow[topic].receive_ns)
            assert len(quick[topic].header_ns) == 12
        few = ['/tf_static', '/cam/camera_info']
        assert list(bag.few_messages(few)) == [
            (t, s, bytes(r)) for t, s, r in bag.raw_messages(few)
        ]
    assert len(bags.read(path).pairs) == 12


@pytest.mark.parametrize('container', ['mcap', 'sqlite3', 'ros1'])
def test_stamps_are_read_without_the_messages(bags, tmp_path, container, monkeypatch):
    path = bags.Drive(6).write(tmp_path / 'drive', container)
    with Bag([path]) as bag:
        monkeypatch.setattr(Bag, 'raw_messages', None)
        assert len(bag.stamps(['/cam/image_raw'])['/cam/image_raw'].header_ns) == 6


def test_messages_recorded_at_one_time_stay_in_order(bags, tmp_path, container):
    drive = bags.Drive()
    drive.messages = [(topic, bags.START, message) for topic, _, message in drive.messages]
    found = bags.read(drive.write(tmp_path / 'drive', container))
    assert len(found.pairs) == 4
    for i, pair in enumerate(found.pairs):
        np.testing.assert_array_equal(pair.image, bags.picture(i))
        np.testing.assert_array_equal(pair.points[:, 0], bags.points(i)['x'])


def test_unknown_types_are_skipped(bags, tmp_path, container):
    odd = bags.make('acme_msgs/msg/Odd', secrets=np.arange(3, dtype=np.int32), owner='x')
    drive = bags.Drive(2).add('/odd', bags.START, odd)
    assert len(bags.read(drive.write(tmp_path / 'drive', container)).pairs) == 2


def test_damaged_definitions_do_not_matter(bags, tmp_path):
    """The types used are known; a bag's own text may have lost a letter."""
    path = bags.Drive(2).write(tmp_path / 'drive', 'ros1')
    data = path.read_bytes()
    for name in (b'uint8   datatype', b'uint8 datatype', b'Vector3 translation'):
        data = data.replace(name, name[:-1] + b'X')
    path.write_bytes(data)
    assert len(bags.read(path).pairs) == 2


@pytest.mark.parametrize('suffix', ['.mcap', '.db3'])
def test_folder_without_metadata(bags, tmp_path, suffix):
    """A recorder that was killed has not written metadata.yaml."""
    plugin = 'mcap' if suffix == '.mcap' else 'sqlite3'
    folder = bags.Drive().write(tmp_path / 'drive', plugin)
    (folder / 'metadata.yaml').unlink()
    assert len(bags.read(folder).pairs) == 4
    assert bags.read(tmp_path).sequences == ['drive']


@pytest.mark.parametrize('plugin', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('metadata', [True, False])
def test_split_ros2_bag(bags, tmp_path, plugin, metadata):
    drive = bags.Drive(6)
    messages = sorted(drive.messages, key=lambda m: m[1])
    folder = tmp_path / 'run'
    folder.mkdir()
    suffix = '.mcap' if plugin == 'mcap' else '.db3'
    cut = [i for i, m in enumerate(messages) if m[0] == '/cam/image_raw'][3] + 1
    parts = []
    for number, part in enumerate((messages[:cut], messages[cut:])):
        drive.messages = part
        written = drive.write(tmp_path / f'part_{number}', plugin)
        parts.append(written)
        shutil.copy(written / f'part_{number}{suffix}', folder / f'run_{number}{suffix}')
    if metadata:
        import yaml

        both = [yaml.safe_load((p / 'metadata.yaml').read_text()) for p in parts]
        one, two = (m['rosbag2_bagfile_information'] for m in both)
        one['relative_file_paths'] = [f'run_{n}{suffix}' for n in (0, 1)]
        one['message_count'] += two['message_count']
        counts = {
            t['topic_metadata']['name']: t['message_count']
            for t in two['topics_with_message_count']
        }
        for topic in one['topics_with_message_count']:
            topic['message_count'] += counts.get(topic['topic_metadata']['name'], 0)
        (folder / 'metadata.yaml').write_text(yaml.safe_dump(both[0]))
    found = bags.read(folder)
    assert found.sequences == ['run']
    assert [p.key for p in found.pairs] == [f'run/{i:06d}' for i in range(6)]
    np.testing.assert_array_equal(found.pairs[5].image, bags.picture(5))


def one_line(call, *says: str) -> None:
    with pytest.raises(ClcpError) as error:
        call()
    assert '\n' not in str(error.value)
    for words in says:
        assert words in str(error.value)


def test_ros1_bag_that_was_not_closed(bags, tmp_path):
    path = bags.Drive().write(tmp_path / 'drive', 'ros1')
    data = path.read_bytes()
    # The recorder writes the index' place last: until then it is 0.
    place = data.index(b'index_pos=') + len(b'index_pos=')
    path.write_bytes(data[:place] + bytes(8) + data[place + 8 :])
    one_line(lambda: bags.read(path), 'drive.bag', 'rosbag reindex drive.bag')
    active = path.rename(tmp_path / 'drive.bag.active')
    one_line(lambda: bags.read(active), 'rosbag reindex drive.bag.active')


def test_mcap_that_was_not_closed(bags, tmp_path):
    folder = bags.Drive().write(tmp_path / 'drive')
    file = folder / 'drive.mcap'
    file.write_bytes(file.read_bytes()[:-300])
    (folder / 'metadata.yaml').unlink()
    one_line(lambda: bags.read(folder), 'mcap recover drive.mcap')


def test_mcap_without_an_index(bags, tmp_path):
    """Its footer says that there is no summary; messages are found by reading all of it."""
    whole = bags.Drive().write(tmp_path / 'drive') / 'drive.mcap'
    data = bytearray(whole.read_bytes())
    footer = len(data) - 8 - 20
    data[footer : footer + 16] = bytes(16)
    file = tmp_path / 'plain.mcap'
    file.write_bytes(data)
    found = bags.read(file)
    assert len(found.pairs) == 4
    np.testing.assert_array_equal(found.pairs[3].image, bags.picture(3))


def test_sqlite_log_of_a_crash(bags, tmp_path):
    folder = bags.Drive().write(tmp_path / 'drive', 'sqlite3')
    (folder / 'drive.db3-wal').touch()
    assert len(bags.read(folder).pairs) == 4
    (folder / 'drive.db3-wal').write_bytes(b'something')
    one_line(lambda: bags.read(folder), 'drive.db3-wal', 'wal_checkpoint')


def test_mcap_of_another_profile(bags, tmp_path):
    file = bags.Drive().write(tmp_path / 'drive') / 'drive.mcap'
    file.write_bytes(file.read_bytes().replace(b'ros2', b'ros1', 1))
    one_line(lambda: bags.read(file), 'not of ROS 2')


def test_topics_without_messages(bags, tmp_path, container):
    """A second camera was advertised and never sent."""
    drive = bags.Drive(2)
    other = bags.Drive(1)
    drive.messages += [
        (t.replace('/cam/', '/off/'), s, m) for t, s, m in other.messages if '/cam/' in t
    ]
    path = drive.write(tmp_path / 'drive', container)
    with Bag([path]) as bag:
        assert bag.topics['/off/image_raw'][1] == 1
    assert bags.read(path).sequences == ['drive_cam', 'drive_off']
    lone = bags.Drive(2).without('/lidar/points').write(tmp_path / 'lone', container)
    one_line(lambda: bags.read(lone), 'no PointCloud2 topic', '/cam/image_raw (')


def test_metadata_that_names_other_files(bags, tmp_path):
    folder = bags.Drive().write(tmp_path / 'drive')
    (folder / 'drive.mcap').rename(folder / 'other.mcap')
    one_line(lambda: bags.read(folder), 'ros2 bag reindex drive')


def test_compressed_file_without_its_metadata(bags, tmp_path):
    folder = bags.Drive().write(tmp_path / 'drive', 'sqlite3-file-zstd')
    (folder / 'metadata.yaml').unlink()
    one_line(lambda: bags.read(folder), 'metadata.yaml', 'zstd -d')


def test_empty_files_and_folders(tmp_path, bags):
    (tmp_path / 'empty.mcap').touch()
    one_line(lambda: bags.read(tmp_path / 'empty.mcap'), 'empty')
    (tmp_path / 'empty.bag').touch()
    one_line(lambda: bags.read(tmp_path / 'empty.bag'), 'empty')


def test_messages_that_the_file_lacks_although_its_index_has_them(bags, tmp_path, monkeypatch):
    path = bags.Drive().write(tmp_path / 'drive', 'sqlite3')
    whole = Sqlite3Reader.messages
    monkeypatch.setattr(
        Sqlite3Reader, 'messages',
        lambda self, *args: (m for m in whole(self, *args) if m[1] < bags.START + 2 * bags.STEP),
    )  # fmt: skip
    with pytest.raises(RecordingError, match='2 pairs are missing'):
        bags.read(path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_is_never_a_traceback_nor_a_wrong_result(bags, data, tmp_path_factory):
    """Truncated and with flipped bits, in every container."""
    folder = tmp_path_factory.mktemp('damaged')
    container = data.draw(st.sampled_from(bags.CONTAINERS))
    path = bags.Drive(3).write(folder / 'drive', container)
    file = path if path.is_file() else next(p for p in path.iterdir() if p.suffix != '.yaml')
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 20)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    found, problem = [], ''
    try:
        found = bags.read(path).pairs
    except ClcpError as error:
        problem = str(error)
    assert '\n' not in problem
    for pair in found:
        assert np.isfinite(pair.points).all()
        assert 0 <= pair.points[:, 3].min(initial=0) <= pair.points[:, 3].max(initial=0) <= 1
        assert pair.pixels().shape[2] == 3
        assert np.isfinite(pair.T_camera_lidar).all()
        assert np.isfinite(pair.K).all()


def test_real_bags_as_ros2(sample_data: Path, tmp_path, bags):
    """The clouds of the Luminar come out of every container alike."""
    from rosbags.highlevel import AnyReader
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    source = sample_data / 'rosbags' / 'embag_luminar_pointcloud2_ros1.bag'
    one, two = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_JAZZY)
    kind = 'sensor_msgs/msg/PointCloud2'
    read = {}
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        folder = tmp_path / plugin.name
        with (
            AnyReader([source]) as reader,
            Writer(folder, version=9, storage_plugin=plugin) as out,
        ):
            new = out.add_connection('/luminar_pointcloud', kind, typestore=two)
            wanted = [c for c in reader.connections if c.msgtype == kind]
            for _, time, raw in reader.messages(wanted):
                message = one.deserialize_ros1(raw, kind)
                del message.header.seq
                out.write(new, time, bytes(two.serialize_cdr(message, kind)))
        read[plugin] = folder
    clouds = []
    for path in (source, *read.values()):
        with Bag([path]) as bag:
            stamps = bag.stamps(['/luminar_pointcloud'])['/luminar_pointcloud']
            messages = [
                bag.decode(topic, raw)
                for topic, _, raw in bag.raw_messages(['/luminar_pointcloud'])
            ]
        assert len(messages) == 5
        clouds.append((stamps.header_ns, [bytes(m.data) for m in messages]))
    for stamps_ns, data in clouds[1:]:
        np.testing.assert_array_equal(stamps_ns, clouds[0][0])
        assert data == clouds[0][1]
