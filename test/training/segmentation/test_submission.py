# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from clcp_ros.errors import LabelError
from training.segmentation.listing import Frame
from training.segmentation.submission import to_label_ids, write_submission


def frame(name: str) -> Frame:
    return Frame(name, Path(f'images/{name}.png'), Path('none'), 'drive', 'all', 'any')


def test_label_ids_are_cityscapes() -> None:
    mask = np.array([[0, 1, 10, 18, 255]], np.uint8)
    assert to_label_ids(mask).tolist() == [[7, 8, 23, 33, 0]]


def test_cityscapes_zip(tmp_path: Path) -> None:
    mask = np.zeros((1024, 2048), np.uint8)
    mask[:10] = 13
    path = tmp_path / 'submission.zip'
    name = 'berlin_000000_000019_leftImg8bit'
    assert write_submission(path, 'cityscapes', [(frame(name), mask)]) == 1
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f'{name}.png']
        data = np.frombuffer(archive.read(f'{name}.png'), np.uint8)
    ids = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert ids.shape == (1024, 2048)
    assert set(np.unique(ids).tolist()) == {7, 26}


def test_acdc_keeps_train_ids_and_bytes_repeat(tmp_path: Path) -> None:
    mask = np.full((1080, 1920), 8, np.uint8)
    paths = [tmp_path / 'a.zip', tmp_path / 'b.zip']
    for path in paths:
        write_submission(path, 'acdc', [(frame('GOPR0122_frame_000161_rgb_anon'), mask)])
    with zipfile.ZipFile(paths[0]) as archive:
        data = np.frombuffer(archive.read('GOPR0122_frame_000161_rgb_anon.png'), np.uint8)
    assert np.unique(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)).tolist() == [8]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_nothing_is_left_of_a_failed_one(tmp_path: Path) -> None:
    good = np.zeros((1080, 1920), np.uint8)
    with pytest.raises(LabelError, match='1920 x 1080'):
        write_submission(tmp_path / 'z.zip', 'acdc', [(frame('a'), good), (frame('b'), good[:5])])
    with pytest.raises(LabelError, match='two images'):
        write_submission(tmp_path / 'z.zip', 'acdc', [(frame('a'), good), (frame('a'), good)])
    with pytest.raises(LabelError, match='no server'):
        write_submission(tmp_path / 'z.zip', 'kitti', [])
    assert list(tmp_path.iterdir()) == []
