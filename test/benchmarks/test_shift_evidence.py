# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shift_detectors import evidence_of, watch
from benchmarks.shift_evidence import Described, Describer, Sight, segmenter_of
from benchmarks.shift_streams import ShiftBenchmarkError
from clcp_ros.bundle import MODEL, load_bundle
from clcp_ros.frame import Frame
from clcp_ros.monitor import Level, MonitorConfig, ShiftMonitor
from clcp_ros.monitor.knowledge import Knowledge

SECOND = 1_000_000_000
TAPS = ('early', 'deep')


@pytest.fixture(scope='module')
def knowledge(tiny_bundle: Path) -> Knowledge:
    bundle = load_bundle(tiny_bundle)
    return Knowledge.load(bundle.reference_path, bundle.sha256[MODEL])


@pytest.fixture(scope='module')
def describer(tiny_bundle: Path, knowledge: Knowledge) -> Describer:
    harm = knowledge.harm
    temperature = 1.0 if harm is None else float(harm.temperature)
    return Describer(segmenter_of(tiny_bundle), temperature)


def test_kept_evidence_is_what_the_monitor_observes(
    describer: Describer, knowledge: Knowledge, daylight_image: Callable[..., np.ndarray]
) -> None:
    images = [daylight_image(seed) for seed in range(4)]
    sights = [Sight('clear', k * SECOND, 0.0, image, None) for k, image in enumerate(images)]
    kept = evidence_of(knowledge, describer.describe(sights))
    monitor = ShiftMonitor(knowledge)
    for image, evidence in zip(images, kept, strict=True):
        live = monitor.observe(Frame(image), describer.predict(image)[0])
        assert np.array_equal(evidence.statistics, live.statistics)
        assert evidence.score == live.score
        assert all(np.array_equal(evidence.features[t], live.features[t]) for t in TAPS)
        classes = live.confusion.shape[1]
        assert np.allclose(evidence.confusion[:, :classes], live.confusion, atol=1e-6)


def test_faults_are_found_in_every_case_by_itself(
    describer: Describer, knowledge: Knowledge, daylight_image: Callable[..., np.ndarray]
) -> None:
    black = np.zeros((96, 160, 3), np.uint8)
    sights = [
        Sight(case, k * SECOND, 0.5, black if case == 'covered' else daylight_image(k), None)
        for k in range(8)
        for case in ('covered', 'clear')
    ]
    described = describer.describe(sights)
    covered = described.take(described.case == 'covered')
    assert covered.fault[-1] == 'black'
    assert not described.fault[described.case == 'clear'].any()
    level = watch(knowledge, MonitorConfig(), covered, ('a', 'b', 'c')).level
    assert level[-1] == Level.ERROR


def test_described_frames_survive_their_file(
    describer: Describer, daylight_image: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    label = np.full((96, 160), 1, np.uint8)
    described = describer.describe([Sight('fog-0.60', 5, 0.6, daylight_image(0), label)])
    described.save(tmp_path / 'one.npz')
    found = Described.load(tmp_path / 'one.npz')
    for name, array in vars(described).items():
        assert np.array_equal(getattr(found, name), array)
    assert found.confusion.sum() == label.size
    assert found.histogram.sum() == describer.predict(daylight_image(0))[0].logits[0].size
    (tmp_path / 'one.npz').write_bytes(b'PK')
    with pytest.raises(ShiftBenchmarkError, match=r'one\.npz'):
        Described.load(tmp_path / 'one.npz')
