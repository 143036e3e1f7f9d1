# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from training.simulation.camera import picture
from training.simulation.config import (
    ALL_CONDITIONS,
    FAULTS,
    LIGHTS,
    WEATHER,
    CameraConfig,
    Condition,
    LidarConfig,
    SimulationConfig,
    SimulationError,
    lidar_preset,
)
from training.simulation.exposure import Exposure, develop, meter, motion_blur
from training.simulation.faults import on_glass
from training.simulation.frame import Frame, Moment
from training.simulation.glare import veil
from training.simulation.lidar import BACKSCATTER, firing_times, measure, sweep
from training.simulation.light import light, sun_direction
from training.simulation.realism import noise_level

TINY = SimulationConfig(width=160, height=100, beams=32, columns=360)


@pytest.fixture(scope='module')
def moment() -> Moment:
    return Moment(TINY, town=1, time=5.0)


@pytest.fixture(scope='module')
def frames(moment: Moment) -> dict[str, Frame]:
    return {name: moment.frame(Condition(name, 0.8)) for name in ALL_CONDITIONS}


# --------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize('name', ALL_CONDITIONS)
def test_severity_nought_is_the_clear_day_bit_for_bit(moment: Moment, name: str) -> None:
    clear, none = moment.frame(Condition('clear')), moment.frame(Condition(name, 0.0))
    assert (none.image == clear.image).all()
    assert (none.scan.points == clear.scan.points).all()
    assert none.condition.name == name


@pytest.mark.parametrize('name', ALL_CONDITIONS[1:])
def test_little_severity_changes_little(moment: Moment, name: str) -> None:
    clear = moment.frame(Condition('clear')).image.astype(float)
    little, much = (
        np.abs(moment.frame(Condition(name, s)).image - clear).mean() for s in (0.02, 1.0)
    )
    assert little < 0.5 * much


def test_geometry_is_that_of_the_clear_day(frames: dict[str, Frame]) -> None:
    for frame in frames.values():
        assert (frame.labels == frames['clear'].labels).all()
        assert (frame.depth == frames['clear'].depth).all()
        assert (frame.T_world_base == frames['clear'].T_world_base).all()
    images = [frame.image.tobytes() for frame in frames.values()]
    assert len(set(images)) == len(images)


def test_neither_light_nor_faults_touch_the_lidar(frames: dict[str, Frame]) -> None:
    clear = frames['clear'].scan
    for name in LIGHTS + FAULTS:
        scan = frames[name].scan
        for field in ('points', 'intensity', 'ring', 'time', 'category'):
            assert (getattr(scan, field) == getattr(clear, field)).all(), name
    for name in WEATHER:
        assert len(frames[name].scan) != len(clear)


def test_weather_takes_returns_the_more_the_severer() -> None:
    moment = Moment(TINY, 4, 5.0)
    for name in WEATHER:
        real, air = [], []
        for severity in (0.0, 0.4, 0.7, 1.0):
            scan = moment.frame(Condition(name, severity)).scan
            real.append(int((scan.category != BACKSCATTER).sum()))
            air.append(int((scan.category == BACKSCATTER).sum()))
        assert real == sorted(real, reverse=True)
        assert air == sorted(air)
        assert air[0] == 0
    rain, fog, snow = (moment.frame(Condition(n, 1.0)).scan for n in ('rain', 'fog', 'snow'))
    lost = [len(moment.frame(Condition('clear')).scan) - len(s) for s in (rain, fog)]
    assert lost[0] < lost[1]
    assert (snow.category == BACKSCATTER).sum() > (rain.category == BACKSCATTER).sum()


def test_far_returns_vanish_in_fog_first() -> None:
    moment = Moment(TINY, 5, 5.0)
    clear, fog = (moment.frame(c).scan for c in (Condition('clear'), Condition.fog(60)))

    def shares(scan: object) -> np.ndarray:
        distance = np.linalg.norm(scan.points[scan.category != BACKSCATTER], axis=1)  # type: ignore[attr-defined]
        return np.histogram(distance, [0, 10, 30, 60, 200])[0]

    left = shares(fog) / np.maximum(shares(clear), 1)
    assert left[0] > left[1] > left[2]
    assert left[3] < 0.1


