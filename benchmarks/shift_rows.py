# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A figure of the benchmark, with its goal where it has one."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from training.cli import atomic_path


@dataclass(frozen=True)
class Row:
    """A figure.

    Attributes:
        section: Part of the report.
        what: What was measured.
        quantity: Its name.
        value: NaN where it could not be measured; infinite for a delay of what was missed.
        count: Of what it was made, where that says something.
        goal: As `<= 3`; empty without.
    """

    section: str
    what: str
    quantity: str
    value: float
    count: int = 0
    goal: str = ''

    @property
    def met(self) -> str:
        """`met`, `missed`, `not measured`, or nothing without a goal."""
        if not self.goal:
            return ''
        if math.isnan(self.value):
            return 'not measured'
        sign, _, limit = self.goal.partition(' ')
        good = self.value <= float(limit) if sign == '<=' else self.value >= float(limit)
        return 'met' if good else 'missed'


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file.

    Args:
        path: Its name.
        rows: What it holds.
    """
    names = [field.name for field in fields(Row)]
    with atomic_path(path) as partial, partial.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*names, 'met'])
        for row in rows:
            values = [getattr(row, name) for name in names]
            values[names.index('value')] = figure(row.value)
            writer.writerow([*values, row.met])


def figure(value: float) -> str:
    """Four digits; `inf` for what never came, empty for what is not known."""
    return '' if math.isnan(value) else f'{value:.4g}'


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for people.

    Args:
        head: Names of the columns.
        lines: Cells.
    """
    rows = [head, ['---'] * len(head), *lines]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows) + '\n'
