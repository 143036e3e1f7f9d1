# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The beginnings of messages, or small messages among large ones, through a bag's own index.

`rosbags` reads every message whole, and in a bag of images and scans that is nearly all of the
work. What is opened here are its readers; only the jump to single messages is ours.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import Any

from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1.reader import Header, RecordType, decompressors, read_uint32
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader, decompress
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Entry = tuple[str, int, bytes]

_MESSAGE = struct.Struct('<BQHIQQ')
"""An MCAP message record up to its data: opcode, length, channel, sequence, log, publish time."""


def indexed_messages(reader: Any, topics: list[str], limit: int | None) -> Iterator[Entry] | None:
    """Topic, time of recording and bytes of messages, in time order.

    Args:
        reader: An open reader of `rosbags`.
        topics: Which.
        limit: At most so many bytes of each message; None gives them whole.

    Returns:
        None where the file has no index that helps.
    """
    if isinstance(reader, Reader1):
        return _ros1(reader, topics, limit)
    storage = reader.storage
    if not isinstance(storage, DirectoryReader):
        return _storage(storage, topics, limit, packed=False)
    packed = storage.metadata.compression_mode == 'message'
    found = [_storage(part, topics, limit, packed) for part in storage.storages]
    if any(part is None for part in found):
        return None
    # As `rosbags`: the files of a split bag one after the other.
    return (entry for part in found if part is not None for entry in part)


def _storage(
    storage: Any, topics: list[str], limit: int | None, packed: bool
) -> Iterator[Entry] | None:
    if isinstance(storage, Sqlite3Reader):
        return _sqlite(storage, topics, limit, packed)
    if isinstance(storage, McapReader) and storage.chunks and not packed:
        wanted = {c.id for c in storage.connections if c.topic in topics}
        chunks = [c for c in storage.chunks if any(c.channel_count.get(i, 0) for i in wanted)]
        # A compressed chunk must be unpacked whole either way.
        if any(c.compression for c in chunks) and limit is None:
            return None
        if not all(c.message_index_offsets for c in storage.chunks):
            return None
        return _mcap(storage, topics, limit)
    return None


def _mcap(reader: McapReader, topics: list[str], limit: int | None) -> Iterator[Entry]:
    bio = reader.bio
    assert bio is not None
    topic_of = {c.id: c.topic for c in reader.connections if c.topic in topics}
    places: list[tuple[int, int, int, str, Any]] = []
    for number, chunk in enumerate(reader.chunks):
        for channel, offset in chunk.message_index_offsets.items():
            if channel not in topic_of:
                continue
            bio.seek(offset)
            # Message index: opcode, length, channel, bytes of the array; time, place; ...
            opcode, _, own, size = struct.unpack('<BQHI', bio.read(15))
            if opcode != 0x07 or own != channel:
                raise ValueError(f'no message index at byte {offset}')
            table = bio.read(size)
            places += [
                (time, number, place, topic_of[channel], chunk)
                for time, place in struct.iter_unpack('<QQ', table)
            ]
    places.sort(key=lambda entry: entry[:3])
    unpacked: tuple[int, bytes] = (-1, b'')
    for time, number, place, topic, chunk in places:
        if chunk.compression:
            if unpacked[0] != number:
                unpacked = (number, _unpack(bio, chunk))
            record = unpacked[1][place : place + _MESSAGE.size]
        else:
            start = chunk.chunk_start_offset + 9 + 40 + len(chunk.compression) + place
            bio.seek(start)
            record = bio.read(_MESSAGE.size)
        opcode, length, _, _, log_time, _ = _MESSAGE.unpack(record)
        if opcode != 0x05 or log_time != time or length < 22:
            raise ValueError(f'no message where the index of chunk {number} says')
        size = length - 22 if limit is None else min(length - 22, limit)
        if chunk.compression:
            begin = place + _MESSAGE.size
            data = unpacked[1][begin : begin + size]
        else:
            data = bio.read(size)
        if len(data) != size:
            raise ValueError(f'truncated message in chunk {number}')
        yield topic, time, data


def _unpack(bio: Any, chunk: Any) -> bytes:
    bio.seek(chunk.chunk_start_offset + 9 + 24)
    (crc,) = struct.unpack('<I', bio.read(4))
    bio.seek(chunk.chunk_start_offset + 9 + 40 + len(chunk.compression))
    data = bio.read(chunk.compressed_size)
    return bytes(decompress(data, chunk.compression, chunk.uncompressed_size, crc))


def _sqlite(
    reader: Sqlite3Reader, topics: list[str], limit: int | None, packed: bool
) -> Iterator[Entry]:
    database = reader.dbconn
    assert database is not None
    topic_of = {c.id: c.topic for c in reader.connections if c.topic in topics}
    marks = ','.join('?' * len(topic_of))
    rows = database.execute(
        f'SELECT id, topic_id, timestamp FROM messages WHERE topic_id IN ({marks}) '
        'ORDER BY timestamp',
        tuple(topic_of),
    )
    for row, topic_id, time in rows:
        # Incremental reading does not touch the pages of the rest.
        with database.blob_open('main', 'messages', 'data', row, False) as blob:
            size = blob.length()
            data = blob.read(size if packed or limit is None else min(limit, size))
        if packed:
            data = zstd.ZstdDecompressor().decompress(data, -1 if limit is None else limit)
        yield topic_of[topic_id], time, data


def _ros1(reader: Reader1, topics: list[str], limit: int | None) -> Iterator[Entry] | None:
    ids = {c.id: c.topic for c in reader.connections if c.topic in topics}
    entries = sorted(
        (entry for i in ids for entry in reader.indexes.get(i, ())),
        key=lambda entry: (entry.time, entry.chunk_pos, entry.offset),
    )
    plain = decompressors['none']
    if any(reader.chunks[e.chunk_pos].decompressor is not plain for e in entries):
        return None
    return _ros1_entries(reader, entries, ids, limit)


def _ros1_entries(
    reader: Reader1, entries: list[Any], topic_of: dict[int, str], limit: int | None
) -> Iterator[Entry]:
    bio = reader.bio
    assert bio is not None
    for entry in entries:
        bio.seek(reader.chunks[entry.chunk_pos].datapos + entry.offset)
        header = Header.read(bio)
        while header.get_uint8('op') == RecordType.CONNECTION:
            bio.seek(read_uint32(bio), 1)
            header = Header.read(bio)
        if header.get_uint8('op') != RecordType.MSGDATA or header.get_time('time') != entry.time:
            raise ValueError(f'no message where the index of the chunk at {entry.chunk_pos} says')
        size = read_uint32(bio)
        size = size if limit is None else min(size, limit)
        data = bio.read(size)
        if len(data) != size:
            raise ValueError(f'truncated message in the chunk at {entry.chunk_pos}')
        yield topic_of[header.get_uint32('conn')], entry.time, data
