# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is fitted on some drives holds on others, and a shift stands out from both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clcp_ros.errors import ModelError
from clcp_ros.monitor.reference import Neighbours, ShiftReference
from clcp_ros.monitor.statistics import STATISTICS
from training.monitoring.novelty import NoveltyOptions, coreset, fit_novelty
from training.monitoring.samples import Samples

S, D1, D2, C = len(STATISTICS), 40, 64, 6


def drive(number: int, frames: int = 30, tau: float = 0.05, scene_effect: float = 0.0) -> Samples:
    """Frames about a common mean; a drive moves them together.

    With `scene_effect` all channels vary more where there is more of class 0 in view.
    """
    rng = np.random.default_rng(number)
    scene = rng.dirichlet(np.r_[3 * rng.uniform(0.1, 2), np.ones(C - 1)], frames)
    widen = np.exp(scene_effect * scene[:, :1])

    def tap(channels: int) -> np.ndarray:
        own = rng.normal(0, tau, channels)
        return np.linspace(1, 2, channels) + own + widen * rng.normal(0, 0.1, (frames, channels))

    return Samples(
        drive=np.array([f'd{number}'] * frames),
        stamp_ns=np.arange(frames) * 500_000_000 + number * 10**12,
        tag=np.array(['clear'] * frames),
        low=tap(S),
        early=tap(D1).astype(np.float32),
        deep=tap(D2).astype(np.float32),
        scene=scene,
    )


def drives(numbers: range, **options: float) -> Samples:
    return Samples.concat([drive(n, **options) for n in numbers])


def novelty(reference: ShiftReference, samples: Samples) -> np.ndarray:
    return np.array([
        reference.score(samples.low[i], samples.features(i), samples.scene[i]).novelty
        for i in range(len(samples))
    ])  # fmt: skip


def shifted(samples: Samples) -> Samples:
    low = samples.low.copy()
    low[:, 3] += 2
    fields = {name: getattr(samples, name) for name in samples.__dataclass_fields__}
    return Samples(**fields | {'low': low, 'early': samples.early[:, ::-1]})


def test_new_drives_are_in_domain_and_a_shift_is_not() -> None:
    fit = fit_novelty(drives(range(6)))
    new = drives(range(50, 54))
    found = novelty(fit.reference, new)
    assert abs(found.mean()) < 1.5
    assert np.quantile(found, 0.99) < 5
    assert novelty(fit.reference, shifted(new)).min() > 6


def test_the_unit_is_one_standard_deviation_of_held_out_frames() -> None:
    fit = fit_novelty(drives(range(6)))
    held_out = np.concatenate([s.novelty for s in fit.series])
    assert held_out.mean() == pytest.approx(0, abs=1e-9)
    assert held_out.std() == pytest.approx(1)
    assert len(fit.series) == 6
    assert all((np.diff(s.stamp_ns) > 0).all() for s in fit.series)


def test_held_out_drives_come_from_other_fits() -> None:
    """Fitted frames score better than frames of drives that the fit does not know."""
    samples = drives(range(5))
    fit = fit_novelty(samples)
    own = novelty(fit.reference, samples).mean()
    left_out = np.concatenate([s.novelty for s in fit.series]).mean()
    assert own < left_out - 1


def test_other_drives_may_calibrate() -> None:
    fit = fit_novelty(drives(range(4)), drives(range(20, 24)))
    assert [s.drive for s in fit.series] == ['d20', 'd21', 'd22', 'd23']
    assert fit.figures['calibration'] == 'other drives'
    assert abs(novelty(fit.reference, drives(range(30, 33))).mean()) < 1.5
    # Exactly the series that the reference itself gives these drives.
    again = novelty(fit.reference, drives(range(20, 24)))
    np.testing.assert_allclose(np.concatenate([s.novelty for s in fit.series]), again)


def test_a_drive_cannot_calibrate_what_it_was_fitted_on() -> None:
    with pytest.raises(ModelError, match='d3 is in the fit and in the calibration'):
        fit_novelty(drives(range(4)), drives(range(3, 6)))


