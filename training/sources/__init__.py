# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of recordings. One file per reader; the registry is this folder."""

from __future__ import annotations

import functools
from pathlib import Path

from clcp_ros.errors import RecordingError
from training.registry import found_in
from training.sources.base import Recording, Source, SourceOptions

__all__ = ['Recording', 'Source', 'SourceOptions', 'open_source', 'sources']


@functools.cache
def sources() -> dict[str, Source]:
    """All readers by name: the `SOURCE` of each module in this folder that has one."""
    return found_in(__name__, __path__, 'SOURCE')


def open_source(
    path: Path, reader: str = 'auto', options: SourceOptions | None = None
) -> tuple[Source, list[Recording]]:
    """Find the reader of a path and the recordings under it.

    Args:
        path: A file or folder.
        reader: Name of a reader, or 'auto' to guess from what is there.
        options: What the user said about the recording.

    Returns:
        The reader, and its recordings (at least one).

    Raises:
        RecordingError: Nothing there, no reader fits, or several do.
    """
    options = options or SourceOptions()
    known = sources()
    if not path.exists():
        raise RecordingError(f'{path} does not exist')
    if reader == 'auto':
        fitting = [source for source in known.values() if source.detect(path)]
        if len(fitting) != 1:
            raise RecordingError(_guess_failed(path, [source.name for source in fitting]))
        source = fitting[0]
    elif reader in known:
        source = known[reader]
    else:
        raise RecordingError(f'no reader {reader!r}; there are {", ".join(known)}')
    recordings = list(source.recordings(path, options))
    if not recordings:
        raise RecordingError(f'{path}: no recordings for the {source.name} reader')
    return source, recordings


def _guess_failed(path: Path, fitting: list[str]) -> str:
    if fitting:
        return f'{path} fits the readers {", ".join(fitting)}: choose one with --reader'
    shapes = '; '.join(f'{s.name}: {s.description}' for s in sources().values())
    return f'{path} does not look like any recording that can be read. Known are {shapes}'
