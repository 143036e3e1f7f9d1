# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import ModelError
from training.experiments.invariance import (
    FINETUNED,
    PRETRAINED,
    Measured,
    by_pose,
    invariance,
    invariance_table,
    measure_encoder,
    measure_runs,
    read_notes,
    write_invariance,
)
from training.models.image_encoder import ImageEncoder
from training.models.segmenter import HeadSettings, MaskTransformer, SegmentationModel, save_model
from training.segmentation.frames import FrameSet
from training.segmentation.labels import LabelReader
from training.segmentation.listing import Frame

CONDITIONS = ('clear', 'fog', 'night')


def _tokens(place: float, condition: float, noise: float) -> torch.Tensor:
    torch.manual_seed(0)
    return (
        place * torch.randn(1, 12, 9, 32)
        + condition * torch.randn(7, 1, 1, 32)
        + noise * torch.randn(7, 12, 9, 32)
    )


def test_what_depends_on_the_place_alone_is_invariant() -> None:
    found = invariance(_tokens(1, 0, 0), 0)
    assert (found.place, found.found) == pytest.approx((100, 100))
    assert found.condition == pytest.approx(0, abs=1e-9)


def test_what_depends_on_the_condition_alone_is_not() -> None:
    found = invariance(_tokens(0, 1, 1e-3), 0)
    assert found.condition > 99.9
    assert found.place < 0.1
    assert found.found < 50


def test_what_knows_nothing_has_the_share_that_was_promised() -> None:
    found = invariance(_tokens(0, 0, 1), 0)
    assert found.place == pytest.approx(100 * 11 / 83, rel=0.08)
    assert found.condition == pytest.approx(100 * 6 / 83, rel=0.08)


def test_shares_add_up_with_a_mixture() -> None:
    found = invariance(_tokens(1, 0.5, 0.5), 2)
    assert found.place + found.condition < 100
    assert found.place > found.condition > 5
    assert found.found > 75


def test_too_little_to_compare() -> None:
    with pytest.raises(ModelError, match='two conditions and two poses'):
        invariance(torch.randn(1, 3, 4, 8), 0)


@pytest.fixture
def frames(tmp_path: Path) -> FrameSet:
    """Two poses in three conditions: the night is the clear day at an eighth of the light."""
    rng = np.random.default_rng(0)
    found = []
    for pose in (0, 1):
        picture = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        picture = cv2.resize(picture, (96, 64), interpolation=cv2.INTER_NEAREST)
        for condition in CONDITIONS:
            path = tmp_path / f'{condition}{pose}.png'
            changed = {'clear': picture, 'fog': picture // 2 + 120, 'night': picture // 8}
            cv2.imwrite(str(path), changed[condition])
            name = f'test/town1-{condition}/town1-{condition}_0000{pose}'
            found.append(Frame(name, path, path, f'town1-{condition}', condition, 'x'))
    return FrameSet(tmp_path, 'x', CITYSCAPES, tuple(found), True, LabelReader(CITYSCAPES))


def test_poses_are_matched_by_name(frames: FrameSet) -> None:
    shuffled = replace(frames, frames=frames.frames[::-1])
    table = by_pose(shuffled)
    assert [[f.image.stem for f in of] for of in table] == [[f'{c}0', f'{c}1'] for c in CONDITIONS]
    with pytest.raises(ModelError, match='do not show the same poses'):
        by_pose(replace(frames, frames=frames.frames[1:]))
    with pytest.raises(ModelError, match='do not show the same poses'):
        by_pose(replace(frames, frames=tuple(f for f in frames.frames if f.condition != 'clear')))


def test_a_network_is_measured_once(frames: FrameSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder('resnet10t')
    head = MaskTransformer(19, encoder.embed_dim, HeadSettings(64, layers=1))
    pretrained, model = tmp_path / 'e.safetensors', tmp_path / 'm.safetensors'
    encoder.save(pretrained, (64, 96), {})
    save_model(model, SegmentationModel(encoder, head), CITYSCAPES, (64, 96), {})
    folder = tmp_path / 'notes'
    measure_runs(3, pretrained, {'a': model}, frames, folder)
    rows = read_notes(folder)
    assert {(r.recipe, r.seed, r.stage) for r in rows} == {
        ('a', 3, PRETRAINED), ('a', 3, FINETUNED),
    }  # fmt: skip
    expected = measure_encoder(encoder, frames, (64, 96))
    assert [(r.place, r.condition, r.found) for r in rows] == [
        pytest.approx((expected.place, expected.condition, expected.found), rel=1e-4)
    ] * 2
    note = folder / 'a-pretrained-seed3.json'
    note.write_text(note.read_text().replace('"found": ', '"found": 1'))
    kept = read_notes(folder)
    measure_runs(3, pretrained, {'a': model}, frames, folder)
    assert read_notes(folder) == kept  # of the same file, so not measured again
    torch.nn.init.zeros_(encoder.model.conv1[0].weight)
    encoder.save(pretrained, (64, 96), {})
    measure_runs(3, pretrained, {'a': model}, frames, folder)
    assert read_notes(folder) != kept


def test_the_table(tmp_path: Path) -> None:
    rows = [
        Measured('a', 0, PRETRAINED, 40, 10, 90), Measured('a', 1, PRETRAINED, 50, 12, 100),
        Measured('none', 0, FINETUNED, 30, 20, 50),
    ]  # fmt: skip
    lines = invariance_table(rows).splitlines()
    assert lines[2] == '| a | 45.0 ± 7.1 | 11.0 ± 1.4 | 95.0 ± 7.1 | - | - | - |'
    assert lines[3] == '| none | - | - | - | 30.0 | 20.0 | 50.0 |'
    write_invariance(tmp_path / 'x.csv', rows)
    line = (tmp_path / 'x.csv').read_text().splitlines()[1]
    assert line == 'a,0,pretrained,40.000,10.000,90.000'
