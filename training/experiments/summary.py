# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of an experiment: means over seeds, differences from the baseline, seed by seed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.cli import atomic_path, git_commit
from training.experiments.invariance import invariance_table, read_notes, write_invariance
from training.experiments.plan import BASELINE, FROZEN, Job, Plan, recipes_of
from training.loop import METRICS, read_metrics
from training.simdg.benchmark import conditions_done
from training.simdg.report import (
    TABLE_HEAD,
    Row,
    Spread,
    Summary,
    adverse_mean,
    make_rows,
    runs_of,
    summarize,
    table_line,
    write_csv,
)
from training.simdg.sizes import ADVERSE, SOURCE, Size

WATCHED = (
    'val_loss', 'val_r1', 'val_rank', 'val_alignment', 'val_uniformity_image', 'val_image_rank',
    'val_patch_cosine', 'val_patch_cka',
)  # fmt: skip
"""Of pretraining's metrics, what the table of pretraining shows: of runs that were validated."""

INVARIANCE = 'invariance'
"""Folder of what was measured of single encoders, by split, and name of the table."""


@dataclass(frozen=True)
class Line:
    """A recipe over its seeds, and against the baseline.

    Attributes:
        summary: Of the recipe.
        gain: Difference of the adverse conditions' mean from the baseline of the same seed.
        cost: Difference of the source's mIoU from the baseline of the same seed.
    """

    summary: Summary
    gain: Spread
    cost: Spread


@dataclass(frozen=True)
class Comparison:
    """What an experiment found.

    Attributes:
        lines: By recipe, the baseline first.
        rows: What they are made of.
    """

    lines: tuple[Line, ...]
    rows: tuple[Row, ...]

    def table(self) -> str:
        """Markdown: recipes down, conditions across."""
        lines = [
            f'{TABLE_HEAD} adverse against none | source against none |',
            f'|---|---:|{"---:|" * (len(ADVERSE) + 5)}',
        ]
        for line in self.lines:
            own = line.summary.recipe == BASELINE
            differences = ['', ''] if own else [signed(line.gain), signed(line.cost)]
            lines.append(f'{table_line(line.summary)} {" | ".join(differences)} |')
        return '\n'.join(lines) + '\n'


def signed(spread: Spread) -> str:
    """A difference with its sign.

    Args:
        spread: Over seeds.
    """
    text = spread.text()
    return f'+{text}' if spread.mean > 0 else text


def compare_rows(rows: Iterable[Row]) -> Comparison:
    """Lines from rows.

    Args:
        rows: Of all recipes, seeds and conditions; a seed of a recipe has all conditions.
    """
    rows = tuple(rows)
    runs = runs_of(rows)
    baseline = runs.get(BASELINE, {})
    return Comparison(tuple(_line(recipe, runs[recipe], baseline) for recipe in runs), rows)


def _line(
    recipe: str, runs: dict[int, dict[str, float]], baseline: dict[int, dict[str, float]]
) -> Line:
    pairs = [(run, baseline[seed]) for seed, run in runs.items() if seed in baseline]
    return Line(
        summarize(recipe, runs.values()),
        Spread.of(adverse_mean(run) - adverse_mean(none) for run, none in pairs),
        Spread.of(run[SOURCE] - none[SOURCE] for run, none in pairs),
    )


def write_comparison(
    jobs: list[Job], plan: Plan, size: Size, out: Path, data: Path, split: str, label: str
) -> Comparison:
    """Collect what the jobs measured; write results, invariance and pretraining.

    Args:
        jobs: Jobs that are done.
        plan: Of the experiment.
        size: Of the benchmark.
        out: Folder of the experiment.
        data: Folder of the benchmark.
        split: test or val.
        label: End of the names of the files.
    """
    rows: list[Row] = []
    facts: list[dict[str, str | float]] = []
    for job in jobs:
        for recipe in recipes_of(job, out / 'pretrain', plan, size):
            conditions = conditions_done(size, data, recipe.name, job.seed, split)
            name = recipe.name.removesuffix(plan.tag)
            rows += make_rows(size.name, split, name, job.seed, conditions)
        if job.arm is not None:
            metrics = read_metrics(out / 'pretrain' / job.recipe / f'seed{job.seed}' / METRICS)
            last = {name: value for _, name, value in metrics}
            watched = {name: last.get(name, math.nan) for name in ('loss', *WATCHED)}
            facts.append({'recipe': job.recipe, 'seed': job.seed, **watched})
    rows.sort(key=lambda row: row.recipe.removesuffix(FROZEN) != BASELINE)
    comparison = compare_rows(rows)
    write_csv(out / f'results-{label}.csv', rows)
    with atomic_path(out / f'pretraining-{label}.csv') as part, part.open('w', newline='') as file:
        writer = csv.DictWriter(file, ['recipe', 'seed', 'loss', *WATCHED])
        writer.writeheader()
        writer.writerows(facts)
    runs = {(row.recipe, row.seed) for row in rows}
    notes = read_notes(out / INVARIANCE / split)
    measured = [note for note in notes if (note.recipe, note.seed) in runs]
    write_invariance(out / f'{INVARIANCE}-{label}.csv', measured)
    with atomic_path(out / f'results-{label}.md') as part:
        part.write_text(
            f'**Simulated data**, simdg {size.name}, split {split}; mIoU in percent, mean ± '
            f'standard deviation over seeds; differences are taken seed by seed. Commit '
            f'{git_commit()}.\n\n{comparison.table()}\n{invariance_table(measured)}'
        )
    return comparison
