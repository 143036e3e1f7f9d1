# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings in object stores, fetched to be read and removed afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clcp_ros.errors import RecordingError
from training.pairs.storage import open_remote, remote_url


def expand(url: str) -> list[str]:
    """The recordings that a URL names: itself, or what a `*` in it stands for, sorted.

    Raises:
        RecordingError: There is nothing.
    """
    url = remote_url(url)
    system, path = open_remote(url)
    with _store(url):
        found = sorted(system.glob(path)) if '*' in path else [path]
        found = [f for f in found if system.exists(f)]
        if not found:
            raise RecordingError(f'{url} does not exist')
        return [system.unstrip_protocol(f) for f in found]


def remote_fingerprint(url: str) -> str:
    """Changes when the files at a URL do, as far as its store tells."""
    system, path = open_remote(url)
    digest = hashlib.sha256()
    with _store(url):
        for name, info in sorted(system.find(path, detail=True).items()):
            marks = [str(info.get(k)) for k in ('size', 'ETag', 'etag', 'md5', 'mtime', 'updated')]
            digest.update('\0'.join([name, *marks, str(info.get('LastModified'))]).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def staged(url: str) -> Iterator[Path]:
    """Fetch a file or folder to this machine's temporary folder for a while.

    Args:
        url: Such as `s3://bucket/drive.bag`.

    Yields:
        The local file or folder, of the same name.

    Raises:
        RecordingError: It cannot be fetched.
    """
    system, path = open_remote(url)
    folder = Path(tempfile.mkdtemp(prefix='clcp-stage-'))
    try:
        target = folder / path.rstrip('/').rsplit('/', 1)[-1]
        with _store(url):
            if system.isdir(path):
                for name in sorted(system.find(path)):
                    file = target / name[len(path.rstrip('/')) + 1 :]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    system.get_file(name, str(file))
            else:
                system.get_file(path, str(target))
        yield target
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _store(url: str) -> Iterator[None]:
    try:
        yield
    except RecordingError:
        raise
    except Exception as error:
        # Each store's client has its own exceptions, and none of their classes can be named here.
        raise RecordingError(f'{url} cannot be read: {type(error).__name__}: {error}') from error
