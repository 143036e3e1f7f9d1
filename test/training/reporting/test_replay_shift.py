# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from clcp_ros.monitor import Level
from clcp_ros.replay import FrameRecord
from training.reporting.replay_sections import condition_table
from training.reporting.replay_shift import condition_runs, settled, shift_figure


def drive(frames: int = 60, **known: float) -> list[FrameRecord]:
    """Clear, then fog that is noticed after two seconds."""
    records = []
    for i in range(frames):
        fog = i >= frames // 2
        alarmed = i >= frames // 2 + 10
        records.append(
            FrameRecord(
                i * 10**8,
                i / 10,
                Level.ERROR if alarmed else Level.OK,
                '',
                novelty_z=(6.0 if fog else 0.0) if i % 5 == 0 else math.nan,
                novelty_cusum=10.0 if alarmed else 0.0,
                cusum_threshold=8.0,
                kind='haze' if alarmed else 'none',
                condition='fog' if fog else 'clear',
                monitored=i % 5 == 0,
                **known,
            )
        )
    return records


@pytest.mark.parametrize(
    ('known', 'rows'),
    [
        ({}, ['novelty (sd)', 'evidence (sd s)', 'kind']),
        (
            {'miou_est': 0.6, 'miou_lo': 0.5, 'miou_hi': 0.7},
            ['novelty (sd)', 'evidence (sd s)', 'mIoU', 'kind'],
        ),
    ],
)
def test_the_figure_shows_what_is_known(known: dict[str, float], rows: list[str]) -> None:
    figure = shift_figure(drive(**known))
    assert [axis.get_ylabel() for axis in figure.axes] == rows
    top = figure.axes[0]
    assert {text.get_text() for text in top.texts} == {'clear', 'fog'}
    assert 'ERROR' in {text.get_text() for text in top.get_legend().get_texts()}
    assert [text.get_text() for text in figure.axes[-1].texts] == ['haze']


def test_one_frame_without_anything_known_is_drawn() -> None:
    record = FrameRecord(0, 0.0, Level.STALE, '')
    assert len(shift_figure([record]).axes) == 1


def test_conditions_are_compared_by_what_the_monitor_said() -> None:
    records = drive(miou_est=0.6)
    assert condition_runs(records) == [('clear', 0, 30), ('fog', 30, 60)]
    table = condition_table(records, {})
    clear, fog = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert (clear['novelty'], fog['novelty']) == ('+0.0', '+6.0')
    assert (clear['kind'], fog['kind']) == ('-', 'haze')
    assert fog['warns after'] == '1.0 s'
    assert fog['expected mIoU'] == '0.600'
    assert math.isnan(settled([math.nan]))
