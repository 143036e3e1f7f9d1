# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.bundle import MODEL, load_bundle
from clcp_ros.errors import BundleError
from clcp_ros.monitor.attribution import CLASSES, KindReference
from clcp_ros.monitor.close import CloseReference
from clcp_ros.monitor.knowledge import MOST_BYTES, Facts, Knowledge
from clcp_ros.monitor.scene import SceneModel


@pytest.fixture(scope='module')
def known(tiny_bundle: Path) -> Knowledge:
    bundle = load_bundle(tiny_bundle)
    knowledge = Knowledge.load(bundle.reference_path, bundle.sha256[MODEL])
    facts = Facts(
        'sha', interval_h=8, supported_h=0.5, hours=1.5, drives=3, slope_h=2.0, slope_c=0.3
    )
    return replace(knowledge, facts=facts)


@pytest.fixture
def file(known: Knowledge, tmp_path: Path) -> Path:
    known.save(tmp_path / 'k.npz')
    return tmp_path / 'k.npz'


def changed(file: Path, **arrays: np.ndarray | None) -> Path:
    """The file with some arrays replaced or left out."""
    stored = dict(np.load(file, allow_pickle=False))
    for name, array in arrays.items():
        key = name.replace('__', '.')
        stored.pop(key, None)
        if array is not None:
            stored[key] = array
    np.savez(file, **stored)
    return file


def test_knowledge_survives_the_disk(known: Knowledge, file: Path) -> None:
    again = Knowledge.load(file, 'sha')
    assert again.facts == known.facts
    assert again.sequential == known.sequential
    for name, array in known.novelty.arrays().items():
        np.testing.assert_array_equal(again.novelty.arrays()[name], array)
    assert [again.harm, again.kinds, again.alignment] == [None] * 3


def test_what_bundles_of_before_hold_besides_is_passed_over(known: Knowledge, file: Path) -> None:
    more = {'novelty__knots': np.linspace(-2, 3, 513), 'novelty__frames': np.asarray(400)}
    old = changed(file, facts__preprocessing_sha256=None, **more)
    again = Knowledge.load(old, 'sha')
    assert again.facts == known.facts
    assert again.novelty.arrays().keys() == known.novelty.arrays().keys()


def test_bundles_of_before_know_of_no_vehicles(known: Knowledge, tmp_path: Path) -> None:
    close = CloseReference(np.arange(5) == 1)
    for written in (replace(known, close=close), replace(known, close=None)):
        written.save(tmp_path / 'reference.npz')
        read = Knowledge.load(tmp_path / 'reference.npz', known.facts.model_sha256)
        assert (read.close is None) == (written.close is None)
        if read.close is not None:
            assert read.close.vehicles.tolist() == close.vehicles.tolist()


def test_kinds_are_of_the_features_that_novelty_is_of(known: Knowledge, tmp_path: Path) -> None:
    low, *taps = known.novelty.low, known.novelty.early, known.novelty.deep
    channels = [tap.measures[0].channels for tap in (low, *taps)]

    def kinds(features: int) -> KindReference:
        s, v = channels[0], channels[0] + features
        return KindReference(
            location=np.zeros(v), scale=np.ones(v), weights=np.zeros((len(CLASSES), 2 * v)),
            bias=np.zeros(len(CLASSES)), prototypes=np.zeros((1, s)), radius=np.ones(1),
            whitening=np.eye(s), limit=np.array(1.0), least=np.array(0.5),
        )  # fmt: skip

    for features in (0, sum(channels[1:])):  # of a bundle of before, and of one of today
        replace(known, kinds=kinds(features)).save(tmp_path / 'k.npz')
        again = Knowledge.load(tmp_path / 'k.npz', 'sha')
        assert again.kinds is not None
        assert len(again.kinds.location) == channels[0] + features
    replace(known, kinds=kinds(1)).save(tmp_path / 'k.npz')
    with pytest.raises(BundleError, match='other numbers of features'):
        Knowledge.load(tmp_path / 'k.npz', 'sha')


def test_writing_twice_gives_the_same_bytes(known: Knowledge, file: Path, tmp_path: Path) -> None:
    known.save(tmp_path / 'other.npz')
    assert (tmp_path / 'other.npz').read_bytes() == file.read_bytes()


def test_another_model_is_refused(file: Path) -> None:
    with pytest.raises(BundleError, match='another model'):
        Knowledge.load(file, 'other')


