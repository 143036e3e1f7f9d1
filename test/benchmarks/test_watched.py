# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.watched import COLUMNS, curve, warnings_of, watched
from clcp_ros.errors import ModelError
from training.pairs.pair import Pair
from training.pairs.writer import PairSetWriter

K = np.array([[60.0, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def make_pair(i: int) -> Pair:
    rng = np.random.default_rng(i)
    points = rng.uniform([3, -3, -1, 0], [9, 3, 1, 1], (120, 4)).astype(np.float32)
    image = rng.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    return Pair(
        f's/{i:06d}', 's', 'front', 'top', i * 10**9, i * 10**9, image, points, K, T_CAMERA_LIDAR
    )


def test_a_row_for_each_validation_with_the_loss_before_it() -> None:
    metrics = [
        (0, 'val_loss', 3.0), (1, 'loss', 2.9), (2, 'loss', 2.5), (2, 'val_loss', 2.6),
        (2, 'val_patch_cka', 0.5), (3, 'loss', 2.4),
    ]  # fmt: skip
    rows = [dict(zip(('recipe', 'step', *COLUMNS), r, strict=True)) for r in curve('a', metrics)]
    assert [(r['step'], r['loss'], r['val_loss']) for r in rows] == [(0, None, 3.0), (2, 2.5, 2.6)]
    assert rows[1]['val_patch_cka'] == 0.5
    assert rows[1]['val_probe_miou'] is None


def test_a_warning_is_one_though_a_resumed_run_says_it_again() -> None:
    said = ('\r 5/9', 'warning at step 40: late', 'warning at step 0: floor', '9/9')
    log = '\n'.join([*said, 'warning at step 50: late'])
    assert warnings_of('a', log) == [('a', 0, 'floor'), ('a', 40, 'late')]


@pytest.mark.slow
def test_the_arms_of_a_plan_are_pretrained_and_watched(tmp_path: Path) -> None:
    pairs = tmp_path / 'pairs'
    writer = PairSetWriter(pairs)
    writer.write_sequence('s', map(make_pair, range(24)))
    writer.finish(['s'], {}, 0.25)
    common = {
        'model.image_encoder': 'test_vit', 'model.image_pretrained': False, 'max_steps': 2,
        'model.pool': 'avg', 'model.lidar_encoder': 'minkunet_tiny', 'model.freeze_lidar': False,
        'views.image_size': 64, 'views.voxel_size_m': 1.0, 'batch_size': 4, 'batch_gap': 0,
        'workers': 0, 'loggers': '', 'accelerator': 'cpu',
    }  # fmt: skip
    arms = [
        {'name': 'inverted', 'options': {'clcp.temperature_use': 'inverted'}},
        {'name': 'broken', 'options': {'max_steps': 0}},
    ]
    plan = tmp_path / 'plan.yaml'
    plan.write_text(yaml.safe_dump({'common': common, 'arms': arms}))
    out = tmp_path / 'out'
    with pytest.raises(ModelError, match=r'1 of 2 jobs failed; broken, seed 0: .*--max_steps'):
        watched(plan, pairs, None, None, out, validate_every=1)
    rows = list(csv.DictReader((out / 'watched.csv').open()))
    assert [(r['recipe'], r['step']) for r in rows] == [('inverted', str(s)) for s in range(3)]
    assert all(float(r['val_loss']) > 0 for r in rows)
    warnings = list(csv.DictReader((out / 'warnings.csv').open()))
    assert warnings[0]['step'] == '0'
    assert 'too high, or inverted' in warnings[0]['warning']
