# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clcp_ros.errors import ModelError
from training.experiment import experiment, read_plan
from training.experiments.frames import FrameRow, frames_table
from training.experiments.plan import (
    BASELINE,
    Arm,
    Job,
    Plan,
    arguments_of,
    check,
    check_arms,
    jobs_of,
    recipes_of,
)
from training.experiments.summary import WATCHED, compare_rows, signed
from training.segmentation.keeping import KeepConfig
from training.simdg.report import Row, Spread, read_csv
from training.simdg.sizes import ADVERSE, SIZES, SOURCE


def _rows(recipe: str, seed: int, source: float, adverse: float) -> list[Row]:
    values = {SOURCE: source, **dict.fromkeys(ADVERSE, adverse)}
    return [
        Row('tiny', 'test', recipe, seed, c, 2, v, None, (None,) * 19) for c, v in values.items()
    ]


def test_differences_are_taken_seed_by_seed() -> None:
    rows = [
        *_rows(BASELINE, 0, 40, 10), *_rows(BASELINE, 1, 50, 20),
        *_rows('a.all', 0, 41, 15), *_rows('a.all', 1, 49, 26), *_rows('a.all', 2, 60, 30),
    ]  # fmt: skip
    baseline, line = compare_rows(rows).lines
    assert baseline.summary.recipe == BASELINE
    assert baseline.gain.mean == 0
    assert line.summary.rpd.count == 3
    assert (line.gain.mean, line.gain.count) == (5.5, 2)  # seed 2 has no baseline
    assert line.gain.std == pytest.approx(math.sqrt(0.5))
    assert line.cost.mean == 0.0
    assert line.summary.adverse.mean == pytest.approx(71 / 3)
    assert line.summary.rpd.mean == pytest.approx((15 / 41 + 26 / 49 + 0.5) / 3)
    table = compare_rows(rows).table()
    assert '+5.5 ± 0.7' in table
    assert 'nan' not in table


def test_a_table_of_frames_compares_seed_by_seed() -> None:
    rows = [
        FrameRow(recipe, seed, condition, 9, miou)
        for recipe, seed, day, dusk in (
            ('none', 0, 50, 30), ('none', 1, 60, 30), ('a', 0, 51, 34), ('a', 1, 59, 36),
        )
        for condition, miou in (('day', day), ('dusk', dusk))
    ]  # fmt: skip
    head, _, none, other = frames_table(rows, 'day').splitlines()
    assert [c.strip() for c in head.split('|')[1:-1]] == [
        'recipe', 'seeds', 'day (source)', 'dusk', 'rPD dusk', 'dusk against none',
        'day against none',
    ]  # fmt: skip
    assert [c.strip() for c in none.split('|')[1:-1]][2:] == [
        '55.0 ± 7.1', '30.0 ± 0.0', '0.550 ± 0.071', '', '',
    ]  # fmt: skip
    assert [c.strip() for c in other.split('|')[1:-1]][3:] == [
        '35.0 ± 1.4', '0.638 ± 0.040', '+5.0 ± 1.4', '0.0 ± 1.4',
    ]  # fmt: skip


def test_signs() -> None:
    assert signed(Spread(1.0, 0.5, 3)) == '+1.0 ± 0.5'
    assert signed(Spread(-1.0, 0.5, 3)) == '-1.0 ± 0.5'
    assert signed(Spread.of([])) == '-'


def test_seeds_come_one_after_the_other() -> None:
    jobs = jobs_of([Arm('a'), Arm('b', domains=['clear'])], [0, 1])
    assert [job.title for job in jobs[:4]] == [
        'none, seed 0', 'a.clear, seed 0', 'a.all, seed 0', 'b.clear, seed 0',
    ]  # fmt: skip
    assert {job.seed for job in jobs[4:]} == {1}


def test_what_is_finetuned_from_a_job(tmp_path: Path) -> None:
    small = SIZES['small']
    arm = Arm('a', finetune={'optimizer.encoder_factor': 0.1, 'drop_path': 0.1})
    plan = Plan([arm], finetune={'max_steps': 9, 'drop_path': 0.2})
    full, frozen = recipes_of(Job(arm, 'all', 1), tmp_path, plan, small)
    assert (full.name, frozen.name) == ('a.all', 'a.all+frozen')
    assert not full.frozen
    assert frozen.frozen
    assert full.encoder == str(tmp_path / 'a.all' / 'seed1' / 'image_encoder.safetensors')
    assert full.options == {
        'optimizer': replace(small.training['optimizer'], encoder_factor=0.1), 'drop_path': 0.1,
        'max_steps': 9,
    }  # fmt: skip
    # An arm's own options are about how the encoder is trained.
    assert frozen.options == {'max_steps': 9, 'drop_path': 0.2}
    arm.keep, arm.finetune['keep.weight'] = True, 0.5
    _, kept, _ = recipes_of(Job(arm, 'all', 1), tmp_path, plan, small)
    assert kept.name == 'a.all+kept'
    assert kept.options['keep'] == KeepConfig(tmp_path / 'a.all' / 'seed1', weight=0.5)
    plan.tag = '-long'
    tagged = recipes_of(Job(arm, 'all', 1), tmp_path, plan, small)
    assert [r.name for r in tagged] == ['a.all-long', 'a.all+kept-long', 'a.all+frozen-long']
    assert {r.encoder for r in tagged} == {full.encoder}
    plan.tag = ''
    nothing = recipes_of(Job(None, '', 0), tmp_path, plan, small)
    assert [(r.name, r.frozen) for r in nothing] == [
        (BASELINE, False), (f'{BASELINE}+frozen', True),
    ]  # fmt: skip


