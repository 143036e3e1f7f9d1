# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clcp_ros.errors import LabelError
from training.models.image_encoder import ImageEncoder
from training.watch.probe import KnnProbe, majority


def test_majority_needs_half_of_a_patch() -> None:
    label = np.full((8, 8), 255, np.uint8)
    label[:4, :4] = 2
    label[:4, 4:] = np.array([0, 1, 0, 1], np.uint8)
    label[4:, :1] = 1
    patches = majority(label, 2, 2, 3)
    assert patches[0, 0] == 2
    assert patches[0, 1] in (0, 1)
    assert patches[1].tolist() == [255, 255]


def test_colours_find_their_classes_and_noise_does_not(toy_cityscapes: Path) -> None:
    """The toy classes are plain colours, so that the mean colour of a patch is its class."""
    encoder = ImageEncoder('test_efficientnet')
    probe = KnnProbe(toy_cityscapes, 20, 64, encoder)
    cpu = torch.device('cpu')
    rows, columns = 64 // encoder.stride, round(112 / 72 * 64 / encoder.stride)
    seen = probe.miou(lambda x: F.adaptive_avg_pool2d(x, (rows, columns)), cpu)
    torch.manual_seed(0)
    blind = probe.miou(lambda x: torch.randn(len(x), 8, rows, columns), cpu)
    assert seen > blind + 0.2
    assert probe.miou(lambda x: encoder.eval()(x).grid, cpu) > blind
    assert np.isnan(probe.miou(lambda x: torch.full((len(x), 8, rows, columns), np.nan), cpu))


def test_a_folder_without_labels_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match='no such folder'):
        KnnProbe(tmp_path / 'nothing', 10, 64, ImageEncoder('test_efficientnet'))
    with pytest.raises(LabelError, match='no known layout'):
        KnnProbe(tmp_path, 10, 64, ImageEncoder('test_efficientnet'))


def test_one_split_is_divided(toy_cityscapes: Path, tmp_path: Path) -> None:
    for folder in ('leftImg8bit', 'gtFine'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'train').symlink_to(toy_cityscapes / folder / 'train')
    probe = KnnProbe(tmp_path, 10, 64, ImageEncoder('test_efficientnet'))
    assert (len(probe._bank), len(probe._queries)) == (6, 4)
    images = {image.tobytes() for image, _ in probe._bank}
    assert not any(image.tobytes() in images for image, _ in probe._queries)
