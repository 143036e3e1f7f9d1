# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from clcp_ros.errors import ModelError
from training.hardware import HardwareConfig


@pytest.mark.parametrize('name', ['fsdp', 'fsdp_cpu_offload', 'deepspeed_stage_2'])
def test_strategies_that_shard_weights_are_refused(name: str) -> None:
    """Whatever the machine: what averages, watches and saves needs whole weights."""
    with pytest.raises(ModelError, match=rf'--strategy {name} shards the weights.*use ddp'):
        HardwareConfig(strategy=name).check()


def test_one_process_and_ddp_are_not() -> None:
    for name in ('auto', 'ddp'):
        HardwareConfig(strategy=name, accelerator='cpu').check()
