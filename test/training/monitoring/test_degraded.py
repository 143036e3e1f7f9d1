# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from training.monitoring.degraded import RUN, chosen_runs, read_runs, runs_of
from training.monitoring.domain import Source
from training.monitoring.samples import Item


def source(name: str, frames: int) -> Source:
    def read():
        for k in range(frames):
            yield Item(np.zeros((2, 2, 3), np.uint8), None, name, k, 'clear')

    return Source(name, name, frames, read)


def test_runs_cover_a_source_and_never_two() -> None:
    counts = [47, 7, 0, RUN]
    sources = [source(str(i), count) for i, count in enumerate(counts)]
    runs = runs_of(sources, counts)
    assert [(run.source.key, run.begin, run.end) for run in runs] == [
        ('0', 0, 23), ('0', 23, 47), ('1', 0, 7), ('3', 0, RUN),
    ]  # fmt: skip


@pytest.mark.parametrize('count', [1, 2, 7, 40])
def test_families_have_runs_of_their_own_and_are_of_all_places(count: int) -> None:
    whole = source('a', count * RUN)
    runs = runs_of([whole], [count * RUN])
    turns = [chosen_runs(runs, 2 * RUN, turn) for turn in range(22)]
    for own in turns:
        assert len(own) == len(set(own)) == min(2, count)
        assert own == sorted(own, key=lambda run: run.begin)
    assert len({run for own in turns for run in own}) >= min(count, 20)


def test_frames_of_a_run_follow_each_other() -> None:
    sources = [source('a', 60), source('b', 45)]
    runs = runs_of(sources, [60, 45])
    frames = [(i.drive, i.stamp_ns) for i in read_runs([runs[0], runs[2], runs[4]])]
    expected = [('a', k) for k in (*range(20), *range(40, 60))] + [('b', k) for k in range(22, 45)]
    assert frames == expected


def test_few_frames_are_all_taken() -> None:
    few = source('a', 12)
    runs = runs_of([few], [12])
    assert len(list(read_runs(chosen_runs(runs, 40, 5)))) == 12
