# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a pair set by sequences, so that an interrupted conversion goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clcp_ros import image_codec
from clcp_ros.errors import PairSetError
from training.pairs.jpeg import encode_seekable
from training.pairs.pair import COLUMNS, Pair, pair_meta, points_to_bytes
from training.pairs.splits import Split, validation_count
from training.pairs.storage import Folder, LocalFolder

__all__ = ['INDEX_SCHEMA', 'JPEG_QUALITY', 'PairSetWriter', 'safe_name', 'validation_count']

_FIELDS: list[tuple[str, pa.DataType]] = [
    ('key', pa.string()),
    ('sequence', pa.string()),
    ('camera', pa.string()),
    ('lidar', pa.string()),
    ('split', pa.string()),
    ('camera_stamp_ns', pa.int64()),
    ('lidar_stamp_ns', pa.int64()),
    ('width', pa.int32()),
    ('height', pa.int32()),
    ('points', pa.int32()),
    ('shard', pa.string()),
    ('image_offset', pa.int64()),
    ('image_size', pa.int64()),
    ('image_format', pa.string()),
    ('points_offset', pa.int64()),
    ('points_size', pa.int64()),
    ('json_offset', pa.int64()),
    ('json_size', pa.int64()),
    ('sha256', pa.string()),
    ('tags', pa.string()),
]
INDEX_SCHEMA = pa.schema(_FIELDS)
"""Columns of index.parquet (docs/formats.md)."""

JPEG_QUALITY = 95


def safe_name(name: str, longest: int = 60) -> str:
    """A name that can be part of a key and of a tar member.

    WebDataset splits basenames at the first dot and keys are joined with two underscores, so
    neither may occur.
    """
    cleaned = re.sub(r'__+', '_', re.sub(r'[^A-Za-z0-9_-]+', '_', name)).strip('_') or 'sequence'
    if len(cleaned) > longest:
        cleaned = f'{cleaned[: longest - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'
    return cleaned


