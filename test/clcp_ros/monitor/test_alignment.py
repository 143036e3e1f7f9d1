# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scans as a camera sees them, and what is made of their agreement with the image."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.errors import CalibrationError
from clcp_ros.monitor import Level, ShiftSource, ShiftState
from clcp_ros.monitor.alignment import (
    MIN_PAIRS,
    Alignment,
    AlignmentReference,
    AlignmentWindow,
    image_evidence,
    lidar_evidence,
    sample_grid,
)
from clcp_ros.monitor.alignment_feed import AlignmentFeed
from clcp_ros.monitor.scan_view import (
    DESCRIPTORS,
    MAX_POINTS,
    SCAN_STATISTICS,
    CameraModel,
    ScanView,
    project_scan,
)
from clcp_ros.node_diagnostics import shift_values

K = np.array([[300.0, 0, 159.5], [0, 300.0, 99.5], [0, 0, 1]])
CAMERA = CameraModel(K, (200, 320))
CLASSES, GRID = 5, (10, 16)
SECOND = 1_000_000_000


def street(count: int = 4000, seed: int = 0) -> np.ndarray:
    """(N, 3) points in the optical frame: a road 1.5 m below and walls left and right."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(4, 40, count)
    road = np.column_stack([rng.uniform(-4, 4, count), np.full(count, 1.5), z])
    side = np.where(rng.random(count) < 0.5, -4.0, 4.0)
    wall = np.column_stack([side, rng.uniform(-3, 1.5, count), z])
    return np.where((rng.random(count) < 0.5)[:, None], road, wall).astype(np.float32)


def scan_view(**changes: object) -> ScanView:
    xyz = street()
    return replace(project_scan(xyz, np.full(len(xyz), 0.3), CAMERA, np.eye(4)), **changes)  # type: ignore[arg-type]


def logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (CLASSES, *GRID)).astype(np.float32)


@pytest.fixture
def reference() -> AlignmentReference:
    """Maps of the right shapes, fitted to nothing."""
    rng = np.random.default_rng(3)
    D, F, k = len(DESCRIPTORS), 8, 4
    view = scan_view()
    return AlignmentReference(
        location=view.descriptors.mean(axis=0).astype(np.float64),
        scale=view.descriptors.std(axis=0).astype(np.float64) + 0.1,
        weights=rng.normal(size=(D + 1, F)),
        lidar_mean=np.zeros(D + F),
        lidar_map=rng.normal(size=(D + F, k)),
        image_mean=np.zeros(3 * CLASSES),
        image_map=rng.normal(size=(3 * CLASSES, k)),
        range_edges=np.array([2.0, 3.0]),
        height_edges=np.array([0.5]),
        shifts=np.radians(np.array([[0.0, 0], [1, 0], [-1, 0]])),
        value_location=np.array(0.3),
        value_spread=np.array(0.1),
        value_drift=np.array(0.2),
        sides=np.array([[0.0, 1, -1], [0, 0, 0], [0, 1, -1], [0, 0, 0]]),
        side_location=np.zeros(4),
        side_spread=np.ones(4),
        side_drift=np.zeros(4),
        side_degrees=np.ones(4),
        scan_location=view.statistics,
        scan_spread=np.ones(len(SCAN_STATISTICS)),
    )


# Cameras --------------------------------------------------------------------------------------


def test_pinhole_places_are_those_of_opencv_and_ros() -> None:
    uv = CAMERA.project(np.array([[0.0, 0], [0.1, -0.2]]))
    # Pixel centres are at whole numbers, so the principal point 159.5 is the middle of 320.
    assert uv[0] == pytest.approx([0.5, 0.5])
    assert uv[1] == pytest.approx([(159.5 + 30 + 0.5) / 320, (99.5 - 60 + 0.5) / 200])


@pytest.mark.parametrize(
    ('model', 'D'),
    [('plumb_bob', [-0.3, 0.1, 0.001, 0.002, 0]), ('equidistant', [0.01, -0.02, 0.0, 0.0])],
)
def test_distorted_points_fall_where_opencv_puts_them(model: str, D: list[float]) -> None:
    cv2 = pytest.importorskip('cv2')
    rays = np.array([[0.2, 0.1], [-0.3, 0.2], [0.0, 0.0]])
    points, zero = np.column_stack([rays, np.ones(3)])[:, None], np.zeros(3)
    if model == 'equidistant':
        pixels = cv2.fisheye.projectPoints(points, zero, zero, K, np.array(D))[0][:, 0]
    else:
        pixels = cv2.projectPoints(points, zero, zero, K, np.array(D))[0][:, 0]
    found = CameraModel(K, (200, 320), model, np.array(D)).project(rays)
    assert found == pytest.approx((pixels + 0.5) / [320, 200], abs=1e-5)


def test_barrel_distortion_does_not_fold_outer_points_into_the_image() -> None:
    camera = CameraModel(K, (200, 320), 'plumb_bob', np.array([-0.4, 0, 0, 0, 0]))
    far_out = np.column_stack([np.linspace(1.2, 6, 600), np.zeros(600), np.ones(600)]) * 5
    # The polynomial alone would show them.
    assert (
        ((camera.project(far_out[:, :2] / 5) >= 0) & (camera.project(far_out[:, :2] / 5) < 1))
        .all(axis=1)
        .any()
    )
    assert not len(project_scan(far_out, None, camera, np.eye(4)))


def info(**changes: object) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0)
    values = {
        'k': K.ravel(), 'd': np.zeros(5), 'p': np.zeros(12), 'distortion_model': 'plumb_bob',
        'height': 200, 'width': 320, 'roi': roi,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_camera_info_with_a_region_of_interest() -> None:
    roi = SimpleNamespace(x_offset=40, y_offset=20, height=100, width=160)
    whole, part = CameraModel.of_info(info()), CameraModel.of_info(info(roi=roi))
    ray = np.array([[0.05, 0.02]])
    pixel = whole.project(ray) * [320, 200]
    assert part.project(ray) * [160, 100] == pytest.approx(pixel - [40, 20], abs=1e-3)


def test_rectified_camera_info_takes_p_and_no_distortion() -> None:
    P = np.array([[250.0, 0, 150, 0], [0, 250, 90, 0], [0, 0, 1, 0]])
    camera = CameraModel.of_info(info(p=P.ravel(), d=np.array([-0.3, 0, 0, 0, 0])), rectified=True)
    assert camera.K[0, 0] == 250
    assert camera.distortion == 'none'


@pytest.mark.parametrize(
    'changes',
    [
        {'k': np.zeros(9)}, {'k': np.full(9, math.nan)}, {'d': np.array([math.nan] * 5)},
        {'d': np.array([0.1, 0.2])}, {'distortion_model': 'unheard_of', 'd': np.ones(5)},
        {'height': 0, 'width': 0},
    ],
)  # fmt: skip
def test_impossible_camera_info_is_one_clear_error(changes: dict[str, object]) -> None:
    with pytest.raises(CalibrationError):
        CameraModel.of_info(info(**changes))


# Views ----------------------------------------------------------------------------------------


def test_view_holds_the_points_in_front_and_inside() -> None:
    xyz = np.array([[0, 0, 10], [0, 0, -10], [100, 0, 10], [1, 0.5, 10]], np.float32)
    view = project_scan(xyz, None, CAMERA, np.eye(4))
    assert len(view) == 2
    assert view.points == 4
    assert view.uv[0] == pytest.approx([0.5, 0.5])


def test_height_is_above_the_road_and_range_is_the_distance() -> None:
    view = scan_view()
    height = view.descriptors[:, DESCRIPTORS.index('height')]
    steepness = view.descriptors[:, DESCRIPTORS.index('steepness')]
    road = np.abs(height) < 0.15
    assert 0.3 < road.mean() < 0.8
    assert np.percentile(height, 99) == pytest.approx(4.5, abs=0.3)
    assert np.median(steepness[road]) < np.median(steepness[height > 1])
    assert np.exp(view.descriptors[:, 0]).min() > 3


def test_turning_in_thought_is_turning() -> None:
    xyz, angle = street(), np.radians(1.0)
    plain = project_scan(xyz, None, CAMERA, np.eye(4))
    T = np.eye(4)
    T[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]
    ]  # fmt: skip
    x, z = xyz[:, 0], xyz[:, 2]
    middle = (np.abs(x / z) < 0.3) & (np.abs(xyz[:, 1] / z) < 0.2)
    plain = project_scan(xyz[middle], None, CAMERA, np.eye(4))
    truly = project_scan(xyz[middle], None, CAMERA, T)
    thought = plain.uv + np.float32(angle) * plain.uv_yaw
    assert len(plain) == len(truly)
    assert thought == pytest.approx(truly.uv, abs=2e-4)


def test_dense_scans_are_thinned() -> None:
    view = project_scan(street(60_000), None, CAMERA, np.eye(4))
    assert MIN_PAIRS < len(view) <= MAX_POINTS
    assert view.points == pytest.approx(60_000, rel=0.01)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(width=32, allow_nan=True, allow_infinity=True)] * 3), max_size=40
    ),
    st.booleans(),
)
def test_nothing_that_is_not_finite_leaves_a_view(points: list, with_intensity: bool) -> None:
    xyz = np.array(points, np.float32).reshape(-1, 3)
    strength = np.full(len(xyz), np.nan, np.float32) if with_intensity else None
    view = project_scan(xyz, strength, CAMERA, np.eye(4))
    for array in (view.uv, view.uv_yaw, view.uv_pitch, view.descriptors, view.statistics):
        assert np.isfinite(array).all()
    assert view.descriptors.shape == (len(view), len(DESCRIPTORS))
    assert view.statistics.shape == (len(SCAN_STATISTICS),)


# Agreement ------------------------------------------------------------------------------------


def test_the_null_is_the_mean_over_all_shuffles(reference: AlignmentReference) -> None:
    """One bin: the value is that of the definition, written out."""
    one_bin = replace(
        reference, range_edges=np.zeros(0), height_edges=np.zeros(0), shifts=np.zeros((1, 2))
    )
    view = scan_view()
    few = replace(
        view, uv=view.uv[::9], uv_yaw=view.uv_yaw[::9], uv_pitch=view.uv_pitch[::9],
        descriptors=view.descriptors[::9],
    )  # fmt: skip
    evidence = lidar_evidence(few.descriptors, one_bin.location, one_bin.scale, one_bin.weights)
    points = evidence @ one_bin.lidar_map
    image = sample_grid(image_evidence(logits()) @ one_bin.image_map, GRID, few.uv)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    image /= np.linalg.norm(image, axis=1, keepdims=True)

    def agreement(other: np.ndarray) -> float:
        cosines = points @ other.T
        off = ~np.eye(len(cosines), dtype=bool)
        return float(np.diag(cosines).mean() - cosines[off].mean())

    expected = agreement(image) / agreement(points)
    assert one_bin.curve(logits(), few)[0] == pytest.approx(expected, abs=1e-4)


def test_sampling_is_bilinear_and_goes_on_outside() -> None:
    grid = np.arange(6, dtype=np.float32)[:, None]  # 2 rows of 3
    places = np.array([[1 / 6, 0.25], [1 / 3, 0.5], [-1, -1], [2, 2]], np.float32)
    assert sample_grid(grid, (2, 3), places)[:, 0] == pytest.approx([0, 2, 0, 5], abs=1e-5)
    assert sample_grid(grid[:1], (1, 1), places)[:, 0] == pytest.approx([0, 0, 0, 0])


def test_unavailable_is_none(reference: AlignmentReference) -> None:
    view = scan_view()
    assert reference.score(logits(), view) is not None
    assert reference.score(np.full_like(logits(), np.nan), view) is None
    assert reference.score(logits()[:3], view) is None


@pytest.mark.parametrize('points', [0, 100, 4000])
def test_too_few_pairs_tell_of_the_scan_alone(reference: AlignmentReference, points: int) -> None:
    view = project_scan(street(4000)[:points], None, CAMERA, np.eye(4))
    view = replace(view, uv=view.uv[: MIN_PAIRS - 1])
    found = reference.score(logits(), view)
    assert found is not None
    assert not found.compared
    assert np.isnan([found.value, found.z, *found.curve, *found.sides]).all()
    assert found.pairs == len(view)
    assert found.lidar_z == reference.scan_z(view)


def test_same_input_same_bytes(reference: AlignmentReference) -> None:
    one, two = (reference.score(logits(), scan_view()) for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.curve.tobytes() == two.curve.tobytes()


def test_arrays_are_checked(reference: AlignmentReference) -> None:
    arrays = reference.arrays()
    back = AlignmentReference.from_arrays(arrays)
    assert all(np.array_equal(back.arrays()[name], arrays[name]) for name in arrays)
    with pytest.raises(KeyError):
        AlignmentReference.from_arrays({n: a for n, a in arrays.items() if n != 'sides'})
    for name, array in arrays.items():
        with pytest.raises(ValueError, match='alignment'):
            AlignmentReference.from_arrays({**arrays, name: np.full_like(array, np.nan)})
        with pytest.raises(ValueError, match='alignment'):
            AlignmentReference.from_arrays({**arrays, name: np.zeros((7, 7, 7))})
    with pytest.raises(ValueError, match='positive'):
        AlignmentReference.from_arrays({**arrays, 'value_spread': np.zeros(())})


# Streams --------------------------------------------------------------------------------------


class Scans:
    """Views at some stamps; remembers what was asked for."""

    def __init__(self, *stamps: int) -> None:
        self.stamps, self.asked = stamps, list[int]()

    def __call__(self, stamp_ns: int) -> ScanView | None:
        self.asked.append(stamp_ns)
        return scan_view() if stamp_ns in self.stamps else None


def test_feed_tells_of_the_frame_before(reference: AlignmentReference) -> None:
    feed, scans = AlignmentFeed(reference), Scans(0, SECOND)
    assert feed.update(0, logits(0), scans) is None
    assert not scans.asked
    told = feed.update(SECOND // 2, logits(1), scans)
    assert scans.asked == [0]
    assert told is not None
    direct = reference.score(logits(0), scan_view())
    assert direct is not None
    assert told.curve.tobytes() == direct.curve.tobytes()
    # The frame at half a second has no scan.
    assert feed.update(SECOND, logits(2), scans) is None


def test_feed_waits_for_the_scan_when_frames_are_dense(reference: AlignmentReference) -> None:
    feed, scans = AlignmentFeed(reference), Scans(*range(0, SECOND, SECOND // 10))
    for stamp in range(0, SECOND, SECOND // 10):
        feed.update(stamp, logits(), scans)
    # Each frame once, three tenths later, in order.
    assert scans.asked == list(range(0, 7 * SECOND // 10, SECOND // 10))


def test_feed_forgets_across_jumps_and_gaps(reference: AlignmentReference) -> None:
    feed, scans = AlignmentFeed(reference), Scans()
    for stamp in (10 * SECOND, 5 * SECOND, 9 * SECOND):
        feed.update(stamp, logits(), scans)
    assert not scans.asked
    assert feed.update(10 * SECOND, logits(), None) is None


@pytest.mark.parametrize('period_s', [0.5, 1.0, 1.7, 1.9, 5.0, 10.0])
def test_the_period_of_scoring_does_not_matter(
    reference: AlignmentReference, period_s: float
) -> None:
    """A scan is asked for before the buffer forgets it."""
    feed = AlignmentFeed(reference)
    now, ages = 0, []

    def scans(stamp_ns: int) -> ScanView:
        ages.append(now - stamp_ns)
        return scan_view()

    told, last = [], -(10**12)
    for now in range(0, 42 * SECOND, SECOND // 10):
        feed.settle(now, scans)
        if now - last >= 0.9 * period_s * SECOND:
            last = now
            told.append(feed.update(now, logits(), scans) is not None)
    assert told == [False] + [True] * (len(told) - 1)
    assert max(ages) <= SECOND // 2


def agreement(
    z: float = 0.0, yaw: float = 0.0, lidar: float = 1.0, turned: float = 0.3
) -> Alignment:
    """A frame's; `turned` is the agreement of the points when they are turned."""
    curve = np.array([0.3 + 0.1 * z, turned, 0])
    return Alignment(0.3, z, 900, curve, np.array([yaw, 0, yaw, 0]), lidar, 2000)