def test_lamps_shine_at_night_and_the_road_before_the_car_is_lit() -> None:
    moment = Moment(SimulationConfig(width=160, height=100), 4, 14.0, with_lidar=False)
    lamps = moment.view.lamplight
    road = moment.view.labels == 0
    x = moment.view.point[0]
    near, far = road & (x > 6) & (x < 14), road & (x > 60)
    assert lamps[0][near].mean() > 5 * lamps[0][far].mean()
    assert light(Condition('night', 1.0)).ambient[0] < 1e-3 * light(Condition('clear')).ambient[0]


def test_a_light_and_a_weather_at_once_are_both(moment: Moment, frames: dict[str, Frame]) -> None:
    both = moment.frame(Condition('night+rain', 0.8))
    assert (both.labels == frames['clear'].labels).all()
    assert both.image.mean() < 0.5 * frames['rain'].image.mean()
    # The lidar does not see the night.
    assert (both.scan.points == frames['rain'].scan.points).all()
    # Nor does rain at night look like night: the wet road mirrors the lamps.
    change = np.abs(both.image.astype(float) - frames['night'].image).mean()
    noise = moment.frame(Condition('night+rain', 0.79)).image.astype(float)
    assert change > 4 * np.abs(both.image - noise).mean()
    none = moment.frame(Condition('dusk+fog', 0.0))
    assert (none.image == frames['clear'].image).all()
    assert Condition('dusk+fog', 0.8).visibility_m == Condition('fog', 0.8).visibility_m


@pytest.mark.parametrize('name', ['rain+night', 'night+dusk', 'clear+rain', 'night+dirt', 'a+b+c'])
def test_what_cannot_be_at_once_is_one_clear_line(name: str) -> None:
    with pytest.raises(SimulationError, match=r'no condition') as caught:
        Condition(name)
    assert '\n' not in str(caught.value)


def test_clouds_pass_on_the_clear_day() -> None:
    covers = [Moment(TINY, 1, float(t), with_lidar=False).scene.cloud_cover for t in range(0, 60)]
    assert min(covers) == 0
    assert max(covers) == 1
    assert max(np.abs(np.diff(covers))) < 0.3
    sunny, cloudy = (light(Condition('clear'), c) for c in (0.0, 1.0))
    assert sunny.sun[0] > 10 * cloudy.sun[0]
    half = light(Condition('clear'), 0.5)
    assert cloudy.sun[0] < half.sun[0] < sunny.sun[0]
    # A low sun shines below the clouds, and nothing of them is left at the worst.
    assert light(Condition('low_sun', 1.0), 1.0) == light(Condition('low_sun', 1.0), 0.0)


def test_a_low_sun_ahead_glares_and_one_behind_does_not() -> None:
    config = replace(TINY, camera_configs=(
        CameraConfig(160, 100), CameraConfig(160, 100, name='rear', rotation=(0, 0, math.pi)),
    ))  # fmt: skip
    moment = Moment(config, 5, 2.0, with_lidar=False)
    low = Condition('low_sun', 0.8)
    sun, lit = sun_direction(moment.scene, low), light(low)
    ahead, behind = moment.views
    glare = veil(ahead, low, lit, sun)
    assert glare is not None
    assert veil(behind, low, lit, sun) is None
    # Brighter than a lit road in much of the picture, but not everywhere.
    assert 0.02 < (glare[..., 0] > lit.ambient[0]).mean() < 0.9


# -------------------------------------------------------------------------------------- camera


def test_exposure_follows_the_light_and_then_the_gain(frames: dict[str, Frame]) -> None:
    taken = {name: frames[name].pictures[0] for name in LIGHTS}
    times = [taken[name].exposure_s for name in ('clear', 'low_sun', 'dusk')]
    assert times == sorted(times)
    assert times[0] < 4e-3
    camera = TINY.camera
    assert taken['night'].exposure_s == pytest.approx(camera.max_exposure_s)
    assert 1 < taken['night'].gain <= camera.max_gain * 1.001
    assert taken['clear'].gain == 1


@pytest.mark.parametrize('factor', [0.25, 1.0, 4.0])
def test_auto_exposure_undoes_a_brighter_scene(moment: Moment, factor: float) -> None:
    rng = np.random.default_rng(0)
    scene = rng.uniform(0.05, 0.5, (64, 96, 3)).astype(np.float32)
    usual = meter(scene, TINY.camera)
    other = meter(scene * np.float32(factor), TINY.camera)
    assert other.total * factor == pytest.approx(usual.total, rel=0.01)


