# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from clcp_ros.errors import ImageError, LabelError
from training.worker_errors import plain_worker_errors


class Damaged(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise ImageError('a.png: damaged: no end')
        if index == 3:
            raise ValueError('another')
        return index


@pytest.mark.parametrize('workers', [0, 1])
def test_one_line_whoever_reads(workers: int) -> None:
    with pytest.raises(ImageError) as caught, plain_worker_errors():
        list(DataLoader(Damaged(), num_workers=workers))
    assert str(caught.value) == 'a.png: damaged: no end'


def test_others_are_left_alone() -> None:
    with pytest.raises(ValueError, match='Original Traceback'), plain_worker_errors():
        list(DataLoader(Damaged(), num_workers=1, sampler=[3]))
    with pytest.raises(LabelError, match=r'^x\.LabelError: y$'), plain_worker_errors():
        raise LabelError('x.LabelError: y')
