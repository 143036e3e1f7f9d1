# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation: what was counted in each part of the data, and what follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clcp_ros.classes import ClassSet
from training.segmentation.boundary import BoundaryScore
from training.segmentation.calibration import Calibration
from training.segmentation.metrics import ConfusionMatrix

_PREFERRED = ('clear', 'day', 'all')


class Part(NamedTuple):
    """Frames that are counted together.

    Attributes:
        condition: Weather or light.
        split: Split of the data set.
        data: Name of the data set.
    """

    condition: str
    split: str = ''
    data: str = ''


class Group(NamedTuple):
    """All targets of one data set and split, which published tables give as one figure.

    Attributes:
        name: `all targets`, with split and data set where there are several.
        members: Names of the parts.
    """

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one model, by part of the data.

    Attributes:
        classes: The class set.
        matrices: A confusion matrix over all frames of each part, by the part's name.
        frames: Number of frames of each part.
        source: Name of the part that the others are compared with.
        about: Model, data and whether they are simulated.
        boundary: Boundary IoU of each part; where it was measured.
        calibration: Calibration of each part's confidence; where it was measured.
        parts: What the names stand for; a name without an entry is a condition.
    """

    classes: ClassSet
    matrices: dict[str, ConfusionMatrix]
    frames: dict[str, int]
    source: str
    about: dict[str, Any]
    boundary: dict[str, BoundaryScore] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        """What a name stands for.

        Args:
            name: Of a part.
        """
        return self.parts.get(name, Part(name))

    @property
    def names(self) -> list[str]:
        """Names of all parts: the source, the source's other splits, the targets."""
        others = sorted(n for n in self.matrices if n != self.source and self._is_source(n))
        return [self.source, *others, *self.targets]

    @property
    def targets(self) -> list[str]:
        """Names of the parts of other conditions or data than the source's, sorted."""
        return sorted(n for n in self.matrices if not self._is_source(n))

    @property
    def groups(self) -> list[Group]:
        """The targets by data set and split."""
        found: dict[tuple[str, str], list[str]] = {}
        for name in self.targets:
            part = self.part(name)
            found.setdefault((part.data, part.split), []).append(name)
        several_sets = len({data for data, _ in found}) > 1
        several_splits = len({split for _, split in found}) > 1
        return [
            Group(qualified('all targets', [data] * several_sets, [split] * several_splits),
                  tuple(members))
            for (data, split), members in sorted(found.items())
        ]  # fmt: skip

    def _is_source(self, name: str) -> bool:
        source, part = self.part(self.source), self.part(name)
        return (part.condition, part.data) == (source.condition, source.data)

    def reference(self, name: str) -> str:
        """The source part that a part is compared with: of its own split where there is one.

        Args:
            name: Of a part.
        """
        wanted = self.part(name)
        for candidate in self.matrices:
            part = self.part(candidate)
            if self._is_source(candidate) and (part.split, part.data) == wanted[1:]:
                return candidate
        return self.source

    def miou(self, name: str) -> float:
        """Mean IoU of a part in percent.

        Args:
            name: Of the part.
        """
        return 100 * self.matrices[name].miou()

    def rpd(self, name: str) -> float:
        """Relative performance under domain shift: mIoU of the target over that of the source.

        Args:
            name: Of the target. NaN when the source's mIoU is zero.
        """
        return self._ratio(self.miou(name), self.reference(name))

    def mean_rpd(self) -> float:
        """Mean rPD over all targets; NaN when there is none."""
        values = [self.rpd(c) for c in self.targets]
        return float(np.mean(values)) if values else math.nan

    def _ratio(self, miou: float, source: str) -> float:
        reference = self.miou(source)
        return miou / reference if reference > 0 else math.nan

    def figures(self, name: str) -> dict[str, float]:
        """The figures of a part.

        Args:
            name: Of the part.

        Returns:
            By name: `miou`, `rpd` (of targets), `pixel_accuracy`, `boundary_miou` and `ece` (where
            measured). All but rPD in percent.
        """
        return self._figures([name], self.reference(name), not self._is_source(name))

    def group_figures(self, group: Group) -> dict[str, float]:
        """The same figures of a group: from one confusion matrix over all of its frames.

        Args:
            group: Of `groups`.
        """
        return self._figures(group.members, self.reference(group.members[0]), True)

    def _figures(self, names: Sequence[str], source: str, target: bool) -> dict[str, float]:
        matrix = deepcopy(self.matrices[names[0]])
        for name in names[1:]:
            matrix += self.matrices[name]
        miou = 100 * matrix.miou()
        found = {'miou': miou, 'pixel_accuracy': 100 * matrix.pixel_accuracy()}
        if target:
            found['rpd'] = self._ratio(miou, source)
        if all(n in self.boundary for n in names):
            boundary = deepcopy(self.boundary[names[0]])
            for name in names[1:]:
                boundary += self.boundary[name]
            found['boundary_miou'] = 100 * boundary.miou()
        if all(n in self.calibration for n in names):
            calibration = deepcopy(self.calibration[names[0]])
            for name in names[1:]:
                calibration += self.calibration[name]
            found['ece'] = 100 * calibration.error()
        return found

    def to_json(self) -> dict[str, Any]:
        """All figures; percentages, null where a class does not occur."""
        conditions: dict[str, Any] = {}
        for name in self.names:
            matrix, part = self.matrices[name], self.part(name)
            found = {k: figure(v, 4 if k == 'rpd' else 2) for k, v in self.figures(name).items()}
            conditions[name] = {
                'frames': self.frames[name],
                **({'split': part.split, 'data': part.data} if part.split else {}),
                **found,
                'rpd': found.get('rpd'),
                'iou': {
                    c: figure(100 * v)
                    for c, v in zip(self.classes.names, matrix.iou(), strict=True)
                },
                'confusion': matrix.counts.tolist(),
            }
        return {
            **self.about,
            'class_set': self.classes.name,
            'source': self.source,
            'mean_rpd': figure(self.mean_rpd(), 4),
            'conditions': conditions,
            'groups': {
                g.name: {
                    'members': list(g.members),
                    'frames': sum(self.frames[n] for n in g.members),
                    **{
                        k: figure(v, 4 if k == 'rpd' else 2)
                        for k, v in self.group_figures(g).items()
                    },
                }
                for g in self.groups
            },
        }


def name_parts(parts: Sequence[Part]) -> dict[Part, str]:
    """Names for parts: the condition, and what else is needed to tell them apart.

    Args:
        parts: All of an evaluation.

    Returns:
        Names by part; `fog`, or `fog (val)` beside `fog (test)`.
    """
    named = {}
    for part in parts:
        same = [p for p in parts if p.condition == part.condition]
        several_sets = len({p.data for p in same}) > 1
        several_splits = len({p.split for p in same if p.data == part.data}) > 1
        named[part] = qualified(
            part.condition, [part.data] * several_sets, [part.split] * several_splits
        )
    return named


def qualified(name: str, *qualifiers: Sequence[str]) -> str:
    """A name with what tells it from others in brackets.

    Args:
        name: The name.
        qualifiers: Each of one entry, or empty.
    """
    words = [word for qualifier in qualifiers for word in qualifier]
    return f'{name} ({", ".join(words)})' if words else name


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


def figure(value: float, digits: int = 2) -> float | None:
    """A number for JSON, null for NaN.

    Args:
        value: The number.
        digits: Kept behind the point.
    """
    return None if math.isnan(value) else round(value, digits)