@pytest.mark.parametrize(
    ('sample', 'novelty', 'verdict'),
    [
        (agreement(), math.nan, 'ok'),
        (agreement(z=-4), math.nan, 'camera'),
        (agreement(z=-4), 6.0, 'camera'),
        (agreement(z=-4), 0.0, 'calibration'),
        (agreement(z=-0.8), 6.0, 'camera'),
        (agreement(z=-0.8), 3.0, 'ok'),
        (agreement(z=-1.5), 3.0, 'camera'),
        (agreement(z=-1.5), 0.0, 'ok'),
        (agreement(z=-0.3), 6.0, 'ok'),
        (agreement(z=-1, yaw=4), math.nan, 'calibration'),
        (agreement(z=-4, yaw=-4), 6.0, 'calibration'),
        # No turning makes it agree: the side is chance.
        (agreement(z=-4, yaw=-4, turned=0.0), 6.0, 'camera'),
        (agreement(z=-4, yaw=4, lidar=9), 0.0, 'lidar'),
    ],
)
def test_verdicts(
    reference: AlignmentReference, sample: Alignment, novelty: float, verdict: str
) -> None:
    window = AlignmentWindow(reference)
    states = [window.update(n * SECOND // 2, sample, novelty) for n in range(20)]
    assert states[0].verdict == ''
    assert states[-1].verdict == verdict
    assert states[-1].pairs == 900


def thin(lidar: float = 9.0) -> Alignment:
    """A frame's whose scan has too few points in the image."""
    nan = math.nan
    return Alignment(nan, nan, 120, np.full(3, nan), np.full(4, nan), lidar, 300)


def test_scans_of_few_points_are_a_lidar_that_fails(
    kit: Any, reference: AlignmentReference
) -> None:
    monitor = kit.monitor(alignment=reference)

    def play(alignment: Alignment, start: int) -> list[ShiftState]:
        return kit.play(monitor, [replace(kit.evidence(), alignment=alignment)] * 60, start)

    assert {s.level for s in play(agreement(), 0)[5:]} == {Level.OK}
    state = play(thin(), 30 * SECOND)[-1]
    assert (state.level, state.scope) == (Level.WARN, 'lidar')
    assert 'scans of 300 points, 120 of them in the image' in state.reason
    assert math.isnan(state.alignment_z)
    assert state.alignment_pairs == 120
    state = play(agreement(), 60 * SECOND)[-1]
    assert state.level == Level.OK


def test_views_that_are_always_thin_say_nothing(reference: AlignmentReference) -> None:
    window = AlignmentWindow(reference)
    states = [window.update(n * SECOND // 2, thin(lidar=1.0)) for n in range(40)]
    assert {s.verdict for s in states} == {''}
    # Among them those with enough points are judged by themselves.
    mixed = [window.update((40 + n) * SECOND // 2, (thin(1.0), agreement(z=-4))[n % 2])
             for n in range(40)]  # fmt: skip
    assert mixed[-1].verdict == 'camera'
    alone = AlignmentWindow(reference)
    for n in range(0, 40, 2):
        state = alone.update(n * SECOND // 2, agreement(z=-4))
    assert mixed[-1].z == pytest.approx(state.z, rel=0.1)


def test_a_wrong_mounting_says_how_it_is_turned(kit: Any, reference: AlignmentReference) -> None:
    def reason(sides: list[float], z: float = -1.0) -> str:
        sample = replace(agreement(z=z, yaw=4), sides=np.array(sides))
        monitor = kit.monitor(alignment=replace(reference, side_degrees=np.full(4, 0.5)))
        samples = [replace(kit.evidence(), alignment=sample)] * 40
        return kit.play(monitor, samples)[-1].reason

    assert 'calibration (the lidar seems turned by yaw +2.0 degrees)' in reason([4.0, 0, 4, 0])
    assert 'by pitch -2.5 degrees)' in reason([0.0, -5, 0, -5])
    assert 'by yaw +2.0 degrees and pitch -2.5 degrees)' in reason([4.0, -5, 4, -5])
    assert 'calibration (whichever way the points are turned)' in reason([0.0, 0, 0, 0], -4.0)


def test_a_wrong_mounting_is_told_in_figures_both_ways(
    kit: Any, reference: AlignmentReference
) -> None:
    monitor = kit.monitor(alignment=replace(reference, side_degrees=np.full(4, 0.5)))
    sample = replace(agreement(z=-1.0), sides=np.array([1.0, -5, 1, -5]))
    plain, *_, state = kit.play(
        monitor, [kit.evidence()] + [replace(kit.evidence(), alignment=sample)] * 40
    )
    assert state.numbers['alignment_yaw_deg'] == pytest.approx(0.5)
    assert state.numbers['alignment_pitch_deg'] == pytest.approx(-2.5)
    assert 0 < state.numbers['alignment_yaw_z'] < 6
    assert state.numbers['alignment_pitch_z'] == pytest.approx(
        -5 * state.numbers['alignment_yaw_z']
    )
    assert state.numbers['alignment_pitch_z'] <= -7  # from there on it alarms
    assert state.scope == 'calibration'
    names = [f'alignment_{name}' for name in ('yaw_deg', 'yaw_z', 'pitch_deg', 'pitch_z')]
    assert all(math.isnan(plain.numbers[name]) for name in names)
    values = shift_values(state, ShiftSource('model'))
    assert [values[name] for name in names] == [f'{state.numbers[name]:.6f}' for name in names]


def test_a_gap_that_is_allowed_while_it_runs_starts_nothing_anew(
    kit: Any, reference: AlignmentReference
) -> None:
    monitor = kit.monitor(alignment=reference)
    sample = replace(kit.evidence(), alignment=agreement(z=-4))
    kit.play(monitor, [sample] * 10)
    monitor.config = replace(monitor.config, max_gap_s=5.0)
    states = [monitor.judge((10 + 4 * n) * SECOND, sample) for n in range(8)]
    assert not any(math.isnan(s.alignment_z) for s in states)


def test_certainty_grows_with_time_not_with_frames(reference: AlignmentReference) -> None:
    def after(period_s: float) -> float:
        window = AlignmentWindow(reference)
        state = None
        for n in range(round(8 / period_s) + 1):
            state = window.update(round(n * period_s * SECOND), agreement(yaw=1.0))
        assert state is not None
        return state.yaw_z

    assert after(0.5) == pytest.approx(after(0.1), rel=0.05)
    assert after(0.5) > 2


def test_window_forgets(reference: AlignmentReference) -> None:
    window = AlignmentWindow(reference, window_s=5)
    for n in range(10):
        state = window.update(n * SECOND, agreement())
    assert state.samples == 6
    for n in range(10, 18):
        state = window.update(n * SECOND, None)
    assert state.samples == 0
    assert math.isnan(state.z)
    assert state.verdict == ''
    window.update(20 * SECOND, agreement())
    assert window.update(3 * SECOND, agreement()).samples == 1
    assert window.update(30 * SECOND, agreement()).samples == 1
    window.reset()
    assert window.update(31 * SECOND, None).samples == 0
