# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""On what a run computes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy

from clcp_ros.errors import ModelError
from training.sharding import ShardedStrategy

_SHARDING = ('fsdp_', 'deepspeed', 'model_parallel')


@dataclass
class HardwareConfig:
    """Processes and what they compute on; no part of what a run's results are taken to depend on.

    Numbers of processes and machines do change rounding, and more than that where BatchNorm is
    trained: it normalises with what one process sees, or all of them with `sync_batchnorm`.

    Attributes:
        accelerator: auto, cpu, gpu, or another name of Lightning's.
        devices: Per node; 0 for all GPUs, or one process on a CPU.
        num_nodes: Machines. Start the same command on each, as torchrun or Slurm do.
        strategy: auto, ddp, fsdp (each process keeps a part of weights and optimizer), or another
            name of Lightning's that keeps weights whole.
        sync_batchnorm: Normalise with the batches of all GPUs together.
        compile: Compile the image encoder with torch.compile: minutes at the start, faster steps.
    """

    accelerator: str = 'auto'
    devices: int = 0
    num_nodes: int = 1
    strategy: str = 'auto'
    sync_batchnorm: bool = False
    compile: bool = False

    def check(self) -> None:
        """Raise ModelError for what this machine cannot do."""
        gpus = torch.cuda.device_count()
        if self.accelerator in ('gpu', 'cuda') and not gpus:
            raise ModelError(f'--accelerator {self.accelerator}: no GPU is to be seen here')
        if self.strategy.startswith(_SHARDING):
            raise ModelError(
                f'--strategy {self.strategy} is not supported: use ddp, or fsdp to shard weights '
                'and optimizer'
            )
        if self.sync_batchnorm and (self.accelerator == 'cpu' or not gpus):
            raise ModelError('--sync-batchnorm needs GPUs')
        if self.on_gpu and self.devices > gpus:
            raise ModelError(f'--devices {self.devices}: {gpus} GPUs are to be seen here')
        if self.devices < 0 or self.num_nodes < 1:
            raise ModelError('--devices must not be negative, --num-nodes at least 1')

    @property
    def on_gpu(self) -> bool:
        """Whether the networks compute on GPUs."""
        return self.accelerator != 'cpu' and torch.cuda.is_available()

    def loader_workers(self) -> int:
        """How many processes should read ahead for each process that trains."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
        if self.on_gpu:
            return max(min(cores // (self.devices or torch.cuda.device_count()) - 1, 16), 1)
        return 1 if cores > 1 else 0

    def trainer_arguments(self) -> dict[str, Any]:
        """What Lightning's trainer is told."""
        strategy: str | Strategy = self.strategy
        if strategy == 'ddp':
            strategy = DDPStrategy(gradient_as_bucket_view=True)
        elif strategy == 'fsdp':
            strategy = ShardedStrategy()
        return {
            'accelerator': self.accelerator,
            'devices': self.devices or ('auto' if self.on_gpu else 1),
            'num_nodes': self.num_nodes,
            'strategy': strategy,
            'sync_batchnorm': self.sync_batchnorm,
        }
