# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random access to a pair set through its index."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clcp_ros.errors import ImageError, PairSetError
from training.pairs.pair import Pair, pair_from_members, points_from_bytes
from training.pairs.writer import INDEX_SCHEMA

_MAX_OPEN = 128
"""Shards open at once in a process; systems allow 1024 files and others need some too."""


class PairSet:
    """A pair set on disk.

    Can be pickled and forked: files are opened per process, on first use, and read without a
    shared position.

    Args:
        folder: The set's folder.

    Raises:
        PairSetError: No set there, or an index that is damaged or lacks columns.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        path = self.folder / 'index.parquet'
        if not path.is_file():
            raise PairSetError(
                f'{self.folder} is not a pair set (no index.parquet); '
                f'make one with python training/convert.py RECORDING --out {self.folder}'
            )
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise PairSetError(f'{path} is damaged: {error}') from None
        missing = set(INDEX_SCHEMA.names) - set(table.column_names)
        if missing:
            raise PairSetError(f'{path} lacks the columns {", ".join(sorted(missing))}')
        # Arrow's buffers rather than Python objects: workers that fork share them untouched.
        self.index: pa.Table = table.select(INDEX_SCHEMA.names).combine_chunks()
        self._files: dict[str, int] = {}
        self._pid = os.getpid()

    def __len__(self) -> int:
        return self.index.num_rows

    def __getitem__(self, position: int) -> Pair:
        """A pair, its image decoded.

        Raises:
            PairSetError: The shard is missing or damaged.
        """
        row = self.row(position)
        where = f'{self.folder / "shards" / row["shard"]}, {row["key"]}'
        image, points, meta = (self._read(row, kind) for kind in ('image', 'points', 'json'))
        try:
            return pair_from_members(image, points, meta, where)
        except ImageError as error:
            raise PairSetError(f'{where}: {error}') from None

    def __iter__(self) -> Iterator[Pair]:
        return (self[position] for position in range(len(self)))

    def row(self, position: int) -> dict[str, Any]:
        """A row of the index; `tags` as a dictionary."""
        if not -len(self) <= position < len(self):
            raise IndexError(f'pair {position} of {len(self)}')
        row = self.index.slice(position % len(self), 1).to_pylist()[0]
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
        path = self.folder / 'report.json'
        return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}

    def image_bytes(self, position: int) -> bytes:
        """The image as a JPEG or PNG file, for readers that decode only what they need."""
        return self._read(self.row(position), 'image')

    def points(self, position: int) -> np.ndarray:
        """The scan alone, (N, C) float32."""
        row = self.row(position)
        return points_from_bytes(self._read(row, 'points'), row['key'])

    def meta(self, position: int) -> dict[str, Any]:
        """The sample's `.json`."""
        return json.loads(self._read(self.row(position), 'json'))

    def verify(self, progress: Callable[[int], None] | None = None) -> list[str]:
        """Compare every sample with its hash in the index.

        Args:
            progress: Called with the number of samples checked.

        Returns:
            One line for each sample that is damaged or missing.
        """
        problems = []
        for position in range(len(self)):
            row = self.row(position)
            digest = hashlib.sha256()
            try:
                for kind in ('image', 'points', 'json'):
                    digest.update(self._read(row, kind))
                if digest.hexdigest() != row['sha256']:
                    problems.append(f'{row["shard"]}, {row["key"]}: differs from its hash')
            except PairSetError as error:
                problems.append(str(error))
            if progress is not None:
                progress(position + 1)
        return problems

    def close(self) -> None:
        """Close the shards; they are opened again when needed."""
        if self._pid == os.getpid():
            for descriptor in self._files.values():
                os.close(descriptor)
        self._files = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_files': {}, '_pid': 0}

    def __del__(self) -> None:
        if getattr(self, '_files', None):
            self.close()

    def _read(self, row: dict[str, Any], kind: str) -> bytes:
        if self._pid != os.getpid():
            # After a fork the parent's descriptors still work, but are the parent's to close.
            self._files, self._pid = {}, os.getpid()
        shard = row['shard']
        path = self.folder / 'shards' / shard
        if shard not in self._files:
            if len(self._files) >= _MAX_OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            try:
                self._files[shard] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise PairSetError(f'cannot open {path}: {error.strerror}') from None
        size = row[f'{kind}_size']
        data = os.pread(self._files[shard], size, row[f'{kind}_offset'])
        if len(data) != size:
            raise PairSetError(f'{path}, {row["key"]}: {kind} is cut off')
        return data