def test_an_arm_outvotes_what_is_common() -> None:
    arm = Arm('a', 'x.yaml', options={'max_steps': 7, 'model.lidar_weights': None})
    arguments = arguments_of(
        Job(arm, 'all', 3), Path('p'), Path('o'), {'max_steps': 5, 'chunk': 2}
    )
    assert arguments == [
        '--config', 'x.yaml', '--max_steps=7', '--chunk=2', '--model.lidar_weights=null',
        '--pairs=p', '--out=o', '--seed=3',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('arms', 'message'),
    [
        ([Arm('a b')], 'is no name of an arm'),
        ([Arm('a'), Arm('a')], 'is taken'),
        ([Arm(BASELINE)], 'is taken'),
        ([Arm('a', domains=['dusk'])], "no domain 'dusk'"),
        ([Arm('a', 'missing.yaml')], 'no such file'),
        ([Arm('a', finetune={'colour': 1})], 'finetune has no option colour'),
        ([Arm('a', finetune={'optimizer.colour': 1})], 'has no option optimizer.colour'),
        ([Arm('a', finetune={'seed.a': 1})], 'has no option seed.a'),
    ],
)
def test_arms_that_make_no_sense(arms: list[Arm], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check(Plan(arms), SIZES['tiny'])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('arms: {', 'no plan'),
        ('size: tiny', 'a plan has a list of arms'),
        ('{arms: [], steps: 5}', 'unknown key steps'),
        ('arms: [{config: x}]', 'an arm has a name'),
        ('arms: [{name: a, colour: red}]', 'an arm has a name'),
        ('{arms: [], frames: {split: val}}', 'frames have a split and a source'),
        ('{arms: [], frames: {split: val, source: day, seeds: 3}}', 'frames: '),
    ],
)
def test_damaged_plans(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'plan.yaml').write_text(text)
    with pytest.raises(ModelError, match=message):
        read_plan(tmp_path / 'plan.yaml')


def test_plans_of_the_repository_can_be_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    plans = sorted(Path('config/experiments').glob('*.yaml'))
    assert plans
    for plan in plans:
        content = read_plan(plan)
        check_arms(content)
        if content.frames is None:
            check(content, SIZES[content.size])


@pytest.mark.slow
def test_an_experiment_of_the_smallest_size(tmp_path: Path) -> None:
    plan = {
        'size': 'tiny', 'frozen': True,
        'common': {
            'max_steps': 2, 'validate_every': 2, 'batch_size': 4, 'views.image_size': 64,
            'batch_gap': 0,
        },
        'arms': [{'name': 'clcp', 'domains': ['all']}],
    }  # fmt: skip
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(plan))
    data, out = tmp_path / 'simdg', tmp_path / 'out'
    table = experiment(tmp_path / 'plan.yaml', seeds=1, data=data, out=out, parallel=2)
    assert [row.recipe for row in read_csv(out / 'results-test-seeds1.csv')[::7]] == [
        BASELINE, f'{BASELINE}+frozen', 'clcp.all', 'clcp.all+frozen',
    ]  # fmt: skip
    assert 'clcp.all+frozen' in table
    (watched,) = csv.DictReader((out / 'pretraining-test-seeds1.csv').open())
    assert (watched['recipe'], watched['seed']) == ('clcp.all', '0')
    assert all(math.isfinite(float(watched[name])) for name in ('loss', *WATCHED))
    before = (
        (out / 'pretrain' / 'clcp.all' / 'seed0' / 'image_encoder.safetensors').stat().st_mtime
    )
    assert experiment(tmp_path / 'plan.yaml', seeds=1, data=data, out=out) == table
    after = (out / 'pretrain' / 'clcp.all' / 'seed0' / 'image_encoder.safetensors').stat().st_mtime
    assert before == after
    plan['arms'] = [{'name': 'bad', 'domains': ['all'], 'options': {'method': 'none'}}]
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(plan))
    with pytest.raises(ModelError, match=r'1 of 2 jobs failed.*no pretraining method'):
        experiment(tmp_path / 'plan.yaml', seeds=1, data=data, out=out)
