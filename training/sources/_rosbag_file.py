# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bags as files: where they are, and reading them with one kind of error."""

from __future__ import annotations

import contextlib
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from clcp_ros.errors import ClcpError, RecordingError

SUFFIXES = ('.bag', '.mcap', '.db3')


def bag_groups(path: Path) -> list[tuple[str, list[Path]]]:
    """Bags at a path: a file, a ROS 2 bag folder, or a folder of either.

    Returns:
        Name and files of each, sorted by name; several files where ROS 1 split a bag.
    """
    if path.is_file():
        return [(path.stem, [path])] if path.suffix in SUFFIXES else []
    if not path.is_dir():
        return []
    if (path / 'metadata.yaml').is_file():
        return [(path.resolve().name, [path])]
    found: dict[str, list[Path]] = defaultdict(list)
    for child in sorted(path.iterdir()):
        if child.is_dir() and (child / 'metadata.yaml').is_file():
            found[child.name].append(child)
        elif child.is_file() and child.suffix in SUFFIXES:
            found[child.stem].append(child)
    return sorted(_join_split(found).items())


def _join_split(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Join what `rosbag record --split` wrote: name_0.bag, name_1.bag, ..., none missing."""
    numbered: dict[str, dict[int, str]] = defaultdict(dict)
    for name, files in found.items():
        split = re.fullmatch(r'(.+)_(\d+)', name)
        if split and files[0].suffix == '.bag':
            numbered[split[1]][int(split[2])] = name
    joined = dict(found)
    for base, parts in numbered.items():
        if len(parts) > 1 and sorted(parts) == list(range(len(parts))) and base not in joined:
            joined[base] = [joined.pop(parts[number])[0] for number in range(len(parts))]
    return joined


@functools.cache
def _common_messages() -> Typestore:
    """For old sqlite3 bags, which carry no definitions; those used here have not changed since."""
    return get_typestore(Stores.ROS2_JAZZY)


class Bag:
    """An open bag.

    What `rosbags` raises for damaged files depends on where the damage is, down to struct.error
    and assertions; here it is always a RecordingError.

    Args:
        files: One bag; several files of a split ROS 1 bag.

    Attributes:
        topics: Topic: (message type, number of messages).
        is_ros2: Whether messages are CDR.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.topics: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Bag:
        with self._errors():
            self._reader = AnyReader(self.files, default_typestore=_common_messages())
            self._reader.open()
            self.is_ros2 = self._reader.is2
            for connection in self._reader.connections:
                _, count = self.topics.get(connection.topic, ('', 0))
                self.topics[connection.topic] = (
                    connection.msgtype,
                    count + int(connection.msgcount),
                )
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._reader.close()

    def raw_messages(self, topics: list[str]) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time of recording and bytes of the messages of some topics, in time order.

        Raises:
            RecordingError: The bag is damaged.
        """
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        messages = self._reader.messages(connections=connections)
        while True:
            with self._errors():
                entry = next(messages, None)
            if entry is None:
                return
            connection, time, raw = entry
            yield connection.topic, time, raw

    def decode(self, topic: str, raw: bytes) -> Any:
        """A message.

        Raises:
            RecordingError: It does not fit its type.
        """
        try:
            return self._reader.deserialize(raw, self.topics[topic][0])
        except Exception as error:
            raise RecordingError(f'message cannot be decoded: {error!r}') from None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (ClcpError, GeneratorExit):
            raise
        except Exception as error:
            reason = ' '.join(str(error).split()).rstrip('.') or repr(error)
            raise RecordingError(
                f'{self.files[0]} cannot be read, it may be truncated: {reason}. What was cut off '
                'while recording can be repaired: mcap recover, ros2 bag reindex, rosbag reindex'
            ) from None
