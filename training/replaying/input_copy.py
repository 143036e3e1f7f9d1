# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Takes a bag's own messages over into a rosbag2 of MCAP, whatever it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rosbags.convert.converter import is_same_wireformat, migrate_bytes
from rosbags.interfaces import Connection, ConnectionExtRosbag1, ConnectionExtRosbag2
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clcp_ros.bag_file import Bag
from training.replaying.messages import typestore

_RENAMED = {'tf/msg/tfMessage': 'tf2_msgs/msg/TFMessage'}

Convert = Callable[[bytes], bytes | memoryview]


class InputCopy:
    """The topics of a bag in another.

    ROS 2 messages keep their bytes, definitions and quality of service. ROS 1 messages become
    those of ROS 2 by the names of their fields.

    Args:
        bag: Read from; open.
        writer: Written to; open.
        without: Topics to leave out.

    Attributes:
        notes: Topics that could not be taken over, and why.
    """

    def __init__(self, bag: Bag, writer: Writer, without: frozenset[str] = frozenset()) -> None:
        self._writer = writer
        self._targets: dict[str, tuple[Connection, Convert]] = {}
        self.notes: list[str] = []
        self._unreadable: set[str] = set()
        for source in bag.connections:
            if source.topic in without or source.topic in self._targets:
                continue
            try:
                if bag.is_ros2:
                    target, convert = self._same(source)
                else:
                    target, convert = self._converted(source)
            except Exception as error:  # whatever rosbags makes of a definition it cannot read
                self.notes.append(
                    f'{source.topic} ({source.msgtype}) is not in the MCAP: its definition is '
                    f'missing or cannot be read ({error or type(error).__name__})'
                )
                continue
            self._targets[source.topic] = (target, convert)

    def connection(self, topic: str) -> Connection | None:
        """Where a topic is written to."""
        found = self._targets.get(topic)
        return None if found is None else found[0]

    def write(self, topic: str, time_ns: int, raw: bytes) -> None:
        """Write one message; one that does not fit its type is left out, and noted once."""
        found = self._targets.get(topic)
        if found is None:
            return
        target, convert = found
        try:
            data = convert(raw)
        except Exception as error:  # rosbags raises whatever the damage led to
            if topic not in self._unreadable:
                self._unreadable.add(topic)
                self.notes.append(f'messages of {topic} that cannot be read are left out: {error}')
            return
        self._writer.write(target, time_ns, data)

    def _same(self, source: Connection) -> tuple[Connection, Convert]:
        assert isinstance(source.ext, ConnectionExtRosbag2)
        options: dict[str, Any] = {
            'serialization_format': source.ext.serialization_format,
            'offered_qos_profiles': source.ext.offered_qos_profiles,
        }
        text = source.msgdef.data
        if text and source.digest:
            options |= {'msgdef': text, 'rihs01': source.digest}
        else:
            store = typestore()
            if source.msgtype not in store.types:
                store = get_typestore(Stores.ROS2_JAZZY)
                store.register(get_types_from_msg(text, source.msgtype))
            options['typestore'] = store
        return self._writer.add_connection(source.topic, source.msgtype, **options), bytes

    def _converted(self, source: Connection) -> tuple[Connection, Convert]:
        assert isinstance(source.ext, ConnectionExtRosbag1)
        kind = _RENAMED.get(source.msgtype, source.msgtype)
        first = get_typestore(Stores.EMPTY)
        first.register(get_types_from_msg(source.msgdef.data, source.msgtype))
        second = typestore()
        if kind not in second.types:
            second = _in_ros2(first)
        target = self._writer.add_connection(source.topic, kind, typestore=second)
        if kind == source.msgtype and is_same_wireformat(first, second, kind, kind):
            return target, lambda raw: second.ros1_to_cdr(raw, kind)
        cache: dict[str, object] = {}
        return target, lambda raw: migrate_bytes(
            first, second, source.msgtype, kind, cache, raw, src_is2=False, dst_is2=True
        )


def _in_ros2(store: Typestore) -> Typestore:
    """Own types of a ROS 1 bag with the header of ROS 2."""
    header = typestore().fielddefs['std_msgs/msg/Header']
    time = typestore().fielddefs['builtin_interfaces/msg/Time']
    other = get_typestore(Stores.EMPTY)
    other.register(
        {
            **store.fielddefs,
            'std_msgs/msg/Header': header,
            'builtin_interfaces/msg/Time': time,
        }
    )
    return other
