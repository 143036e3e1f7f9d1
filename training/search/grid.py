# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Grid search over any options of pretraining, one run after the other.

Takes the options and recipes of training/pretrain.py. Runs that are finished are reused and one
that was interrupted goes on, so that a grid can be stopped, resumed and widened.
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import itertools
import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from lightning.pytorch.utilities import rank_zero_only

from clcp_ros.errors import ClcpError, ModelError
from training.callbacks import rank_zero_print
from training.cli import atomic_path, next_step, with_the_same_options
from training.loop import METRICS, read_metrics
from training.metric_directions import smaller_is_better
from training.nonfinite import DivergedError
from training.pretrain import pretrain
from training.search.signature import with_options_of

_logger = logging.getLogger(__name__)

Value = bool | int | float | str | list[Any] | dict[str, Any] | None


@with_options_of(pretrain)
def grid(
    values: dict[str, list[Value]] | None = None,
    objective: str = 'val_loss',
    **settings: Any,
) -> Path:
    """Pretrain with every combination of some values, in `out`/grid; compare the ends.

    Args:
        values: Values by option, as JSON: {"optimizer.lr": [1e-4, 1e-3], "batch_size": [64, 256]}.
        objective: A metric of metrics.csv: val_loss, val_r1, val_probe_miou, ...
        settings: Those of pretraining.

    Returns:
        The table, `grid.csv`; beside it is `grid.png`.

    Raises:
        ModelError: No values, an option that does not exist, an objective without a better and
            worse, or no run that logs it.
    """
    if not values or not all(values.values()):
        raise ModelError('give values to try, as --values \'{"optimizer.lr": [1e-4, 1e-3]}\'')
    smaller_is_better(objective)  # complains before the first run
    out = Path(settings.pop('out', Path('runs/pretrain'))) / 'grid'
    combinations = [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]
    runs = [(c, changed(settings, c)) for c in combinations]  # complains before the first run
    rows: list[dict[str, Any]] = []
    for i, (combination, options) in enumerate(runs):
        name = name_of(combination)
        rank_zero_print(f'\n--- {i + 1} of {len(runs)}: {name}')
        failure = ''
        try:
            pretrain(out=out / name, hint=False, **options)
        except DivergedError as error:
            # One learning rate that diverges is a result; the others are still to be known.
            failure = str(error)
        except (ClcpError, OSError):
            raise  # an option or the disk: the next one would fare no better
        except Exception as error:
            # Numbers that a library cannot take, too little memory: of this combination alone.
            _logger.debug('%s', name, exc_info=True)
            first = (str(error).strip() or 'no more is known').splitlines()[0]
            failure = f'{type(error).__name__}: {first}'
        if failure:
            rank_zero_print(f'\n{failure}')
        rows.append({**combination, **_result(out / name, failure), 'failure': failure})
        _write(out / 'grid.csv', list(values), rows)
    _conclude(out, values, objective, rows)
    return out / 'grid.csv'


@rank_zero_only
def _conclude(
    out: Path, values: dict[str, list[Value]], objective: str, rows: list[dict[str, Any]]
) -> None:
    """Draw the scores and say which are best, in the process that wrote the metrics."""
    smaller = smaller_is_better(objective)
    combinations = [{option: row[option] for option in values} for row in rows]
    scores = [row.get(objective, math.nan) for row in rows]
    scores = [score if math.isfinite(score) else math.nan for score in scores]
    if all(math.isnan(s) for s in scores):
        known = sorted({k for r in rows for k, v in r.items() if k.startswith('val_')})
        why = next((f' ({row["failure"]})' for row in rows if row['failure']), '')
        raise ModelError(f'no run logged {objective}{why}; there are {", ".join(known) or "none"}')
    best = int(np.nanargmin(scores) if smaller else np.nanargmax(scores))
    plot(out / 'grid.png', values, scores, objective, best)
    print(f'\nbest {objective}, {scores[best]:.4g}: {name_of(combinations[best])}')
    print(f'wrote {out / "grid.csv"}, {out / "grid.png"}')
    next_step(
        with_the_same_options(
            'python training/pretrain.py',
            without=('values', 'objective', 'overwrite'),
            then={
                k.replace('-', '_'): v if isinstance(v, str) else json.dumps(v)
                for k, v in combinations[best].items()
            },
        )
    )


def changed(settings: dict[str, Any], combination: dict[str, Value]) -> dict[str, Any]:
    """Settings with some options replaced.

    Args:
        settings: Arguments of `pretrain`.
        combination: Values by option; a dot leads into a group.

    Raises:
        ModelError: There is no such option, or it takes no such value.
    """
    defaults = {n: p.default for n, p in inspect.signature(pretrain).parameters.items()}
    types = get_type_hints(pretrain)
    result = dict(settings)
    for option, value in combination.items():
        first, *path = option.replace('-', '_').split('.')
        if first not in defaults or first in ('out', 'overwrite'):
            raise ModelError(f'no option {option!r} to try')
        content = result.get(first, defaults[first])
        result[first] = _changed(content, types[first], path, value, option)
    return result


