# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.bundle import load_bundle
from clcp_ros.errors import BundleError, ModelError
from clcp_ros.tiling import FrameTiling, Tiling


@given(
    cells=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    window=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    step=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_merging_what_was_cut_gives_the_frame_back(
    cells: tuple[int, int], window: tuple[int, int], step: tuple[int, int], data: st.DataObject
) -> None:
    window = min(window[0], cells[0]), min(window[1], cells[1])
    stride = tuple(data.draw(st.integers(1, n)) for n in window)
    tiles = FrameTiling(
        cells[0] * step[0],
        cells[1] * step[1],
        Tiling(
            (window[0] * step[0], window[1] * step[1]), (stride[0] * step[0], stride[1] * step[1])
        ),
    )
    frame = np.random.default_rng(0).normal(size=(3, tiles.height, tiles.width))
    cut = tiles.cut(frame.astype(np.float32))
    assert cut.shape == (len(tiles.corners), 3, *tiles.tiling.window)
    # A network that looks at the first pixel of a cell.
    logits = cut[:, :, :: step[0], :: step[1]]
    merged = tiles.merge(logits)
    np.testing.assert_allclose(merged, frame[:, :: step[0], :: step[1]], rtol=1e-5, atol=1e-6)


def test_overlapping_windows_are_averaged() -> None:
    tiles = FrameTiling(4, 12, Tiling((4, 8), (4, 4)))
    logits = np.zeros((2, 1, 2, 4), np.float32)
    logits[1] = 1
    assert tiles.merge(logits)[0].tolist() == [[0, 0, 0.5, 0.5, 1, 1]] * 2


@pytest.mark.parametrize(
    ('frame', 'window', 'stride'), [((20, 24), (8, 8), (6, 8)), ((22, 24), (8, 8), (8, 8))]
)
def test_windows_off_the_grid_are_refused(
    frame: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> None:
    tiles = FrameTiling(*frame, Tiling(window, stride))
    with pytest.raises(ModelError, match='must be multiples of 4'):
        tiles.merge(np.zeros((len(tiles.corners), 3, 2, 2), np.float32))


def test_a_frame_smaller_than_its_windows_is_refused() -> None:
    with pytest.raises(ModelError, match='smaller than its windows'):
        FrameTiling(8, 7, Tiling((8, 8), (8, 8)))


def _with_tiling(tiny_bundle: Path, folder: Path, tiling: Any) -> Path:
    folder.mkdir()
    for name in ('model.onnx', 'reference.npz'):
        (folder / name).write_bytes((tiny_bundle / name).read_bytes())
    description = json.loads((tiny_bundle / 'bundle.json').read_text())
    description['tiling'] = tiling
    (folder / 'bundle.json').write_text(json.dumps(description))
    return folder


def test_a_bundle_describes_its_windows(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = load_bundle(tiny_bundle)
    assert whole.tiling is None
    assert whole.frame == whole.input
    assert whole.windows == 1
    entry = {'height': 96, 'width': 120, 'window': [48, 80], 'stride': [24, 40]}
    tiled = load_bundle(_with_tiling(tiny_bundle, tmp_path / 'tiled', entry))
    assert (tiled.frame.height, tiled.frame.width) == (96, 120)
    assert tiled.frame.mean == tiled.input.mean
    assert tiled.windows == 3 * 2


@pytest.mark.parametrize(
    'change',
    [
        lambda t: t.pop('stride'),
        lambda t: t.update(window=[48, 81]),
        lambda t: t.update(stride=[49, 80]),
        lambda t: t.update(stride=[0, 80]),
        lambda t: t.update(height=47),
        lambda t: t.update(height='high'),
        lambda t: t.update(window=48),
    ],
)
def test_impossible_windows_are_one_clear_error(
    change: Callable[[dict[str, Any]], Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    entry = {'height': 96, 'width': 120, 'window': [48, 80], 'stride': [24, 40]}
    change(entry)
    with pytest.raises(BundleError, match='malformed'):
        load_bundle(_with_tiling(tiny_bundle, tmp_path / 'tiled', entry))