def test_exposure_of_a_moment_does_not_depend_on_what_was_seen_before() -> None:
    night, clear = Condition('night', 0.9), Condition('clear')
    first = Moment(TINY, 1, 2.0, False)
    a = first.frame(night).image
    first.frame(clear)
    Moment(TINY, 1, 1.9, False).frame(clear)
    assert (first.frame(night).image == a).all()
    assert (Moment(TINY, 1, 2.0, False).frame(night).image == a).all()


def test_noise_is_photons_and_electronics() -> None:
    camera = CameraConfig(256, 256, full_well=10_000, read_noise=20)
    for level, gain in ((0.2, 1.0), (0.2, 8.0), (0.06, 8.0)):
        scene = np.full((256, 256, 3), level / gain, np.float32)
        exposure = Exposure(1e-3, gain)
        seen = [
            develop(scene.copy(), exposure, camera, np.random.default_rng(i)).astype(float)
            for i in range(2)
        ]
        measured = (seen[0] - seen[1]).std() / np.sqrt(2)
        sigma = np.sqrt(level * gain / 10_000 + (20 * gain / 10_000) ** 2)
        quiet = CameraConfig(16, 16, full_well=1e12, read_noise=0)
        step = 0.01 * level
        low, high = (
            develop(np.full((16, 16, 3), v / gain, np.float32), exposure, quiet,
                    np.random.default_rng(0)).mean()
            for v in (level - 10 * step, level + 10 * step)
        )  # fmt: skip
        slope = (high - low) / (20 * step)
        assert measured == pytest.approx(sigma * slope, rel=0.25)


def test_night_and_the_noise_fault_are_noisier(frames: dict[str, Frame]) -> None:
    grey = {name: frames[name].image.mean(2) for name in ('clear', 'noise')}
    assert noise_level(grey['noise']) > 2 * noise_level(grey['clear'])


def test_motion_blur_only_when_moving_and_only_while_the_shutter_is_open() -> None:
    moment = Moment(SimulationConfig(width=160, height=100), 1, 5.0, with_lidar=False)
    view = moment.view
    image = np.random.default_rng(0).uniform(0, 1, (100, 160, 3)).astype(np.float32)
    assert (motion_blur(image, view, 1e-5) == image).all()
    blurred = motion_blur(image, view, 0.05)
    sharp, soft = (np.abs(np.diff(a, axis=1)).mean() for a in (image, blurred))
    assert soft < 0.9 * sharp
    standing = Moment(SimulationConfig(width=160, height=100), 1, 5.0, with_lidar=False).view
    standing.scene.velocity = np.zeros(3)
    standing.scene.yaw_rate = 0.0
    parked = np.linalg.norm(standing.hits.velocity, axis=-1) == 0
    assert (standing.flow[parked] == 0).all()
    assert (motion_blur(image, standing, 0.05)[parked] == image[parked]).mean() > 0.95


def test_flow_is_how_the_points_move_in_the_picture() -> None:
    for D in ((), (-0.2, 0.03, 0.0, 0.0)):
        camera = CameraConfig(160, 100, D=D, rotation=(0.0, 0.1, 0.4))
        config = SimulationConfig(camera_configs=(camera,))
        view = Moment(config, 1, 5.0, with_lidar=False).view
        dt = 0.01
        T = np.linalg.inv(view.scene.ego_pose(np.array([dt]))[0] @ camera.T_base_camera)
        standing = view.hit & (np.linalg.norm(view.hits.velocity, axis=-1) < 1e-6)
        standing &= view.hits.distance > 4
        points = view.hits.point[standing] @ T[:3, :3].T + T[:3, 3]
        v, u = np.nonzero(standing)
        moved = (camera.project(points) - np.column_stack([u, v])) / dt
        error = np.linalg.norm(moved - view.flow[standing], axis=1)
        assert np.median(error) < 0.05 * np.median(np.linalg.norm(moved, axis=1)) + 1


def test_vignetting_darkens_the_corners() -> None:
    images = []
    for vignetting in (0.0, 0.5):
        camera = CameraConfig(160, 100, vignetting=vignetting)
        config = SimulationConfig(camera_configs=(camera,))
        images.append(Moment(config, 1, 5.0, False).frame(Condition('clear')).image.astype(float))
    middle, corner = np.s_[40:60, 70:90], np.s_[90:, :20]
    ratio = [image[corner].mean() / image[middle].mean() for image in images]
    assert ratio[1] < 0.9 * ratio[0]


# -------------------------------------------------------------------------------------- faults


