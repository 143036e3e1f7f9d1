# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clcp_ros.errors import ImageError, LabelError, RecordingError
from clcp_ros.image_codec import encode_jpeg, encode_png
from clcp_ros.replay import ReplayFrame, replay_direct
from training.frames_to_bag import frames_to_bag


@pytest.fixture
def folders(tmp_path: Path, daylight_image) -> list[str]:
    for name, encode in (('day', encode_png), ('night', encode_jpeg)):
        (tmp_path / name).mkdir()
        for i in range(6):
            image = daylight_image(i) // (8 if name == 'night' else 1)
            (tmp_path / name / f'{i}.png').write_bytes(encode(image.astype(np.uint8)))
    return [str(tmp_path / 'day'), str(tmp_path / 'night' / '*.png')]


def test_images_can_be_replayed(folders: list[str], tmp_path: Path, tiny_bundle: Path) -> None:
    bag = frames_to_bag(folders, tmp_path / 'bag', rate_hz=5, conditions='day,night')
    records = replay_direct(bag, tiny_bundle).records
    assert [r.condition for r in records] == ['day'] * 6 + ['night'] * 6
    assert records[-1].time_s - records[0].time_s == pytest.approx(11 / 5)
    novelty = [[r.novelty_z for r in records[n : n + 6] if r.monitored] for n in (0, 6)]
    assert min(novelty[1]) > max(novelty[0]) + 3


def test_labels_go_along(folders: list[str], tmp_path: Path, toy_bundle: Path) -> None:
    (tmp_path / 'labels').mkdir()
    for i in range(6):
        label = np.full((96, 160), 7, np.uint8)  # road, by Cityscapes' labelIds
        label[:, :80] = 0  # unlabelled
        (tmp_path / 'labels' / f'{i}.png').write_bytes(encode_png(label))
    labels = str(tmp_path / 'labels')
    bag = frames_to_bag(
        folders, tmp_path / 'bag', conditions='day,night', labels=f'{labels},{labels}',
        label_ids='cityscapes_label_ids',
    )  # fmt: skip
    frames: list[ReplayFrame] = []
    result = replay_direct(bag, toy_bundle, on_frame=frames.append)
    assert not result.simulated
    assert {condition for _, condition in result.confusion} == {'day', 'night'}
    assert sum(counts.sum() for counts in result.confusion.values()) == 12 * 96 * 80
    for frame in frames:
        right = frame.mask[:, frame.mask.shape[1] // 2 :]
        assert frame.record.miou == pytest.approx(np.mean(right == 0), abs=0.02)


def test_labels_that_do_not_fit_leave_nothing(folders: list[str], tmp_path: Path) -> None:
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'labels' / '0.png').write_bytes(encode_png(np.zeros((96, 160), np.uint8)))
    labels = str(tmp_path / 'labels')
    with pytest.raises(RecordingError, match='1, 1 labels for 6, 6 images'):
        frames_to_bag(folders, tmp_path / 'bag', labels=f'{labels},{labels}')
    with pytest.raises(RecordingError, match='unknown kind'):
        frames_to_bag(folders, tmp_path / 'bag', labels=','.join(folders), label_ids='guess')
    with pytest.raises(LabelError):
        frames_to_bag(folders, tmp_path / 'bag', labels=','.join(folders))
    assert not (tmp_path / 'bag').exists()


def test_bad_input_leaves_nothing(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r'no \.png'):
        frames_to_bag([str(tmp_path / 'none')], tmp_path / 'bag')
    with pytest.raises(RecordingError, match='one each'):
        frames_to_bag(folders, tmp_path / 'bag', conditions='day')
    with pytest.raises(RecordingError, match='not replaced'):
        frames_to_bag(folders, tmp_path / 'day')
    damaged = tmp_path / 'day' / '3.png'
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(ImageError):
        frames_to_bag(folders, tmp_path / 'bag')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['day', 'night']
