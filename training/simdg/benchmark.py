# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Trains recipes on the benchmark's clear day and measures them in every condition."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import timm
import torch

from clcp_ros.bundle import sha256_of
from clcp_ros.errors import ModelError
from training.cli import atomic_path, git_commit
from training.evaluate import measure
from training.finetune import finetune
from training.models.image_encoder import architecture_of, read_weights
from training.segmentation.metrics import ConfusionMatrix
from training.segmentation.predictors import open_predictor
from training.segmentation.results import Evaluation
from training.simdg.data import BenchmarkData, prepare
from training.simdg.report import Report, Row, make_rows, write_csv
from training.simdg.sizes import SIZES, SOURCE, Size

BASELINE = 'scratch'
"""The size's own network, trained from nothing: no pretraining."""


@dataclass(frozen=True)
class Recipe:
    """What is trained, or was.

    Attributes:
        name: In tables and folders.
        encoder: A file of pretrained weights (`image_encoder.safetensors`) or timm's name of a
            network; empty for the size's own network from nothing. `{seed}` in it stands for the
            seed of the run: each has a pretraining of its own.
        weights: A file of weights for a network given by name.
        frozen: Train the head alone.
        options: Arguments of `finetune` that replace the size's.
        models: Finetuned weights, or bundles, to measure instead of training; one per seed.
    """

    name: str
    encoder: str = ''
    weights: Path | None = None
    frozen: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    models: tuple[Path, ...] = ()

    def encoder_of(self, seed: int) -> str:
        """The encoder of one run.

        Args:
            seed: Of the run.
        """
        return self.encoder.replace('{seed}', str(seed))

    def check(self, seeds: Sequence[int] = (0,)) -> None:
        """Complain before anything is simulated.

        Args:
            seeds: Of the runs to come.

        Raises:
            ModelError: The name cannot be a folder's, or a file is missing.
        """
        allowed = all(c.isalnum() or c in '-_.+' for c in self.name)
        if not self.name or not allowed or self.name.startswith('.'):
            raise ModelError(
                f'{self.name!r} cannot be the name of a recipe: letters, digits, - _ . and + only'
            )
        is_file = '/' in self.encoder or self.encoder.endswith(('.safetensors', '.pth', '.pt'))
        encoders = dict.fromkeys(self.encoder_of(seed) for seed in seeds) if is_file else ()
        files = [*self.models, *map(Path, encoders)]
        files += [self.weights] if self.weights else []
        if missing := [f for f in files if not f.exists()]:
            raise ModelError(f'{missing[0]}: no such file, for the recipe {self.name}')

    def describe(self, seed: int) -> dict[str, Any]:
        """What decides the results of one run, JSON-serialisable.

        Args:
            seed: Of the run.
        """
        encoder = Path(self.encoder_of(seed))
        files = [encoder] if self.encoder and encoder.is_file() else []
        files += [self.weights] if self.weights else []
        return {
            'encoder': encoder.name, 'frozen': self.frozen,
            'options': _json(self.options), 'weights': [_weights_digest(f) for f in files],
        }  # fmt: skip


def run_benchmark(
    size: Size | str = 'small',
    recipes: Sequence[Recipe] = (Recipe(BASELINE),),
    out: Path = Path('simdg'),
    split: str = 'test',
    seeds: Sequence[int] | None = None,
    workers: int | None = None,
    pairs: bool = True,
    report: bool = True,
) -> Report:
    """Prepare the data, train each recipe with each seed on the clear day, measure it everywhere.

    What is done is reused, by recipe and seed; a training that was interrupted goes on.

    Args:
        size: A size or its name.
        recipes: What to compare.
        out: Folder of the benchmark.
        split: `test`, or `val` to develop on.
        seeds: Of the trainings; the size's when None.
        workers: Processes that simulate.
        pairs: Also prepare the pairs for pretraining.
        report: Write the tables of all recipes; not where other processes run other recipes.

    Returns:
        The figures of these recipes. `results-<split>.{csv,md,json}` in the folder of the size
        hold those of all recipes that ran on the same data.

    Raises:
        ModelError: A recipe that cannot be trained, an unknown size or split.
    """
    size = size_of(size)
    if split not in ('val', 'test'):
        raise ModelError(f'no split {split!r}; there are val and test')
    if len({r.name for r in recipes}) < len(recipes):
        raise ModelError('recipes need names of their own; give them as name=path')
    chosen = size.seeds if seeds is None else tuple(seeds)
    for recipe in recipes:
        recipe.check(chosen)
    for recipe in recipes:
        _note_other_network(size, recipe, chosen[:1])
    data = prepare(size, out, workers, pairs)
    rows: list[Row] = []
    for recipe in recipes:
        for seed in range(len(recipe.models)) if recipe.models else chosen:
            print(f'\n{recipe.name}, {"model" if recipe.models else "seed"} {seed}')
            rows += _one(size, data, recipe, seed, split)
            if report:
                write_report(size, data, split)
    return Report(tuple(rows), _about(size, data, split))


