# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

from clcp_ros.errors import ModelError
from training.loop import read_metrics
from training.methods import load_method
from training.methods.base import Setup
from training.methods.config import ModelConfig
from training.methods.lip_loc import LipLoc, LipLocConfig, soft_target_loss
from training.models.image_encoder import ImageEncoder
from training.models.lidar import create_lidar_encoder
from training.models.lidar.base import LidarOptions
from training.models.lip_loc_names import IMAGENET
from training.pairs.contrastive import ViewConfig
from training.pretrain import pretrain

VIEWS = ViewConfig(image_size=64, crop='whole', points='all', frame='lidar', augment='lip_loc')
MODEL = ModelConfig('test_vit', pool='token', lidar_encoder='range_test_vit', embed_dim=24)


def make(model: dict[str, Any] | None = None, **options: Any) -> LipLoc:
    torch.manual_seed(0)
    chosen = dataclasses.replace(MODEL, **(model or {}))
    return LipLoc(Setup(chosen, views=VIEWS, max_steps=10, options=LipLocConfig(**options)))


def test_what_nothing_reads_of_convolutional_encoders_is_frozen() -> None:
    """DDP would wait for its gradients."""
    method = make(
        {'image_encoder': 'resnet10t', 'pool': 'avg', 'lidar_encoder': 'range_resnet10t'}
    )
    for encoder in (method.image_encoder, method.lidar_encoder):
        frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
        assert frozen
        assert all('layer4' in name for name in frozen)
    assert method.lidar_encoder.training


