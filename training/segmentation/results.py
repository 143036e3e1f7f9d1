# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation: mIoU per condition, rPD, and their tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clcp_ros.classes import ClassSet
from training.segmentation.calibration import Calibration
from training.segmentation.metrics import ConfusionMatrix
from training.segmentation.published import Row

_PREFERRED = ('clear', 'day', 'all')


@dataclass(frozen=True)
class Evaluation:
    """What was measured, by condition.

    Attributes:
        classes: The class set.
        matrices: A confusion matrix over all frames of each condition.
        frames: Number of frames of each condition.
        source: Condition that the model was trained for.
        about: Model, data and whether they are simulated.
        boundary: Boundary mIoU of each condition, in [0, 1]; where it was measured.
        calibration: Calibration of each condition's confidence; where it was measured.
    """

    classes: ClassSet
    matrices: dict[str, ConfusionMatrix]
    frames: dict[str, int]
    source: str
    about: dict[str, Any]
    boundary: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """Conditions other than the source, sorted."""
        return sorted(c for c in self.matrices if c != self.source)

    def miou(self, condition: str) -> float:
        """Mean IoU of a condition in percent.

        Args:
            condition: Its name.
        """
        return 100 * self.matrices[condition].miou()

    def rpd(self, condition: str) -> float:
        """Relative performance under domain shift: mIoU of the target over that of the source.

        Args:
            condition: The target. NaN when the source's mIoU is zero.
        """
        source = self.miou(self.source)
        return self.miou(condition) / source if source > 0 else math.nan

    def mean_rpd(self) -> float:
        """Mean rPD over all target conditions; NaN when there is none."""
        values = [self.rpd(c) for c in self.targets]
        return float(np.mean(values)) if values else math.nan

    def to_json(self) -> dict[str, Any]:
        """All figures; percentages, null where a class does not occur."""
        conditions = {}
        for name in (self.source, *self.targets):
            matrix = self.matrices[name]
            conditions[name] = {
                'frames': self.frames[name],
                'miou': _figure(self.miou(name)),
                'pixel_accuracy': _figure(100 * matrix.pixel_accuracy()),
                **self._further(name),
                'rpd': _figure(self.rpd(name), 4) if name != self.source else None,
                'iou': {
                    c: _figure(100 * v)
                    for c, v in zip(self.classes.names, matrix.iou(), strict=True)
                },
                'confusion': matrix.counts.tolist(),
            }
        return {
            **self.about,
            'class_set': self.classes.name,
            'source': self.source,
            'mean_rpd': _figure(self.mean_rpd(), 4),
            'conditions': conditions,
        }

    def _further(self, name: str) -> dict[str, Any]:
        further: dict[str, Any] = {}
        if name in self.boundary:
            further['boundary_miou'] = _figure(100 * self.boundary[name])
        if name in self.calibration:
            further['ece'] = _figure(100 * self.calibration[name].error())
        return further

    def row(self, name: str) -> Row:
        """The line of a table that compares models: this source, that target.

        Args:
            name: Of the model.
        """
        target = float(np.mean([self.miou(c) for c in self.targets])) if self.targets else math.nan
        return Row(name, self.miou(self.source), target, self.mean_rpd())

    def overview(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a table: conditions down, figures across."""
        header = ['condition', 'frames', 'mIoU', 'rPD', 'pixel accuracy']
        header += ['boundary mIoU'] * bool(self.boundary) + ['ECE'] * bool(self.calibration)
        rows = []
        for name in (self.source, *self.targets):
            source = name == self.source
            cells = [
                f'{name} (source)' if source else name, str(self.frames[name]),
                _text(self.miou(name)), '' if source else _text(self.rpd(name)),
                _text(100 * self.matrices[name].pixel_accuracy()),
            ]  # fmt: skip
            if self.boundary:
                cells.append(_text(100 * self.boundary[name]))
            if self.calibration:
                cells.append(_text(100 * self.calibration[name].error()))
            rows.append(cells)
        if len(self.targets) > 1:
            mean = self.row('').target
            frames = sum(self.frames[c] for c in self.targets)
            cells = ['mean of targets', str(frames), _text(mean), _text(self.mean_rpd())]
            rows.append(cells + [''] * (len(header) - len(cells)))
        return header, rows

    def per_class(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a table: classes down, IoU in each condition across."""
        names = [self.source, *self.targets]
        columns = [self.matrices[n].iou() for n in names]
        return ['IoU', *names], [
            [name, *(_text(100 * c[i]) for c in columns)]
            for i, name in enumerate(self.classes.names)
        ]

    def table(self) -> str:
        """Markdown: conditions down, figures across; then IoU of each class."""
        return f'{_markdown(*self.overview())}\n{_markdown(*self.per_class())}'

    def heading(self) -> str:
        """Markdown: what the table is of."""
        simulated = '**Simulated data.** ' if self.about.get('simulated') else ''
        return (
            f'# Evaluation\n\n{simulated}Model `{self.about["model"]}`, data '
            f'`{self.about["data"]}`, split `{self.about["split"]}`. One confusion matrix over '
            'all frames of a condition, ground truth at its own resolution; mIoU in percent over '
            'the classes that occur; rPD = mIoU of the target / mIoU of the source; boundary mIoU '
            'of bands 2 % of the diagonal wide (Cheng et al. 2021); ECE in percent over 15 bins '
            '(Guo et al. 2017).\n'
        )


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [f'| {" | ".join(header)} |', f'|---|{"---:|" * (len(header) - 1)}']
    lines += [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join(lines) + '\n'


def choose_source(conditions: list[str], wanted: str) -> str | None:
    """The source condition.

    Args:
        conditions: Those that occur.
        wanted: A name, or `auto`: clear, day or all, whichever occurs, or the only one.

    Returns:
        A name, or None when it cannot be told.
    """
    if wanted != 'auto':
        return wanted if wanted in conditions else None
    candidates = [c for c in _PREFERRED if c in conditions] or conditions[: len(conditions) == 1]
    return candidates[0] if candidates else None


def _figure(value: float, digits: int = 2) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _text(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.2f}'