def _note_other_network(size: Size, recipe: Recipe, seeds: Sequence[int] = (0,)) -> None:
    """Say when a comparison with the baseline is one of networks, too."""
    if recipe.encoder.endswith('.safetensors'):
        network = architecture_of(Path(recipe.encoder_of(*seeds)))
        if network and network != size.architecture:
            print(
                f'note: {recipe.name} is a {network}, the baseline of {size.name} a '
                f'{size.architecture}: the difference is not that of the pretraining alone'
            )


def size_of(size: Size | str) -> Size:
    """A size by name.

    Args:
        size: A size or its name.

    Raises:
        ModelError: There is no such size.
    """
    if isinstance(size, Size):
        return size
    if size not in SIZES:
        raise ModelError(f'no size {size!r}; there are {", ".join(SIZES)}')
    return SIZES[size]


def write_report(size: Size, data: BenchmarkData, split: str) -> Report:
    """Write `results-<split>.{csv,md,json}` of all recipes that ran on these data.

    Args:
        size: The size.
        data: Its data.
        split: `test` or `val`.

    Returns:
        What was written.
    """
    found = []
    for path in (data.root / 'runs').glob(f'*/*/result-{split}.json'):
        content = json.loads(path.read_text())
        if content['data'] == data.fingerprint:
            found.append(content)
    found.sort(key=lambda c: (c['recipe'] != BASELINE, c['recipe'], c['seed']))
    rows = [
        row
        for c in found
        for row in make_rows(size.name, split, c['recipe'], c['seed'], c['conditions'])
    ]
    report = Report(tuple(rows), _about(size, data, split))
    stem = data.root / f'results-{split}'
    write_csv(stem.with_suffix('.csv'), rows)
    for suffix, text in (
        ('.md', report.markdown()), ('.json', json.dumps(report.to_json(), indent=1) + '\n'),
    ):  # fmt: skip
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    return report


def model_file(size: Size, out: Path, recipe: str, seed: int) -> Path:
    """The file of a network that a run trained.

    Args:
        size: The size.
        out: Folder of the benchmark.
        recipe: Its name.
        seed: Of the run.
    """
    return out / size.name / 'runs' / recipe / f'seed{seed}' / 'model.safetensors'


def conditions_done(size: Size, out: Path, recipe: str, seed: int, split: str) -> dict[str, Any]:
    """What a finished run measured.

    Args:
        size: The size.
        out: Folder of the benchmark.
        recipe: Its name.
        seed: Of the run.
        split: `test` or `val`.

    Returns:
        As `conditions_of`.

    Raises:
        ModelError: It is not finished.
    """
    path = out / size.name / 'runs' / recipe / f'seed{seed}' / f'result-{split}.json'
    if not path.is_file():
        raise ModelError(f'{path}: {recipe} was not measured with seed {seed}')
    conditions: dict[str, Any] = json.loads(path.read_text())['conditions']
    return conditions


