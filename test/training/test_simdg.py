# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ModelError
from training.cli import normalize_arguments
from training.models.image_encoder import write_weights
from training.pairs.pair_set import PairSet
from training.simdg import SIZES, Recipe, Report, Row, run_benchmark
from training.simdg.command import recipes_of, simdg
from training.simdg.data import labelled, prepare
from training.simdg.report import COLUMNS, make_rows, read_csv, relative_performance, write_csv
from training.simdg.sizes import ADVERSE, SOURCE
from training.simulation.config import CONDITIONS, SimulationConfig

SMALLEST = replace(
    SIZES['tiny'],
    simulation=SimulationConfig(seed=1, width=96, height=64, beams=16, columns=120),
    train_towns=(1,), val_towns=(2,), test_towns=(3,), train_frames=4, val_frames=1,
    test_frames=1, pair_frames=1, seeds=(0, 1),
)  # fmt: skip


def row(recipe: str, seed: int, condition: str, miou: float, rpd: float | None = None) -> Row:
    iou = (*(miou for _ in range(18)), None)
    return Row('tiny', 'test', recipe, seed, condition, 3, miou, rpd, iou)


def two_seeds() -> Report:
    """Clear 50 and 40; all adverse conditions 25 and 30, but night 10 and 0."""
    rows = []
    for seed, (clear, adverse, night) in enumerate(((50.0, 25.0, 10.0), (40.0, 30.0, 0.0))):
        rows.append(row('scratch', seed, SOURCE, clear))
        for name in ADVERSE:
            value = night if name == 'night' else adverse
            rows.append(row('scratch', seed, name, value, value / clear))
    return Report(tuple(rows))


def test_rpd_by_hand() -> None:
    assert relative_performance(37.9, 63.4) == pytest.approx(0.5978, abs=1e-4)
    assert math.isnan(relative_performance(10.0, 0.0))
    (summary,) = two_seeds().summaries
    # Five conditions at 25 and night at 10: 22.5 of 50; five at 30 and night at 0: 25 of 40.
    assert summary.adverse.mean == pytest.approx((22.5 + 25) / 2)
    assert summary.rpd.mean == pytest.approx((0.45 + 0.625) / 2)
    assert summary.rpd.std == pytest.approx(np.std([0.45, 0.625], ddof=1))
    assert summary.conditions[SOURCE].mean == pytest.approx(45)
    assert summary.conditions['night'].std == pytest.approx(np.std([10, 0], ddof=1))


def test_table_states_mean_and_spread() -> None:
    table = two_seeds().table()
    assert '| scratch | 2 | 45.0 ± 7.1 |' in table
    assert '| 0.537 ± 0.124 |' in table
    single = Report(tuple(r for r in two_seeds().rows if r.seed == 0))
    assert '| scratch | 1 | 50.0 |' in single.table()
    assert '| bicycle | - |' in single.table()
    page = Report(two_seeds().rows, {'size': 'tiny', 'commit': 'abc', 'command': 'x y'}).markdown()
    assert '**Simulated data.**' in page
    assert '- commit: `abc`' in page


def test_csv_survives_writing(tmp_path: Path) -> None:
    rows = two_seeds().rows
    write_csv(tmp_path / 'rows.csv', rows)
    with (tmp_path / 'rows.csv').open() as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(COLUMNS)
    assert read[0]['condition'] == SOURCE
    assert read[0]['rpd'] == ''
    assert read[0]['iou bicycle'] == ''
    assert float(read[1]['rpd']) == pytest.approx(0.5)
    again = read_csv(tmp_path / 'rows.csv')
    assert [(r.recipe, r.seed, r.condition, r.miou, r.iou) for r in again] == [
        (r.recipe, r.seed, r.condition, r.miou, r.iou) for r in rows
    ]


def test_rows_follow_from_an_evaluation() -> None:
    def entry(miou: float) -> dict[str, object]:
        iou = dict.fromkeys(CITYSCAPES.names, miou)
        return {'frames': 2, 'miou': miou, 'iou': {**iou, 'train': None}}

    rows = make_rows('tiny', 'test', 'a', 3, {'fog': entry(10.0), SOURCE: entry(40.0)})
    by_condition = {r.condition: r for r in rows}
    assert by_condition['fog'].rpd == pytest.approx(0.25)
    assert by_condition[SOURCE].rpd is None
    assert by_condition['fog'].iou[CITYSCAPES.names.index('train')] is None


def test_sizes_keep_training_and_test_apart() -> None:
    for size in SIZES.values():
        splits = (size.train_towns, size.val_towns, size.test_towns)
        towns = [t for split in splits for t in split]
        assert len(set(towns)) == len(towns)
        shots = labelled(size).shots(size.simulation)
        kept = labelled(size)
        conditions = {s: set() for s in ('train', 'val', 'test')}  # type: ignore[var-annotated]
        for shot in shots:
            conditions[kept.split(shot)] |= set(shot.conditions)
        assert conditions == {
            'train': {SOURCE}, 'val': set(CONDITIONS), 'test': set(CONDITIONS)
        }  # fmt: skip
        assert len(size.seeds) == 3