@pytest.mark.parametrize(
    ('arrays', 'says'),
    [
        ({'facts__version': np.asarray(99)}, 'version 99'),
        ({'facts__version': None}, 'facts.version'),
        ({'novelty__location': None}, 'location'),
        ({'novelty__location': np.zeros(3)}, 'location'),
        ({'novelty__location': np.asarray(np.nan)}, 'not finite'),
        ({'sequential__h': np.asarray(-1.0)}, 'positive'),
        ({'sequential__h': np.asarray('8')}, 'not a number'),
        ({'facts__hours': np.asarray(-1.0)}, 'negative'),
        ({'facts__hours': np.zeros(2)}, 'hours'),
        ({'magic__x': np.zeros(2)}, "unknown part 'magic'"),
        ({'kinds__x': np.zeros(2)}, 'not what a monitor'),
        ({'novelty__location': np.array([object()])}, 'not what a monitor'),
    ],
)
def test_nonsense_is_refused(file: Path, arrays: dict, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        Knowledge.load(changed(file, **arrays), 'sha')


@settings(deadline=None, max_examples=40)
@given(cut=st.floats(0, 1), flip=st.booleans())
def test_damage_is_an_error_or_changes_nothing(
    cut: float, flip: bool, known: Knowledge, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp('damaged') / 'k.npz'
    known.save(file)
    data = bytearray(file.read_bytes())
    place = min(int(cut * len(data)), len(data) - 1)
    if flip:
        data[place] ^= 255
    else:
        del data[place:]
    file.write_bytes(data)
    # Nothing but a BundleError may come out, and what comes through is what was written.
    with contextlib.suppress(BundleError):
        assert Knowledge.load(file, 'sha').sequential == known.sequential


def test_what_is_too_large_is_neither_written_nor_read(
    known: Knowledge, file: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).random(MOST_BYTES // 4)
    scene = SceneModel(noise, *np.zeros((4, 1)))
    large = replace(known, novelty=replace(known.novelty, scene=scene))
    with pytest.raises(BundleError, match='MB, more than 4'):
        large.save(tmp_path / 'large.npz')
    assert not (tmp_path / 'large.npz').exists()
    with pytest.raises(BundleError, match='more than 4 MB'):
        Knowledge.load(changed(file, novelty__scene__weights=noise), 'sha')
    # A small file that unpacks to much is no way in either.
    stored = dict(np.load(file, allow_pickle=False))
    np.savez_compressed(file, **(stored | {'novelty.scene.weights': np.zeros(9 * MOST_BYTES)}))
    with pytest.raises(BundleError, match='unpacked'):
        Knowledge.load(file, 'sha')


def test_numbers_that_are_not_finite_are_not_written(known: Knowledge, tmp_path: Path) -> None:
    broken = replace(known, novelty=replace(known.novelty, location=np.asarray(np.inf)))
    with pytest.raises(BundleError, match='not finite'):
        broken.save(tmp_path / 'k.npz')
    assert not (tmp_path / 'k.npz').exists()


def test_thresholds_rise_with_the_interval_and_with_the_cameras(known: Knowledge) -> None:
    assert known.sequential_for() == known.sequential
    later = known.sequential_for(8 * math.e)
    assert later.h == pytest.approx(known.sequential.h + 2.0)
    assert later.c == pytest.approx(known.sequential.c + 0.3)
    assert known.sequential_for(2, cameras=4) == known.sequential_for(8)
    assert known.sequential_for(1e-9).h == 1.0


def test_the_drop_that_warns_by_itself_rises_as_false_alarms_become_rarer(
    known: Knowledge,
) -> None:
    assert known.drop_for() == 0
    looked = replace(known, facts=replace(known.facts, nominal_drop=0.08, slope_drop=0.02))
    assert looked.drop_for() == 0.08
    assert looked.drop_for(8 * math.e) == pytest.approx(0.10)
    assert looked.drop_for(2, cameras=4) == 0.08
    assert looked.drop_for(1e-9) == 0


def test_what_nobody_looked_at_before_is_none(known: Knowledge, file: Path) -> None:
    again = Knowledge.load(changed(file, facts__nominal_drop=None, facts__slope_drop=None), 'sha')
    assert again.facts == known.facts
    with pytest.raises(BundleError, match='negative'):
        Knowledge.load(changed(file, facts__nominal_drop=np.asarray(-0.1)), 'sha')


def test_more_than_the_drives_support_is_said(known: Knowledge) -> None:
    assert '1.5 h of 3 held-out drives' in known.reservation()
    assert known.reservation(8, cameras=2).endswith(
        'support one in 0.25 h; calibrate on more nominal drives with training/fit_monitor.py'
    )
    shown = replace(known, facts=replace(known.facts, supported_h=9.0))
    assert shown.reservation() == ''
    assert shown.reservation(4, cameras=2) == ''
    unknown = replace(known, facts=replace(known.facts, supported_h=math.nan))
    assert 'nobody has counted' in unknown.reservation()


def test_nothing_is_claimed_of_lower_thresholds_than_were_tried(known: Knowledge) -> None:
    shown = replace(known, facts=replace(known.facts, supported_h=9.0))
    assert shown.supported_h() == 9
    assert shown.supported_h(8) == 9
    assert shown.supported_h(100) == 9
    assert shown.supported_h(4, cameras=2) == 4.5
    assert shown.sequential_for(0.1).h < shown.sequential.h
    assert math.isnan(shown.supported_h(0.1))
    assert math.isnan(shown.supported_h(3.9, cameras=2))
    said = shown.reservation(0.1)
    assert 'lower thresholds than those for 8 h' in said
    assert '--false_alarm_interval_h 0.1' in said
