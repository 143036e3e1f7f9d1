# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges of bytes from the shards of a set, on disk or in an object store."""

from __future__ import annotations

import os
from typing import Any

from clcp_ros.errors import PairSetError
from training.pairs.storage import LocalFolder, RemoteFolder

_MAX_OPEN = 128
"""Shards open at once in a process; systems allow 1024 files and others need some too."""


class Shards:
    """Reads from shards without a shared position; can be pickled and forked.

    Args:
        folder: The set's folder.
    """

    def __init__(self, folder: LocalFolder | RemoteFolder) -> None:
        self.folder = folder
        self._files: dict[str, tuple[int, int]] = {}
        self._pid = os.getpid()

    def read(self, shard: str, start: int, size: int) -> bytes:
        """A range of a shard, in one request.

        Raises:
            PairSetError: The shard is missing, or ends before the range does.
        """
        if isinstance(self.folder, RemoteFolder):
            try:
                data = self.folder.read_range(f'shards/{shard}', start, start + size)
            except FileNotFoundError:
                raise PairSetError(f'{self.folder}/shards/{shard} is missing') from None
        else:
            descriptor, length = self._open(shard)
            # Asking for more than there is would reserve memory for a damaged index's whims.
            data = os.pread(descriptor, size, start) if start + size <= length else b''
        if len(data) != size:
            raise PairSetError(
                f'{self.folder}/shards/{shard} is cut off before byte {start + size}'
            )
        return data

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        if self._pid == os.getpid():
            for descriptor, _ in self._files.values():
                os.close(descriptor)
        self._files = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_files': {}, '_pid': 0}

    def __del__(self) -> None:
        if getattr(self, '_files', None):
            self.close()

    def _open(self, shard: str) -> tuple[int, int]:
        if self._pid != os.getpid():
            # After a fork the parent's descriptors still work, but are the parent's to close.
            self._files, self._pid = {}, os.getpid()
        if shard not in self._files:
            assert isinstance(self.folder, LocalFolder)
            if len(self._files) >= _MAX_OPEN:
                os.close(self._files.pop(next(iter(self._files)))[0])
            path = self.folder.path / 'shards' / shard
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise PairSetError(f'cannot open {path}: {error.strerror}') from None
            self._files[shard] = descriptor, os.fstat(descriptor).st_size
        return self._files[shard]