def test_covered_ends_black_and_over_exposure_white(moment: Moment) -> None:
    assert moment.frame(Condition('covered', 1.0)).image.max() < 30
    assert np.median(moment.frame(Condition('over_exposure', 1.0)).image) > 245
    assert moment.frame(Condition('under_exposure', 1.0)).image.mean() < 12


@pytest.mark.parametrize('name', ['dirt', 'covered'])
def test_dirt_and_cover_belong_to_the_drive(name: str) -> None:
    grey = np.full((100, 160, 3), 0.3, np.float32)
    first, again, other = (on_glass(grey, name, 0.6, drive) for drive in ((0, 1), (0, 1), (0, 2)))
    assert (first == again).all()
    assert (first != other).mean() > 0.1
    less = on_glass(grey, name, 0.3, (0, 1))
    assert (first <= less + 0.02).all()


def test_a_view_without_sky_or_ground_is_no_trouble() -> None:
    for pitch in (-1.5, 1.5):
        camera = CameraConfig(64, 48, math.radians(20), rotation=(0.0, pitch, 0.0))
        shot = Moment(SimulationConfig(camera_configs=(camera,)), 2, 3.0, with_lidar=False)
        for name in ALL_CONDITIONS:
            assert shot.frame(Condition(name, 0.9)).image.shape == (48, 64, 3)


def test_defocus_blurs(frames: dict[str, Frame]) -> None:
    def edges(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image.astype(float), axis=1)).mean())

    assert edges(frames['defocus'].image) < 0.6 * edges(frames['clear'].image)


def test_frozen_shows_what_was_seen_when_it_froze() -> None:
    then = Moment(TINY, 2, 3.0, with_lidar=False).frame(Condition('clear'))
    for time in (3.5, 4.0):
        now = Moment(TINY, 2, time)
        frozen = now.frame(Condition('frozen', 0.8, since=3.0))
        assert (frozen.image == then.image).all()
        assert (frozen.labels == now.frame(Condition('clear')).labels).all()
    at_begin = Moment(TINY, 2, 0.5, with_lidar=False)
    assert at_begin.frame(Condition('frozen', 1.0)).image.std() > 5


def test_several_cameras_have_their_own_dirt_and_noise() -> None:
    cameras = (CameraConfig(160, 100), CameraConfig(160, 100, name='twin'))
    shot = Moment(SimulationConfig(camera_configs=cameras), 1, 5.0, with_lidar=False)
    one, two = shot.frame(Condition('dirt', 0.8)).pictures
    assert (one.labels == two.labels).all()
    assert np.abs(one.image.astype(float) - two.image).mean() > 3


def test_drops_stay_on_the_glass_for_a_while() -> None:
    from training.simulation.particles import _drops

    first, soon, later = (_drops(0.8, t, (0, 1, 0, 3)) for t in (10.0, 10.05, 40.0))
    assert len(first) > 5
    places = [
        {(round(x, 2), round(r, 4)) for x, _, r, _ in drops} for drops in (first, soon, later)
    ]
    assert len(places[0] & places[1]) > 0.8 * len(places[0])
    assert len(places[0] & places[2]) < 0.3 * len(places[0])


def test_a_picture_does_not_depend_on_those_before_it(moment: Moment) -> None:
    view = moment.view
    a, _ = picture(view, Condition('snow', 0.9), (1, 2, 3), (4, 5), 6.0)
    picture(view, Condition('rain', 0.3), (9, 9), (4, 5), 7.0)
    b, _ = picture(view, Condition('snow', 0.9), (1, 2, 3), (4, 5), 6.0)
    assert (a == b).all()


# --------------------------------------------------------------------------------------- lidar


@pytest.mark.parametrize(
    ('beams', 'low', 'high'),
    [(16, -15, 15), (32, -30.67, 10.67), (64, -24.33, 2), (128, -25, 15), (40, -25, 8)],
)
def test_presets(beams: int, low: float, high: float) -> None:
    lidar = lidar_preset(beams)
    angles = np.degrees(lidar.elevations)
    assert len(angles) == beams
    assert angles[0] == pytest.approx(low)
    assert angles[-1] == pytest.approx(high)
    assert (np.diff(angles) > 0).all()
    scan = (
        Moment(replace(TINY, lidar_config=lidar_preset(beams, 64)), 1, 5.0)
        .frame(Condition('clear'))
        .scan
    )
    elevation = np.degrees(np.arcsin(scan.points[:, 2] / np.linalg.norm(scan.points, axis=1)))
    # The vehicle moves by less than half a metre during half a revolution.
    far = np.linalg.norm(scan.points, axis=1) > 10
    assert np.abs(elevation - angles[scan.ring])[far].max() < 1.0