def _changed(content: Any, kind: Any, path: list[str], value: Value, option: str) -> Any:
    """What an option holds with one value replaced, at the end of the path."""
    if not path:
        return _as(kind, value, option)
    fields = get_type_hints(type(content)) if dataclasses.is_dataclass(content) else {}
    name, *rest = path
    if name not in fields:
        group = option.rpartition(f'.{name}')[0]
        raise ModelError(
            f'no option {option!r} to try; {group} has {", ".join(sorted(fields)) or "none"}'
        )
    inner = _changed(getattr(content, name), fields[name], rest, value, option)
    return dataclasses.replace(content, **{name: inner})


def _as(kind: Any, value: Value, option: str) -> Any:
    """A value as the command line would read it."""
    from jsonargparse import ArgumentError, ArgumentParser

    if dataclasses.is_dataclass(kind):
        raise ModelError(f'{option} is a group: name one of its options, as in "{option}.x"')
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--value', type=kind)
    try:
        return parser.parse_object({'value': value}).value
    except ArgumentError:
        raise ModelError(f'{option} cannot be {value!r}') from None


def name_of(combination: dict[str, Value]) -> str:
    """A folder's name.

    Args:
        combination: Values by option.
    """
    parts = [f'{k.rpartition(".")[2]}={_typed(v)}' for k, v in combination.items()]
    return re.sub(r'[^\w=.,+-]', '_', ','.join(parts))


def _typed(value: Value) -> str:
    if isinstance(value, float):
        return f'{value:g}'
    return value if isinstance(value, str) else json.dumps(value)


def _result(run: Path, failure: str) -> dict[str, float]:
    """The last of each metric of a run."""
    last = {name: value for _, name, value in read_metrics(run / METRICS)}
    return {k: v for k, v in last.items() if not failure or not k.startswith('val_')}


@rank_zero_only
def _write(path: Path, options: Sequence[str], rows: list[dict[str, Any]]) -> None:
    metrics = sorted({k for row in rows for k in row} - {*options, 'failure'})
    with atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        writer = csv.DictWriter(file, [*options, *metrics, 'failure'], restval='')
        writer.writeheader()
        writer.writerows(rows)


def plot(
    path: Path,
    values: dict[str, list[Value]],
    scores: Sequence[float],
    objective: str,
    best: int,
) -> None:
    """Draw the scores: a line, a map, or bars of all combinations.

    Args:
        path: A PNG file.
        values: Values by option.
        scores: (N,) of the combinations in the order of `itertools.product`; NaN: failed.
        objective: Its name.
        best: Number of the best.
    """
    from matplotlib.figure import Figure

    names, lists = list(values), [[_typed(v) for v in vs] for vs in values.values()]
    figure = Figure(figsize=(7, 4.2), layout='constrained')
    axes = figure.subplots()
    if len(names) == 1:
        axes.plot(lists[0], scores, marker='o')
        axes.plot([lists[0][best]], [scores[best]], 'o', color='C1', markersize=11, zorder=3)
        axes.set(xlabel=names[0], ylabel=objective)
        axes.grid(alpha=0.3)
    elif len(names) == 2:
        table = np.reshape(np.asarray(scores, float), [len(vs) for vs in lists])
        image = axes.imshow(table, aspect='auto')
        figure.colorbar(image, label=objective)
        axes.set_xticks(range(len(lists[1])), lists[1])
        axes.set_yticks(range(len(lists[0])), lists[0])
        axes.set(xlabel=names[1], ylabel=names[0])
        middle = np.nanmean([np.nanmin(table), np.nanmax(table)])
        for i, j in np.ndindex(table.shape):
            score = table[i, j]
            text = 'failed' if np.isnan(score) else f'{score:.3g}'
            chosen = i * table.shape[1] + j == best
            axes.text(
                j, i, f'{text}\n(best)' if chosen else text, ha='center', va='center',
                color='black' if score > middle or np.isnan(score) else 'white',
                fontweight='bold' if chosen else 'normal',
            )  # fmt: skip
    else:
        labels = ['\n'.join(c) for c in itertools.product(*lists)]
        colors = ['C1' if i == best else 'C0' for i in range(len(scores))]
        axes.barh(range(len(scores)), np.nan_to_num(scores), color=colors)
        axes.set_yticks(range(len(scores)), [label.replace('\n', ', ') for label in labels])
        axes.invert_yaxis()
        axes.set(xlabel=objective, ylabel=', '.join(names))
        figure.set_size_inches(8, max(4.2, 0.25 * len(scores) + 1.5))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png', dpi=120)