def test_too_few_frames_or_drives_are_refused() -> None:
    with pytest.raises(ModelError, match='to fit the monitor'):
        fit_novelty(drive(0, frames=5))
    with pytest.raises(ModelError, match='beside d0'):
        fit_novelty(drive(0))
    with pytest.raises(ModelError, match='to calibrate'):
        fit_novelty(drives(range(3)), drive(9, frames=3))


def test_a_dead_channel_does_not_decide() -> None:
    samples, new = drives(range(5)), drive(40)
    for part in (samples, new):
        part.deep[:, :5] = 0
    new.deep[:, 0] = 1e-5
    assert abs(novelty(fit_novelty(samples).reference, new).mean()) < 2.5


def test_the_scene_is_taken_off_only_where_that_holds_on_other_drives() -> None:
    plain = fit_novelty(drives(range(12)))
    assert plain.reference.scene is None
    assert not plain.figures['scene']
    options = NoveltyOptions(scene_penalty=1e-3)
    fit = fit_novelty(drives(range(12), scene_effect=1.5, tau=0.0), options=options)
    assert fit.reference.scene is not None
    assert fit.figures['scene_drive_spread'] < fit.figures['drive_spread']
    new = drives(range(60, 72), scene_effect=1.5, tau=0.0)
    conditioned = novelty(fit.reference, new)
    rows = range(len(new))
    without = np.array([fit.reference.score(new.low[i], new.features(i)).novelty for i in rows])

    def spread(values: np.ndarray) -> float:
        return np.std([values[new.drive == d].mean() for d in new.drives]) / values.std()

    assert spread(conditioned) < spread(without)
    held_out = np.concatenate([s.novelty for s in fit.series])
    assert held_out.std() == pytest.approx(1, abs=0.01)


def worn(samples: Samples, amount: float) -> Samples:
    """A mild degradation along one direction that the nominal frames hardly vary in."""
    low = samples.low.copy()
    low[:, 5:9] += amount
    return replace(samples, low=low)


def test_who_knows_where_degraded_frames_lie_sees_them_sooner() -> None:
    nominal = drives(range(8))
    degraded = Samples.concat([worn(nominal, a) for a in (0.2, 0.4)])
    blind = fit_novelty(nominal)
    aware = fit_novelty(nominal, degraded=degraded)
    mild = worn(drives(range(40, 44)), 0.25)
    assert novelty(aware.reference, mild).mean() > novelty(blind.reference, mild).mean() + 0.5
    assert abs(novelty(aware.reference, drives(range(44, 48))).mean()) < 1.5
    held_out = np.concatenate([s.novelty for s in aware.series])
    assert held_out.std() == pytest.approx(1)
    again = ShiftReference.from_arrays(aware.reference.arrays())
    np.testing.assert_array_equal(novelty(again, mild), novelty(aware.reference, mild))


def test_degraded_frames_may_be_of_the_drives_that_calibrate() -> None:
    other = drives(range(20, 24))
    fit = fit_novelty(drives(range(4)), other, degraded=worn(other, 0.4), clean=other)
    assert len(fit.reference.low.measures) == 2
    assert fit.figures['direction']
    assert abs(novelty(fit.reference, drives(range(30, 34))).mean()) < 1.5


def test_degraded_frames_of_one_drive_give_no_direction() -> None:
    """None would be left for that drive; what it is scored by must not know it."""
    fit = fit_novelty(drives(range(4)), degraded=worn(drive(2), 0.4))
    assert len(fit.reference.low.measures) == 1
    assert not fit.figures['direction']


def test_the_coreset_keeps_to_its_size_and_takes_from_every_drive() -> None:
    chosen = coreset(203, 10)
    assert len(set(chosen.tolist())) == 10
    assert (chosen[0], chosen[-1]) == (0, 202)
    assert np.diff(chosen).max() <= 23
    np.testing.assert_array_equal(coreset(203, 500), np.arange(203))
    options = NoveltyOptions(coreset_bytes=2 * D2 * 25)
    found = fit_novelty(drives(range(4)), options=options).reference.deep.measures[1]
    assert isinstance(found, Neighbours)
    assert found.coreset.shape == (25, D2)
    assert found.coreset.nbytes <= options.coreset_bytes


def test_a_fit_is_the_same_twice() -> None:
    first, second = (fit_novelty(drives(range(4))).reference.arrays() for _ in range(2))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
