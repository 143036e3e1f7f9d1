# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs without a point in sight count nowhere: neither in training nor in validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.loop import read_metrics
from training.methods.config import ModelConfig
from training.pairs.contrastive import ViewConfig
from training.pairs.pair_set import PairSet
from training.pairs.writer import PairSetWriter
from training.pretrain import pretrain

VAL = 6


def copy(source: Path, out: Path, blind: int, count: int = 24) -> Path:
    """The same pairs over and over; the last ones, for validation, lie behind."""
    pairs = PairSet(source)
    writer = PairSetWriter(out)

    def pair(i: int) -> Any:
        first = pairs.read(i % len(pairs))
        sign = -1 if i >= count - blind else 1  # behind the camera
        points = first.points * np.array([sign, 1, 1, 1], np.float32)
        return dataclasses.replace(
            first, key=f's/{i:03d}', points=points, camera_stamp_ns=i * 10**9,
            lidar_stamp_ns=i * 10**9,
        )  # fmt: skip

    writer.write_sequence('s', [pair(i) for i in range(count)])
    writer.finish(['s'], {}, VAL / count)
    return out


@pytest.mark.parametrize('method', ['clcp', 'lip_loc'])
def test_blind_pairs_are_not_validated(method: str, noise_pairs: Path, tmp_path: Path) -> None:
    lidar = {'clcp': 'minkunet_tiny', 'lip_loc': 'range_test_vit'}[method]
    model = ModelConfig('test_vit', lidar_encoder=lidar, embed_dim=16)
    values = {}
    for blind in (0, 2, 5):
        out = tmp_path / f'run{blind}'
        pretrain(
            copy(noise_pairs, tmp_path / f'pairs{blind}', blind), out, method=method, model=model,
            views=ViewConfig(image_size=64, voxel_size_m=0.5), max_steps=1, batch_size=4,
            batch_gap=0, validate_every=1, workers=0, loggers='',
        )  # fmt: skip
        rows = read_metrics(out / 'metrics.csv')
        values[blind] = {name: value for step, name, value in rows if step == 0}
    assert [values[blind]['val_pairs'] for blind in (0, 2, 5)] == [6, 4, 1]
    # One of four can be found by everybody among ten.
    assert values[2]['val_r5'] == 1
    assert values[0]['val_loss'] != values[2]['val_loss']
    assert 'val_loss' not in values[5]  # nothing to compare with
