# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's figures: a row per recipe, seed and condition, and what follows from them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.classes import CITYSCAPES
from training.cli import atomic_path
from training.simdg.sizes import ADVERSE, SOURCE

_FIXED = ('size', 'split', 'recipe', 'seed', 'condition', 'frames', 'miou', 'rpd')
COLUMNS = (*_FIXED, *(f'iou {name}' for name in CITYSCAPES.names))
"""Of the CSV file; percent but for rpd, empty where a class does not occur."""


@dataclass(frozen=True)
class Row:
    """What one trained network reached in one condition.

    Attributes:
        size: Of the benchmark.
        split: `test` or `val`.
        recipe: Name of the recipe.
        seed: Of the training; the number of the file for models that were given.
        condition: Weather or light.
        frames: Number of frames.
        miou: Percent.
        rpd: mIoU over that of the source; None for the source itself.
        iou: (19,) percent, None for classes that do not occur.
    """

    size: str
    split: str
    recipe: str
    seed: int
    condition: str
    frames: int
    miou: float
    rpd: float | None
    iou: tuple[float | None, ...]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a sample.

    Attributes:
        mean: NaN without values.
        std: Of the sample (n - 1), NaN with fewer than two values.
        count: Number of values.
    """

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """From values.

        Args:
            values: The sample.
        """
        sample = np.array(list(values), np.float64)
        mean = float(sample.mean()) if len(sample) else math.nan
        return cls(mean, float(sample.std(ddof=1)) if len(sample) > 1 else math.nan, len(sample))

    def text(self, digits: int = 1) -> str:
        """As in tables: mean, and the deviation if there is one.

        Args:
            digits: After the point.
        """
        if math.isnan(self.mean):
            return '-'
        deviation = '' if math.isnan(self.std) else f' ± {self.std:.{digits}f}'
        return f'{self.mean:.{digits}f}{deviation}'


@dataclass(frozen=True)
class Summary:
    """A recipe over its seeds.

    Attributes:
        recipe: Its name.
        conditions: mIoU by condition, percent.
        adverse: Mean mIoU of the adverse conditions, percent.
        rpd: Relative performance under domain shift: `adverse` over the source's mIoU, per seed.
    """

    recipe: str
    conditions: dict[str, Spread]
    adverse: Spread
    rpd: Spread


def relative_performance(target: float, source: float) -> float:
    """The rPD of the thesis: mIoU of the target over mIoU of the source.

    Args:
        target: mIoU under the shift; for several conditions their mean.
        source: mIoU without it. NaN comes back when it is zero.
    """
    return target / source if source > 0 else math.nan


def make_rows(
    size: str, split: str, recipe: str, seed: int, conditions: dict[str, Any]
) -> list[Row]:
    """Rows of one trained network.

    Args:
        size: Of the benchmark.
        split: `test` or `val`.
        recipe: Name of the recipe.
        seed: Of the training.
        conditions: `frames`, `miou` and `iou` by condition, as `Evaluation.to_json` gives them.
    """
    source = conditions[SOURCE]['miou']
    return [
        Row(
            size, split, recipe, seed, name, entry['frames'], entry['miou'],
            None if name == SOURCE else relative_performance(entry['miou'], source),
            tuple(entry['iou'][c] for c in CITYSCAPES.names),
        )
        for name, entry in conditions.items()
    ]  # fmt: skip


def runs_of(rows: Iterable[Row]) -> dict[str, dict[int, dict[str, float]]]:
    """MIoU by recipe, seed and condition, percent.

    Args:
        rows: A seed of a recipe has all conditions.
    """
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        runs.setdefault(row.recipe, {}).setdefault(row.seed, {})[row.condition] = row.miou
    return runs


def adverse_mean(run: dict[str, float]) -> float:
    """Mean mIoU of the adverse conditions.

    Args:
        run: mIoU by condition.
    """
    return float(np.mean([run[c] for c in ADVERSE]))


def summarize(recipe: str, runs: Iterable[dict[str, float]]) -> Summary:
    """A recipe over its seeds.

    Args:
        recipe: Its name.
        runs: mIoU by condition, of each seed.
    """
    runs = list(runs)
    return Summary(
        recipe,
        {c: Spread.of(run[c] for run in runs) for c in (SOURCE, *ADVERSE)},
        Spread.of(adverse_mean(run) for run in runs),
        Spread.of(relative_performance(adverse_mean(run), run[SOURCE]) for run in runs),
    )


TABLE_HEAD = (
    f'| recipe | seeds | {SOURCE} (source) | {" | ".join(ADVERSE)} | mean of adverse | rPD |'
)


def table_line(summary: Summary) -> str:
    """A recipe's line under `TABLE_HEAD`.

    Args:
        summary: Of the recipe.
    """
    figures = [summary.conditions[c].text() for c in (SOURCE, *ADVERSE)]
    cells = [summary.recipe, str(summary.rpd.count), *figures, summary.adverse.text()]
    return f'| {" | ".join([*cells, summary.rpd.text(3)])} |'


@dataclass(frozen=True)
class Report:
    """All rows of a run of the benchmark.

    Attributes:
        rows: By recipe, seed and condition.
        about: Commit, versions, command, data.
    """

    rows: tuple[Row, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def recipes(self) -> list[str]:
        """In the order in which they ran."""
        return list(dict.fromkeys(row.recipe for row in self.rows))

    @property
    def summaries(self) -> list[Summary]:
        """One per recipe."""
        return [summarize(name, runs.values()) for name, runs in runs_of(self.rows).items()]

    def table(self) -> str:
        """Markdown: recipes down, conditions across; then the classes in clear weather."""
        lines = [TABLE_HEAD, f'|---|---:|{"---:|" * (len(ADVERSE) + 3)}']
        lines += [table_line(summary) for summary in self.summaries]
        lines += ['', f'| IoU, {SOURCE} | {" | ".join(self.recipes)} |']
        lines.append(f'|---|{"---:|" * len(self.recipes)}')
        for place, name in enumerate(CITYSCAPES.names):
            cells = [self._class(recipe, place).text() for recipe in self.recipes]
            lines.append(f'| {name} | {" | ".join(cells)} |')
        return '\n'.join(lines) + '\n'

    def _class(self, recipe: str, place: int) -> Spread:
        values = [
            row.iou[place] for row in self.rows if row.recipe == recipe and row.condition == SOURCE
        ]
        return Spread.of(v for v in values if v is not None)

    def markdown(self) -> str:
        """The whole page: what it is of, the table, what it was made with."""
        about = self.about
        facts = [f'- {name}: `{about[name]}`' for name in ('command', 'commit') if name in about]
        versions = ', '.join(f'{k} {v}' for k, v in about.get('versions', {}).items())
        return (
            f'# simdg, {about.get("size", "")}\n\n**Simulated data.** Trained on labelled frames '
            f'of the clear day, measured on the split `{about.get("split", "")}`: unseen towns, '
            'the same poses in every condition. mIoU in percent over the classes that occur, mean '
            '± standard deviation over seeds; rPD = mean mIoU of the adverse conditions / mIoU of '
            f'the clear day.\n\n{self.table()}\n'
            + '\n'.join([*facts, f'- versions: {versions}'])
            + '\n'
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-serialisable."""
        return {
            **self.about,
            'simulated': True,
            'summaries': [
                {
                    'recipe': s.recipe,
                    'miou': {c: _spread_json(v) for c, v in s.conditions.items()},
                    'adverse': _spread_json(s.adverse),
                    'rpd': _spread_json(s.rpd, 4),
                }
                for s in self.summaries
            ],
        }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows under `COLUMNS`.

    Args:
        path: The file; it appears whole.
        rows: What to write.
    """
    with atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            fixed = [getattr(row, name) for name in _FIXED]
            fixed[-1] = '' if row.rpd is None else f'{row.rpd:.4f}'
            writer.writerow([*fixed, *('' if v is None else v for v in row.iou)])


def read_csv(path: Path) -> list[Row]:
    """Read what `write_csv` wrote.

    Args:
        path: The file.
    """
    with path.open(newline='') as file:
        return [
            Row(
                r['size'], r['split'], r['recipe'], int(r['seed']), r['condition'],
                int(r['frames']), float(r['miou']), float(r['rpd']) if r['rpd'] else None,
                tuple(float(r[c]) if r[c] else None for c in COLUMNS[len(_FIXED) :]),
            )
            for r in csv.DictReader(file)
        ]  # fmt: skip


def _spread_json(spread: Spread, digits: int = 2) -> dict[str, Any]:
    return {
        'mean': None if math.isnan(spread.mean) else round(spread.mean, digits),
        'std': None if math.isnan(spread.std) else round(spread.std, digits),
        'seeds': spread.count,
    }
