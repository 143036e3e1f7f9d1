# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from clcp_ros.errors import ModelError
from training.hardware import HardwareConfig


@pytest.mark.parametrize('name', ['fsdp_cpu_offload', 'deepspeed_stage_2', 'model_parallel'])
def test_other_ways_to_shard_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf'--strategy {name} is not supported: use ddp, or fsdp'):
        HardwareConfig(strategy=name).check()


@pytest.mark.parametrize('name', ['auto', 'ddp', 'fsdp'])
def test_one_process_and_many_need_no_gpu(name: str) -> None:
    HardwareConfig(strategy=name, accelerator='cpu').check()
