# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark simdg: how much of its mIoU a network keeps when the weather changes.

Simulates the data, trains on labelled frames of the clear day with several seeds, and measures on
unseen towns, at the same poses in every condition. Without further arguments it trains the
baseline without pretraining. What is done is reused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from clcp_ros.errors import ModelError
from training.cli import next_step
from training.simdg.benchmark import BASELINE, Recipe, run_benchmark, size_of
from training.simdg.data import prepare as prepare_data
from training.simdg.report import Report


def simdg(
    size: Literal['tiny', 'small', 'base'] = 'small',
    encoder: str = '',
    models: str = '',
    frozen: bool = False,
    baseline: bool = True,
    seeds: int = 0,
    split: Literal['test', 'val'] = 'test',
    prepare: bool = False,
    out: Path = Path('simdg'),
    workers: int | None = None,
) -> Report | None:
    """Run the benchmark of domain generalisation on simulated data.

    Args:
        size: tiny (seconds, tests only that everything runs), small (two cores), base (one GPU).
        encoder: Pretrained weights, image_encoder.safetensors; several as name=path,name=path;
            {seed} in a path stands for the seed, where each has a pretraining of its own.
        models: Finetuned models to measure as they are, as name=path,name=path; the same name
            again is another seed of it.
        frozen: Also train each encoder frozen, the head alone.
        baseline: Also train the size's network from nothing, for comparison.
        seeds: Number of seeds, 0 for the size's.
        split: test, or val to develop on.
        prepare: Only simulate the data, with the pairs to pretrain on.
        out: Folder of the benchmark.
        workers: Processes that simulate, by default one per processor.

    Returns:
        The figures.
    """
    if seeds < 0:
        raise ModelError(f'seeds must not be negative, not {seeds}')
    chosen = size_of(size)
    if prepare:
        data = prepare_data(chosen, out, workers)
        print(
            f'{data.labelled}: labelled frames\n{data.pairs}: unlabelled pairs in all conditions\n'
            f'{data.pairs_clear}: the same moments on the clear day'
        )
        next_step(
            f'python training/pretrain.py --pairs {data.pairs} '
            f'--model.image_encoder {chosen.architecture} --out runs/simdg'
        )
        return None
    recipes = recipes_of(encoder, models, frozen, baseline)
    report = run_benchmark(
        chosen, recipes, out, split, range(seeds) if seeds else None, workers, pairs=False
    )
    print(f'\nsimulated data, simdg {size}, split {split}\n\n{report.table()}')
    for recipe in report.summaries:
        print(f'{recipe.recipe}: rPD {recipe.rpd.text(3)} over {recipe.rpd.count} seeds')
    print(f'wrote {out / size / f"results-{split}"}.csv, .md, .json')
    return report


def recipes_of(encoder: str, models: str, frozen: bool, baseline: bool) -> list[Recipe]:
    """Recipes from what was typed.

    Args:
        encoder: Paths or name=path, with commas.
        models: The same; a name may occur again.
        frozen: Each encoder frozen, too.
        baseline: The one from nothing, too; also where nothing else is given.
    """
    recipes = []
    for name, path in _named(encoder):
        recipes.append(Recipe(name, str(path)))
        if frozen:
            recipes.append(Recipe(f'{name}+frozen', str(path), frozen=True))
    given: dict[str, list[Path]] = {}
    for name, path in _named(models):
        given.setdefault(name, []).append(path)
    recipes += [Recipe(name, models=tuple(paths)) for name, paths in given.items()]
    if frozen and not encoder:
        raise ModelError('--frozen needs an --encoder: one from nothing has to be trained')
    return [Recipe(BASELINE), *recipes] if baseline or not recipes else recipes


def _named(text: str) -> list[tuple[str, Path]]:
    found = []
    for part in filter(None, (p.strip() for p in text.split(','))):
        name, equals, path = part.partition('=')
        if not equals:
            path = part
            # runs/clcp/image_encoder.safetensors is best told by its folder.
            name = (
                Path(part).resolve().parent.name.replace('{seed}', '').strip('-_. ') or 'encoder'
            )
        found.append((name, Path(path)))
    return found
