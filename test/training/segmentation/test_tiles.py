# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clcp_ros.errors import ModelError
from clcp_ros.tiling import Tiling
from training.segmentation.tiles import slide


def test_windows_are_mmsegmentations() -> None:
    # 1024 x 2048, windows of 768, stride 512: ceil(256 / 512) + 1 = 2 rows,
    # ceil(1280 / 512) + 1 = 4 columns, the last ones moved back to the border.
    corners = Tiling((768, 768), (512, 512)).corners(1024, 2048)
    assert corners == [
        (0, 0), (0, 512), (0, 1024), (0, 1280),
        (256, 0), (256, 512), (256, 1024), (256, 1280),
    ]  # fmt: skip


def test_a_stride_of_the_window_tiles_without_overlap() -> None:
    assert Tiling((4, 4), (4, 4)).corners(8, 8) == [(0, 0), (0, 4), (4, 0), (4, 4)]


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    window=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_every_pixel_is_covered_and_every_window_differs(
    size: tuple[int, int], window: tuple[int, int], data: st.DataObject
) -> None:
    stride = tuple(data.draw(st.integers(1, n)) for n in window)
    tiling = Tiling(window, (stride[0], stride[1]))
    corners = tiling.corners(*size)
    assert len(set(corners)) == len(corners)
    covered = torch.zeros(max(size[0], window[0]), max(size[1], window[1]), dtype=torch.int)
    for top, left in corners:
        part = covered[top : top + window[0], left : left + window[1]]
        assert part.shape == window
        part += 1
    assert int(covered.min()) >= 1


def test_a_pointwise_network_gives_what_it_gives_on_the_whole_image() -> None:
    image = torch.randn(3, 37, 53, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(5, 3)

    def network(batch: Tensor) -> Tensor:
        assert batch.shape[1:] == (3, 16, 24)
        return torch.einsum('oc,bchw->bohw', weight, batch)

    for batch_size in (1, 3, 100):
        logits = slide(image, Tiling((16, 24), (11, 7)), network, batch_size)
        torch.testing.assert_close(logits, torch.einsum('oc,chw->ohw', weight, image))


def test_overlapping_windows_are_averaged() -> None:
    seen: list[int] = []

    def network(batch: Tensor) -> Tensor:
        start = len(seen)
        seen.extend(range(len(batch)))
        values = torch.arange(start, start + len(batch), dtype=torch.float32)
        return values[:, None, None, None].expand(-1, 1, 2, 2)

    logits = slide(torch.zeros(3, 2, 6), Tiling((2, 4), (2, 2)), network)
    # Window 0 covers columns 0 to 3, window 1 columns 2 to 5.
    assert logits[0].tolist() == [[0, 0, 0.5, 0.5, 1, 1]] * 2


def test_an_image_smaller_than_the_window_is_padded_and_cut() -> None:
    shapes: list[torch.Size] = []

    def network(batch: Tensor) -> Tensor:
        shapes.append(batch.shape)
        return batch[:, :1]

    image = torch.ones(3, 5, 9)
    logits = slide(image, Tiling((8, 8), (8, 8)), network)
    assert logits.shape == (1, 5, 9)
    assert [tuple(s) for s in shapes] == [(2, 3, 8, 8)]
    assert bool((logits == 1).all())


@pytest.mark.parametrize('stride', [(0, 4), (5, 4), (4, 9)])
def test_gaps_are_refused(stride: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match='leave pixels out'):
        Tiling((4, 8), stride)
