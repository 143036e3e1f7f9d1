# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools

import numpy as np
import pytest

from clcp_ros.classes import CITYSCAPES
from training.simulation.layout import style_of
from training.simulation.roads import ENVIRONMENTS, Route
from training.simulation.scene import Scene
from training.simulation.signals import BLOCK, STOP_BEFORE, Signals, has_signal
from training.simulation.world import load_world

# Share of labelled pixels of Cityscapes' training set in percent.
REAL = {
    'road': 36.9, 'building': 22.8, 'vegetation': 15.9, 'car': 7.0, 'sidewalk': 6.1, 'sky': 4.0,
    'pole': 1.2, 'person': 1.2, 'terrain': 1.2, 'fence': 0.9,
}  # fmt: skip
EGO_SIZE = (4.6, 1.9, 1.5)
Box = tuple[np.ndarray, np.ndarray, np.ndarray]


def counts(number: int, times: np.ndarray, environment: str = 'mixed') -> np.ndarray:
    across, up = np.meshgrid(np.linspace(0.634, -0.634, 160), np.linspace(0.396, -0.396, 100))
    rays = np.stack([np.ones_like(across), across, up], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    total = np.zeros(19)
    for time in times:
        hits = Scene(0, number, float(time), environment).cast(np.array([1.6, 0, 1.5]), rays)
        total += np.bincount(hits.category.ravel(), minlength=19)
    return total


@pytest.mark.slow
@pytest.mark.parametrize('number', [2, 3])
def test_all_19_classes_occur_in_a_drive(number: int) -> None:
    found = counts(number, np.arange(0, 48, 1.6))
    assert not [name for i, name in enumerate(CITYSCAPES.names) if found[i] == 0]


@pytest.mark.slow
def test_class_frequencies_are_like_those_of_cityscapes() -> None:
    shares = []
    for number in range(1, 6):
        found = counts(number, np.arange(0, 60, 4.0))
        shares.append(found / found.sum() * 100)
    mean = np.mean(shares, 0)
    ratio = {n: mean[CITYSCAPES.names.index(n)] / share for n, share in REAL.items()}
    assert not {n: round(r, 2) for n, r in ratio.items() if not 1 / 3 < r < 3}


def footprint(T: np.ndarray, size: tuple[float, float, float]) -> Box:
    return T[:2, 3], T[:2, 0] / np.linalg.norm(T[:2, 0]), np.array(size[:2]) / 2


def overlap(a: Box, b: Box) -> float:
    """Depth in metres to which two rectangles lie in each other; at most 0 if they do not."""
    (at_a, along_a, half_a), (at_b, along_b, half_b) = a, b
    apart = at_b - at_a
    depth = np.inf
    for axis in (along_a, along_a[::-1] * (-1, 1), along_b, along_b[::-1] * (-1, 1)):
        reach = sum(
            abs(axis @ along) * half[0] + abs(axis @ (along[::-1] * (-1, 1))) * half[1]
            for along, half in ((along_a, half_a), (along_b, half_b))
        )
        depth = min(depth, float(reach - abs(axis @ apart)))
    return depth


def test_overlap_tells_touching_from_apart() -> None:
    here = footprint(np.eye(4), (4, 2, 1))
    there = np.eye(4)
    there[0, 3] = 3.5
    assert overlap(here, footprint(there, (4, 2, 1))) == pytest.approx(0.5)
    there[0, 3] = 4.5
    assert overlap(here, footprint(there, (4, 2, 1))) == pytest.approx(-0.5)


@pytest.mark.parametrize('environment', ENVIRONMENTS)
def test_nobody_drives_or_walks_through_anybody(environment: str) -> None:
    population = load_world(0, 2, environment).population
    for time in np.arange(0, 45, 1.0):
        T_ego, *_ = population.ego(float(time))
        agents = [a for a in population.at(float(time)) if a.solid]
        boxes = [footprint(T_ego, EGO_SIZE)] + [footprint(a.T_world, a.size) for a in agents]
        tags = [0] + [a.tag for a in agents]
        at = np.array([b[0] for b in boxes])
        for i, j in zip(
            *np.nonzero(np.triu(np.abs(at[:, None] - at).max(-1) < 20, 1)), strict=True
        ):
            if tags[i] != tags[j]:  # sections of one train belong together
                assert overlap(boxes[i], boxes[j]) < 0.05, (time, tags[i], tags[j])


@pytest.mark.parametrize('environment', ENVIRONMENTS)
def test_ego_meets_nothing_that_stands(environment: str) -> None:
    for time in np.arange(0, 30, 5.0):
        scene = Scene(0, 1, float(time), environment)
        ego = footprint(np.eye(4), EGO_SIZE)
        for thing in scene.objects:
            if np.abs(thing.T_base_object[:2, 3]).max() < 20:
                assert overlap(ego, footprint(thing.T_base_object, thing.size)) < 0.05
        # Nor does it drive into a wall or tree: what is before its front is far enough away.
        fronts = np.stack([np.full(9, 2.4), np.linspace(-0.9, 0.9, 9), np.full(9, 0.7)], 1)
        ahead = scene.cast(fronts, np.tile(np.array([1.0, 0, 0]), (9, 1)))
        assert ahead.distance.min() > 0.4


def test_ego_drives_stops_and_changes_lanes() -> None:
    town = load_world(0, 3, 'town').population
    speeds = np.array([town.ego(t)[1][0] for t in np.arange(0, 150, 0.5)])
    assert speeds.min() < 0.1
    assert 5 < speeds.max() < 14
    assert np.abs(np.diff(speeds)).max() < 0.5 * 9.1  # never harder than the brakes allow
    motorway = load_world(0, 5, 'motorway').population
    lateral = [motorway.traffic.at(t).lateral[0] for t in np.arange(0, 240, 1.0)]
    assert max(lateral) - min(lateral) > 2.5
    country = load_world(0, 4, 'country').population
    assert 12 < country.ego(20.0)[1][0] < 24


def test_nobody_passes_a_red_light() -> None:
    population = load_world(0, 2, 'town').population
    signals, traffic = population.signals, population.traffic
    for time in np.arange(0, 120, 0.1):
        before, after = traffic.at(float(time)), traffic.at(float(time) + 0.1)
        same = before.generation == after.generation
        forward = (before.lane != 1) & same
        for i in np.flatnonzero(forward):
            half = before.length[i] / 2
            a, b = before.s[i] + half, after.s[i] + half
            index = int(np.floor((b - STOP_BEFORE) / BLOCK))
            line = BLOCK * index + STOP_BEFORE
            if has_signal(index) and a < line <= b:
                assert signals.since_red(index, float(time)) < 1.0


def test_signals_show_every_state_in_turn() -> None:
    signals = Signals(Route(0, 1, 'town'))
    states = [signals.state(0, t) for t in np.arange(0, 50, 0.5)]
    assert set(states) == {0, 1, 2}
    changes = {(a, b) for a, b in itertools.pairwise(states) if a != b}
    assert changes <= {(2, 1), (1, 0), (0, 2)}


def test_places_differ_in_their_looks() -> None:
    styles = [style_of(Route(0, n, 'town')) for n in range(1, 7)]
    for name in ('green', 'facades', 'paving', 'trees', 'sun_azimuth'):
        assert len({getattr(style, name) for style in styles}) == 6


def test_roads_rise_fall_and_bend_no_sharper_than_they_may() -> None:
    for environment, radius, steepest in (
        ('town', 60, 0.06), ('country', 105, 0.09), ('motorway', 590, 0.06),
    ):  # fmt: skip
        route = Route(0, 3, environment)
        s = np.arange(0, 4000, 5.0)
        assert np.abs(route.curvature(s)).max() < 1 / radius
        slope = np.diff(route.elevation(s)) / 5
        assert 0.002 < np.abs(slope).max() < steepest
        np.testing.assert_allclose(slope, route.slope(s[:-1] + 2.5), atol=1e-3)
        assert np.ptp(route.land(s, np.full_like(s, 120.0))) > 2
