# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from clcp_ros.errors import RecordingError
from training.monitoring.domain import nominal_sources

SECOND = 10**9


def write_bag(path: Path, stamps_ns: Sequence[int], start_ns: int = 50 * SECOND) -> Path:
    """Gray images at 1 Hz of the recorder's clock, with stamps of their own."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = 'sensor_msgs/msg/Image'
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/camera/image', kind, typestore=store)
        for i, stamp_ns in enumerate(stamps_ns):
            stamp = store.types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, SECOND))
            message = store.types[kind](
                header=store.types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera'),
                height=6, width=8, encoding='mono8', is_bigendian=0, step=8,
                data=np.full(48, i, np.uint8),
            )  # fmt: skip
            raw = bytes(store.serialize_cdr(message, kind))
            writer.write(connection, start_ns + i * SECOND, raw)
    return path


def stamps(count: int) -> list[int]:
    return [(100 + i) * SECOND for i in range(count)]


def test_drives_of_one_name_in_several_folders_are_several_drives(tmp_path: Path) -> None:
    """As one drive their frames would be sorted into each other."""
    days = [write_bag(tmp_path / day / 'drive1', stamps(3 + i)) for i, day in enumerate('ab')]
    write_bag(tmp_path / 'a' / 'drive2', stamps(2))
    wanted = {'a/drive1': 3, 'drive2': 2, 'b/drive1': 4}
    sources = nominal_sources(f'{tmp_path / "a"},{tmp_path / "b"}')
    assert {s.drive: len(list(s.read())) for s in sources} == wanted
    for source in sources:
        assert {item.drive for item in source.read()} == {source.drive}
    assert len({s.key for s in sources}) == 3
    # The same of paths to the bags themselves, and what is named twice is one drive.
    direct = nominal_sources(f'{days[0]},{days[1]},{days[0]}')
    assert [s.drive for s in direct] == ['a/drive1', 'b/drive1']


def test_images_without_a_stamp_have_the_time_of_recording(tmp_path: Path) -> None:
    (source,) = nominal_sources(str(write_bag(tmp_path / 'd', [0] * 9)))
    assert [item.stamp_ns for item in source.read()] == [(50 + i) * SECOND for i in range(9)]


def test_images_that_share_one_stamp_are_refused_with_the_reason(tmp_path: Path) -> None:
    (source,) = nominal_sources(str(write_bag(tmp_path / 'd', [7 * SECOND] * 9)))
    with pytest.raises(RecordingError, match='all 9 images have the same stamp'):
        list(source.read())


def test_rounds_of_a_looped_recording_count_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source,) = nominal_sources(str(write_bag(tmp_path / 'd', 2 * stamps(4))))
    with caplog.at_level(logging.WARNING):
        assert [item.stamp_ns for item in source.read()] == stamps(4)
    assert '4 of 8 images are left out' in caplog.text
