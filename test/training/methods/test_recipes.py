# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The thesis' recipes say what they do, and do what they say."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import nn

from clcp_ros.errors import ModelError
from training.methods.base import Setup
from training.methods.clcp import Clcp, ClcpConfig
from training.methods.config import ModelConfig, OptimizerConfig
from training.methods.signature import options_of
from training.pairs.contrastive import ViewConfig
from training.pretrain import pretrain
from training.watch.alarms import State, alarms

RECIPES = ('thesis_text', 'thesis_as_run', 'clcp')


def read(root: Path, name: str) -> Any:
    parser = ArgumentParser()
    parser.add_function_arguments(pretrain)
    return parser.instantiate(parser.parse_path(str(root / f'config/pretrain/{name}.yaml')))


def small(recipe: Any) -> Clcp:
    """The recipe with small networks: everything else as it says."""
    model = dataclasses.replace(
        recipe.model, image_encoder='vit_tiny_patch16_224', image_pretrained=False,
        lidar_encoder='minkunet_tiny', lidar_weights=None,
    )  # fmt: skip
    views = dataclasses.replace(recipe.views, image_size=32, voxel_size_m=0.4)
    torch.manual_seed(0)
    return Clcp(Setup(model, recipe.optimizer, views, recipe.max_steps, recipe.clcp))