def vit_keys(width: int, blocks: int, patch: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a timm vision transformer without classifier, as published."""
    keys: dict[str, tuple[int, ...]] = {
        'cls_token': (1, 1, width), 'pos_embed': (1, tokens, width),
        'patch_embed.proj.weight': (width, 3, patch, patch), 'patch_embed.proj.bias': (width,),
        'norm.weight': (width,), 'norm.bias': (width,),
    }  # fmt: skip
    for i in range(blocks):
        for name, shape in {
            'norm1': (width,), 'attn.qkv': (3 * width, width), 'attn.proj': (width, width),
            'norm2': (width,), 'mlp.fc1': (4 * width, width), 'mlp.fc2': (width, 4 * width),
        }.items():  # fmt: skip
            keys[f'blocks.{i}.{name}.weight'] = shape
            keys[f'blocks.{i}.{name}.bias'] = shape[:1]
    return keys


def head_keys(tower: str, c_in: int, c_out: int) -> dict[str, tuple[int, ...]]:
    shapes = {
        f'encoder_{tower}.fc': (2048, c_in), f'projection_{tower}.projection': (c_out, 2048),
        f'projection_{tower}.fc': (c_out, c_out), f'projection_{tower}.layer_norm': (c_out,),
    }  # fmt: skip
    keys = {f'{k}.weight': v for k, v in shapes.items()}
    return keys | {f'{k}.bias': v[:1] for k, v in shapes.items()}


def test_the_loss_with_soft_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    image, lidar = (torch.randn(5, 3, generator=generator) for _ in range(2))
    t, n, total = 0.7, 5, 0.0

    def softmax(values: list[float]) -> list[float]:
        e = [math.exp(v) for v in values]
        return [v / sum(e) for v in e]

    dot = {
        name: [[float(a[i] @ b[j]) for j in range(n)] for i in range(n)]
        for name, a, b in (('li', lidar, image), ('ii', image, image), ('ll', lidar, lidar))
    }
    target = [
        softmax([(dot['ii'][i][j] + dot['ll'][i][j]) / 2 * t for j in range(n)]) for i in range(n)
    ]
    for i in range(n):
        rows = softmax([dot['li'][i][j] / t for j in range(n)])
        columns = softmax([dot['li'][j][i] / t for j in range(n)])
        total -= sum(target[i][j] * math.log(rows[j]) for j in range(n)) / 2
        total -= sum(target[j][i] * math.log(columns[j]) for j in range(n)) / 2
    assert soft_target_loss(image, lidar, t).item() == pytest.approx(total / n, rel=1e-5)


def test_gradients_pass_through_the_targets() -> None:
    image, lidar = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    full = torch.autograd.grad(soft_target_loss(image, lidar), image)[0]
    fixed = F.softmax((image @ image.T + lidar @ lidar.T) / 2, dim=1).detach()
    logits = lidar @ image.T
    partial = -(fixed * logits.log_softmax(1)).sum(1) - (fixed.T * logits.T.log_softmax(1)).sum(1)
    without = torch.autograd.grad((partial / 2).mean(), image)[0]
    assert (full - without).abs().max() > 1e-3


def test_150_tensors_of_a_published_checkpoint_are_a_vit_small(tmp_path: Path) -> None:
    keys = vit_keys(384, 12, 16, 197)
    assert len(keys) == 150
    generator = torch.Generator().manual_seed(0)
    state = {f'encoder_camera.model.{k}': torch.zeros(v) for k, v in keys.items()}
    state['encoder_camera.model.blocks.7.attn.qkv.weight'].normal_(generator=generator)
    state |= {k: torch.zeros(v) for k, v in head_keys('camera', 384, 256).items()}
    state |= {'encoder_lidar.model.cls_token': torch.ones(1, 1, 384)}
    path = tmp_path / 'best.pth'
    torch.save(state, path)
    encoder = ImageEncoder('vit_small_patch16_224', path)
    own = encoder.model.state_dict()
    assert own.keys() == keys.keys()
    for name in keys:
        assert torch.equal(own[name], state[f'encoder_camera.model.{name}']), name
    assert encoder.mean == pytest.approx((0.485, 0.456, 0.406))
    with pytest.raises(ModelError, match='keys missing'):
        create_lidar_encoder('range_vit_small_patch16_224', LidarOptions(path))


def test_a_whole_checkpoint_with_both_towers_and_heads(tmp_path: Path) -> None:
    source = make()
    width = source.image_encoder.embed_dim
    names = [k for k, _ in source.image_encoder.model.state_dict().items()]
    state: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(5)
    for tower in ('camera', 'lidar'):
        for name in names:
            shape = source.image_encoder.model.state_dict()[name].shape
            state[f'encoder_{tower}.model.{name}'] = 0.2 * torch.randn(shape, generator=generator)
        for name, shape in head_keys(tower, width, 24).items():
            state[name] = 0.1 * torch.randn(shape, generator=generator)
    path = tmp_path / 'model.pth'
    torch.save(state, path)
    method = make(weights=str(path)).eval()
    images = torch.randn(2, 3, 64, 64, generator=generator)
    scan = torch.randint(0, 255, (2, 64, 64), generator=generator, dtype=torch.uint8)
    batch = {
        'image': images,
        'lidar': {
            'image': scan, 'point_count': torch.tensor([3, 0]), 'xy': torch.zeros(3, 2),
            'seen': torch.ones(3, dtype=torch.bool),
        },
    }  # fmt: skip
    with torch.no_grad():
        embedded = method.embed(batch)

        def published(x: torch.Tensor, tower: str, network: Any) -> torch.Tensor:
            x = network(x)
            assert torch.equal(
                network.state_dict()['cls_token'], state[f'encoder_{tower}.model.cls_token']
            )
            x = F.linear(x, state[f'encoder_{tower}.fc.weight'], state[f'encoder_{tower}.fc.bias'])
            p = f'projection_{tower}'
            y = F.linear(x, state[f'{p}.projection.weight'], state[f'{p}.projection.bias'])
            z = F.linear(F.gelu(y), state[f'{p}.fc.weight'], state[f'{p}.fc.bias']) + y
            return F.layer_norm(
                z, (24,), state[f'{p}.layer_norm.weight'], state[f'{p}.layer_norm.bias']
            )

        image = published(images, 'camera', method.image_encoder.model)
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) * 255
            for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        range_image = (scan[:, None].float().expand(-1, 3, -1, -1) - mean) / std
        ranges: Any = method.lidar_encoder
        lidar = published(range_image, 'lidar', ranges.image_encoder.model)
    torch.testing.assert_close(embedded.image, image, rtol=1e-4, atol=1e-5)
    assert embedded.lidar is not None
    torch.testing.assert_close(embedded.lidar[:1], lidar[:1], rtol=1e-4, atol=1e-5)
    assert embedded.visible is not None
    assert embedded.visible.tolist() == [True, False]
    assert method.image_encoder.mean == pytest.approx((0.485, 0.456, 0.406))
    alone = create_lidar_encoder(
        'range_test_vit', LidarOptions(path), image_size=(64, 64)
    ).image_encoder.model.state_dict()  # type: ignore[union-attr]
    assert torch.equal(alone['cls_token'], state['encoder_lidar.model.cls_token'])


def test_three_groups_with_their_own_rates() -> None:
    method = make()
    image, lidar, heads = method.parameter_groups()
    assert (image['lr'], lidar['lr'], heads['lr']) == (1e-5, 1e-4, 1e-3)
    assert (image['weight_decay'], lidar['weight_decay'], heads['weight_decay']) == (0, 0, 1e-3)
    grouped = [id(p) for g in (image, lidar, heads) for p in g['params']]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in method.parameters() if p.requires_grad}


def test_a_shared_encoder_is_one_network() -> None:
    method = make(shared=True)
    assert method.lidar_encoder.image_encoder is method.image_encoder
    image, lidar, _ = method.parameter_groups()
    assert not lidar['params']
    assert len(image['params']) > 10
    two = make()
    assert len(list(method.parameters())) < len(list(two.parameters()))


@pytest.mark.parametrize('shared', [False, True])
def test_a_finished_run_is_read_again(shared: bool, tmp_path: Path) -> None:
    method = make(shared=shared, empty=0).eval()
    method.save(tmp_path, 'lip_loc', {})
    again = load_method(tmp_path)
    preparation = again.lidar_encoder.preparation
    points = np.random.default_rng(0).uniform([2, -4, -2, 0], [30, 4, 1, 1], (200, 4))
    scans = [preparation(points.astype(np.float32)), preparation(points[:5].astype(np.float32))]
    batch = {'image': torch.randn(2, 3, 64, 64), 'lidar': preparation.collate(scans)}
    with torch.no_grad():
        a, b = method.embed(batch), again.embed(batch)
    assert torch.equal(a.image, b.image)  # type: ignore[arg-type]
    assert torch.equal(a.lidar, b.lidar)  # type: ignore[arg-type]
    # What was saved starts another encoder of its kind.
    file = tmp_path / 'lidar_encoder.safetensors'
    alone = create_lidar_encoder(
        'range_test_vit', LidarOptions(file), image_size=(64, 64), empty=0
    )
    with torch.no_grad():
        torch.testing.assert_close(
            alone.eval()(batch['lidar']).pooled, method.lidar_encoder(batch['lidar']).pooled
        )


def test_a_finished_run_is_read_again_without_the_weights_that_it_began_with(
    tmp_path: Path,
) -> None:
    method = make(empty=0).eval()
    method.options.weights = str(tmp_path / 'moved.pth')
    assert method.image_encoder.mean != IMAGENET[0]
    method.image_encoder.mean, method.image_encoder.std = IMAGENET
    method.save(tmp_path, 'lip_loc', {})
    again = load_method(tmp_path)
    assert again.image_encoder.mean == IMAGENET[0]
    for key, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_empty_pixels_are_as_asked() -> None:
    points = np.array([[10.0, 0, 0, 0.5]], np.float32)
    for empty in (251, 0):
        preparation = make(empty=empty).lidar_encoder.preparation
        values, counts = np.unique(preparation(points)['image'], return_counts=True)
        assert values[counts.argmax()] == empty
    assert LipLocConfig().empty == 251


@pytest.mark.parametrize(
    ('model', 'options', 'message'),
    [
        ({'lidar_encoder': 'minkunet_tiny'}, {}, 'range_test_vit, not minkunet_tiny'),
        ({'lidar_encoder': 'range_resnet10t'}, {'shared': True}, 'a shared encoder is one'),
        ({'freeze_lidar': True}, {'shared': True}, 'a shared encoder is one'),
        ({}, {'temperature': 0.0}, 'temperature'),
        ({}, {'factor': 1.0}, 'factor'),
    ],
)
def test_options_that_mean_nothing(
    model: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        make(model, **options)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({'x': torch.zeros(1)}, tmp_path / 'x.pth')
    with pytest.raises(ModelError, match='has not the names'):
        make(weights=str(tmp_path / 'x.pth'))


def test_rates_fall_on_a_plateau(
    noise_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule is told the loss of each validation, once."""
    told = []
    real = ReduceLROnPlateau.step

    def step(self: ReduceLROnPlateau, metrics: Any, *args: Any) -> None:
        told.append(float(metrics))
        real(self, 1.0, *args)  # a loss that never falls

    monkeypatch.setattr(ReduceLROnPlateau, 'step', step)
    options = LipLocConfig(factor=0.5, patience=0, dropout=0.0)
    pretrain(
        noise_pairs, tmp_path / 'run', method='lip_loc', model=MODEL, views=VIEWS, max_steps=6,
        batch_size=4, batch_gap=0, validate_every=2, lip_loc=options,
    )  # fmt: skip
    rows = read_metrics(tmp_path / 'run' / 'metrics.csv')
    losses = [v for step, name, v in rows if name == 'val_loss' and step]
    assert told == pytest.approx(losses, rel=1e-4)
    assert len(told) == 3
    rates = [v for _, name, v in rows if name == 'lr']
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4])
    # So another interval is another run.
    with pytest.raises(ModelError, match='validate_every differ'):
        pretrain(
            noise_pairs, tmp_path / 'run', method='lip_loc', model=MODEL, views=VIEWS, max_steps=6,
            batch_size=4, batch_gap=0, validate_every=3, lip_loc=options,
        )  # fmt: skip