def _one(size: Size, data: BenchmarkData, recipe: Recipe, seed: int, split: str) -> list[Row]:
    """Train with one seed, or take the model, and measure it; both only if need be."""
    folder = data.root / 'runs' / recipe.name / f'seed{seed}'
    if recipe.models:
        model = recipe.models[seed]
        facts: dict[str, Any] = {'model': sha256_of(_weights_file(model))}
    else:
        model = folder / 'model.safetensors'
        facts = {**recipe.describe(seed), 'size': _json(size.training), 'seed': seed}
        facts['architecture'] = _architecture(recipe.encoder_of(seed)) or size.architecture
    fingerprint = _digest([data.fingerprint, facts])
    stamp, result = folder / 'simdg.json', folder / f'result-{split}.json'
    same = stamp.is_file() and json.loads(stamp.read_text()).get('fingerprint') == fingerprint
    if not same:
        for old in folder.glob('result-*.json'):
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps({'fingerprint': fingerprint, **facts}, indent=1) + '\n')
    if not result.is_file():
        if not recipe.models:
            _train(size, data, recipe, seed, folder, overwrite=not same)
        content = {
            'recipe': recipe.name, 'seed': seed, 'data': data.fingerprint,
            'conditions': conditions_of(model, data, split), 'commit': git_commit(),
        }  # fmt: skip
        with atomic_path(result) as temporary:
            temporary.write_text(json.dumps(content) + '\n')
    conditions = json.loads(result.read_text())['conditions']
    return make_rows(size.name, split, recipe.name, seed, conditions)


def _train(
    size: Size, data: BenchmarkData, recipe: Recipe, seed: int, folder: Path, overwrite: bool
) -> Path:
    arguments = {
        'split': 'train', 'conditions': SOURCE, 'layout': 'cityscapes',
        'encoder': recipe.encoder_of(seed) or size.architecture, 'weights': recipe.weights,
        'freeze_encoder': recipe.frozen, **size.training, **recipe.options,
    }  # fmt: skip
    return finetune(data.labelled, out=folder, seed=seed, overwrite=overwrite, **arguments)


def conditions_of(model: Path, data: BenchmarkData, split: str) -> dict[str, Any]:
    """Measure a finetuned model in every condition.

    Args:
        model: Weights that finetune wrote, or a bundle.
        data: The benchmark's data.
        split: `test` or `val`.

    Returns:
        `frames`, `miou`, `iou` and more by condition, percent; see `Evaluation.to_json`.
    """
    predictor = open_predictor(model)
    frames = data.frames(split)
    matrices = {c: ConfusionMatrix(len(predictor.classes)) for c in frames.conditions}
    counts = dict.fromkeys(frames.conditions, 0)
    for frame, _, label, decision in measure(predictor, frames):
        matrices[frame.condition].update(decision.mask, label)
        counts[frame.condition] += 1
    result = Evaluation(predictor.classes, matrices, counts, SOURCE, {}).to_json()['conditions']
    # The confusion matrices are of no use in a table and large.
    return {c: {k: v for k, v in e.items() if k != 'confusion'} for c, e in result.items()}


def _about(size: Size, data: BenchmarkData, split: str) -> dict[str, Any]:
    return {
        'benchmark': 'simdg', 'size': size.name, 'split': split, 'data': data.fingerprint,
        'command': shlex.join([Path(sys.executable).name, *sys.argv]), 'commit': git_commit(),
        'training': _json(size.training),
        'versions': {
            'python': platform.python_version(), 'torch': torch.__version__,
            'timm': timm.__version__, 'lightning': lightning.__version__,
            'numpy': np.__version__,
        },
    }  # fmt: skip


def _architecture(encoder: str) -> str | None:
    """Of a name or a file; wherever the file lies, it is the same."""
    return architecture_of(Path(encoder)) if Path(encoder).is_file() else encoder


def _weights_digest(path: Path) -> str:
    """Of the tensors alone: with them a file may hold the commit that made it."""
    found = hashlib.sha256()
    for name, tensor in sorted(read_weights(path)[0].items()):
        found.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _weights_file(model: Path) -> Path:
    return model / 'model.onnx' if model.is_dir() else model


def _json(options: dict[str, Any]) -> dict[str, Any]:
    plain = {
        k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v  # type: ignore[arg-type]
        for k, v in options.items()
    }
    content: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return content


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
