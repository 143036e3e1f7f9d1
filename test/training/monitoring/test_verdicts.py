# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from clcp_ros.monitor import Knowledge
from clcp_ros.monitor.close import CloseReference
from clcp_ros.monitor.harm import FEATURES, HarmReference
from clcp_ros.monitor.reference import Gaussian, ShiftReference, TapReference
from clcp_ros.monitor.sequential import SequentialReference
from clcp_ros.monitor.statistics import STATISTICS
from training.monitoring.drives import PERIOD_S
from training.monitoring.nominal import (
    NominalDrive,
    driven_h,
    judged_series,
    nominal_drives,
    nominal_of,
)
from training.monitoring.novelty import Series
from training.monitoring.run_length import alarm_bound
from training.monitoring.samples import Samples
from training.monitoring.verdicts import verdict_figures

STEP_NS = int(PERIOD_S * 1e9)
LENGTH = 240
SOURCE_IOU = 0.8
THRESHOLDS = SequentialReference(k=2.0, h=5.0, rho=0.5, c=99.0)


def gaussian(channels: int) -> TapReference:
    origin = Gaussian(
        np.zeros(channels), np.ones(channels), np.eye(channels)[:1], np.ones(1), np.array(1.0)
    )
    return TapReference((origin,), np.array([-0.6]), np.array([0.2]))


@pytest.fixture(scope='module')
def knowledge() -> Knowledge:
    """A monitor that takes the expected IoU of its three classes for the mIoU."""
    taps = (gaussian(len(STATISTICS)), gaussian(3), gaussian(3))
    coefficients = np.zeros(len(FEATURES))
    coefficients[FEATURES.index('soft_iou')] = 1.0
    source = np.full(3, SOURCE_IOU)
    harm = HarmReference.from_arrays({
        'temperature': np.asarray(1.0),
        'class_iou': source,
        'class_soft_iou': source,
        'class_rate': np.full(3, 0.9),
        'class_share': np.full(3, 1 / 3),
        'class_confidence': np.full(3, 0.9),
        'expected': np.ones(3, bool),
        'presence': np.array([0.0, 0.0, 0.0, 30.0]),
        'lowest': np.full(len(FEATURES), -1e9),
        'highest': np.full(len(FEATURES), 1e9),
        'coefficients': coefficients,
        'intercept': np.asarray(0.0),
        'curve': np.array([[0.0, 0.0], [1.0, 1.0]]),
        'sizes': np.array([1.0, 40.0]),
        'source': np.full(2, SOURCE_IOU),
        'margins': np.array([[0.1, 0.1], [0.03, 0.03]]),
    })  # fmt: skip
    return Knowledge(
        ShiftReference(*taps, np.array(0.0), np.array(1.0)), THRESHOLDS, harm=harm
    )  # fmt: skip


def drive(name: str, iou: np.ndarray, step_ns: int = STEP_NS) -> Samples:
    """Frames whose classes all have the expected IoU that is given for each frame."""
    right = (2 * iou / (1 + iou))[:, None, None]
    soft = (1 - right) / 6 + np.eye(3) * (right - (1 - right) / 2) / 3
    n = len(iou)
    return Samples(
        np.full(n, name), np.arange(n) * step_ns, np.full(n, 'clear'),
        low=np.zeros((n, len(STATISTICS))), early=np.zeros((n, 3), np.float32),
        deep=np.zeros((n, 3), np.float32), scene=np.full((n, 3), 1 / 3),
        soft=np.concatenate([soft, np.zeros((n, 3, 1))], axis=2).astype(np.float32),
    )  # fmt: skip


def stretch(value: float, usual: float, begin: int, length: int = 40) -> np.ndarray:
    found = np.full(LENGTH, usual)
    found[begin : begin + length] = value
    return found


def series(name: str, novelty: np.ndarray, step_ns: int = STEP_NS) -> Series:
    return Series(name, np.arange(len(novelty)) * step_ns, novelty)


def test_warnings_by_the_expected_miou_are_counted_beside_those_of_novelty(
    knowledge: Knowledge,
) -> None:
    calm, usual = np.zeros(LENGTH), np.full(LENGTH, SOURCE_IOU)
    parts = [drive('a', usual), drive('b', stretch(0.72, SOURCE_IOU, 50)), drive('c', usual)]
    held_out = [series('a', calm), series('b', calm), series('c', stretch(6.0, 0.0, 100))]
    thresholds = dict.fromkeys('abc', THRESHOLDS)
    samples = Samples.concat(parts)
    found = verdict_figures(knowledge, samples, held_out, thresholds, None)
    assert found['expected_miou']
    assert found['drives'] == 3
    assert found['hours'] == pytest.approx(3 * LENGTH * PERIOD_S / 3600)
    # One by the expected mIoU, one by novelty, which is all that the novelty test knows of.
    assert (found['alarms'], found['errors'], found['novelty_alarms']) == (2, 0, 1)
    assert found['supported_interval_h'] == pytest.approx(found['hours'] / alarm_bound(2))
    # Without the expected mIoU there is nothing else that warns.
    bare = verdict_figures(replace(knowledge, harm=None), samples, held_out, thresholds, None)
    assert (bare['alarms'], bare['novelty_alarms'], bare['expected_miou']) == (1, 1, False)


def test_each_drive_is_judged_with_its_own_thresholds(knowledge: Knowledge) -> None:
    usual = np.full(LENGTH, SOURCE_IOU)
    samples = Samples.concat([drive('a', usual), drive('b', usual)])
    both = [series(n, stretch(6.0, 0.0, 100)) for n in 'ab']
    wide = SequentialReference(k=8.0, h=5.0, rho=0.5, c=99.0)
    found = verdict_figures(knowledge, samples, both, {'a': THRESHOLDS, 'b': wide}, None)
    assert found['novelty_alarms'] == 1


