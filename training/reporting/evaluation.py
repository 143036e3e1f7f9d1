# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: a page, tables beside published ones, and the figures as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.cli import atomic_path
from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri, render_page
from training.segmentation.published import THESIS_4_1, THESIS_4_3, latex, markdown
from training.segmentation.result_tables import heading, overview, per_class, rows, tables, to_json
from training.segmentation.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

RESULT = 'evaluation.json'
TABLE = 'evaluation.md'
LATEX = 'evaluation.tex'
PAGE = 'evaluation.html'
ROWS = 'evaluation.csv'

Gallery = Mapping[str, Mapping[str, tuple[str, np.ndarray]]]
"""By part and kind (best, median, worst): what to call a frame, and its picture (h, w, 3)."""

_PUBLISHED = {'4.1': THESIS_4_1, '4.3': THESIS_4_3}


def write_evaluation(
    folder: Path,
    results: Sequence[Evaluation],
    gallery: Gallery,
    name: str,
    columns: tuple[str, str],
) -> None:
    """Write `evaluation.json`, `.csv`, `.md`, `.tex` and `.html`; each appears whole.

    Args:
        folder: Where to.
        results: One model, or several seeds of one.
        gallery: Frames of each part.
        name: Of the model, in tables that compare models.
        columns: Names of source and target there.
    """
    own = rows(name, results)
    note = 'Published rows are Cityscapes -> ACDC, and of other models, resolutions and data.'
    text = [heading(results), tables(results), f'## Beside published figures\n\n{note}\n']
    tex = []
    for number, published in _PUBLISHED.items():
        text.append(f'As table {number}:\n\n{markdown([*own, *published], *columns)}')
        tex.append(f'% in the form of table {number}\n{latex([*own, *published], *columns)}')
    files = {
        RESULT: json.dumps(to_json(results), indent=1) + '\n',
        ROWS: csv_rows(results),
        TABLE: '\n'.join(text),
        LATEX: '\n'.join(tex),
        PAGE: evaluation_page(results, gallery),
    }
    for file, content in files.items():
        with atomic_path(folder / file) as temporary:
            temporary.write_text(content)


def csv_rows(results: Sequence[Evaluation]) -> str:
    """Every figure of every model as comma-separated values, a line for each part of the data.

    Args:
        results: One model, or several seeds of one.
    """
    classes = results[0].classes.names
    figures = ('miou', 'rpd', 'pixel_accuracy', 'boundary_miou', 'ece')
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(
        ['model', 'data', 'condition', 'split', 'frames', *figures, *(f'iou {c}' for c in classes)]
    )
    for result in results:
        for name in result.names:
            part, found = result.part(name), result.figures(name)
            values = [found.get(f, math.nan) for f in figures]
            values += list(100 * result.matrices[name].iou())
            writer.writerow(
                [
                    result.about['model'], part.data, part.condition, part.split,
                    result.frames[name], *('' if math.isnan(v) else f'{v:.4f}' for v in values),
                ]
            )  # fmt: skip
    return text.getvalue()


def evaluation_page(results: Sequence[Evaluation], gallery: Gallery) -> str:
    """Put an evaluation on a page.

    Args:
        results: One model, or several seeds of one.
        gallery: Frames of each part; of the first model.

    Returns:
        HTML that needs nothing else.
    """
    first = results[0]
    simulated = ['Simulated data.'] if first.about.get('simulated') else []
    several = f'Mean ± standard deviation of {len(results)} models.' if len(results) > 1 else ''
    sections = [
        Section(
            'Figures', tables=[Table(*overview(results), caption=several)], warnings=simulated
        ),
        Section('Classes', tables=[Table(*per_class(results), caption=several)]),
    ]
    if len(results) > 1:
        single = [Table(*overview([r]), caption=str(r.about['model'])) for r in results]
        sections.append(Section('Each model', tables=single))
    if first.calibration:
        caption = 'Accuracy of the pixels of a confidence; below the diagonal it promises too much'
        sections.append(
            Section('Confidence', figures=[Figure(figure_uri(_reliability(results)), caption)])
        )
    for part in first.names:
        figures = [
            Figure(jpeg_uri(image), f'{kind}: {name} (image, label, prediction)')
            for kind, (name, image) in gallery.get(part, {}).items()
        ]
        sections.append(Section(part, gallery=figures, legend=_legend(first)))
    about = first.about
    models = ', '.join(str(r.about['model']) for r in results)
    return render_page(
        'Evaluation', sections, f'{models} on {about["data"]}, split {about["split"]}'
    )


def _legend(result: Evaluation) -> list[tuple[str, tuple[int, int, int]]]:
    return list(zip(result.classes.names, result.classes.colors, strict=True))


def _reliability(results: Sequence[Evaluation]) -> MatplotlibFigure:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color='0.7', linewidth=1)
    for index, part in enumerate(results[0].names):
        for result in results:
            _, confidence, accuracy = result.calibration[part].bins().T
            label = part if result is results[0] else None
            axes.plot(confidence, accuracy, marker='.', color=f'C{index}', label=label)
    axes.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize='small')
    return figure
