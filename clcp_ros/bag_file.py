# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bags as files: where they are, and reading them with one kind of error."""

from __future__ import annotations

import contextlib
import functools
import heapq
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clcp_ros.bag_index import indexed_messages
from clcp_ros.errors import ClcpError, RecordingError

SUFFIXES = ('.bag', '.mcap', '.db3')

NO_STAMP = -(1 << 62)
"""The stamp of a message that is too short to have one."""

_HEADER_BYTES = 16
"""Enough of a message for its header's stamp."""

_CURES = (
    (
        'not indexed',
        'it was not closed while recording: make an index with "rosbag reindex {name}"',
    ),
    (
        'end magic',
        'it was not closed while recording: repair it with "mcap recover {name} -o repaired.mcap"',
    ),
    (
        'not in timestamp order',
        'it has no index and is not in order: "mcap recover {name} -o repaired.mcap"',
    ),
    (
        'Profile is not ros2',
        'its messages are not of ROS 2: record it again, or convert it with "mcap convert"',
    ),
    (
        'database files are missing',
        'metadata.yaml names other files: "ros2 bag reindex {folder}" writes it anew',
    ),
    ('metadata', 'write metadata.yaml anew with "ros2 bag reindex {folder}"'),
    ('not supported', 'write the bag without it with "ros2 bag convert" or "rosbag decompress"'),
)
_CURE = (
    'what was cut off while recording can be repaired with "mcap recover", "ros2 bag reindex" or '
    '"rosbag reindex"'
)


def bag_groups(path: Path) -> list[tuple[str, list[Path]]]:
    """Bags at a path: a file, a ROS 2 bag folder, or a folder of either.

    Returns:
        Name and files of each, sorted by name; several files where a recorder split a bag.
    """
    if path.is_file():
        return [(_stem(path), [path])] if _is_bag_file(path) else []
    if not path.is_dir():
        return []
    if (path / 'metadata.yaml').is_file():
        return [(path.resolve().name, [path])]
    found: dict[str, list[Path]] = defaultdict(list)
    for child in sorted(path.iterdir()):
        if child.is_dir():
            if (child / 'metadata.yaml').is_file():
                found[child.name].append(child)
            elif any(_is_ros2_file(file) for file in child.iterdir() if file.is_file()):
                # A recorder that crashed has not written metadata.yaml.
                for name, files in bag_groups(child):
                    found[name if name == child.name else f'{child.name}_{name}'] += files
        elif _is_bag_file(child):
            found[_stem(child)].append(child)
    return sorted(_join_split(found).items())


def _is_bag_file(path: Path) -> bool:
    return path.suffix in SUFFIXES or path.name.endswith(
        ('.bag.active', '.db3.zstd', '.mcap.zstd')
    )


def _is_ros2_file(path: Path) -> bool:
    return _is_bag_file(path) and '.bag' not in path.suffixes


def _stem(path: Path) -> str:
    return path.stem if path.suffix in SUFFIXES else path.name.partition('.')[0]


