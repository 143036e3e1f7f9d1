# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from benchmarks.pretrain import Repeated, make_method


@pytest.mark.parametrize('method', ['clcp', 'clcp_anchored'])
def test_the_synthetic_samples_have_what_a_method_asks_for(method: str) -> None:
    module = make_method('small', method, 3).train()
    samples = Repeated(module, 300, 2)
    batch = module.collate([samples[(i, 0)] for i in range(3)])
    loss, facts = module.loss_of([batch])
    loss.backward()
    assert torch.isfinite(loss)
    if method == 'clcp_anchored':
        assert facts['term_geometry'] > 0
        assert facts['term_nce'] > 0
