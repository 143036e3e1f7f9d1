# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clcp_ros.errors import ImageError, RecordingError
from clcp_ros.image_codec import encode_jpeg, encode_png
from clcp_ros.replay import replay_direct
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
    assert records[-1].novelty_z > records[3].novelty_z + 3


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