def test_frames_that_do_not_follow_each_other_tell_nothing(knowledge: Knowledge) -> None:
    samples = drive('a', np.full(20, 0.3), 10**10)
    apart = [series('a', np.full(20, 9.0), 10**10)]
    found = verdict_figures(knowledge, samples, apart, {'a': THRESHOLDS}, None)
    assert (found['drives'], found['alarms']) == (0, 0)
    assert math.isnan(found['supported_interval_h'])


def looked_at(
    name: str, peaks: list[float], hours: float = 0.5, miou: float = SOURCE_IOU
) -> NominalDrive:
    """A drive whose drop has these peaks, far apart, and is none between them."""
    stamps = np.arange(round(hours * 3600)) * 10**9
    drop = np.full(len(stamps), -math.inf)
    for i, peak in enumerate(peaks):
        drop[200 * i + 30 : 200 * i + 40] = peak
    whole = np.full(len(stamps), 20.0)
    # All of it has lasted, and is sure.
    return NominalDrive(name, driven_h(stamps), np.full(2, miou), stamps, whole, drop, drop, drop)


def test_seconds_behind_a_lorry_are_no_part_of_what_thresholds_rest_on() -> None:
    stamps = np.arange(8) * 1_000_000_000
    share = np.array([0.0, 0.2, 0.5, 0.9, 0.9, 0.6, 0.1, 0.0])
    novelty = np.array([0.0, 1.0, 5.0, 9.0, 9.0, 7.0, 0.5, 0.0])
    close = CloseReference.of(['road', 'truck'])
    assert close is not None
    none = np.zeros((8, 1))
    # Frames of a drive need not come in the order of time.
    order = np.arange(8)[::-1]
    samples = Samples(
        np.full(8, 'a'), stamps[order], np.full(8, 'clear'), none, none, none,
        np.stack([1 - share, share], axis=1)[order],
    )  # fmt: skip
    (left,) = judged_series([Series('a', stamps, novelty)], samples, close)
    assert left.novelty.tolist() == [0.0, 1.0, 0.5, 0.0]
    assert left.stamp_ns.tolist() == stamps[[0, 1, 6, 7]].tolist()


def test_a_drop_is_one_against_nominal_drives(knowledge: Knowledge) -> None:
    """The map calls these streets worse than its labels: nothing is wrong with them."""
    samples = Samples.concat([drive(name, np.full(LENGTH, 0.73)) for name in 'abc'])
    held_out = [series(name, np.zeros(LENGTH)) for name in 'abc']
    thresholds = dict.fromkeys('abc', THRESHOLDS)
    before = verdict_figures(knowledge, samples, held_out, thresholds, None)
    assert before['alarms'] == 3
    drives = nominal_drives(knowledge, samples, held_out, thresholds, None)
    found = nominal_of(drives, knowledge.harm, 8.0, 0.05)
    assert found.source == pytest.approx([0.73, 0.73], abs=0.01)
    own = found.applied(knowledge)
    assert own.facts.nominal_drop == found.drop
    each = {drive.name: found for drive in drives}
    after = verdict_figures(knowledge, samples, held_out, thresholds, None, each)
    assert (after['alarms'], after['errors']) == (0, 0)


def test_windows_that_no_drive_is_long_enough_for_stay_as_they_were(knowledge: Knowledge) -> None:
    short = replace(looked_at('a', []), miou=np.array([0.7, math.nan]))
    found = nominal_of([short], knowledge.harm, 8.0, 0.05)
    assert found.source == pytest.approx([0.7, SOURCE_IOU])


def test_what_ordinary_drives_show_now_and_then_does_not_warn(knowledge: Knowledge) -> None:
    rng = np.random.default_rng(0)
    calm = [looked_at(f'd{i}', []) for i in range(20)]
    restless = [looked_at(f'd{i}', list(0.03 + rng.exponential(0.02, 2))) for i in range(20)]
    quiet, loud = (nominal_of(d, knowledge.harm, 8.0, 0.05) for d in (calm, restless))
    assert quiet.drop == 0.05
    # Forty peaks in ten hours, one in 24 allowed: e ** -4.6 of them are higher.
    assert loud.drop == pytest.approx(0.03 + 0.02 * math.log(40 * 24 / 10), abs=0.04)
    assert loud.slope == pytest.approx(0.02, rel=0.5)
    rarer = [nominal_of(restless, knowledge.harm, hours, 0.05).drop for hours in (80.0, 800.0)]
    assert rarer[0] > loud.drop
    assert rarer[1] - rarer[0] == pytest.approx(loud.slope * math.log(10))


def test_what_ordinary_drives_showed_once_does_not_warn_where_none_is_allowed(
    knowledge: Knowledge,
) -> None:
    drives = [looked_at('a', [0.03, 0.04, 0.2], 4.0), looked_at('b', [], 4.0)]
    assert nominal_of(drives, knowledge.harm, 8.0, 0.05).drop >= 0.2
    # In hours in which one is allowed it may be that one.
    assert nominal_of(drives, knowledge.harm, 1.0, 0.05).drop < 0.2


def test_few_hours_ask_for_more_than_many_without_a_drop(knowledge: Knowledge) -> None:
    minutes, hours = ([looked_at('a', [], h)] for h in (0.05, 30.0))
    found = [nominal_of(d, knowledge.harm, 8.0, 0.05).drop for d in (minutes, hours)]
    assert found[0] > 0.1 > found[1]


def test_hours_are_of_driving_and_not_of_samples() -> None:
    seconds = np.r_[0:100, 1000:1100]
    assert driven_h(seconds * 10**9) == pytest.approx(198.5 / 3600)
