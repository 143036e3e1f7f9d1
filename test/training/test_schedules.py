# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest

from training.methods.base import Setup
from training.methods.clcp import Clcp
from training.methods.config import ModelConfig
from training.models.image_encoder import ImageEncoder
from training.models.unused import freeze_unused
from training.schedules import cosine_restarts, decay_groups, layer_decay_groups


def test_thesis_cycles_end_after_1_3_7_15_31_63_epochs() -> None:
    """With five epochs of warm-up the minima are the 0-based epochs 5, 7, 11, 19, 35 and 67."""
    rate = [cosine_restarts(s, warmup=475, cycle=95, mult=2, floor=0.01) for s in range(68 * 95)]
    minima = [
        s // 95 for s in range(480, len(rate)) if s + 1 == len(rate) or rate[s + 1] > rate[s] + 0.5
    ]
    assert minima == [5, 7, 11, 19, 35, 67]
    assert max(rate) == pytest.approx(1)
    assert min(rate[475:]) == pytest.approx(0.01, abs=1e-3)
    assert rate[0] < rate[100] < rate[474] < 1


def test_scales_and_embeddings_do_not_decay() -> None:
    method = Clcp(Setup(ModelConfig(image_encoder='vit_tiny_patch16_224')))
    decayed, kept = (g['params'] for g in decay_groups(method, 0.1))
    assert any(p is method.logit_scale for p in kept)
    assert any(p is method.image_encoder.model.pos_embed for p in kept)
    assert all(p.ndim > 1 for p in decayed)
    assert len(decayed) + len(kept) == len(list(method.parameters()))


@pytest.mark.parametrize(
    'network', ['mobilenetv4_conv_small', 'resnet10t', 'test_vit', 'test_efficientnet']
)
def test_rates_fall_from_the_last_layer_that_is_read(network: str) -> None:
    encoder = ImageEncoder(network)
    freeze_unused(encoder, 64)
    groups = layer_decay_groups(encoder.model, 0.1, 0.5)
    trained = {id(p): n for n, p in encoder.model.named_parameters() if p.requires_grad}
    scales = {trained[id(p)]: g['lr_scale'] for g in groups for p in g['params']}
    assert scales.keys() == set(trained.values())
    assert max(scales.values()) == 1
    first = next(n for n in scales if 'weight' in n)
    assert scales[first] == min(scales.values()) < 0.3
    # Each layer has half of the next one's.
    levels = sorted(set(scales.values()))
    assert all(b == pytest.approx(2 * a) for a, b in itertools.pairwise(levels))
