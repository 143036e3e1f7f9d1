# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import LabelError
from training.segmentation.frames import open_frames

ROAD, CAR, NATURE = (255, 0, 255), (255, 0, 0), (147, 253, 194)


def write_scene(
    root: Path, scene: str, number: int, colors: np.ndarray, mode: str = 'RGB'
) -> None:
    date = scene.replace('_', '')
    for kind, pixels in (('camera', np.zeros_like(colors)), ('label', colors)):
        folder = root / scene / kind / 'cam_front_center'
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels).convert(mode if kind == 'label' else 'RGB')
        image.save(folder / f'{date}_{kind}_frontcenter_{number:09d}.png')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    colors = np.zeros((4, 6, 3), np.uint8)
    colors[:2], colors[2], colors[3] = ROAD, CAR, NATURE
    for scene in ('20180807_145028', '20180810_142822', '20181108_123750'):
        write_scene(tmp_path / 'camera_lidar_semantic', scene, 7, colors)
    return tmp_path


def test_scenes_labels_and_splits(root: Path) -> None:
    frames = open_frames(root, 'train')
    assert frames.layout == 'a2d2'
    assert frames.classes == CITYSCAPES
    assert frames.drives == ['20180810_142822', '20181108_123750']
    assert open_frames(root / 'camera_lidar_semantic', 'val').drives == ['20180807_145028']
    assert len(open_frames(root, 'all')) == 3
    image, label = frames.read(frames.frames[0])
    assert image.shape == (4, 6, 3)
    assert label[:, 0].tolist() == [0, 0, 13, 8]


def test_colours_of_nothing_are_reported_once_and_ignored(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colors = np.full((4, 6, 3), 1, np.uint8)
    colors[0] = ROAD
    write_scene(root / 'camera_lidar_semantic', '20180810_142822', 8, colors)
    frames = open_frames(root, 'train')
    labels = [frames.read(f)[1] for f in frames.frames]
    assert labels[1][:, 0].tolist() == [0, 255, 255, 255]
    with caplog.at_level(logging.WARNING):
        message = frames.labels.report(frames.classes)
    assert message is not None
    assert '18 pixels in 1 label images' in message
    assert '#010101' in message


def test_gray_labels_are_refused(root: Path) -> None:
    write_scene(
        root / 'camera_lidar_semantic', '20181108_123750', 7, np.zeros((4, 6, 3), np.uint8), 'L'
    )
    frames = open_frames(root, 'train')
    with pytest.raises(LabelError, match='RGB'):
        frames.read(frames.frames[1])


def test_a_missing_label_is_named(root: Path) -> None:
    next((root / 'camera_lidar_semantic').rglob('20180810142822_label_*.png')).unlink()
    with pytest.raises(LabelError, match=r'1 of 2 images have no label.*20180810142822_label'):
        open_frames(root, 'train')
