# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fully sharded training (FSDP2): each process keeps its part of weights and optimizer.

The whole module is one unit. Its weights are gathered before a step and given back once its
gradients are summed. So between steps a process holds its part of weights, gradients and of the
optimizer's averages, and within a step methods, chunks and negatives of all ranks see whole
weights and need to know nothing of it. Activations, most of what an image encoder needs, do not
get fewer: for those there is `--chunk`. Checkpoints are whole, as those of other strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from clcp_ros.errors import ModelError
from training.checkpoints import read_checkpoint


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for modules that shard themselves, with checkpoints in one file."""

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer is restored as any other, from a whole state."""
        return True

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a whole checkpoint, as data.

        Raises:
            ModelError: It is damaged, or holds more than data.
        """
        return read_checkpoint(Path(self.broadcast(checkpoint_path)))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take each process's part of whole weights."""
        assert self.model is not None
        set_model_state_dict(
            self.model, checkpoint['state_dict'],
            options=StateDictOptions(full_state_dict=True, strict=strict),
        )  # fmt: skip

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take each process's part of the optimizer's whole state."""
        assert self.model is not None
        for optimizer, state in zip(self.optimizers, checkpoint['optimizer_states'], strict=True):
            set_optimizer_state_dict(
                self.model, optimizer, _named(state, optimizer, self.model),
                options=StateDictOptions(full_state_dict=True),
            )  # fmt: skip


def _named(state: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state by names; numbers mean what they do to torch: places in its groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    by_number: dict[int, str] = {}
    for saved, group in zip(state['param_groups'], optimizer.param_groups, strict=True):
        own = [names[p] for p in group['params']]
        by_number |= dict(zip(saved['params'], own, strict=True))
        groups.append({**saved, 'params': own})
    return {
        'state': {by_number[number]: value for number, value in state['state'].items()},
        'param_groups': groups,
    }


def shard(module: L.LightningModule, steps: str, device: torch.device) -> None:
    """Shard a module over all processes; once.

    Args:
        module: Its floating-point parameters become DTensors, of the same memory layout in every
            process: that of rows.
        steps: Name of the method that computes the loss.
        device: Of this process; the module moves there.

    Raises:
        ModelError: torch is too old.
    """
    try:
        from torch.distributed.fsdp import (
            FSDPModule,
            fully_shard,
            register_fsdp_forward_method,
        )
    except ImportError:
        raise ModelError('--strategy fsdp needs torch 2.6 or later; use ddp') from None
    if isinstance(module, FSDPModule):
        return
    for parameter in module.parameters():
        # Rows are what is divided; channels_last has none.
        parameter.data = parameter.data.contiguous()
    # Not given back after the forward pass: the backward pass of the one unit follows at once.
    fully_shard(
        module,
        mesh=init_device_mesh(device.type, (dist.get_world_size(),)),
        reshard_after_forward=False,
    )
    register_fsdp_forward_method(module, steps)


def gather_weights(module: L.LightningModule) -> None:
    """Hold whole weights and one rank's statistics until `release_weights`; else nothing to do.

    Args:
        module: That `shard` was given, or another.
    """
    if is_sharded(module):
        module.unshard()  # type: ignore[operator]
        for buffer in module.buffers():
            # As DDP does: BatchNorm's statistics are those of the first rank.
            dist.broadcast(buffer, 0)


def release_weights(module: L.LightningModule) -> None:
    """Undo `gather_weights`.

    Args:
        module: That `shard` was given, or another.
    """
    if is_sharded(module):
        module.reshard()  # type: ignore[operator]


def is_sharded(module: L.LightningModule) -> bool:
    """Whether `shard` was given the module."""
    return hasattr(module, 'unshard')


def whole(x: Tensor) -> Tensor:
    """A tensor of which this process may hold a part.

    Args:
        x: A DTensor, which all processes ask for, or any other tensor.
    """
    return x.full_tensor() if hasattr(x, 'full_tensor') else x
