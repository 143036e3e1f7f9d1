# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clcp_ros.bundle import load_bundle
from clcp_ros.decision import decide
from clcp_ros.errors import BundleError
from clcp_ros.monitor import Level, MonitorConfig
from clcp_ros.pipeline import FramePipeline

SECOND = 1_000_000_000


def test_mask_follows_brightness(tiny_bundle: Path) -> None:
    image = np.zeros((96, 160, 3), np.uint8)
    image[:, 80:] = 255
    result = FramePipeline(tiny_bundle).process(image, 1)
    assert result.mask.shape == (48, 80)
    assert (result.mask[:, :30] == 0).all()
    assert (result.mask[:, 50:] == 2).all()
    assert result.confidence.dtype == np.uint8
    assert FramePipeline(tiny_bundle, image_resolution=True).process(image, 1).mask.shape == (
        96,
        160,
    )


def test_decide_is_softmax_of_bilinear_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    mask, confidence = decide(logits, 3, 5)
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert (mask == logits.argmax(axis=0)).all()
    assert np.abs(confidence / 255 - p.max(axis=0)).max() < 0.5 / 255 + 1e-6
    assert decide(logits, 30, 50)[0].shape == (30, 50)


def test_in_domain_is_ok_and_dark_warns_and_recovers(tiny_bundle: Path, daylight_image) -> None:
    pipeline = FramePipeline(tiny_bundle, monitor=MonitorConfig(period_s=0))
    levels = []
    for i in range(90):
        image = daylight_image(1000 + i)
        if 30 <= i < 60:
            image = (image // 8).astype(np.uint8)
        levels.append(pipeline.process(image, i * SECOND // 5).shift.level)
    assert set(levels[:4]) == {Level.STALE}
    assert set(levels[5:30]) == {Level.OK}
    assert set(levels[40:60]) == {Level.WARN}
    assert levels[-1] == Level.OK


def test_same_frames_same_scores(tiny_bundle: Path, daylight_image) -> None:
    def run() -> list[str]:
        pipeline = FramePipeline(tiny_bundle)
        return [repr(pipeline.process(daylight_image(i), i * SECOND).shift) for i in range(8)]

    assert run() == run()


def test_faults_are_named_at_once(tiny_bundle: Path, daylight_image) -> None:
    pipeline = FramePipeline(tiny_bundle, monitor=MonitorConfig(frozen_samples=3))
    shift = pipeline.process(np.zeros((96, 160, 3), np.uint8), 1).shift
    assert shift.level == Level.ERROR
    assert 'flat' in shift.reason
    image = daylight_image(1)
    shifts = [pipeline.process(image, (2 + i) * SECOND).shift for i in range(4)]
    assert shifts[1].level != Level.ERROR
    assert shifts[3].level == Level.ERROR
    assert 'frozen' in shifts[3].reason


def test_time_going_back_starts_anew(tiny_bundle: Path, daylight_image) -> None:
    pipeline = FramePipeline(tiny_bundle)
    for i in range(10):
        state = pipeline.process(daylight_image(i), (100 + i) * SECOND).shift
    assert state.samples == 10
    assert pipeline.process(daylight_image(0), 5 * SECOND).shift.samples == 1
    assert pipeline.process(daylight_image(0), 50 * SECOND).shift.samples == 1


def test_non_finite_features_never_enter_the_state(tiny_bundle: Path, daylight_image) -> None:
    monitor = FramePipeline(tiny_bundle).monitor
    features = {'early': np.ones(6, np.float32), 'deep': np.full(3, np.nan, np.float32)}
    state = monitor.update(1, daylight_image(0), features)
    assert state.level == Level.ERROR
    assert state.score is None
    assert monitor.rejected == 1


@pytest.mark.parametrize('file', ['model.onnx', 'reference.npz'])
def test_wrong_hash_is_refused(tiny_bundle: Path, tmp_path: Path, file: str) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / 'b')
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(BundleError, match=f'{file}: hash'):
        load_bundle(folder)


def test_missing_and_foreign_bundles_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match='not a bundle'):
        load_bundle(tmp_path)
    folder = shutil.copytree(tiny_bundle, tmp_path / 'b')
    description = json.loads((folder / 'bundle.json').read_text())
    (folder / 'bundle.json').write_text(json.dumps({**description, 'schema_version': 99}))
    with pytest.raises(BundleError, match='version 99'):
        load_bundle(folder)
    (folder / 'bundle.json').write_text(json.dumps({**description, 'input': {'height': 'x'}}))
    with pytest.raises(BundleError, match='malformed'):
        load_bundle(folder)
    (folder / 'bundle.json').write_text(json.dumps(description))
    (folder / 'reference.npz').unlink()
    with pytest.raises(BundleError, match='missing'):
        load_bundle(folder)
