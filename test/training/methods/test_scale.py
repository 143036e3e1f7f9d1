# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Chunks and processes change nothing about the gradient of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.methods.base import Setup
from training.methods.clcp import Clcp
from training.methods.config import ModelConfig
from training.methods.embedded import Embedded, Own
from training.methods.grad_cache import embed_without_keeping
from training.pairs.contrastive import ViewConfig

SIZE = 48


class WithOwnTerm(Clcp):
    """CLCP with a term on as many values as a sample has points in the upper half."""

    def embed(self, batch: dict[str, Any]) -> Embedded:
        embedded = super().embed(batch)
        tokens = self.encode_image(batch['image']).grid.flatten(2).mean(2)
        values = torch.cat(
            [
                tokens[i : i + 1].square().mean(1).expand(int(n) % 5)
                for i, n in enumerate(batch['lidar']['point_count'])
            ]
        )
        return embedded._replace(own={'size': Own(0.7, values)})


def make(encoder: str = 'vit_tiny_patch16_224', **model: Any) -> WithOwnTerm:
    torch.manual_seed(0)
    config = ModelConfig(
        image_encoder=encoder, lidar_head='linear', **{'freeze_lidar': True, **model}
    )
    return WithOwnTerm(Setup(config, views=ViewConfig(image_size=SIZE, voxel_size_m=0.4))).train()


def samples(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    images = rng.normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)
    clouds = [rng.uniform(0, [5, 5, 3, 1], (100 + 7 * i, 4)) for i in range(count)]
    clouds[1] = clouds[1][:0]  # nothing to be seen
    return list(zip(images, [c.astype(np.float32) for c in clouds], strict=True))


def batches(method: Clcp, rows: list[Any], chunk: int) -> list[dict[str, Any]]:
    prepare = method.lidar_encoder.preparation
    return [
        {
            'image': torch.from_numpy(np.stack([image for image, _ in part])),
            'lidar': prepare.collate([prepare(points) for _, points in part]),
        }
        for part in (rows[i : i + chunk] for i in range(0, len(rows), chunk))
    ]


def gradients(method: Clcp) -> dict[str, torch.Tensor]:
    grads = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    return {n: g.contiguous() for n, g in grads.items()}  # safetensors takes no other layout


def assert_same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    largest = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=2e-6 * largest, rtol=1e-3)


def whole_gradient(rows: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    method = make()
    loss, facts = method.loss_of(batches(method, rows, len(rows)))
    loss.backward()
    assert facts['pairs'] == len(rows) - 1
    return float(loss.detach()), gradients(method)


@pytest.mark.parametrize('chunk', [4, 3, 1])
def test_chunks_give_the_gradient_of_the_whole_batch(chunk: int) -> None:
    rows = samples(8)
    wanted, gradient = whole_gradient(rows)
    method = make()
    loss, _ = method.loss_of(batches(method, rows, chunk))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert_same(gradients(method), gradient)
    assert 'logit_scale' in gradient
    assert any(n.startswith('image_encoder') for n in gradient)


def test_chunks_without_the_other_chunks_negatives_differ() -> None:
    """What is compared above is worth comparing."""
    rows = samples(8)
    _, gradient = whole_gradient(rows)
    method = make()
    for batch in batches(method, rows, 4):
        (method.loss_of([batch])[0] / 2).backward()
    with pytest.raises(AssertionError):
        assert_same(gradients(method), gradient)


def test_chunks_keep_next_to_nothing_until_the_gradient() -> None:
    rows = samples(8)
    kept = []
    for chunk in (8, 2):
        method, total = make(), 0

        def pack(x: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            method.loss_of(batches(method, rows, chunk))
        kept.append(total)
    assert kept[1] < kept[0] / 100


def test_drop_out_and_statistics_are_those_of_one_pass() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    twin = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    twin.load_state_dict(net.state_dict())
    x = torch.randn(16, 6)
    torch.manual_seed(2)
    embed_without_keeping(net, net, x).square().sum().backward()
    after = torch.rand(1)
    torch.manual_seed(2)
    twin(x).square().sum().backward()
    assert torch.equal(after, torch.rand(1))
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for (name, a), b in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert net[1].momentum == 0.1


def test_chunks_count_batchnorm_statistics_once_each() -> None:
    method, twin = (make('resnet10t', freeze_lidar=False) for _ in range(2))
    chunks = batches(method, samples(4), 2)
    loss, _ = method.loss_of(chunks)
    loss.backward()
    with torch.no_grad():
        for chunk in chunks:
            twin.embed(chunk)
    buffers = dict(twin.named_buffers())
    assert any(n.endswith('num_batches_tracked') for n in buffers)
    for name, buffer in method.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], msg=name)


PROCESS = """
    import importlib.util, sys
    import torch.distributed as dist
    from safetensors.torch import save_file
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    spec = importlib.util.spec_from_file_location('scale', sys.argv[1])
    scale = importlib.util.module_from_spec(spec); sys.modules['scale'] = scale
    spec.loader.exec_module(scale)
    folder, rank = sys.argv[2], int(sys.argv[3])
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)

    class Loss(nn.Module):
        def __init__(self, method):
            super().__init__()
            self.method = method

        def forward(self, batch):
            return self.method.loss_of(batch)[0]

    for case, chunk in (('whole', 4), ('chunks', 2), ('blind', 4)):
        method = scale.make()
        rows = scale.blinded(scale.samples(8)) if case == 'blind' else scale.samples(8)
        ddp = DistributedDataParallel(Loss(method))
        ddp(scale.batches(method, rows[rank::2], chunk)).backward()
        if rank == 0:
            save_file(scale.gradients(method), f'{folder}/{case}.safetensors')
    dist.destroy_process_group()
"""


def blinded(rows: list[Any]) -> list[Any]:
    """Every second pair, those of the second process, without points."""
    return [(x, points if i % 2 == 0 else points[:0]) for i, (x, points) in enumerate(rows)]


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(
    tmp_path: Path, in_two_processes: Callable[..., None]
) -> None:
    """Negatives of the other process, DDP's average, a term with unequal counts, a blind rank."""
    in_two_processes(PROCESS, __file__, tmp_path)
    for case in ('whole', 'chunks', 'blind'):
        rows = blinded(samples(8)) if case == 'blind' else samples(8)
        method = make()
        gathered = rows[0::2] + rows[1::2]
        loss, facts = method.loss_of(batches(method, gathered, 8))
        loss.backward()
        assert facts['pairs'] == (4 if case == 'blind' else 7)
        assert_same(load_file(tmp_path / f'{case}.safetensors'), gradients(method))


def test_cosines_are_contrasted_in_float32_whatever_the_precision() -> None:
    seen = []

    class Looking(Clcp):
        def contrast(self, image: torch.Tensor, lidar: torch.Tensor) -> torch.Tensor:
            seen.append((image.dtype, torch.is_autocast_enabled('cpu'), (image @ lidar.T).dtype))
            return super().contrast(image, lidar)

    torch.manual_seed(0)
    config = ModelConfig(image_encoder='vit_tiny_patch16_224', freeze_lidar=True)
    method = Looking(Setup(config, views=ViewConfig(image_size=SIZE, voxel_size_m=0.4)))
    with torch.autocast('cpu', torch.bfloat16):
        assert method.embed(batches(method, samples(2), 2)[0]).image.dtype == torch.bfloat16
        loss, _ = method.loss_of(batches(method, samples(4), 2))
    loss.backward()
    assert seen == [(torch.float32, False, torch.float32)]
    assert all(torch.isfinite(g).all() for g in gradients(method).values())
