# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of one model's evaluation, or of several seeds of one: mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.segmentation.published import Row
from training.segmentation.results import Evaluation, Group, figure

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""

_COLUMNS = {
    'miou': 'mIoU',
    'rpd': 'rPD',
    'pixel_accuracy': 'pixel accuracy',
    'boundary_miou': 'boundary mIoU',
    'ece': 'ECE',
}


def overview(results: Sequence[Evaluation]) -> Table:
    """Parts of the data down, figures across.

    Args:
        results: Seeds of one model, measured on the same data.
    """
    first = results[0]
    keys = [k for k in _COLUMNS if k == 'rpd' or k in first.figures(first.source)]
    rows = []
    for name in first.names:
        values = [r.figures(name) for r in results]
        shown = f'{name} (source)' if name == first.source else name
        rows.append([shown, str(first.frames[name]), *_cells(values, keys)])
    for group in first.groups:
        if len(group.members) > 1:
            frames = str(sum(first.frames[n] for n in group.members))
            values = [r.group_figures(group) for r in results]
            rows.append([group.name, frames, *_cells(values, keys)])
            means = [_mean_figures(r, group) for r in results]
            rows.append([_mean_name(group), '', *_cells(means, keys)])
    return ['condition', 'frames', *(_COLUMNS[k] for k in keys)], rows


def per_class(results: Sequence[Evaluation]) -> Table:
    """Classes down, IoU in each part across.

    Args:
        results: Seeds of one model, measured on the same data.
    """
    first = results[0]
    columns = [np.stack([100 * r.matrices[n].iou() for r in results]) for n in first.names]
    return ['IoU', *first.names], [
        [name, *(spread(c[:, i]) for c in columns)] for i, name in enumerate(first.classes.names)
    ]


def rows(name: str, results: Sequence[Evaluation]) -> list[Row]:
    """Lines of a table that compares models: this source, those targets, pooled.

    Args:
        name: Of the model.
        results: Its seeds.

    Returns:
        A line for each data set and split of the targets; one without target where there is none.
    """
    first = results[0]
    if not first.groups:
        source = [r.miou(r.source) for r in results]
        return [Row(name, float(np.mean(source)), math.nan, math.nan, _deviation(source))]
    found = []
    for group in first.groups:
        source = [r.miou(r.reference(group.members[0])) for r in results]
        figures = [r.group_figures(group) for r in results]
        target, rpd = ([f[k] for f in figures] for k in ('miou', 'rpd'))
        suffix = group.name.removeprefix('all targets')
        found.append(
            Row(
                name + suffix, float(np.mean(source)), float(np.mean(target)),
                float(np.mean(rpd)), _deviation(source), _deviation(target),
            )
        )  # fmt: skip
    return found


def tables(results: Sequence[Evaluation]) -> str:
    """Both tables in Markdown.

    Args:
        results: Seeds of one model.
    """
    return f'{markdown_table(*overview(results))}\n{markdown_table(*per_class(results))}'


def heading(results: Sequence[Evaluation]) -> str:
    """Markdown: what the tables are of.

    Args:
        results: Seeds of one model.
    """
    about = results[0].about
    simulated = '**Simulated data.** ' if about.get('simulated') else ''
    models = ', '.join(f'`{r.about["model"]}`' for r in results)
    seeds = f' Mean ± standard deviation of {len(results)} models.' if len(results) > 1 else ''
    return (
        f'# Evaluation\n\n{simulated}{"Models" if len(results) > 1 else "Model"} {models}, data '
        f'`{about["data"]}`, split `{about["split"]}`.{seeds} One confusion matrix over all '
        'frames of a condition, ground truth at its own resolution; mIoU in percent over the '
        'classes that occur; rPD = mIoU of the target / mIoU of the source; boundary mIoU of '
        'bands 2 % of the diagonal wide (Cheng et al. 2021); ECE in percent over 15 bins (Guo et '
        'al. 2017); all targets: one confusion matrix over all of them.\n'
    )


def to_json(results: Sequence[Evaluation]) -> dict[str, Any]:
    """All figures of one model, or mean and deviation over several with each of them.

    Args:
        results: Seeds of one model.
    """
    if len(results) == 1:
        return results[0].to_json()
    first = results[0]
    runs = [r.to_json() for r in results]
    summary: dict[str, Any] = {}
    for name in first.names:
        values = [r.figures(name) for r in results]
        ious = np.stack([100 * r.matrices[name].iou() for r in results])
        summary[name] = {
            'frames': first.frames[name],
            **_mean_and_deviation(values),
            'iou': {
                c: {'mean': figure(_mean(ious[:, i])), 'sd': figure(_deviation(ious[:, i]))}
                for i, c in enumerate(first.classes.names)
            },
        }
    return {
        **{k: v for k, v in first.about.items() if not k.startswith('model')},
        'models': [r.about['model'] for r in results],
        'class_set': first.classes.name,
        'source': first.source,
        'conditions': summary,
        'groups': {
            g.name: {
                'members': list(g.members),
                **_mean_and_deviation([r.group_figures(g) for r in results]),
            }
            for g in first.groups
        },
        'runs': runs,
    }


def _mean_and_deviation(values: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {
        key: {
            'mean': figure(_mean([v[key] for v in values]), 4 if key == 'rpd' else 2),
            'sd': figure(_deviation([v[key] for v in values]), 4 if key == 'rpd' else 2),
        }
        for key in values[0]
    }


def _mean_figures(result: Evaluation, group: Group) -> dict[str, float]:
    """Unweighted means over the members: what papers call the mean over conditions."""
    return {k: _mean([result.figures(n)[k] for n in group.members]) for k in ('miou', 'rpd')}


def _mean_name(group: Group) -> str:
    return group.name.replace('all targets', 'mean of targets')


def _cells(values: Sequence[dict[str, float]], keys: Sequence[str]) -> list[str]:
    return [spread([v.get(key, math.nan) for v in values], empty='') for key in keys]


def spread(values: Sequence[float] | np.ndarray, empty: str = '-') -> str:
    """A number, or mean ± standard deviation of several.

    Args:
        values: One for each seed.
        empty: For no number.
    """
    mean = _mean(values)
    if math.isnan(mean):
        return empty
    deviation = _deviation(values)
    return f'{mean:.2f}' + ('' if math.isnan(deviation) else f' ± {deviation:.2f}')


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return _without_nan(np.mean, values, 1)


def _deviation(values: Sequence[float] | np.ndarray) -> float:
    """Of a sample; NaN for one value."""
    return _without_nan(lambda v: np.std(v, ddof=1), values, 2)


def _without_nan(
    function: Callable[[np.ndarray], Any], values: Sequence[float] | np.ndarray, least: int
) -> float:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(function(known)) if len(known) >= least else math.nan


def markdown_table(header: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown.

    Args:
        header: Of the columns; the first is aligned to the left.
        lines: Cells.
    """
    text = [f'| {" | ".join(header)} |', f'|---|{"---:|" * (len(header) - 1)}']
    text += [f'| {" | ".join(line)} |' for line in lines]
    return '\n'.join(text) + '\n'
