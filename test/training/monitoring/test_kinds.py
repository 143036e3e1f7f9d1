# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures of kinds, learned from corruptions of nominal frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from clcp_ros.errors import ModelError
from clcp_ros.monitor.attribution import CLASSES, KindReference
from clcp_ros.monitor.statistics import STATISTICS, image_statistics
from training.monitoring.corruptions import corrupt, degrade, kind_of
from training.monitoring.kinds import (
    Described,
    describe,
    figures,
    fit_described,
    fit_kinds,
    kind_figures,
    names,
)
from training.monitoring.samples import Item, Samples

FAMILIES = ('fog', 'dusk', 'defocus', 'noise', 'over_exposure', 'jpeg')
DRIVES = ('a', 'b', 'c')


def street(seed: int) -> np.ndarray:
    """A bright sky, house fronts with windows, a road with marks: (180, 240, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((180, 240, 3), rng.integers(200, 235, 3), np.uint8)
    for left in range(0, 240, int(rng.integers(18, 36))):
        colour = rng.integers(40, 170, 3).tolist()
        cv2.rectangle(image, (left, int(rng.integers(20, 60))), (left + 28, 95), colour, -1)
        for top in range(62, 90, 8):
            cv2.rectangle(image, (left + 4, top), (left + 9, top + 4), (30, 30, 40), -1)
    image[90:] = int(rng.integers(80, 110))
    cv2.line(image, (int(rng.integers(20, 120)), 179), (115, 92), (210, 210, 210), 3)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def samples(items: list[Item]) -> Samples:
    rows = len(items)
    return Samples(
        drive=np.array([item.drive for item in items]),
        stamp_ns=np.array([item.stamp_ns for item in items]),
        tag=np.array([item.tag for item in items]),
        low=np.array([image_statistics(item.image) for item in items]),
        early=np.zeros((rows, 1), np.float32),  # a dead channel: it tells nothing
        deep=np.zeros((rows, 1), np.float32),
        scene=np.ones((rows, 1)),
    )


def values(images: Iterable[np.ndarray]) -> np.ndarray:
    """(N, V) what tells the kinds of pictures, as `samples` has it."""
    return np.array([[*image_statistics(image), 0, 0] for image in images])


@pytest.fixture(scope='module')
def clean() -> Samples:
    """Four nominal frames of each of three drives."""
    return samples([
        Item(street(10 * d + i), None, drive, i, 'clear')
        for d, drive in enumerate(DRIVES)
        for i in range(4)
    ])  # fmt: skip


@pytest.fixture(scope='module')
def degraded() -> Samples:
    """Two severities of each family for every nominal frame."""
    items = [
        Item(street(10 * d + i), None, drive, i, 'clear')
        for d, drive in enumerate(DRIVES)
        for i in range(4)
    ]
    return samples(list(degrade(items, FAMILIES, (2, 3, 4), draws=2)))


@pytest.fixture(scope='module')
def reference(clean: Samples, degraded: Samples) -> KindReference:
    """Fitted on all three drives."""
    return fit_kinds(clean, degraded)


@pytest.mark.parametrize(
    ('family', 'kind'),
    [
        ('fog', 'haze'), ('dusk', 'dark'), ('defocus', 'blur'), ('noise', 'noise'),
        ('over_exposure', 'exposure'), ('jpeg', 'compression'),
    ],
)  # fmt: skip
def test_kinds_are_right_on_a_drive_that_nobody_has_seen(
    reference: KindReference, family: str, kind: str
) -> None:
    seen = values(corrupt(street(90 + i), family, 3, np.random.default_rng(i)) for i in range(6))
    assert (names(reference, seen) == kind).mean() >= 5 / 6


def test_nominal_frames_of_a_new_drive_are_of_no_kind(reference: KindReference) -> None:
    named = names(reference, values(street(90 + i) for i in range(8)))
    assert (named == 'none').mean() >= 0.75


def test_a_picture_like_none_shown_is_other(reference: KindReference) -> None:
    board = np.kron(np.indices((18, 24)).sum(axis=0) % 2, np.ones((10, 10)))
    image = np.repeat((255 * board)[..., None], 3, axis=2).astype(np.uint8)
    assert reference.classify(values([image])[0]).name == 'other'


def test_the_top_statistics_are_those_that_moved(reference: KindReference) -> None:
    dark = corrupt(street(95), 'dusk', 4, np.random.default_rng(0))
    top = dict(reference.classify(values([dark])[0]).top)
    assert any(name.startswith('luminance') or name == 'dark_fraction' for name in top)
    assert all(z < 0 for name, z in top.items() if name.startswith('luminance'))


def test_the_same_data_give_the_same_signatures(
    clean: Samples, degraded: Samples, reference: KindReference
) -> None:
    again = fit_kinds(clean, iter([degraded.take(slice(0, 50)), degraded.take(slice(50, None))]))
    for name, array in reference.arrays().items():
        assert np.array_equal(again.arrays()[name], array), name


def test_signatures_fit_into_a_file(reference: KindReference, tmp_path: Path) -> None:
    path = tmp_path / 'kinds.npz'
    np.savez_compressed(path, allow_pickle=False, **reference.arrays())
    with np.load(path, allow_pickle=False) as stored:
        again = KindReference.from_arrays(dict(stored))
    seen = values([street(7)])[0]
    assert again.classify(seen) == reference.classify(seen)
    assert path.stat().st_size < 200_000


def test_kinds_that_were_not_shown_are_not_named(reference: KindReference) -> None:
    z = np.random.default_rng(0).normal(0, 3, (50, len(reference.location)))
    share = reference.probabilities(z)
    assert share[:, CLASSES.index('snow')].max() < 1e-9


def test_a_kind_is_not_taken_for_the_place_where_it_was_shown() -> None:
    rng = np.random.default_rng(0)
    places = {drive: rng.normal(0, 3, len(STATISTICS)) for drive in DRIVES}
    effects = {family: rng.normal(0, 1, len(STATISTICS)) for family in ('fog', 'night', 'noise')}

    def seen(drive: str, family: str = '', number: int = 40) -> np.ndarray:
        usual = places[drive] + effects.get(family, 0.0)
        return usual + rng.normal(0, 0.3, (number, len(STATISTICS)))

    shown = dict(zip(effects, DRIVES, strict=True))
    reference = fit_described(
        Described(
            np.repeat([*DRIVES, *shown.values()], 40),
            np.repeat(['clear'] * 3 + [f'{family}:3' for family in shown], 40),
            np.concatenate([seen(d) for d in DRIVES] + [seen(d, f) for f, d in shown.items()]),
        )
    )
    right = [
        names(reference, seen(drive, family), novel=True) == kind_of(family)
        for family in effects
        for drive in DRIVES
        if drive != shown[family]
    ]
    assert np.mean(right) > 0.9


def test_features_tell_what_the_statistics_do_not() -> None:
    rng = np.random.default_rng(0)
    effects = {'fog': np.array([2.0, 0, 0, 0]), 'night': np.array([0, 2.0, 0, 0])}

    def seen(number: int, effect: np.ndarray | float = 0.0) -> np.ndarray:
        # Features have no unit: these are small.
        return np.asarray(1e-3 * (rng.normal(0, 0.3, (number, 4)) + effect))

    def low(number: int, degraded: bool) -> np.ndarray:
        return rng.normal(0, 0.3, (number, len(STATISTICS))) + 2.0 * degraded

    tags = ['clear', *(f'{family}:3' for family in effects)]
    frames = Described(
        np.tile(np.repeat(DRIVES, 10), 3),
        np.repeat(tags, 30),
        np.concatenate([low(30, degraded=tag != 'clear') for tag in tags]),
        np.concatenate([seen(30), *(seen(30, effect) for effect in effects.values())]),
    )
    fitted, blind = fit_described(frames), fit_described(replace(frames, features=None))
    for family, effect in effects.items():
        new = Described(
            np.full(20, 'new'), np.full(20, f'{family}:3'), low(20, degraded=True),
            seen(20, effect),
        )  # fmt: skip
        assert (names(fitted, new.values) == kind_of(family)).mean() > 0.9
        assert (names(blind, new.low) == kind_of(family)).mean() < 0.9


def test_one_drive_is_enough_for_a_fit_but_not_for_figures(
    clean: Samples, degraded: Samples
) -> None:
    both = describe(clean, degraded)
    one = replace(both, drive=np.full(len(both), 'a'))
    own = fit_kinds(*(_renamed(part) for part in (clean, degraded)))
    assert np.isfinite(own.limit)
    assert kind_figures(one) == {}


def _renamed(part: Samples) -> Samples:
    arrays = {name: getattr(part, name) for name in ('stamp_ns', 'tag', 'low', 'early', 'deep')}
    return Samples(drive=np.full(len(part), 'a'), scene=part.scene, **arrays)


def test_figures_are_of_drives_that_were_left_out(clean: Samples, degraded: Samples) -> None:
    found = kind_figures(describe(clean, degraded))
    assert found['drives'] == 3
    assert set(found['accuracy']) == {'0', '2', '3', '4'}
    assert found['frames']['0'] == len(clean)
    assert found['accuracy']['4'] > 0.7
    for shares in found['confusion'].values():
        assert sum(shares.values()) == pytest.approx(1)


def test_figures_count_what_was_called_what() -> None:
    frames = Described(
        np.array(['a'] * 5),
        np.array(['clear', 'fog:3', 'low_contrast:3', 'noise:3', 'noise:1']),
        np.zeros((5, 1)),
    )
    found = figures(frames, np.array(['none', 'haze', 'dark', 'noise', 'none']))
    assert found['accuracy'] == {'0': 1.0, '1': 0.0, '3': 0.75}
    assert found['confusion'] == {'haze': {'dark': 0.5, 'haze': 0.5}, 'noise': {'noise': 1.0}}


def test_too_little_to_fit_is_told(clean: Samples, degraded: Samples) -> None:
    with pytest.raises(ModelError, match='at least 8 nominal frames and two kinds'):
        fit_kinds(clean.take(slice(0, 7)), degraded)
    with pytest.raises(ModelError, match='there are 12 and 1'):
        fit_kinds(clean, degraded.take(np.char.startswith(degraded.tag, 'fog')))


def test_dusk_of_a_real_camera_is_dark(sample_data: Path) -> None:
    def items(pattern: str, number: int) -> list[Item]:
        files = sorted((sample_data / 'camvid' / 'train').glob(pattern))
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, number).astype(int)]
        return [
            Item(np.asarray(cv2.imread(str(f)))[..., ::-1].copy(), None, f.name[:6], i, 'clear')
            for i, f in enumerate(chosen)
        ]

    day = items('0016E5*', 12)
    signatures = fit_kinds(
        samples(day), samples(list(degrade(day, (*FAMILIES, 'night'), draws=2)))
    )
    dusk = values(item.image for item in items('0001TP*', 10))
    assert (names(signatures, dusk) == 'dark').mean() >= 0.6
