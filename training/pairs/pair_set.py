# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random access to a pair set through its index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clcp_ros.errors import ImageError, PairSetError
from training.pairs.pair import Pair, pair_from_members, points_from_bytes
from training.pairs.shards import Shards
from training.pairs.storage import LocalFolder, open_folder
from training.pairs.writer import INDEX_SCHEMA

Check = Literal['first', 'always', 'never']

_KINDS = ('image', 'points', 'json')
_LARGEST_MEMBER = 1 << 31
_REPEATED = ('sequence', 'camera', 'lidar', 'split', 'shard', 'image_format', 'tags')


class PairSet:
    """A pair set on disk, or in an object store through fsspec.

    Can be pickled and forked: files are opened per process, on first use, and read without a
    shared position.

    Args:
        folder: The set's folder, or a URL such as `s3://bucket/pairs`.
        check: When a sample is compared with its hash: the first time that a process reads it,
            always or never. A flipped bit in a JPEG is seen in no other way.
        index: The index, where it is known already.

    Attributes:
        folder: The set's folder or URL.
        index: The index, see docs/formats.md.
        index_sha256: Hash of index.parquet.

    Raises:
        PairSetError: No set there, or an index that is damaged or lacks columns.
    """

    def __init__(
        self, folder: Path | str, check: Check = 'first', index: pa.Table | None = None
    ) -> None:
        self._store = open_folder(folder)
        self.folder = self._store.path if isinstance(self._store, LocalFolder) else folder
        self.check = check
        # Arrow's buffers rather than Python objects: workers that fork share them untouched.
        self.index_sha256 = ''
        self.index = self._checked(self._read_index() if index is None else index)
        self._shards = Shards(self._store)
        names = [f'{kind}_{what}' for kind in _KINDS for what in ('offset', 'size')]
        # (N, 6) int64: offset and size of image, points, json.
        self._places = np.column_stack([self._numbers(name) for name in names])
        self._verified = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return self.index.num_rows

    def __getitem__(self, position: int) -> Pair:
        """A pair, its image decoded.

        Raises:
            PairSetError: The shard is missing or damaged.
        """
        pair = self.read(position)
        try:
            pair.pixels()
        except ImageError as error:
            raise PairSetError(f'{self._where(position)}: {error}') from None
        return pair

    def __iter__(self) -> Iterator[Pair]:
        return (self[position] for position in range(len(self)))

    def read(self, position: int) -> Pair:
        """A pair, its image still encoded (`encoded`); its points are read-only.

        Raises:
            PairSetError: The shard is missing or damaged.
        """
        where = self._where(position)
        pair = pair_from_members(*self._members(position), where)
        if pair.key != self._text('key', position):
            raise PairSetError(f'{where}: the sample calls itself {pair.key}')
        return pair

    def row(self, position: int) -> dict[str, Any]:
        """A row of the index; `tags` as a dictionary."""
        row = self.index.slice(self._number(position), 1).to_pylist()[0]
        row['tags'] = json.loads(row['tags'])
        return row

    def rows(self, split: str | None = None, sequence: str | None = None) -> np.ndarray:
        """Positions of the pairs of a split and a sequence, (M,) int64, in the index's order."""
        chosen = np.ones(len(self), bool)
        for name, wanted in (('split', split), ('sequence', sequence)):
            if wanted is not None:
                chosen &= self.column(name) == wanted
        return np.flatnonzero(chosen)

    def column(self, name: str) -> np.ndarray:
        """A column of the index, one entry per pair."""
        return self.index.column(name).to_numpy(zero_copy_only=False)

    @property
    def sequences(self) -> list[str]:
        """Names of the sequences, sorted."""
        return sorted(set(self.column('sequence').tolist()))

    @property
    def report(self) -> dict[str, Any]:
        """What the conversion wrote of itself; empty when there is none."""
        try:
            return json.loads(self._store.read('report.json'))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise PairSetError(f'{self.folder}/report.json is damaged: {error}') from None

    def image_bytes(self, position: int) -> bytes:
        """The image as a JPEG or PNG file, for readers that decode only what they need."""
        return bytes(self._members(position)[0])

    def points(self, position: int) -> np.ndarray:
        """The scan alone, (N, C) float32, read-only."""
        return points_from_bytes(self._members(position)[1], self._where(position))

    def meta(self, position: int) -> dict[str, Any]:
        """The sample's `.json`."""
        return json.loads(bytes(self._members(position)[2]))

    def verify(self, progress: Callable[[int], None] | None = None) -> list[str]:
        """Compare every sample with its hash in the index.

        Args:
            progress: Called with the number of samples checked.

        Returns:
            One line for each sample that is damaged or missing.
        """
        problems = []
        for position in range(len(self)):
            try:
                self._members(position, always=True)
            except PairSetError as error:
                problems.append(str(error))
            if progress is not None:
                progress(position + 1)
        return problems

    def shard_names(self) -> list[str]:
        """The files in the folder of shards."""
        return self._store.names('shards')

    def open_shard(self, shard: str) -> IO[bytes]:
        """A shard as a file.

        Raises:
            OSError: It cannot be opened.
        """
        if isinstance(self._store, LocalFolder):
            return (self._store.path / 'shards' / shard).open('rb')
        return self._store.open(f'shards/{shard}')

    def close(self) -> None:
        """Close the shards; they are opened again when needed."""
        self._shards.close()

    def _number(self, position: int) -> int:
        if not -len(self) <= position < len(self):
            raise IndexError(f'pair {position} of {len(self)}')
        return position % len(self)

    def _where(self, position: int) -> str:
        shard = self._text('shard', position)
        return f'{self._store}/shards/{shard}, {self._text("key", position)}'

    def _text(self, name: str, position: int) -> str:
        return self.index.column(name)[self._number(position)].as_py()

    def _numbers(self, name: str) -> np.ndarray:
        return self.column(name).astype(np.int64)

    def _members(
        self, position: int, always: bool = False
    ) -> tuple[memoryview, memoryview, memoryview]:
        """The three members of a sample, in one request."""
        number = self._number(position)
        places = self._places[number]
        start, end = int(places[::2].min()), int((places[::2] + places[1::2]).max())
        # They lie side by side; more than headers and padding between them is a damaged index.
        if end - start > int(places[1::2].sum()) + (1 << 20):
            raise PairSetError(f'{self._where(position)}: impossible places in the index')
        shard = self._text('shard', position)
        data = memoryview(self._shards.read(shard, start, end - start))
        image, points, meta = (
            data[offset - start : offset - start + size]
            for offset, size in places.reshape(3, 2).tolist()
        )
        check = self.check == 'always' or (self.check == 'first' and not self._verified[number])
        if check or always:
            digest = hashlib.sha256()
            for member in (image, points, meta):
                digest.update(member)
            if digest.hexdigest() != self._text('sha256', position):
                raise PairSetError(f'{self._where(position)}: differs from its hash')
            self._verified[number] = True
        return image, points, meta

    def _read_index(self) -> pa.Table:
        try:
            data = self._store.read('index.parquet')
        except (FileNotFoundError, NotADirectoryError):
            raise PairSetError(
                f'{self._store} is not a pair set (no index.parquet); '
                f'make one with python training/convert.py RECORDING --out {self._store}'
            ) from None
        self.index_sha256 = hashlib.sha256(data).hexdigest()
        try:
            # Not read_table: its threads may outlive the interpreter and abort at its end.
            file = pq.ParquetFile(
                pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True
            )
            return file.read(use_threads=False)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            problem = ' '.join(str(error).split())
            raise PairSetError(f'{self._store}/index.parquet is damaged: {problem}') from None

    def _checked(self, table: pa.Table) -> pa.Table:
        """The columns of the format, or an error where their values are impossible."""
        path = f'{self._store}/index.parquet'
        missing = set(INDEX_SCHEMA.names) - set(table.column_names)
        if missing:
            raise PairSetError(f'{path} lacks the columns {", ".join(sorted(missing))}')
        try:
            table = table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA).combine_chunks()
            table.validate(full=True)
        except (pa.ArrowException, ValueError) as error:
            raise PairSetError(f'{path} is damaged: {" ".join(str(error).split())}') from None
        problem = _impossible(table)
        if problem:
            raise PairSetError(f'{path} is damaged: {problem}')
        for name in _REPEATED:
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, table.column(at).dictionary_encode())
        return table


def _impossible(table: pa.Table) -> str | None:
    """What cannot be right about an index."""
    for name in INDEX_SCHEMA.names:
        if table.column(name).null_count:
            return f'empty entries in the column {name}'
    for name in ('width', 'height', 'points', *(f'{kind}_size' for kind in _KINDS)):
        values = table.column(name).to_numpy()
        if len(values) and not (values.min() > 0 and values.max() < _LARGEST_MEMBER):
            return f'impossible values in the column {name}'
    for kind in _KINDS:
        values = table.column(f'{kind}_offset').to_numpy()
        if len(values) and not (values.min() >= 0 and values.max() < 1 << 50):
            return f'impossible values in the column {kind}_offset'
    known = {'split': {'train', 'val'}, 'image_format': {'jpg', 'png'}}
    for name, allowed in known.items():
        found = {str(value) for value in table.column(name).unique().to_pylist()}
        if not found <= allowed:
            return f'{sorted(found - allowed)[0]!r} in the column {name}'
    for shard in map(str, table.column('shard').unique().to_pylist()):
        if '/' in shard or '\\' in shard or shard.startswith('.') or not shard.endswith('.tar'):
            return f'{shard!r} is not the name of a shard'
    return None
