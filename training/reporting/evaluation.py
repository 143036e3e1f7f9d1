# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation as a page: figures, and the frames at which to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from training.reporting.page import Figure, Section, Table, figure_uri, jpeg_uri, render_page
from training.segmentation.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Gallery = Mapping[str, Mapping[str, tuple[str, np.ndarray]]]
"""By condition and kind (best, median, worst): a frame's name and picture (h, w, 3) uint8 RGB."""


def evaluation_page(result: Evaluation, gallery: Gallery) -> str:
    """Put an evaluation on a page.

    Args:
        result: The figures.
        gallery: Frames of each condition.

    Returns:
        HTML that needs nothing else.
    """
    simulated = ['Simulated data.'] if result.about.get('simulated') else []
    sections = [
        Section('Figures', tables=[Table(*result.overview())], warnings=simulated),
        Section('Classes', tables=[Table(*result.per_class())]),
    ]
    if result.calibration:
        caption = 'Accuracy of the pixels of a confidence; below the diagonal it promises too much'
        sections.append(
            Section('Confidence', figures=[Figure(figure_uri(_reliability(result)), caption)])
        )
    for condition in (result.source, *result.targets):
        figures = [
            Figure(jpeg_uri(image), f'{kind}: {name} (image, label, prediction)')
            for kind, (name, image) in gallery.get(condition, {}).items()
        ]
        sections.append(Section(condition, gallery=figures, legend=_legend(result)))
    about = result.about
    return render_page(
        'Evaluation', sections, f'{about["model"]} on {about["data"]}, split {about["split"]}'
    )


def _legend(result: Evaluation) -> list[tuple[str, tuple[int, int, int]]]:
    return list(zip(result.classes.names, result.classes.colors, strict=True))


def _reliability(result: Evaluation) -> MatplotlibFigure:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color='0.7', linewidth=1)
    for condition in (result.source, *result.targets):
        _, confidence, accuracy = result.calibration[condition].bins().T
        axes.plot(confidence, accuracy, marker='.', label=condition)
    axes.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize='small')
    return figure