def batch(method: Clcp, pairs: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    prepare = method.lidar_encoder.preparation
    clouds = rng.uniform(0, [5, 5, 3, 1], (pairs, 200, 4)).astype(np.float32)
    image = torch.from_numpy(rng.normal(size=(pairs, 3, 32, 32)).astype(np.float32))
    return {'image': image, 'lidar': prepare.collate([prepare(c) for c in clouds])}


@pytest.mark.parametrize('name', RECIPES)
def test_its_networks_can_be_built(root: Path, name: str) -> None:
    recipe = read(root, name)
    assert recipe.method == 'clcp'
    recipe.optimizer.check()
    model = dataclasses.replace(recipe.model, image_pretrained=False, lidar_weights=None)
    method = Clcp(Setup(model, recipe.optimizer, recipe.views, recipe.max_steps, recipe.clcp))
    assert sum(p.numel() for p in method.lidar_encoder.parameters()) == 37_873_280
    assert method.image_head.in_features == method.image_head.out_features == 384


def test_the_floor_of_the_thesis_code_is_4_62_at_batch_256(root: Path) -> None:
    """Perfect embeddings cannot have a smaller loss, and optimising them does not help."""
    method = small(read(root, 'thesis_as_run'))
    assert float(method.scale.detach()) == pytest.approx(0.932, abs=1e-3)
    perfect = F.normalize(torch.eye(256) - 1 / 256, dim=1)
    assert float(method.contrast(perfect, perfect).detach()) == pytest.approx(4.62, abs=0.005)
    assert method.floor(256) == pytest.approx(4.62, abs=0.005)
    torch.manual_seed(0)
    x = torch.randn(2, 256, 384).requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    for _ in range(60):
        image, lidar = F.normalize(x, dim=2)
        loss = method.contrast(image, lidar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 4.61 < float(loss.detach()) < 4.7
    state = State(0, 9500, {}, 256, method.floor(256), float(method.scale.detach()))
    assert 'cannot fall below 4.62' in alarms(state)['floor']


@pytest.mark.parametrize('name', ['thesis_text', 'clcp'])
def test_the_others_have_no_floor_to_speak_of(root: Path, name: str) -> None:
    method = small(read(root, name))
    assert float(method.scale.detach()) == pytest.approx(1 / 0.07)
    assert method.floor(256) < 1e-3
    assert 'floor' not in alarms(State(0, 100, {}, 256, method.floor(256), 14.3))


def test_batchnorm_of_the_frozen_lidar_encoder(root: Path) -> None:
    """Overwritten by the thesis' code, and left alone by its text."""
    for name, moved in (('thesis_as_run', True), ('thesis_text', False)):
        method = small(read(root, name)).train()
        before = {k: v.clone() for k, v in method.lidar_encoder.state_dict().items()}
        method.embed(batch(method)).image.sum().backward()
        after = method.lidar_encoder.state_dict()
        changed = {k for k in before if not torch.equal(before[k], after[k])}
        assert bool(changed) == moved, name
        assert all('running' in k or 'num_batches' in k for k in changed)
        assert not any(p.requires_grad for p in method.lidar_encoder.parameters())


def test_statistics_and_decay(root: Path) -> None:
    run, text, ours = (
        small(read(root, name)) for name in ('thesis_as_run', 'thesis_text', 'clcp')
    )
    assert run.image_encoder.mean == (0.485, 0.456, 0.406)
    assert text.image_encoder.mean == (0.5, 0.5, 0.5)
    [group] = run.parameter_groups()
    assert group['weight_decay'] == 1e-5
    assert any(p is run.logit_scale for p in group['params'])
    decay = {id(p): g['weight_decay'] for g in ours.parameter_groups() for p in g['params']}
    assert decay[id(ours.logit_scale)] == 0
    assert decay[id(ours.image_head.weight)] == 0.05
    trained = [p for p in ours.parameters() if p.requires_grad]
    assert sorted(decay) == sorted(id(p) for p in trained)


def test_learning_rates_of_the_parts() -> None:
    optimizer = OptimizerConfig(lr=1e-4, min_lr=1e-6, lidar_lr=1e-3, head_lr=2e-3, layer_decay=0.5)
    model = ModelConfig(image_encoder='vit_tiny_patch16_224')
    method = Clcp(Setup(model, optimizer, ViewConfig(image_size=32), 10))
    groups = [g for g in method.parameter_groups() if g['params']]

    def rate(parameter: torch.Tensor) -> float:
        [group] = [g for g in groups if any(p is parameter for p in g['params'])]
        return group.get('lr', optimizer.lr) * group.get('lr_scale', 1.0)

    vit = method.image_encoder.model
    assert rate(vit.blocks[11].mlp.fc1.weight) == pytest.approx(
        2 * rate(vit.blocks[10].mlp.fc1.weight)
    )
    assert rate(vit.patch_embed.proj.weight) < 1e-7
    assert rate(method.image_head.weight) == rate(method.logit_scale) == 2e-3
    assert rate(next(method.lidar_encoder.parameters())) == 1e-3


def test_the_scale_is_clamped_and_the_inverted_one_is_not() -> None:
    for use, start, expected in (('divide', 9.0, 100.0), ('divide', -3.0, 1.0)):
        method = Clcp(Setup(options=ClcpConfig(temperature_use=use)))
        with torch.no_grad():
            method.logit_scale.fill_(start)
            method.after_step()
        assert float(method.scale.detach()) == pytest.approx(expected)
    method = Clcp(Setup(options=ClcpConfig(temperature_use='inverted')))
    method.after_step()
    assert float(method.scale.detach()) == pytest.approx(np.exp(-0.07))


def test_options_of_other_methods_are_refused() -> None:
    assert options_of('clcp', {}) == ClcpConfig()
    with pytest.raises(ModelError, match='no pretraining method'):
        options_of('clpc', {})
    with pytest.raises(ModelError, match='no group of options'):
        options_of('clcp', {'clip': 1})
    other = {'clcp': ClcpConfig(temperature=0.1)}
    with pytest.raises(ModelError, match='mean nothing to --method lip_loc'):
        options_of('lip_loc', other)
    assert options_of('clcp', other).temperature == 0.1


@pytest.mark.parametrize(
    'wrong',
    [
        {'lr': 0.0}, {'min_lr': 1.0}, {'layer_decay': 0.0}, {'betas': [0.9]}, {'cycle_mult': 0.5},
        {'clip': -1.0}, {'decay_all': True, 'layer_decay': 0.5},
        {'schedule': 'exponential', 'min_lr': 0.0}, {'lr': math.nan}, {'lidar_lr': 0.0},
        {'lidar_lr': -1.0}, {'head_lr': math.nan}, {'weight_decay': math.nan}, {'clip': math.inf},
        {'decay_all': True, 'lidar_lr': 1e-4}, {'decay_all': True, 'head_lr': 1e-4},
    ],
)  # fmt: skip
def test_optimizers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    OptimizerConfig().check()
    with pytest.raises(ModelError):
        OptimizerConfig(**wrong).check()


def test_a_linear_head_after_pooling_is_the_one_before_it() -> None:
    """The thesis projects first; the shortcut must give the same."""
    model = ModelConfig(image_encoder='vit_tiny_patch16_224', freeze_lidar=True)
    method = Clcp(Setup(model, views=ViewConfig(image_size=32, voxel_size_m=0.4)))
    chunk = batch(method)
    fast = method.embed(chunk).lidar
    method.lidar_head = nn.Sequential(method.lidar_head)
    torch.testing.assert_close(method.embed(chunk).lidar, fast, atol=1e-6, rtol=1e-5)
