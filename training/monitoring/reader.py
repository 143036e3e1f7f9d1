# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of drives as the fits of the monitor take them, described once and kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clcp_ros.errors import ModelError
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.faults import static_tiles
from clcp_ros.monitor.statistics import STATISTICS
from training.monitoring.domain import Source
from training.monitoring.samples import Item, Samples, collect

EVERY = 8
"""Of so many frames one is kept, small, to see what never moves."""


def read_samples(
    segmenter: Segmenter, sources: Sequence[Source], model_sha256: str, cache: Path | None = None
) -> Samples:
    """Describe the frames of some drives.

    Args:
        segmenter: Of the bundle.
        sources: The drives.
        model_sha256: Hash of the bundle's model.
        cache: Folder in which described frames are kept.

    Raises:
        ModelError: There are none.
    """
    samples = Reader(segmenter, model_sha256, cache).all(sources, 'monitor: site')
    if samples is None:
        raise ModelError('there are no frames')
    return samples


class Reader:
    """Describes frames, once.

    Args:
        segmenter: Of the bundle.
        model_sha256: Hash of the bundle's model.
        cache: Folder in which described frames are kept; None keeps nothing.
    """

    def __init__(self, segmenter: Segmenter, model_sha256: str, cache: Path | None) -> None:
        self._segmenter = segmenter
        self._cache = cache
        self._thumbnails: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}
        own = [model_sha256, repr(segmenter.bundle.tiling), *STATISTICS]
        self._own = hashlib.sha256('\n'.join(own).encode()).hexdigest()

    def all(
        self,
        sources: Sequence[Source],
        title: str,
        logits: bool = False,
        temperature: float | None = None,
    ) -> Samples | None:
        """The frames of several drives; None of none."""
        parts = []
        for source in sources:
            key = _key(source, logits, temperature)
            named = f'{title}, {source.drive}'
            parts.append(self.one(key, source.read, named, logits, temperature))
            self._thumbnails[source.key] = self._thumbnails[key]
            self._counts[source.key] = len(parts[-1])
        return Samples.concat(parts) if parts else None

    def one(
        self, key: str, read: Any, title: str, logits: bool, temperature: float | None = None
    ) -> Samples:
        """Some frames, from the cache where they are there."""
        file = self._file(key)
        if file is not None and file.is_file():
            with contextlib.suppress(ModelError, OSError, ValueError):  # made anew
                samples = Samples.load(file)
                self._thumbnails[key] = np.load(file.with_suffix('.npy'), allow_pickle=False)
                return samples
        thumbnails: list[np.ndarray] = []
        samples = collect(self._segmenter, _seen(read(), thumbnails), title, logits, temperature)
        self._store(key, samples, np.stack(thumbnails))
        return samples

    def keep(
        self,
        source: Source,
        samples: Samples,
        images: Sequence[np.ndarray],
        temperature: float | None = None,
    ) -> None:
        """Take a drive as described that was described elsewhere, by the same network.

        Args:
            source: The drive.
            samples: Its frames, without logits.
            images: Every `EVERY`-th of them, from the first on.
            temperature: That `samples.soft` was made with, if any.
        """
        small = np.stack([_thumbnail(image) for image in images])
        self._store(_key(source, False, temperature), samples, small)

    def count(self, source: Source) -> int:
        """Frames of a source that was read with `all`."""
        return self._counts[source.key]

    def _file(self, key: str) -> Path | None:
        if self._cache is None:
            return None
        name = hashlib.sha256(f'{self._own}/{key}'.encode()).hexdigest()[:24]
        return self._cache / f'{name}.npz'

    def _store(self, key: str, samples: Samples, thumbnails: np.ndarray) -> None:
        file = self._file(key)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file.with_suffix('.npy'), thumbnails, allow_pickle=False)
            samples.save(file)
        self._thumbnails[key] = thumbnails

    def static(self, sources: Sequence[Source]) -> np.ndarray:
        """(6, 8) bool, where something that belongs to the robot always stands."""
        known = [self._thumbnails[source.key] for source in sources]
        return static_tiles(image for part in known for image in part)


def _key(source: Source, logits: bool, temperature: float | None) -> str:
    return f'{source.key}/{logits}' + ('' if temperature is None else f'/{temperature!r}')


def _seen(items: Iterable[Item], thumbnails: list[np.ndarray]) -> Iterator[Item]:
    """Pass items on and keep some, small."""
    for i, item in enumerate(items):
        if i % EVERY == 0:
            thumbnails.append(_thumbnail(item.image))
        yield item


def _thumbnail(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA))
