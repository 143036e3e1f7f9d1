# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from training.segmentation.published import THESIS_4_1, THESIS_4_3, Row, latex, markdown


@pytest.mark.parametrize('table', [THESIS_4_1, THESIS_4_3])
def test_published_ratios_fit_their_figures(table: tuple[Row, ...]) -> None:
    """They do, but for one that the thesis prints as 0.48: 33.48 / 63.52 = 0.53."""
    off = [r.name for r in table if abs(r.target / r.source - r.rpd) > 0.0101]
    assert off in ([], ['CLCP Ep19 (Lin)'])
    assert all(r.published for r in table)


def test_markdown_marks_what_was_published() -> None:
    rows = [Row('ours', 70.123, 41.0, 0.585, 0.5, 1.25), THESIS_4_1[0]]
    lines = markdown(rows, 'Cityscapes', 'ACDC').splitlines()
    assert lines[0] == '| Experiment | mIoU (Cityscapes) | mIoU (ACDC) | rPD | |'
    assert lines[2] == '| ours | 70.12 ± 0.50 | 41.00 ± 1.25 | 0.58 |  |'
    assert lines[3].endswith('| published: CLCP thesis, table 4.1 |')


def test_latex_is_escaped() -> None:
    text = latex([Row('a_b & 5 %', 1, float('nan'), 0.5)], 'sim_day', 'ACDC')
    assert r'a\_b \& 5 \% & 1.00 & - & 0.50 \\' in text
    assert 'dagger' not in text
    assert r'timm-ViT-S$^\dagger$ & 68.01' in latex(THESIS_4_1, 'Cityscapes', 'ACDC')


def test_latex_says_what_the_dagger_means() -> None:
    lines = latex([Row('a^b~\\', 1, 2, 0.5), THESIS_4_1[0]], 's', 't').splitlines()
    assert lines[0] == r'\begin{tabular}{lrrr}'
    assert lines[-1] == r'\end{tabular}'
    note = r'$^\dagger$ published, not measured here (CLCP thesis, table 4.1)'
    assert lines[-2] == rf'\multicolumn{{4}}{{l}}{{\footnotesize {note}}} \\'
    assert r'a\textasciicircum{}b\textasciitilde{}\textbackslash{} & 1.00' in lines[4]
