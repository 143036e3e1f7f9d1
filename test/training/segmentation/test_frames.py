# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clcp_ros.errors import ImageError, LabelError
from training.segmentation.cityscapes import condition_of
from training.segmentation.frames import open_frames
from training.segmentation.labels import ID_TABLES


def write(file: Path, array: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return file


def write_cityscapes(root: Path, label: np.ndarray, kind: str = 'labelIds') -> Path:
    image = np.zeros((*label.shape[:2], 3), np.uint8)
    write(root / 'leftImg8bit/train/town/town_000000_000000_leftImg8bit.png', image)
    write(root / f'gtFine/train/town/town_000000_000000_gtFine_{kind}.png', label)
    return root


def test_cityscapes_layout(toy_cityscapes: Path) -> None:
    frames = open_frames(toy_cityscapes, 'val')
    assert frames.layout == 'cityscapes'
    assert len(frames) == 24
    assert frames.drives == ['d-clear', 'd-night']
    assert frames.conditions == ['clear', 'night']
    image, label = frames.read(frames.frames[0])
    assert image.shape == (72, 112, 3)
    assert set(np.unique(label)) <= {0, 2, 10, 13, 255}
    assert (label[-4:] == 255).all()
    assert not frames.simulated


@pytest.mark.parametrize(
    ('city', 'condition'),
    [('town03-fog', 'fog'), ('aachen', 'all'), ('fog', 'all'), ('a-b', 'all')],
)
def test_condition_is_in_the_name_of_the_city(city: str, condition: str) -> None:
    assert condition_of(city) == condition


def test_label_ids_and_train_ids_mean_the_same(tmp_path: Path) -> None:
    raw = np.arange(34, dtype=np.uint8).reshape(2, 17)
    by_label = open_frames(write_cityscapes(tmp_path / 'a', raw), 'train')
    # The devkit's table (Cordts et al. 2016), written out.
    train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    train_ids |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    expected = np.vectorize(lambda i: train_ids.get(i, 255))(raw).astype(np.uint8)
    assert (by_label.read(by_label.frames[0])[1] == expected).all()
    root = write_cityscapes(tmp_path / 'b', expected, 'labelTrainIds')
    by_train = open_frames(root, 'train')
    assert (by_train.read(by_train.frames[0])[1] == expected).all()
    assert by_label.labels.report(by_label.classes) is None


def test_ids_outside_the_class_set_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = np.full((4, 8), 7, np.uint8)
    raw[0, :3] = 40
    raw[1, :2] = 200
    frames = open_frames(write_cityscapes(tmp_path, raw), 'train')
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            label = frames.read(frames.frames[0])[1]
        assert not caplog.records
        message = frames.labels.report(frames.classes)
        assert frames.labels.report(frames.classes) is None
    assert message is not None
    assert '5 pixels in 1 label images' in message
    assert '40, 200' in message
    assert len(caplog.records) == 1
    assert (label[0, :3] == 255).all()
    assert label[3, 3] == 0


def test_acdc_layout_matches_by_name(tmp_path: Path) -> None:
    for condition, sequence in (('fog', 'GOPR0475'), ('night', 'GOPR0351')):
        stem = f'{sequence}_frame_000001'
        for split, mark in (('val', ''), ('val_ref', '_ref')):
            write(
                tmp_path / f'rgb_anon/{condition}/{split}/{sequence}/{stem}_rgb{mark}_anon.png',
                np.zeros((4, 8, 3), np.uint8),
            )
            write(
                tmp_path / f'gt/{condition}/{split}/{sequence}/{stem}_gt{mark}_labelTrainIds.png',
                np.full((4, 8), 18, np.uint8),
            )
    frames = open_frames(tmp_path, 'val')
    assert (frames.layout, frames.conditions) == ('acdc', ['fog', 'night'])
    assert (frames.read(frames.frames[0])[1] == 18).all()
    assert open_frames(tmp_path, 'val_ref').conditions == ['clear']


def test_camvid_layout_and_parts_of_splits(tmp_path: Path) -> None:
    for split, names in {'train': ('0001TP_1', '0006R0_1'), 'val': ('0016E5_1',)}.items():
        for name in names:
            write(tmp_path / split / f'{name}.png', np.zeros((2, 6, 3), np.uint8))
            ids = np.arange(12, dtype=np.uint8).reshape(2, 6)
            write(tmp_path / f'{split}annot' / f'{name}.png', ids)
    frames = open_frames(tmp_path, 'val,train:dusk')
    assert [f.name for f in frames.frames] == ['train/0001TP_1', 'val/0016E5_1']
    assert frames.conditions == ['day', 'dusk']
    assert frames.read(frames.frames[0])[1].ravel().tolist() == [*range(11), 255]
    assert [f.drive for f in frames.only(['dusk']).frames] == ['0001TP']
    with pytest.raises(LabelError, match='no frames of condition fog; there are day, dusk'):
        frames.only(['fog'])


def test_a_missing_label_is_named(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, np.zeros((4, 8), np.uint8))
    next(root.glob('gtFine/*/*/*')).unlink()
    with pytest.raises(LabelError, match=r'1 of 1 images have no label.*gtFine_labelIds\.png'):
        open_frames(root, 'train')


def test_a_label_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, np.zeros((4, 8), np.uint8))
    label = next(root.glob('gtFine/*/*/*'))
    write(label, np.zeros((4, 9), np.uint8))
    frames = open_frames(root, 'train')
    with pytest.raises(LabelError, match=r'labelIds\.png: the label is 9 x 4, its image is 8 x 4'):
        frames.read(frames.frames[0])


@pytest.mark.parametrize(('part', 'error'), [('leftImg8bit', ImageError), ('gtFine', LabelError)])
def test_a_truncated_png_is_named(tmp_path: Path, part: str, error: type[Exception]) -> None:
    rng = np.random.default_rng(0)
    root = write_cityscapes(tmp_path, rng.integers(0, 34, (64, 64)).astype(np.uint8))
    file = next(root.glob(f'{part}/*/*/*'))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    frames = open_frames(root, 'train')
    with pytest.raises(error, match=file.name):
        frames.read(frames.frames[0])


def test_a_colour_image_is_no_label(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, np.zeros((4, 8), np.uint8))
    write(next(root.glob('gtFine/*/*/*')), np.zeros((4, 8, 3), np.uint8))
    frames = open_frames(root, 'train')
    with pytest.raises(LabelError, match='8-bit id'):
        frames.read(frames.frames[0])


def test_unknown_folders_and_splits_are_refused(tmp_path: Path, toy_cityscapes: Path) -> None:
    with pytest.raises(LabelError, match='no known layout'):
        open_frames(tmp_path, 'val')
    with pytest.raises(LabelError, match='no such folder'):
        open_frames(tmp_path / 'nowhere', 'val')
    with pytest.raises(LabelError, match=r"no split 'test'.*found train, val"):
        open_frames(toy_cityscapes, 'test')
    with pytest.raises(LabelError, match='no frames in'):
        open_frames(toy_cityscapes, 'val:rain')


def test_simulated_data_are_told_by_the_simulators_file(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / 'sim' / 'cityscapes', np.zeros((4, 8), np.uint8))
    (tmp_path / 'sim' / 'simulation.json').write_text('{}')
    assert open_frames(root, 'train').simulated


def test_every_table_keeps_unlabelled_pixels() -> None:
    assert all(table[255] == 255 for table in ID_TABLES.values())
