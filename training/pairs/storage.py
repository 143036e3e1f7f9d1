# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Folders on disk and in object stores, with the few operations that a pair set needs.

What has `://` in its name is handed to fsspec; everything else is a path. A file appears under its
name only when whole: on disk by renaming, in object stores because uploads are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import IO, Any, Protocol

from clcp_ros.errors import ClcpError, PairSetError

_REMOTE = re.compile(r'([A-Za-z][A-Za-z0-9+.:-]+):/(/?)')


def is_remote(place: Path | str) -> bool:
    """Whether a place is fsspec's to open, such as `s3://bucket/folder`."""
    return _REMOTE.match(str(place)) is not None


def remote_url(place: Path | str) -> str:
    """A URL as typed, also where a Path has swallowed one of its slashes."""
    text = str(place).rstrip('/')
    match = _REMOTE.match(text)
    if match is None or match[2]:
        return text
    return f'{match[1]}://{"/" if match[1] == "file" else ""}{text[match.end() :]}'


class Folder(Protocol):
    """A folder; names in it use forward slashes."""

    def __str__(self) -> str:
        """The place, for messages."""

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: There is none.
        """

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder below, sorted; none when there is no such folder."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""

    def adopt(self, file: Path, name: str) -> None:
        """Move a local file into the folder."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""

    def scratch(self, name: str) -> Path:
        """A local place to write what will be adopted as `name`; removed with the file."""


class LocalFolder:
    """A folder on disk, see `Folder`.

    Args:
        path: The folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        return (self.path / name).read_bytes()

    def exists(self, name: str) -> bool:
        """See `Folder.exists`."""
        return (self.path / name).is_file()

    def names(self, folder: str) -> list[str]:
        """See `Folder.names`."""
        place = self.path / folder
        return sorted(p.name for p in place.iterdir() if p.is_file()) if place.is_dir() else []

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        partial = self.scratch(name)
        try:
            partial.write_bytes(data)
            partial.replace(self.path / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def adopt(self, file: Path, name: str) -> None:
        """See `Folder.adopt`."""
        file.replace(self.path / name)

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        place = self.path / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def scratch(self, name: str) -> Path:
        """See `Folder.scratch`: beside the file, since a rename must not leave the disk."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place.with_name(f'.{place.name}.partial')


class RemoteFolder:
    """A folder that fsspec opens, see `Folder`. Can be pickled.

    Args:
        url: Such as `s3://bucket/folder`.

    Raises:
        PairSetError: No such kind of place, or the package for it is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = remote_url(url)
        self._opened: tuple[int, Any] | None = None
        self._scratch: Any = None
        _ = self.system  # an unknown protocol shows now

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {'url': self.url, '_opened': None, '_scratch': None}

    @property
    def system(self) -> Any:
        """The fsspec file system, one per process: its connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_remote(self.url)[0])
        return self._opened[1]

    def path(self, name: str) -> str:
        """A file's URL."""
        return f'{self.url}/{name}'

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        with _remote(self.path(name)):
            return self.system.cat_file(self.path(name))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """A part of a file; shorter where the file ends before."""
        with _remote(self.path(name)):
            return self.system.cat_file(self.path(name), start=start, end=stop)

    def open(self, name: str) -> IO[bytes]:
        """A file to read from anywhere in it."""
        return self.system.open(self.path(name), 'rb')

    def exists(self, name: str) -> bool:
        """See `Folder.exists`."""
        with _remote(self.path(name)):
            return bool(self.system.isfile(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """See `Folder.names`."""
        with _remote(self.path(folder)):
            # Listings are cached, and other processes write here.
            self.system.invalidate_cache()
            try:
                found = self.system.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                return []
            return sorted(e['name'].rsplit('/', 1)[-1] for e in found if e['type'] == 'file')

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        file = self.scratch(name)
        file.write_bytes(data)
        self.adopt(file, name)

    def adopt(self, file: Path, name: str) -> None:
        """See `Folder.adopt`."""
        with _remote(self.path(name)):
            self.system.makedirs(self.path(name).rsplit('/', 1)[0], exist_ok=True)
            self.system.put_file(str(file), self.path(name))
        file.unlink()

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        with _remote(self.path(name)):
            self.system.invalidate_cache()
            if self.system.exists(self.path(name)):
                self.system.rm(self.path(name), recursive=True)

    def scratch(self, name: str) -> Path:
        """See `Folder.scratch`: in the system's temporary folder."""
        import tempfile

        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix='clcp-upload-')
        return Path(self._scratch.name) / f'{name.replace("/", "__")}.partial'


def open_folder(place: Path | str) -> LocalFolder | RemoteFolder:
    """A folder on disk, or one that fsspec opens.

    Raises:
        PairSetError: No such kind of place, or the package for it is missing.
    """
    return RemoteFolder(str(place)) if is_remote(place) else LocalFolder(Path(place))


def open_remote(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        PairSetError: No such kind of place, or the package for it is missing.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise PairSetError(f'{url}: {error}') from None
    except ValueError as error:
        raise PairSetError(f'{url}: {error}; known places are those of fsspec') from None


@contextlib.contextmanager
def _remote(url: str) -> Any:
    """Turn what a store's client raises into one line; missing files stay FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, ClcpError):
        raise
    except Exception as error:
        # Each client has its own exceptions, and none of their classes can be named here.
        raise PairSetError(f'{url}: {type(error).__name__}: {error}') from error