def test_raw_scans_are_skewed_by_the_ego_motion_and_compensation_undoes_it() -> None:
    def scan_of(motion: str) -> Frame:
        lidar = LidarConfig(
            16, 256, motion=motion, dropout=0.0, range_noise=0.0, rotation=(0.0, 0.0, 0.3)
        )
        return Moment(replace(TINY, lidar_config=lidar), 5, 7.0).frame(Condition('clear'))

    raw, compensated = scan_of('raw'), scan_of('compensated')
    assert len(raw.scan) == len(compensated.scan)
    shift = np.linalg.norm(raw.scan.points - compensated.scan.points, axis=1)
    speed = np.linalg.norm(raw.velocity)
    # Constant speed: the skew is the way driven between the stamp and the point's own time.
    assert np.allclose(shift, np.abs(raw.scan.time) * speed, atol=0.15 + 0.1 * shift.max())
    assert shift.max() > 0.4 * speed * 0.1
    T = raw.lidar.T_base_lidar
    poses = Moment(TINY, 5, 7.0, False).scene.ego_pose(raw.scan.time.astype(float))
    moved = np.linalg.inv(T) @ poses @ T
    undone = np.einsum('nij,nj->ni', moved[:, :3, :3], raw.scan.points) + moved[:, :3, 3]
    assert np.abs(undone - compensated.scan.points).max() < 2e-3


def test_point_times_follow_the_azimuth() -> None:
    lidar = lidar_preset(16, 200, motion='raw')
    scan = Moment(replace(TINY, lidar_config=lidar), 1, 5.0).frame(Condition('clear')).scan
    azimuth = np.arctan2(scan.points[:, 1], scan.points[:, 0])
    assert (
        np.abs(scan.time + azimuth / (2 * np.pi) * lidar.period).max() < 1e-6 + lidar.period / 400
    )
    assert firing_times(lidar)[0] == pytest.approx(-0.05 + 0.1 / 400)


def test_returns_get_rarer_with_range_and_incidence() -> None:
    lidar = LidarConfig(64, 512, dropout=0.0)
    shot = Moment(replace(TINY, lidar_config=lidar), 4, 5.0)
    returns = sweep(shot.scene, lidar)
    scan = measure(returns, lidar, Condition('clear'), (1,))
    hits = returns.hits
    seen = np.zeros(hits.distance.shape, bool)
    column = np.round((scan.time / lidar.period + 0.5) * lidar.columns - 0.5).astype(int)
    seen[column, scan.ring] = True
    hit = np.isfinite(hits.distance) & (hits.distance < lidar.max_range)
    steep, flat = hit & (hits.cosine > 0.5), hit & (hits.cosine < 0.1)
    near, far = hit & (hits.distance < 15), hit & (hits.distance > 50)
    assert seen[near].mean() > 0.97 > seen[far].mean()
    both = hits.distance > 25
    assert seen[steep & both].mean() > seen[flat & both].mean()


def test_intensity_depends_on_the_material() -> None:
    from clcp_ros.classes import CITYSCAPES

    lidar = LidarConfig(64, 512)
    scan = Moment(replace(TINY, lidar_config=lidar), 2, 5.0).frame(Condition('clear')).scan
    ids = {name: i for i, name in enumerate(CITYSCAPES.names)}
    mean = {
        name: scan.intensity[scan.category == ids[name]].mean()
        for name in ('road', 'vegetation', 'traffic sign')
        if (scan.category == ids[name]).any()
    }
    assert mean['road'] < mean['vegetation']
    if 'traffic sign' in mean:
        assert mean['traffic sign'] > mean['road']


@pytest.mark.parametrize(
    'wrong',
    [
        {'motion': 'skewed'}, {'beams': 1}, {'columns': 4}, {'table': (0.1,)}, {'dropout': 1.0},
        {'max_range': 0.0}, {'range_noise': -1.0}, {'table': (0.2, 0.1), 'beams': 2},
        {'position': (0.0, 0.0)}, {'response': ((0.0, 0.1), (1.0, 1.0))},
    ],
)  # fmt: skip
def test_impossible_lidars_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SimulationError, match=next(iter(wrong))):
        LidarConfig(**wrong)  # type: ignore[arg-type]
