# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from clcp_ros.errors import ImageError, LabelError
from training.cli import run_command
from training.evaluate import SUBCOMMANDS, evaluate
from training.segmentation.frames import open_frames
from training.segmentation.inference import InferenceConfig
from training.segmentation.listing import Frame
from training.segmentation.predictors import open_predictor
from training.segmentation.submission import submit, to_label_ids, write_submission


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
        data = np.frombuffer(
            archive.read('labelTrainIds/GOPR0122_frame_000161_rgb_anon.png'), np.uint8
        )
    assert np.unique(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)).tolist() == [8]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_nothing_is_left_of_a_failed_one(tmp_path: Path) -> None:
    good = np.zeros((1080, 1920), np.uint8)
    with pytest.raises(LabelError, match='two images'):
        write_submission(tmp_path / 'z.zip', 'acdc', [(frame('a'), good), (frame('a'), good)])
    with pytest.raises(LabelError, match='no server'):
        write_submission(tmp_path / 'z.zip', 'kitti', [])
    assert list(tmp_path.iterdir()) == []


def names_and_ids(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return {
            n: cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_UNCHANGED)
            for n in archive.namelist()
        }


def test_a_split_without_labels_becomes_a_cityscapes_zip(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The command, on what the test split looks like: images alone."""
    shutil.copytree(
        toy_cityscapes / 'leftImg8bit' / 'val', tmp_path / 'data' / 'leftImg8bit' / 'test'
    )
    arguments = ['submission', str(tmp_path / 'data'), '--model', str(toy_model)]
    run_command(evaluate, [*arguments, '--out', str(tmp_path / 'out')], SUBCOMMANDS)
    assert 'judges 2048 x 1024; it will refuse' in caplog.text
    assert '24 of 112 x 72' in caplog.text
    found = names_and_ids(tmp_path / 'out' / 'cityscapes_test.zip')
    assert len(found) == 24
    assert next(iter(found)) == 'd-clear_000000_000000_leftImg8bit.png'
    for ids in found.values():
        assert (ids.shape, ids.dtype) == ((72, 112), np.uint8)
    # Label ids, not train ids: the same pixels as an evaluation counts.
    frames = open_frames(toy_cityscapes, 'val:clear')
    predictor = open_predictor(toy_model)
    image, _ = frames.read(frames.frames[0])
    mask = predictor.segment(image, (72, 112), InferenceConfig()).mask
    assert np.array_equal(next(iter(found.values())), to_label_ids(mask))
    assert set(np.unique(next(iter(found.values())))) <= {7, 11, 23, 26}


def test_acdc_conditions_go_into_one_zip_of_train_ids(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    images = sorted((toy_cityscapes / 'leftImg8bit' / 'val').rglob('*.png'))[:4]
    for i, image in enumerate(images):
        condition = ('fog', 'night', 'rain', 'snow')[i]
        folder = tmp_path / 'ACDC' / 'rgb_anon' / condition / 'test' / 'GP010476'
        folder.mkdir(parents=True)
        shutil.copy(image, folder / f'GP010476_frame_{i:06d}_rgb_anon.png')
    path = submit(tmp_path / 'ACDC', toy_model, out=tmp_path / 'out')
    found = names_and_ids(path)
    assert list(found) == [f'labelTrainIds/GP010476_frame_{i:06d}_rgb_anon.png' for i in range(4)]
    assert all(ids.max() < 19 for ids in found.values())
    single = submit(tmp_path / 'ACDC', toy_model, 'test:rain', out=tmp_path / 'out')
    assert single.name == 'acdc_test_rain.zip'
    assert len(names_and_ids(single)) == 1


def test_what_no_server_judges_is_refused(toy_model: Path, tmp_path: Path) -> None:
    for folder in ('val', 'valannot'):
        (tmp_path / 'camvid' / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'camvid' / 'val' / '0016E5_1.png'), np.zeros((36, 48, 3), np.uint8))
    with pytest.raises(LabelError, match=r'laid out as camvid; servers are for cityscapes, acdc'):
        submit(tmp_path / 'camvid', toy_model, 'val', out=tmp_path / 'out')
    folder = tmp_path / 'city' / 'leftImg8bit' / 'test' / 'berlin'
    folder.mkdir(parents=True)
    (folder / 'berlin_000000_000019_leftImg8bit.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    with pytest.raises(ImageError, match='berlin_000000_000019'):
        submit(tmp_path / 'city', toy_model, out=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
