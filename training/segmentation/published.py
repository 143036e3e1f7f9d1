# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Published results to compare with: Cityscapes -> ACDC, and tables in their form.

None of these figures was measured here. Those of the thesis are one run each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """A line of a table of domain generalisation.

    Attributes:
        name: The experiment.
        source: mIoU on the source, percent.
        target: mIoU on the target, percent.
        rpd: Target over source.
        source_std: Standard deviation over seeds; NaN for a single run.
        target_std: Of the target.
        published: Where it was published; empty for what was measured here.
    """

    name: str
    source: float
    target: float
    rpd: float
    source_std: float = math.nan
    target_std: float = math.nan
    published: str = ''


def _thesis(table: str, *rows: tuple[str, float, float, float]) -> tuple[Row, ...]:
    return tuple(Row(*row, published=f'CLCP thesis, table {table}') for row in rows)


THESIS_4_1 = _thesis(
    '4.1',
    ('timm-ViT-S', 68.01, 37.93, 0.56),
    ('timm-ViT-S (fb)', 58.21, 40.00, 0.69),
    ('timm-ViT-S B64', 69.50, 33.24, 0.48),
    ('LIP-Loc-KITTI', 69.43, 39.75, 0.57),
    ('LIP-Loc-KITTI (fb)', 60.42, 38.40, 0.64),
    ('LIP-Loc-KITTI B64', 70.39, 32.53, 0.46),
    ('LIP-Loc-KITTI+360', 68.79, 40.10, 0.58),
    ('LIP-Loc-KITTI+360 (fb)', 60.28, 38.95, 0.65),
    ('CLCP (Lin) b128', 67.79, 38.23, 0.56),
    ('CLCP (Lin) b256', 68.76, 37.94, 0.55),
    ('CLCP (Lin) b512', 68.27, 39.73, 0.58),
    ('CLCP (Lin) b768', 68.68, 37.07, 0.54),
    ('CLCP (Lin) b768 (fb)', 49.82, 33.04, 0.66),
)
"""First pretraining runs; fb: only the head was finetuned."""

THESIS_4_3 = _thesis(
    '4.3',
    ('timm-ViT-S', 68.01, 37.93, 0.56),
    ('timm-ViT-S (fb)', 58.21, 40.00, 0.69),
    ('CLCP Ep19 (Lin, fb)', 62.30, 31.06, 0.50),
    ('CLCP Ep35 (Lin, fb)', 59.21, 27.21, 0.46),
    ('CLCP Ep19 (Lin)', 63.52, 33.48, 0.48),
    ('CLCP Ep35 (Lin)', 60.58, 31.07, 0.51),
    ('CLCP Ep67 (Lin)', 58.11, 29.28, 0.50),
    ('CLCP Ep19 (MLP, fb)', 62.59, 33.96, 0.55),
    ('CLCP Ep35 (MLP, fb)', 59.09, 29.92, 0.51),
    ('CLCP Ep19 (MLP, aug)', 62.35, 30.57, 0.50),
    ('CLCP Ep35 (MLP, aug)', 59.32, 28.94, 0.49),
    ('CLCP Ep67 (MLP, aug)', 57.11, 28.02, 0.49),
    ('CLCP Ep67 (MLP)', 58.38, 28.70, 0.49),
)
"""Ablations by epoch of pretraining; here fb: the lidar encoder was frozen in pretraining."""


_LATEX = {c: f'\\{c}' for c in '&%$#_{}'} | {
    '\\': r'\textbackslash{}', '^': r'\textasciicircum{}', '~': r'\textasciitilde{}',
    '→': r'$\rightarrow$', '±': r'$\pm$',
}  # fmt: skip


def markdown(rows: Sequence[Row], source: str, target: str) -> str:
    """A table in the form of the thesis' 4.1 and 4.3.

    Args:
        rows: Measured and published ones.
        source: Name of the source.
        target: Name of the target.
    """
    lines = [
        f'| Experiment | mIoU ({source}) | mIoU ({target}) | rPD | |',
        '|---|---:|---:|---:|---|',
    ]
    for row in rows:
        lines.append(
            f'| {row.name} | {_spread(row.source, row.source_std, " ± ")} '
            f'| {_spread(row.target, row.target_std, " ± ")} | {_number(row.rpd)} '
            f'| {f"published: {row.published}" if row.published else ""} |'
        )
    return '\n'.join(lines) + '\n'


def latex(rows: Sequence[Row], source: str, target: str) -> str:
    """The same table for LaTeX, with booktabs.

    Args:
        rows: Measured and published ones; published ones are marked with a dagger.
        source: Name of the source.
        target: Name of the target.
    """
    lines = [
        r'\begin{tabular}{lrrr}',
        r'\toprule',
        rf'Experiment & mIoU ({_escape(source)}) & mIoU ({_escape(target)}) & rPD \\',
        r'\midrule',
    ]
    plus_minus = r' $\pm$ '
    for row in rows:
        name = _escape(row.name) + (r'$^\dagger$' if row.published else '')
        source_text = _spread(row.source, row.source_std, plus_minus)
        target_text = _spread(row.target, row.target_std, plus_minus)
        cells = (name, source_text, target_text, _number(row.rpd))
        lines.append(' & '.join(cells) + r' \\')
    lines.append(r'\bottomrule')
    if any(row.published for row in rows):
        sources = _escape('; '.join(sorted({row.published for row in rows if row.published})))
        note = rf'\footnotesize $^\dagger$ published, not measured here ({sources})'
        lines.append(rf'\multicolumn{{4}}{{l}}{{{note}}} \\')
    lines.append(r'\end{tabular}')
    return '\n'.join(lines) + '\n'


def _spread(value: float, deviation: float, between: str) -> str:
    return _number(value) + ('' if math.isnan(deviation) else between + _number(deviation))


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.2f}'


def _escape(text: str) -> str:
    return ''.join(_LATEX.get(character, character) for character in text)
