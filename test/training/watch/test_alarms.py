# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every alarm rings for what it is for, and is silent for its neighbour."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from training.methods.losses import clip_floor
from training.watch.alarms import State, alarms

CHANCE = math.log(256)
HEALTHY = State(
    step=600,
    steps=6460,
    values={
        'loss': 2.1, 'pairs': 200, 'r10': 0.4, 'patch_cosine': 0.9, 'patch_cka': 0.95,
        'patch_rank': 60, 'patch_similarity': 0.4, 'image_rank': 30, 'lidar_rank': 25,
    },
    pairs=256,
    floor=clip_floor(256, 14.3),
    scale=14.3,
    initial={'patch_rank': 70, 'patch_similarity': 0.4},
    pretrained=True,
)  # fmt: skip
THESIS = math.exp(-0.07)


def having(state: State = HEALTHY, /, **values: float) -> State:
    return replace(state, values={**state.values, **values})


def test_a_healthy_run_is_silent() -> None:
    assert alarms(HEALTHY) == {}
    assert alarms(State(0, 100, {}, 32)) == {}


def test_the_floor_of_the_thesis() -> None:
    """Known before the first step; said of the loss once it is there."""
    before = replace(HEALTHY, step=0, values={}, scale=THESIS, floor=clip_floor(256, THESIS))
    assert 'cannot fall below 4.62' in alarms(before)['floor']
    assert 'at its floor' not in alarms(before)['floor']
    there = having(replace(before, step=475), loss=4.73)
    assert alarms(there)['floor'].startswith('the loss, 4.73, is at its floor')
    far = having(replace(before, step=475), loss=5.3)
    assert 'at its floor' not in alarms(far)['floor']
    assert 'floor' not in alarms(replace(before, scale=5.0, floor=clip_floor(256, 5.0)))


@pytest.mark.parametrize(
    ('bad', 'good', 'alarm'),
    [
        ({'loss': 5.53}, {'loss': 5.3}, 'chance'),
        ({'r10': 0.07}, {'r10': 0.13}, 'retrieval'),
        ({'patch_cosine': 0.4}, {'patch_cosine': 0.6}, 'drift'),
        ({'patch_cka': 0.4}, {'patch_cka': 0.6}, 'drift'),
        ({'patch_rank': 15}, {'patch_rank': 30}, 'collapse'),
        ({'patch_similarity': 0.97}, {'patch_similarity': 0.9}, 'collapse'),
        ({'image_rank': 2.0}, {'image_rank': 5.0}, 'embedding'),
        ({'lidar_rank': 0.0}, {'lidar_rank': 4.0}, 'embedding'),
    ],
)
def test_each_way(bad: dict[str, float], good: dict[str, float], alarm: str) -> None:
    assert set(alarms(having(HEALTHY, **bad))) == {alarm}
    assert alarms(having(HEALTHY, **good)) == {}


def test_what_is_yet_to_be_learned_is_no_alarm() -> None:
    early = replace(HEALTHY, step=100)
    assert alarms(having(early, loss=5.53, r10=0.05, image_rank=2.0)) == {}
    # A fifth of a short run is late, but for the shortest.
    assert 'chance' in alarms(having(replace(HEALTHY, step=60, steps=200), loss=5.53))
    assert alarms(having(replace(HEALTHY, step=3, steps=6), loss=5.53)) == {}


def test_an_encoder_from_nothing_may_drift_as_far_as_it_likes() -> None:
    drifted = having(HEALTHY, patch_cosine=0.1, patch_cka=0.1)
    assert 'drift' in alarms(drifted)
    assert alarms(replace(drifted, pretrained=False)) == {}


def test_patches_that_were_alike_from_the_beginning_have_not_collapsed() -> None:
    alike = replace(HEALTHY, initial={'patch_rank': 70, 'patch_similarity': 0.97})
    assert alarms(having(alike, patch_similarity=0.97)) == {}


def test_losses_whose_chance_is_unknown_are_not_judged() -> None:
    assert alarms(having(replace(HEALTHY, scale=None, floor=0.0), loss=50.0)) == {}


def test_few_pairs_say_nothing_of_retrieval() -> None:
    assert alarms(having(HEALTHY, pairs=20, r10=0.5, image_rank=1.0)) == {}