class PairSetWriter:
    """Writes shards, and the index when all sequences are there.

    The folder is a work folder until `finish`: `parts/` holds what is known of the sequences done,
    a shard is renamed into place (or uploaded) when whole, and a sequence's part is written after
    its last shard. A new writer on the same folder goes on with the sequences that have no part.

    Args:
        folder: The work folder; made if need be.
        image_format: 'jpg' or 'png'. A recorded file of that format is taken over byte for byte
            when the image needs no change.
        shard_bytes: A new shard is begun when one grows beyond this.
    """

    def __init__(
        self, folder: Folder | Path, image_format: str = 'jpg', shard_bytes: int = 256 * 10**6
    ) -> None:
        if image_format not in ('jpg', 'png'):
            raise PairSetError(f'image format {image_format!r} is neither jpg nor png')
        self.folder: Folder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self.image_format = image_format
        self.shard_bytes = shard_bytes
        self.written = 0

    def part(self, sequence: str) -> dict[str, Any] | None:
        """What `write_sequence` noted of a sequence, or None when it is not done."""
        try:
            return json.loads(self.folder.read(f'parts/{sequence}.json'))
        except FileNotFoundError:
            return None

    def write_sequence(
        self, sequence: str, pairs: Iterable[Pair], info: dict[str, Any] | None = None
    ) -> int:
        """Write all pairs of a sequence; nothing of it remains when `pairs` raises.

        Args:
            sequence: Its name, as in the pairs; made by `safe_name`.
            pairs: In time order.
            info: Kept in the part; read after the pairs, so that a reader can count into it.

        Returns:
            The number of pairs.

        Raises:
            PairSetError: A pair breaks the format.
        """
        self._remove(sequence)
        rows: list[dict[str, Any]] = []
        shard: _Shard | None = None
        try:
            for pair in pairs:
                if shard is None or shard.size > self.shard_bytes:
                    number = 0 if shard is None else shard.finish() + 1
                    shard = _Shard(self.folder, sequence, number)
                rows.append(self._write_pair(shard, sequence, pair))
            if shard is not None:
                shard.finish()
            if len({row['key'] for row in rows}) != len(rows):
                raise PairSetError(f'sequence {sequence}: two pairs have the same key')
        except BaseException:
            if shard is not None:
                shard.discard()
            self._remove(sequence)
            raise
        part = json.dumps({'info': info, 'rows': rows})
        self.folder.write(f'parts/{sequence}.json', part.encode())
        return len(rows)

    def finish(
        self,
        sequences: Iterable[str],
        report: dict[str, Any],
        split: Split | float,
        extras: Callable[[pa.Table], dict[str, bytes]] | None = None,
    ) -> int:
        """Write the report and, last, the index; the folder is a pair set from then on.

        Args:
            sequences: The sequences of the set; others are removed.
            report: Content of report.json; gets `splits`, the number of pairs of each.
            split: Which pairs are for validation; a number is the last part of each sequence.
            extras: Makes other files of the index, by name; written before it.

        Returns:
            The number of pairs.

        Raises:
            PairSetError: There are none.
        """
        split = split if isinstance(split, Split) else Split('time', split)
        rows: list[dict[str, Any]] = []
        drives: dict[str, str] = {}
        wanted = set(sequences)
        for sequence in sorted(wanted):
            part = self.part(sequence)
            if part is None:
                raise PairSetError(f'sequence {sequence} is not finished')
            drives[sequence] = (part['info'] or {}).get('drive', sequence)
            rows += part['rows']
        if not rows:
            raise PairSetError('no pairs: nothing to index')
        rows.sort(key=lambda row: (row['sequence'], row['camera_stamp_ns'], row['key']))
        split.assign(rows, drives)
        table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
        splits = Counter(row['split'] for row in rows)
        stream = io.BytesIO()
        pq.write_table(table, stream, compression='zstd', write_page_checksum=True)
        index = stream.getvalue()
        report = {
            **report,
            'splits': {name: splits[name] for name in ('train', 'val')},
            'index_sha256': hashlib.sha256(index).hexdigest(),
        }
        for name, data in (extras(table) if extras is not None else {}).items():
            self.folder.write(name, data)
        self.folder.write('report.json', (json.dumps(report, indent=1) + '\n').encode())
        self.folder.write('index.parquet', index)
        self.tidy({row['shard'] for row in rows})
        return len(rows)

    def tidy(self, shards: set[str]) -> None:
        """Remove what a whole set does not need.

        Args:
            shards: Those that the index names.
        """
        for name in self.folder.names('shards'):
            if name not in shards:
                self.folder.remove(f'shards/{name}')
        self.folder.remove('parts')

    def _write_pair(self, shard: _Shard, sequence: str, pair: Pair) -> dict[str, Any]:
        if pair.sequence != sequence or not pair.key.startswith(f'{sequence}/'):
            raise PairSetError(f'pair {pair.key} of sequence {pair.sequence} in shard {sequence}')
        if pair.columns[:4] != COLUMNS or pair.points.shape != (
            len(pair.points),
            len(pair.columns),
        ):
            raise PairSetError(f'pair {pair.key}: columns {pair.columns} of {pair.points.shape}')
        if not np.isfinite(pair.points).all():
            raise PairSetError(f'pair {pair.key}: points that are not finite')
        image, extension, width, height = self._encode(pair)
        points = points_to_bytes(pair.points)
        meta = json.dumps(pair_meta(pair, width, height)).encode()
        name = pair.key.replace('/', '__')
        digest = hashlib.sha256()
        places = {}
        for kind, suffix, data in (
            ('image', extension, image),
            ('points', 'points.npy', points),
            ('json', 'json', meta),
        ):
            places[f'{kind}_offset'] = shard.add(f'{name}.{suffix}', data)
            places[f'{kind}_size'] = len(data)
            digest.update(data)
            self.written += len(data)
        return {
            'key': pair.key,
            'sequence': sequence,
            'camera': pair.camera,
            'lidar': pair.lidar,
            'camera_stamp_ns': int(pair.camera_stamp_ns),
            'lidar_stamp_ns': int(pair.lidar_stamp_ns),
            'width': width,
            'height': height,
            'points': len(pair.points),
            'shard': shard.name,
            'image_format': extension,
            **places,
            'sha256': digest.hexdigest(),
            'tags': json.dumps(pair.tags, sort_keys=True),
        }

    def _encode(self, pair: Pair) -> tuple[bytes, str, int, int]:
        """The image's bytes, extension, width and height."""
        if pair.encoded is not None:
            recorded = bytes(pair.encoded)
            if image_codec.image_format(recorded) == self.image_format:
                size = image_codec.image_size if pair.checked else image_codec.check_bytes
                return (recorded, self.image_format, *size(recorded))
        image = pair.pixels()
        height, width = image.shape[:2]
        if self.image_format == 'png':
            return image_codec.encode_png(image), 'png', width, height
        return encode_seekable(image, JPEG_QUALITY), 'jpg', width, height

    def _remove(self, sequence: str) -> None:
        # The part first: a sequence with a part is taken for done.
        self.folder.remove(f'parts/{sequence}.json')
        pattern = re.compile(r'\.?' + re.escape(sequence) + r'-\d{6}\.tar(\.partial)?')
        for name in self.folder.names('shards'):
            if pattern.fullmatch(name):
                self.folder.remove(f'shards/{name}')


class _Shard:
    """An uncompressed tar file whose bytes depend on nothing but its members."""

    def __init__(self, folder: Folder, sequence: str, number: int) -> None:
        self.folder = folder
        self.number = number
        self.name = f'{sequence}-{number:06d}.tar'
        self.path = folder.scratch(f'shards/{self.name}')
        self.file = self.path.open('wb')
        self.size = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its data."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        encoded = header.tobuf(tarfile.USTAR_FORMAT)
        offset = self.size + len(encoded)
        self.file.write(encoded)
        self.file.write(data)
        padding = -len(data) % tarfile.BLOCKSIZE
        self.file.write(bytes(padding))
        self.size = offset + len(data) + padding
        return offset

    def finish(self) -> int:
        """End the archive and put it into place; returns its number."""
        self.file.write(bytes(2 * tarfile.BLOCKSIZE))
        self.file.flush()
        # The part names this shard: after a power cut neither may be there without the other.
        os.fsync(self.file.fileno())
        self.file.close()
        self.folder.adopt(self.path, f'shards/{self.name}')
        return self.number

    def discard(self) -> None:
        """Give up an archive that is not whole."""
        with contextlib.suppress(OSError):  # the disk may be full: flushing fails again
            self.file.close()
        self.path.unlink(missing_ok=True)
