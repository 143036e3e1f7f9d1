# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Splits by time, by drive and by tag: deterministic, and no drive on both sides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clcp_ros.errors import PairSetError
from training.pairs.splits import Split


def rows(counts: dict[str, int], night: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [
        {
            'key': f'{name}/{i:03d}', 'sequence': name, 'camera_stamp_ns': i,
            'tags': json.dumps({'condition': 'night' if name in night else 'clear'}),
        }
        for name, count in counts.items() for i in reversed(range(count))
    ]  # fmt: skip


def validation(split: str, table: list[dict[str, Any]], **drives: str) -> list[str]:
    Split.parse(split, 0.2).assign(table, drives)
    return sorted(row['key'] for row in table if row['split'] == 'val')


def test_time_takes_the_last_part_whatever_the_order_of_the_rows():
    assert validation('time', rows({'a': 10, 'b': 3, 'c': 1})) == ['a/008', 'a/009', 'b/002']


def test_drives_stay_together():
    table = rows({'d1_front': 5, 'd1_rear': 5, 'd2': 5})
    drives = {'d1_front': 'd1', 'd1_rear': 'd1'}
    held_out = validation('sequence:d1_rear', table, **drives)
    assert {key.split('/')[0] for key in held_out} == {'d1_front', 'd1_rear'}
    for fraction in (0.1, 0.5, 0.9):
        held_out = validation(f'sequence:{fraction}', table, **drives)
        sides = {drives.get(r['sequence'], r['sequence']): set() for r in table}
        for row in table:
            sides[drives.get(row['sequence'], row['sequence'])].add(row['split'])
        assert all(len(side) == 1 for side in sides.values())
        assert len({*map(frozenset, sides.values())}) == 2


def test_a_fraction_of_drives_is_stable():
    counts = {f's{i}': 10 for i in range(20)}
    held_out = {key.split('/')[0] for key in validation('sequence:0.25', rows(counts))}
    assert len(held_out) == 5
    more = {key.split('/')[0] for key in validation('sequence:0.25', rows({**counts, 't': 10}))}
    assert len(held_out & more) >= 4


def test_tags():
    table = rows({'a': 3, 'b': 2}, night=('b',))
    assert validation('tag:condition=night', table) == ['b/000', 'b/001']
    with pytest.raises(PairSetError, match='its values are clear, night'):
        validation('tag:condition=fog', table)
    with pytest.raises(PairSetError, match='no pair has that tag'):
        validation('tag:weather=fog', table)
    with pytest.raises(PairSetError, match='nothing to train on'):
        validation('tag:condition=clear', rows({'a': 3}))


@pytest.mark.parametrize(
    'text', ['', 'tim', 'time:0.2', 'sequence', 'sequence:', 'tag:x', 'tag:=y']
)
def test_nonsense(text):
    with pytest.raises(PairSetError, match='is none of time'):
        Split.parse(text, 0.15)


def test_one_drive_cannot_be_parted():
    with pytest.raises(PairSetError, match='at least two sequences'):
        validation('sequence:0.3', rows({'a': 9}))
    with pytest.raises(PairSetError, match='nothing to train on'):
        validation('sequence:a', rows({'a': 9}))
