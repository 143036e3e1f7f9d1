# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One conversion at a time writes to a place, and waits for workers of one that was killed.

The lock goes with the process that holds it, however it ends. Where a file system knows no locks
there is none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from clcp_ros.errors import PairSetError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# Two bytes of the same file: the first is the conversion's, the second its workers'.
_MAIN, _WORKERS = 0, 1
_PATIENCE_S = 30.0


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, and remove it in the end.

    Args:
        path: The file.

    Raises:
        PairSetError: Another process holds it.
    """
    if fcntl is None:
        yield
        return
    descriptor = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def hold_for_worker(path: Path) -> int | None:
    """Hold a worker's share of the lock until the process ends; returns the descriptor."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDWR)
    with contextlib.suppress(OSError):
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _WORKERS)
    return descriptor


def _take(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, _MAIN, path, 0.0, 'another conversion is writing there')
            _lock(descriptor, _WORKERS, path, _PATIENCE_S, 'workers of a conversion still run')
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, _WORKERS)
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever held it before may have removed the file in the meantime.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _lock(descriptor: int, byte: int, path: Path, patience_s: float, reason: str) -> None:
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # no locks here
        if time.monotonic() > until:
            raise PairSetError(f'{path}: {reason}; wait until it is through')
        time.sleep(0.05)
