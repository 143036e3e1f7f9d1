# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from clcp_ros.bundle import load_bundle, write_description
from clcp_ros.decision import decide
from clcp_ros.errors import BundleError, ImageError
from clcp_ros.image_codec import encode_jpeg, encode_png
from clcp_ros.inference import Prediction
from clcp_ros.monitor import STATISTICS, Knowledge, Level, MonitorConfig
from clcp_ros.monitor.harm import FEATURES, HarmReference
from clcp_ros.pipeline import FrameError, FramePipeline, FrameResult
from training.monitoring.novelty import fit_novelty
from training.monitoring.samples import Samples

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
    pipeline = FramePipeline(tiny_bundle, monitor=MonitorConfig(period_s=0, hold_s=1))
    levels = []
    for i in range(120):
        image = daylight_image(1000 + i)
        if 30 <= i < 60:
            image = (image // 8).astype(np.uint8)
        levels.append(pipeline.process(image, i * SECOND // 5).shift.level)
    assert set(levels[:4]) == {Level.STALE}
    assert set(levels[5:30]) == {Level.OK}
    assert set(levels[45:60]) == {Level.WARN}
    assert levels[-1] == Level.OK


def test_same_frames_same_scores(tiny_bundle: Path, daylight_image) -> None:
    def run() -> list[str]:
        pipeline = FramePipeline(tiny_bundle)
        return [repr(pipeline.process(daylight_image(i), i * SECOND).shift) for i in range(8)]

    assert run() == run()


def test_faults_are_named_at_once(tiny_bundle: Path, daylight_image) -> None:
    pipeline = FramePipeline(tiny_bundle)
    black, image = np.zeros((96, 160, 3), np.uint8), daylight_image(1)
    shifts = [pipeline.process(black, i * SECOND // 10).shift for i in range(11)]
    assert [s.level == Level.ERROR for s in shifts] == [False] * 10 + [True]
    assert (shifts[10].fault, 'black' in shifts[10].reason) == ('black', True)
    shifts = [pipeline.process(image, (30 + i) * SECOND // 10).shift for i in range(12)]
    assert [s.fault == 'frozen' for s in shifts] == [False] * 10 + [True] * 2
    assert shifts[-1].level == Level.ERROR
    assert 'frozen' in shifts[-1].reason


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
    prediction = Prediction(np.zeros((3, 6, 10), np.float32), features)
    states = [monitor.update(1 + i, daylight_image(i), prediction) for i in range(3)]
    assert [s.level for s in states] == [Level.STALE, Level.STALE, Level.ERROR]
    assert all(s.score is None for s in states)
    assert states[-1].fault == 'nonfinite'
    assert monitor.rejected == 3


def test_the_monitor_scores_by_stamp_and_looks_for_faults_in_every_frame(
    tiny_bundle: Path, daylight_image
) -> None:
    pipeline = FramePipeline(tiny_bundle)
    every = FramePipeline(tiny_bundle, monitor=MonitorConfig(period_s=0))
    scored = []
    for i in range(40):
        stamp_ns = i * SECOND // 20 + (i % 3) * 5_000_000  # 20 Hz, with jitter
        result = pipeline.process(daylight_image(i), stamp_ns)
        assert result.monitored == (result.shift.score is not None)
        if result.monitored:
            scored.append(stamp_ns)
            # A frame's score does not depend on which others are scored.
            expected = every.process(daylight_image(i), stamp_ns).shift.score
            assert result.shift.score == expected
    assert len(scored) in (4, 5)
    assert min(b - a for a, b in pairwise(scored)) >= 0.45 * SECOND
    assert result.shift.samples == len(scored)
    same = [pipeline.process(daylight_image(0), 2 * SECOND + i * 10**8) for i in range(12)]
    assert [r.shift.level == Level.ERROR for r in same] == [False] * 10 + [True] * 2
    assert sum(r.monitored for r in same) < 4


def messages(image: np.ndarray) -> list[Any]:
    """The image by every transport, the JPEG larger than the network needs."""
    large = cv2.resize(image, (640, 384), interpolation=cv2.INTER_CUBIC)
    return [
        image,
        SimpleNamespace(
            height=384, width=640, encoding='bgr8', step=1920, is_bigendian=0,
            data=large[..., ::-1].reshape(-1),
        ),
        SimpleNamespace(format='jpeg', data=encode_jpeg(large, 90)),
        SimpleNamespace(format='png', data=encode_png(image)),
    ]  # fmt: skip


def test_a_batch_gives_the_bytes_of_single_frames(tiny_bundle: Path, daylight_image) -> None:
    cameras = ('front', 'rear', 'left', 'right')
    together, apart = (FramePipeline(tiny_bundle, cameras=cameras) for _ in range(2))
    for i in range(6):
        frames = [
            (camera, message, i * SECOND)
            for camera, message in zip(cameras, messages(daylight_image(i)), strict=True)
        ]
        for result, (camera, message, stamp_ns) in zip(
            together.process_batch(frames), frames, strict=True
        ):
            assert isinstance(result, FrameResult)
            expected = apart.process(message, stamp_ns, camera)
            assert result.camera == camera
            assert result.mask.tobytes() == expected.mask.tobytes()
            assert result.confidence.tobytes() == expected.confidence.tobytes()
            assert result.shift == expected.shift
            assert result.image.tobytes() == expected.image.tobytes()
    assert together.monitors['rear'].knowledge is together.monitors['front'].knowledge


def test_one_bad_frame_harms_no_other(tiny_bundle: Path, daylight_image) -> None:
    pipeline = FramePipeline(tiny_bundle, cameras=('a', 'b', 'c'))
    good = daylight_image(0)
    results = pipeline.process_batch(
        [('a', good, 1), ('b', SimpleNamespace(format='jpeg', data=b'no picture'), 1),
         ('unknown', good, 1), ('c', good, 1)]
    )  # fmt: skip
    assert [type(r) for r in results] == [FrameResult, ImageError, FrameError, FrameResult]
    assert pipeline.process_batch([]) == []


def test_a_batch_that_fails_is_tried_frame_by_frame(
    tiny_bundle: Path, daylight_image, monkeypatch
) -> None:
    pipeline = FramePipeline(tiny_bundle, cameras=('a', 'b'))
    run = pipeline.segmenter.run

    def fail(batch: np.ndarray) -> Any:
        if len(batch) > 1 or batch.mean() > 0.9:
            raise RuntimeError('the accelerator is out of memory')
        return run(batch)

    monkeypatch.setattr(pipeline.segmenter, 'run', fail)
    white = np.full((96, 160, 3), 255, np.uint8)
    dark, bright = pipeline.process_batch([('a', daylight_image(0), 1), ('b', white, 1)])
    assert isinstance(dark, FrameResult)
    assert isinstance(bright, FrameError)
    with pytest.raises(FrameError, match='out of memory'):
        pipeline.process(white, 2)


def test_two_runs_give_the_same_bytes(tiny_bundle: Path, daylight_image) -> None:
    def run() -> list[bytes]:
        pipeline = FramePipeline(tiny_bundle)
        found = []
        for i in range(12):
            result = pipeline.process(messages(daylight_image(i))[i % 4], i * SECOND // 10)
            found += [result.mask.tobytes(), result.confidence.tobytes(), repr(result.shift)]
        return found

    assert run() == run()


def test_the_stages_account_for_their_time(tiny_bundle: Path, daylight_image) -> None:
    seconds = FramePipeline(tiny_bundle).process(daylight_image(0), 1).seconds
    assert list(seconds) == ['decode', 'preprocess', 'model', 'decide', 'monitor', 'total']
    assert all(value >= 0 for value in seconds.values())
    assert sum(list(seconds.values())[:-1]) == pytest.approx(seconds['total'])


def test_an_overlay_gets_the_image_at_the_masks_size(tiny_bundle: Path, daylight_image) -> None:
    message = messages(daylight_image(0))[2]
    small = FramePipeline(tiny_bundle).process(message, 1)
    large = FramePipeline(tiny_bundle, image_resolution=True).process(message, 1)
    assert small.image.shape == (48, 80, 3)
    assert large.image.shape == (384, 640, 3)
    assert small.image_size == large.image_size == large.mask.shape == (384, 640)
    assert large.frame.pixels is large.image


def test_the_self_test_refuses_a_model_that_fails(tiny_bundle: Path, monkeypatch) -> None:
    pipeline = FramePipeline(tiny_bundle)
    assert pipeline.warm_up() > 0
    run = pipeline.segmenter.run

    def nan(batch: np.ndarray) -> list[Prediction]:
        return [Prediction(p.logits * np.nan, p.features) for p in run(batch)]

    monkeypatch.setattr(pipeline.segmenter, 'run', nan)
    with pytest.raises(BundleError, match='NaN'):
        pipeline.warm_up()
    result = pipeline.process(np.full((96, 160, 3), 90, np.uint8), 1)
    assert (result.mask == 255).all()
    assert not result.confidence.any()


@pytest.mark.parametrize('cameras', [(), ('a', 'a')])
def test_cameras_need_names_of_their_own(tiny_bundle: Path, cameras: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match='names'):
        FramePipeline(tiny_bundle, cameras=cameras)


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


def refitted(bundle: Path, folder: Path, change: Callable[[Knowledge], Knowledge]) -> Path:
    """The bundle with what its monitor knows changed, all hashes right."""
    shutil.copytree(bundle, folder)
    old = load_bundle(bundle)
    known = Knowledge.of_bundle(old)
    facts = replace(known.facts, preprocessing_sha256=old.preprocessing_sha256)
    change(replace(known, facts=facts)).save(folder / 'reference.npz')
    write_description(
        folder, name='changed', classes=old.classes, input_spec=old.input, provenance={}
    )
    return folder


def harm_of(classes: int, counted: Sequence[int] = (0, 1)) -> HarmReference:
    one = np.full(classes, 0.8)
    features = np.ones(len(FEATURES))
    return HarmReference(
        temperature=np.array(1.0), class_iou=one, class_soft_iou=one, class_rate=one,
        class_share=one / classes, class_confidence=one,
        expected=np.isin(np.arange(classes), counted), presence=np.array([1.0, 0.0, 0.0, 0.0]),
        lowest=-features, highest=features, coefficients=features / 10,
        intercept=np.array(0.0), curve=np.array([[0.0, 0.0], [1.0, 1.0]]),
        sizes=np.array([1.0, 20.0]), source=np.array([0.7, 0.7]), margins=np.full((2, 2), 0.1),
    )  # fmt: skip


@pytest.mark.parametrize('what', ['mean', 'std', 'names', 'tiling'])
def test_a_description_of_another_preprocessing_is_refused(
    tiny_bundle: Path, tmp_path: Path, what: str
) -> None:
    folder = refitted(tiny_bundle, tmp_path / 'b', lambda known: known)
    FramePipeline(folder).warm_up()
    description = json.loads((folder / 'bundle.json').read_text())
    if what == 'names':
        first, second, _ = description['classes']
        first['name'], second['name'] = second['name'], first['name']
    elif what == 'tiling':
        description['tiling'] = {
            'height': 48, 'width': 120, 'window': [48, 80], 'stride': [24, 40]
        }  # fmt: skip
    else:
        description['input'][what] = [0.4, 0.5, 0.5]
    (folder / 'bundle.json').write_text(json.dumps(description))
    load_bundle(folder)
    with pytest.raises(BundleError, match='another preprocessing or other class names'):
        FramePipeline(folder)


def test_a_reference_of_other_classes_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    fits = refitted(tiny_bundle, tmp_path / 'a', lambda k: replace(k, harm=harm_of(3)))
    FramePipeline(fits).warm_up()
    folder = refitted(tiny_bundle, tmp_path / 'b', lambda k: replace(k, harm=harm_of(4)))
    with pytest.raises(BundleError, match='harm knows 4 classes, the model has 3'):
        FramePipeline(folder)


def test_the_self_test_refuses_a_reference_of_other_features(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    def shorter(known: Knowledge) -> Knowledge:
        """Fitted on one early channel less than the model gives."""
        rng = np.random.default_rng(0)
        samples = [
            Samples(
                drive=np.array([f'{name}{i // 20}' for i in range(60)]),
                stamp_ns=np.arange(60) * SECOND,
                tag=np.full(60, 'clear'),
                low=rng.normal(0, 1, (60, len(STATISTICS))),
                early=rng.normal(0, 1, (60, 5)).astype(np.float32),
                deep=rng.normal(0, 1, (60, 3)).astype(np.float32),
                scene=np.full((60, 3), 1 / 3),
            )
            for name in ('fit', 'held out')
        ]
        return replace(known, novelty=fit_novelty(*samples).reference)

    pipeline = FramePipeline(refitted(tiny_bundle, tmp_path / 'b', shorter))
    with pytest.raises(BundleError, match='does not fit what the model gives'):
        pipeline.warm_up()


def test_expected_classes_must_hold_one_that_counts(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = refitted(tiny_bundle, tmp_path / 'b', lambda k: replace(k, harm=harm_of(3)))
    FramePipeline(folder, monitor=MonitorConfig(expected_classes=('dark', 'bright')))
    with pytest.raises(BundleError, match=r'no label of the source holds.*one of dark, middle'):
        FramePipeline(folder, monitor=MonitorConfig(expected_classes=('bright',)))


def test_changed_settings_change_what_is_claimed(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = refitted(
        tiny_bundle, tmp_path / 'b', lambda k: replace(k, facts=replace(k.facts, supported_h=9.0))
    )
    pipeline = FramePipeline(folder)
    assert pipeline.source.supported_h == 9
    assert pipeline.reservation == ''
    pipeline.set_config(MonitorConfig(false_alarm_interval_h=0.1))
    assert np.isnan(pipeline.source.supported_h)
    assert 'lower thresholds' in pipeline.reservation
    assert all(m.config.false_alarm_interval_h == 0.1 for m in pipeline.monitors.values())
    pipeline.set_config(MonitorConfig(false_alarm_interval_h=20.0))
    assert pipeline.source.supported_h == 9
    assert 'one in 9 h' in pipeline.reservation
