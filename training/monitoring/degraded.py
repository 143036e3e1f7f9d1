# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which frames are degraded to learn from, and what the network says of them.

They are taken in runs of frames that follow each other, because that is what the monitor sees: ten
seconds of one street hold fewer classes, and others, than ten frames from all over a town. Each
family of corruptions has runs of its own, so that together they are of many places.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from training.monitoring.corruptions import VERSION, degrade
from training.monitoring.domain import Source
from training.monitoring.harm_frames import SIZES
from training.monitoring.reader import Reader
from training.monitoring.samples import Item, Samples

RUN = SIZES[-1]
"""Frames of a run: the largest window that the expected mIoU is fitted for."""

SEVERITIES = (1, 3, 5)
"""Of the corruptions that the monitor learns from: far enough apart to tell a ladder."""

_GOLDEN = 0.618034  # multiples of it, less their whole part, lie evenly however many they are


class Run(NamedTuple):
    """Frames of a source that follow each other.

    Attributes:
        source: Whose.
        begin: First of them.
        end: First after them.
    """

    source: Source
    begin: int
    end: int


def runs_of(sources: Sequence[Source], counts: Sequence[int], length: int = RUN) -> list[Run]:
    """Cut sources into runs.

    Args:
        sources: In their order.
        counts: Frames of each.
        length: Of a run at least, where a source has as many; what is left over lengthens them.
    """
    runs = []
    for source, count in zip(sources, counts, strict=True):
        number = max(count // length, min(count, 1))
        edges = [count * i // number for i in range(number + 1)] if number else []
        runs += [Run(source, *edge) for edge in itertools.pairwise(edges)]
    return runs


def chosen_runs(runs: Sequence[Run], frames: int, turn: int, length: int = RUN) -> list[Run]:
    """Some of them, evenly; other turns get others where there are enough.

    Args:
        runs: To choose from.
        frames: About so many.
        turn: Of the family.
        length: Of a run.
    """
    number = max(-(-frames // length), 1)
    if number >= len(runs):
        return list(runs)
    offset = (turn * _GOLDEN) % 1.0
    return [runs[int((k + offset) * len(runs) / number)] for k in range(number)]


def read_runs(runs: Sequence[Run]) -> Iterator[Item]:
    """Their frames, in the order of the runs.

    Args:
        runs: Those of one source together and in their order.
    """
    for _, own in itertools.groupby(runs, key=lambda run: run.source.key):
        parts = list(own)
        items = enumerate(itertools.islice(parts[0].source.read(), parts[-1].end))
        for k, item in items:
            if any(run.begin <= k < run.end for run in parts):
                yield item


def describe_degraded(
    reader: Reader,
    sources: Sequence[Source],
    families: Sequence[str],
    *,
    frames: int,
    logits: bool,
    seed: int,
) -> Iterator[Samples]:
    """Describe frames under corruptions, family by family.

    Args:
        reader: That has read the sources before.
        sources: To take frames from.
        families: Of corruptions.
        frames: How many to describe, about.
        logits: Whether to keep them.
        seed: Of the corruptions.
    """
    if not families:
        return
    wanted = max(frames // (len(families) * len(SEVERITIES)), 1)
    length = min(RUN, wanted)
    runs = runs_of(sources, [reader.count(source) for source in sources], length)
    for turn, family in enumerate(tqdm(families, desc='monitor: corruptions', unit='family')):
        own = chosen_runs(runs, wanted, turn, length)

        def read(family: str = family, own: Sequence[Run] = tuple(own)) -> Iterator[Item]:
            return degrade(read_runs(own), [family], SEVERITIES, seed=seed)

        # What other corruptions than today's left in the cache would be taken for today's.
        places = '/'.join(f'{run.source.key}:{run.begin}-{run.end}' for run in own)
        key = f'{places}/{family}/{VERSION}/{SEVERITIES}/{seed}/{logits}'
        yield reader.one(key, read, f'monitor: {family}', logits)
