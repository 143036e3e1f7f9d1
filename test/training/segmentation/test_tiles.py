# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clcp_ros.errors import ModelError
from clcp_ros.tiling import Tiling
from training.segmentation.tiles import Mosaic


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


def naive(
    windows: Tensor, tiling: Tiling, size: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """What papers describe: upsample each window, add, divide by the count, cut, resize."""
    height, width = (max(a, b) for a, b in zip(size, tiling.window, strict=True))
    total = torch.zeros(windows.shape[1], height, width)
    count = torch.zeros(height, width)
    upsampled = F.interpolate(windows, tiling.window, mode='bilinear', align_corners=False)
    for part, (top, left) in zip(upsampled, tiling.corners(height, width), strict=True):
        bottom, right = top + tiling.window[0], left + tiling.window[1]
        total[:, top:bottom, left:right] += part
        count[top:bottom, left:right] += 1
    mean = (total / count)[None, :, : size[0], : size[1]]
    return F.interpolate(mean, target, mode='bilinear', align_corners=False)[0]


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    window=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    classes=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_windows_are_put_together_as_papers_do(
    size: tuple[int, int],
    window: tuple[int, int],
    grid: tuple[int, int],
    target: tuple[int, int],
    classes: int,
    data: st.DataObject,
) -> None:
    stride = tuple(data.draw(st.integers(1, n)) for n in window)
    tiling = Tiling(window, (stride[0], stride[1]))
    number = len(tiling.corners(max(size[0], window[0]), max(size[1], window[1])))
    logits = torch.randn(number, classes, *grid, generator=torch.Generator().manual_seed(0)) * 3
    expected = naive(logits, tiling, size, target)
    mosaic = Mosaic(tiling, size, grid, target)
    found = mosaic.logits(logits)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    mask, confidence = mosaic.decide(logits)
    # The class is the best, but for rounding; the first one of equals.
    best = found.amax(0)
    chosen = found.gather(0, torch.from_numpy(mask).long()[None])[0]
    assert float((best - chosen).max()) < 1e-4
    sure = 255 * expected.softmax(0).amax(0)
    assert float((sure - torch.from_numpy(confidence)).abs().max()) < 0.6


def test_the_first_of_equal_classes_is_taken() -> None:
    mosaic = Mosaic(Tiling((4, 4), (4, 4)), (4, 8), (1, 1), (4, 8))
    logits = torch.zeros(2, 5, 1, 1)
    logits[1, 2:] = 1
    mask, confidence = mosaic.decide(logits)
    assert mask.tolist() == [[0, 0, 0, 0, 2, 2, 2, 2]] * 4
    assert confidence[0, 0] == 51


def test_overlapping_windows_are_averaged() -> None:
    mosaic = Mosaic(Tiling((2, 4), (2, 2)), (2, 6), (1, 2), (2, 6))
    logits = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 1, 2)
    # Window 0 covers columns 0 to 3, window 1 columns 2 to 5.
    assert mosaic.logits(logits)[0].tolist() == [[0, 0, 0.5, 0.5, 1, 1]] * 2


@pytest.mark.parametrize('stride', [(0, 4), (5, 4), (4, 9)])
def test_gaps_are_refused(stride: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match='leave pixels out'):
        Tiling((4, 8), stride)
