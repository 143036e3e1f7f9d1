# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights divided among two processes; whole runs are in test_pretrain_runs.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.nonfinite import clip_gradients

CLIP = 0.5


class Small(L.LightningModule):
    """With what methods have: a scale of one row, a frozen copy, statistics, odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.head = nn.Linear(7, 5)
        self.frozen = nn.Linear(7, 5).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor([0.3]))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.layer(images).mean((2, 3))
        error = (self.head(pooled) - self.frozen(pooled)).square().mean(1)
        return (self.scale.exp() * error).mean()

    def training_step(self, images: Tensor, _: int = 0) -> Tensor:
        loss: Tensor = self(images)
        return loss


def batch() -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def steps_of(module: Small, images: Tensor) -> list[float]:
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2, fused=True)
    norms = []
    for _ in range(3):
        optimizer.zero_grad()
        module.training_step(images).backward()
        norms.append(float(clip_gradients(module, CLIP)))
        optimizer.step()
        with torch.no_grad():
            module.scale.clamp_(0, 0.31)
    return norms


PROCESS = """
    import importlib.util, json, sys
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file

    spec = importlib.util.spec_from_file_location('sharded', sys.argv[1])
    tests = importlib.util.module_from_spec(spec); sys.modules['sharded'] = tests
    spec.loader.exec_module(tests)
    from training.sharding import gather_weights, is_sharded, release_weights, shard, whole

    folder, rank = sys.argv[2], int(sys.argv[3])
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    module = tests.Small()
    assert not is_sharded(module)
    gather_weights(module)
    size = sum(p.numel() for p in module.parameters())
    for _ in range(2):
        shard(module, 'training_step', torch.device('cpu'))
    assert is_sharded(module)
    own = sum(p.to_local().numel() for p in module.parameters())
    norms = tests.steps_of(module, tests.batch()[rank::2])
    gradients = sum(p.grad.to_local().numel() for p in module.parameters() if p.grad is not None)
    module.norm.running_mean.fill_(float(rank + 3))
    gather_weights(module)
    assert not any(hasattr(p, 'to_local') for p in module.parameters())
    seen = {k: v.detach().clone().contiguous() for k, v in module.named_parameters()}
    release_weights(module)
    parts = {k: whole(v).contiguous() for k, v in module.state_dict().items()}
    assert all(seen[k].equal(parts[k]) for k in seen)
    save_file(parts, f'{folder}/{rank}.safetensors')
    with open(f'{folder}/{rank}.json', 'w') as file:
        json.dump({'size': size, 'own': own, 'gradients': gradients, 'norms': norms}, file)
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_hold_a_part_each_and_train_as_one(
    tmp_path: Path, in_two_processes: Callable[..., None]
) -> None:
    in_two_processes(PROCESS, __file__, tmp_path)
    facts = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)]
    size = facts[0]['size']
    trained = sum(p.numel() for p in Small().parameters() if p.requires_grad)
    assert sum(f['own'] for f in facts) == size
    assert max(f['own'] for f in facts) < 0.65 * size
    assert max(f['gradients'] for f in facts) < 0.65 * trained
    module = Small()
    norms = steps_of(module, batch())
    assert facts[0]['norms'] == facts[1]['norms'] == pytest.approx(norms, rel=1e-4)
    first, second = (load_file(tmp_path / f'{rank}.safetensors') for rank in (0, 1))
    # The statistics of the first process are everybody's, as with DDP.
    assert first['norm.running_mean'].tolist() == second['norm.running_mean'].tolist() == [3.0] * 7
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-4, atol=1e-6)
        assert first[name].equal(second[name])