def test_recipes_from_what_was_typed() -> None:
    found = recipes_of('clcp=a/e.safetensors, runs/other/e.safetensors', '', True, True)
    assert [r.name for r in found] == ['scratch', 'clcp', 'clcp+frozen', 'other', 'other+frozen']
    assert [r.frozen for r in found] == [False, False, True, False, True]
    found = recipes_of('', 'mine=a.safetensors,mine=b.safetensors', False, False)
    assert [(r.name, len(r.models)) for r in found] == [('mine', 2)]
    assert [r.name for r in recipes_of('', '', False, False)] == ['scratch']
    with pytest.raises(ModelError, match='--frozen needs an --encoder'):
        recipes_of('', '', True, True)


def test_bad_requests_simulate_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no size 'huge'; there are tiny, small, base"):
        run_benchmark('huge', out=tmp_path / 'out')
    with pytest.raises(ModelError, match="no split 'train'"):
        run_benchmark('tiny', out=tmp_path / 'out', split='train')
    with pytest.raises(ModelError, match='no such file, for the recipe a'):
        run_benchmark('tiny', [Recipe('a', 'nowhere/e.safetensors')], tmp_path / 'out')
    with pytest.raises(ModelError, match='cannot be the name'):
        run_benchmark('tiny', [Recipe('../a')], tmp_path / 'out')
    with pytest.raises(ModelError, match='names of their own'):
        run_benchmark('tiny', [Recipe('a'), Recipe('a')], tmp_path / 'out')
    with pytest.raises(ModelError, match='seeds must not be negative'):
        simdg('tiny', seeds=-1, out=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('benchmark') / 'simdg'
    run_benchmark(SMALLEST, out=out, workers=1)
    return out


def test_baseline_from_data_to_figures(folder: Path) -> None:
    root = folder / 'tiny'
    rows = read_csv(root / 'results-test.csv')
    assert len(rows) == 2 * len(CONDITIONS)
    assert {(r.recipe, r.seed) for r in rows} == {('scratch', 0), ('scratch', 1)}
    assert {r.frames for r in rows} == {1}
    for r in rows:
        known = [v for v in r.iou if v is not None]
        assert r.miou == pytest.approx(np.mean(known), abs=0.02)
    clear = {r.seed: r.miou for r in rows if r.condition == SOURCE}
    for r in rows:
        if r.condition != SOURCE:
            assert r.rpd == pytest.approx(r.miou / clear[r.seed], abs=1e-4)
    stated = json.loads((root / 'results-test.json').read_text())
    assert stated['simulated'] is True
    assert {'commit', 'versions', 'command', 'training', 'data'} <= set(stated)
    assert stated['summaries'][0]['rpd']['seeds'] == 2
    assert '| scratch | 2 |' in (root / 'results-test.md').read_text()


def test_pairs_of_the_clear_day_show_the_same_moments(folder: Path) -> None:
    every, clear = (PairSet(folder / 'tiny' / name) for name in ('pairs', 'pairs-clear'))
    assert len(clear) == len(every)
    assert {clear.row(i)['tags']['condition'] for i in range(len(clear))} == {SOURCE}
    for position in range(len(every)):
        pair = every[position]
        # Both drives go by in the same order; sequences are named by their beginning.
        same = clear[position]
        different = (pair.pixels() != same.pixels()).any()
        assert different == (pair.tags['condition'] != SOURCE)
        if pair.tags['condition'] in ('low_sun', 'dusk', 'night'):
            assert (pair.points == same.points).all()


def _write_encoder(path: Path, value: int, commit: str = 'a') -> None:
    write_weights(path, {'x': torch.full((2, 3), float(value))}, {'commit': commit})


def test_the_same_weights_of_another_commit_are_not_trained_with_again(tmp_path: Path) -> None:
    path = tmp_path / 'e.safetensors'
    _write_encoder(path, 1)
    recipe, content = Recipe('x', encoder=str(path)), path.read_bytes()
    facts = recipe.describe(0)
    _write_encoder(path, 1, commit='b')
    assert path.read_bytes() != content
    assert recipe.describe(0) == facts
    _write_encoder(path, 2)
    assert recipe.describe(0) != facts


def test_each_seed_may_have_an_encoder_of_its_own(tmp_path: Path) -> None:
    (recipe,) = recipes_of(f'{tmp_path}/run-{{seed}}/e.safetensors', '', False, False)
    assert recipe.name == 'run'
    for seed in (0, 1):
        (tmp_path / f'run-{seed}').mkdir()
        _write_encoder(tmp_path / f'run-{seed}' / 'e.safetensors', seed)
    recipe.check((0, 1))
    assert recipe.describe(0)['weights'] != recipe.describe(1)['weights']
    with pytest.raises(ModelError, match=r'run-2/e.safetensors: no such file, for the recipe run'):
        recipe.check((0, 1, 2))


def test_pairs_show_every_condition_and_no_label(folder: Path) -> None:
    pairs = PairSet(folder / 'tiny' / 'pairs')
    assert len(pairs) == len(CONDITIONS)
    found = [pairs[i] for i in range(len(pairs))]
    assert sorted(p.tags['condition'] for p in found) == sorted(CONDITIONS)
    assert {p.tags['town'] for p in found} == {'1'}
    assert all('label' not in p.columns for p in found)


def test_second_run_trains_nothing_and_a_recipe_joins(folder: Path) -> None:
    root = folder / 'tiny'
    model = root / 'runs' / 'scratch' / 'seed0' / 'model.safetensors'
    stamp = model.stat().st_mtime_ns
    given = Recipe('given', models=(model,))
    report = run_benchmark(SMALLEST, [Recipe('scratch'), given], folder, workers=1)
    assert model.stat().st_mtime_ns == stamp
    assert report.recipes == ['scratch', 'given']
    by_recipe = {
        name: [r.miou for r in report.rows if r.recipe == name and r.seed == 0]
        for name in report.recipes
    }
    assert by_recipe['given'] == by_recipe['scratch']
    rows = read_csv(root / 'results-test.csv')
    assert {r.recipe for r in rows} == {'given', 'scratch'}
    alone = run_benchmark(SMALLEST, [given], folder, workers=1)
    assert alone.recipes == ['given']
    assert len(read_csv(root / 'results-test.csv')) == len(rows)


def test_half_a_run_goes_on(folder: Path) -> None:
    run = folder / 'tiny' / 'runs' / 'scratch' / 'seed1'
    before = (folder / 'tiny' / 'results-test.csv').read_bytes()
    (run / 'result-test.json').unlink()
    weights = (run / 'model.safetensors').stat().st_mtime_ns
    run_benchmark(SMALLEST, out=folder, workers=1)
    assert (run / 'model.safetensors').stat().st_mtime_ns == weights
    assert (folder / 'tiny' / 'results-test.csv').read_bytes() == before


def test_encoder_frozen_and_from_a_file(folder: Path, tmp_path: Path) -> None:
    from training.models.image_encoder import ImageEncoder
    from training.models.segmenter import load_model

    encoder = ImageEncoder('test_efficientnet')
    path = tmp_path / 'image_encoder.safetensors'
    encoder.save(path, (64, 96), {})
    recipe = Recipe('frozen', str(path), frozen=True, options={'max_steps': 2})
    report = run_benchmark(SMALLEST, [recipe], folder, split='val', seeds=(7,), workers=1)
    assert {(r.recipe, r.seed, r.split) for r in report.rows} == {('frozen', 7, 'val')}
    trained = load_model(folder / 'tiny/runs/frozen/seed7/model.safetensors').model.encoder
    assert (trained.model.conv_stem.weight == encoder.model.conv_stem.weight).all()
    # Other weights under the same name are trained anew, not taken for done.
    ImageEncoder('test_efficientnet').save(path, (64, 96), {})
    stamp = folder / 'tiny/runs/frozen/seed7/simdg.json'
    before = json.loads(stamp.read_text())['fingerprint']
    run_benchmark(SMALLEST, [recipe], folder, split='val', seeds=(7,), workers=1)
    assert json.loads(stamp.read_text())['fingerprint'] != before
    trained = load_model(folder / 'tiny/runs/frozen/seed7/model.safetensors').model.encoder
    assert (trained.model.conv_stem.weight != encoder.model.conv_stem.weight).any()


def test_another_network_than_the_baseline_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.models.image_encoder import ImageEncoder
    from training.simdg.benchmark import _note_other_network

    for name in ('test_efficientnet', 'test_resnet'):
        ImageEncoder(name).save(tmp_path / f'{name}.safetensors', (64, 96), {})
        _note_other_network(SMALLEST, Recipe('mine', str(tmp_path / f'{name}.safetensors')))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        'note: mine is a test_resnet, the baseline of tiny a test_efficientnet: the difference is '
        'not that of the pretraining alone'
    ]


def test_data_of_a_size_are_reused_and_told_apart(folder: Path) -> None:
    data = prepare(SMALLEST, folder, workers=1)
    stamp = (data.pairs / 'index.parquet').stat().st_mtime_ns
    assert prepare(SMALLEST, folder, workers=1) == data
    assert (data.pairs / 'index.parquet').stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_tiny_from_the_command_line(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / 'training' / 'evaluate.py'), 'simdg', '--size', 'tiny']
    done = subprocess.run(
        [*command, '--workers', '1'], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r'^scratch: rPD \d\.\d{3} ± \d\.\d{3} over 3 seeds$', done.stdout, re.M)
    assert 'evaluate.py simdg --size tiny' in (tmp_path / 'simdg/tiny/results-test.md').read_text()


def test_commands_of_the_page_parse(root: Path) -> None:
    page = (root / 'docs' / 'simdg.md').read_text()
    commands = re.findall(r'^python training/evaluate\.py simdg(.*)$', page, re.M)
    assert commands
    for command in commands:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_function_arguments(simdg, as_positional=True)
        parser.parse_args(normalize_arguments(simdg, shlex.split(command.split(' #')[0])))