def _join_split(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Join what `rosbag record --split` wrote: name_0.bag, name_1.bag, ..., none missing.

    And name_0.mcap, name_1.mcap, ... (or .db3) that lost their metadata.yaml.
    """
    numbered: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for name, files in found.items():
        split = re.fullmatch(r'(.+)_(\d+)', name)
        if split and len(files) == 1 and files[0].is_file():
            numbered[split[1], files[0].suffix][int(split[2])] = name
    joined = dict(found)
    for (base, _), parts in numbered.items():
        if len(parts) > 1 and sorted(parts) == list(range(len(parts))) and base not in joined:
            joined[base] = [joined.pop(parts[number])[0] for number in range(len(parts))]
    return joined


@functools.cache
def _common_messages(is_ros2: bool) -> Typestore:
    """The types used here, which have not changed for as long as there are bags of them."""
    if is_ros2:
        return get_typestore(Stores.ROS2_JAZZY)
    store = get_typestore(Stores.ROS1_NOETIC)
    for kind in ('tf2_msgs/msg/TFMessage', 'tf/msg/tfMessage'):
        if kind not in store.types:
            transforms = 'geometry_msgs/TransformStamped[] transforms'
            store.register(get_types_from_msg(transforms, kind))
    return store


@dataclass(frozen=True)
class Stamps:
    """Times of the messages of a topic, in the order of `Bag.raw_messages`.

    Attributes:
        header_ns: (N,) int64, of the headers.
        receive_ns: (N,) int64, of recording.
    """

    header_ns: np.ndarray
    receive_ns: np.ndarray


class Bag:
    """An open bag.

    What `rosbags` raises for damaged files depends on where the damage is, down to struct.error
    and assertions; here it is always a RecordingError. Only the types of messages that are decoded
    need definitions that can be understood.

    Args:
        files: One bag; several files of a split one.

    Attributes:
        topics: Topic: (message type, number of messages).
        is_ros2: Whether messages are CDR.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.topics: dict[str, tuple[str, int]] = {}
        self._stores: dict[str, Typestore] = {}
        self._stack = contextlib.ExitStack()
        self._readers: list[Any] = []
        self.is_ros2 = files[0].is_dir() or files[0].suffix != '.bag'

    def __enter__(self) -> Bag:
        first = self.files[0]
        if first.name.endswith('.bag.active'):
            raise RecordingError(
                f'{first} cannot be read, it was not closed while recording: make an index with '
                f'"rosbag reindex {first.name}" and name the result .bag'
            )
        if first.suffix == '.zstd':
            raise RecordingError(
                f'{first} cannot be read without the metadata.yaml of its folder: give the '
                f'folder, or decompress it with "zstd -d {first.name}"'
            )
        for file in self.files:
            _refuse_open_logs(file)
        try:
            with self._errors():
                for file in self.files:
                    reader = Reader2(file) if self.is_ros2 else Reader1(file)
                    self._readers.append(self._stack.enter_context(reader))
                for connection in self.connections:
                    _, count = self.topics.get(connection.topic, ('', 0))
                    self.topics[connection.topic] = (
                        connection.msgtype,
                        count + int(connection.msgcount),
                    )
        except BaseException:
            with contextlib.suppress(Exception):
                self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._stack.close()

    def raw_messages(
        self, topics: list[str], start_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time of recording and bytes of the messages of some topics, in time order.

        Args:
            topics: Those there are; others have no messages.
            start_ns: Not those recorded before.

        Raises:
            RecordingError: The bag is damaged.
        """
        sources = []
        for reader in self._readers:
            connections = [c for c in reader.connections if c.topic in topics]
            if connections:
                sources.append(reader.messages(connections=connections, start=start_ns))
        if not sources:
            return
        messages = sources[0] if len(sources) == 1 else heapq.merge(*sources, key=lambda m: m[1])
        while True:
            with self._errors():
                entry = next(messages, None)
            if entry is None:
                return
            connection, time, raw = entry
            yield connection.topic, time, raw

    def few_messages(self, topics: list[str]) -> Iterator[tuple[str, int, bytes]]:
        """As `raw_messages`, for small messages among large ones: these are not read.

        Raises:
            RecordingError: The bag is damaged.
        """
        found = self._indexed(topics, None)
        if found is None:
            yield from self.raw_messages(topics)
        else:
            yield from found

    def stamps(self, topics: list[str]) -> dict[str, Stamps]:
        """Times of all messages, from the bag's index where it has one.

        Raises:
            RecordingError: The bag is damaged.
        """
        entries = self._indexed(topics, _HEADER_BYTES)
        found = None if entries is None else self._stamps(topics, entries)
        # Of messages recorded at one time the index does not tell the order.
        if found is None or any((np.diff(s.receive_ns) <= 0).any() for s in found.values()):
            found = self._stamps(topics, self.raw_messages(topics))
        return found

    def _stamps(
        self, topics: list[str], entries: Iterator[tuple[str, int, bytes]]
    ) -> dict[str, Stamps]:
        header: dict[str, list[int]] = {topic: [] for topic in topics}
        receive: dict[str, list[int]] = {topic: [] for topic in topics}
        for topic, time, raw in entries:
            header[topic].append(header_stamp(raw, self.is_ros2))
            receive[topic].append(time)
        return {
            t: Stamps(np.array(header[t], np.int64), np.array(receive[t], np.int64))
            for t in topics
        }

    def _indexed(
        self, topics: list[str], limit: int | None
    ) -> Iterator[tuple[str, int, bytes]] | None:
        with self._errors():
            sources = []
            for reader in self._readers:
                source = indexed_messages(reader, topics, limit)
                if source is None:
                    return None
                sources.append(source)
        return self._guarded(heapq.merge(*sources, key=lambda m: m[1]))

    def _guarded(
        self, entries: Iterator[tuple[str, int, bytes]]
    ) -> Iterator[tuple[str, int, bytes]]:
        while True:
            with self._errors():
                entry = next(entries, None)
            if entry is None:
                return
            yield entry

    def decode(self, topic: str, raw: bytes) -> Any:
        """A message.

        Raises:
            RecordingError: It does not fit its type.
        """
        kind = self.topics[topic][0]
        try:
            store = self._stores.get(kind) or self._store(kind)
            if self.is_ros2:
                return store.deserialize_cdr(raw, kind)
            return store.deserialize_ros1(raw, kind)
        except Exception as error:
            raise RecordingError(f'message cannot be decoded: {error!r}') from None

    def _store(self, kind: str) -> Typestore:
        """Types for one kind of message: the common ones, else the bag's own definition.

        In this order, since a damaged definition must not give fields other names; and each kind
        has a store of its own, so that one that cannot be understood leaves the rest readable.
        """
        common = _common_messages(self.is_ros2)
        if kind in common.types:
            self._stores[kind] = common
            return common
        for connection in self.connections:
            definition = connection.msgdef
            if connection.msgtype != kind or not definition.data:
                continue
            store = get_typestore(Stores.EMPTY)
            try:
                if definition.format == MessageDefinitionFormat.MSG:
                    store.register(get_types_from_msg(definition.data, kind))
                elif definition.format == MessageDefinitionFormat.IDL:
                    store.register(_types_from_idl(definition.data))
                store.get_msgdef(kind)
            except Exception:
                break
            self._stores[kind] = store
            return store
        self._stores[kind] = common
        return common

    @property
    def connections(self) -> list[Any]:
        """What the files say of each topic: `rosbags.interfaces.Connection`."""
        return [c for reader in self._readers for c in reader.connections]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (ClcpError, GeneratorExit):
            raise
        except Exception as error:
            reason = ' '.join(str(error).split()).rstrip('.') or repr(error)
            file = self.files[0]
            folder = file if file.is_dir() else file.parent
            cure = next((cure for sign, cure in _CURES if sign in reason), _CURE)
            cure = cure.format(name=file.name, folder=folder.name)
            raise RecordingError(
                f'{file} cannot be read, it may be truncated: {reason}; {cure}'
            ) from None


def _refuse_open_logs(file: Path) -> None:
    """Messages that a crash left in sqlite's write-ahead log would silently be missing."""
    for database in file.glob('*.db3') if file.is_dir() else [file]:
        log = database.with_name(f'{database.name}-wal')
        if log.is_file() and log.stat().st_size:
            raise RecordingError(
                f'{database} was not closed while recording, its last messages are in {log.name}: '
                f'put them in place with "sqlite3 {database.name} \'PRAGMA wal_checkpoint\'"'
            )


def _types_from_idl(text: str) -> Any:
    """Types of the IDL files that rosbag2 writes one after the other."""
    separator = '=' * 80 + '\n'
    if not text.startswith(f'{separator}IDL: '):
        return get_types_from_idl(text)
    types: dict[str, Any] = {}
    for part in text.split(separator)[1:]:
        types.update(get_types_from_idl(part.partition('\n')[2]))
    return types


def header_stamp(raw: bytes, is_ros2: bool) -> int:
    """The stamp of a message that begins with a header, without decoding the rest."""
    try:
        if is_ros2:
            # CDR: the second byte of the encapsulation tells the byte order.
            sec, nanosec = struct.unpack_from('<iI' if raw[1] & 1 else '>iI', raw, 4)
        else:
            sec, nanosec = struct.unpack_from('<II', raw, 4)
    except (struct.error, IndexError):
        return NO_STAMP
    return sec * 1_000_000_000 + nanosec


def header_frame(raw: bytes, is_ros2: bool) -> str | None:
    """The frame of a message that begins with a header; None when it is too short."""
    try:
        order = '<' if not is_ros2 or raw[1] & 1 else '>'
        (length,) = struct.unpack_from(f'{order}I', raw, 12)
        if 16 + length > len(raw):
            return None
        # CDR strings end with a zero that is counted.
        return bytes(raw[16 : 16 + length]).rstrip(b'\0').decode()
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
