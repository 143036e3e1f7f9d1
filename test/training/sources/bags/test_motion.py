# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stamps, offsets, poses and de-skewing of bags."""

from __future__ import annotations

import numpy as np
import pytest

from clcp_ros.errors import RecordingError
from training.pairs.odometry import has_kiss_icp
from training.pairs.offset import estimate_offset

SPEED = 10.0


def with_odometry(bags, drive, **changes):
    """Straight ahead at 10 m/s from x = 100."""
    for i in range(-20, 60):
        stamp = bags.START + i * 20_000_000
        message = bags.odometry(stamp, (100 + SPEED * i * 0.02, 0, 0), **changes)
        drive.add('/odom', stamp, message)
    return drive


def expected(bags, number: int) -> np.ndarray:
    """Points as the lidar would have seen them at the frame's time, 7 ms before the scan's."""
    wanted = bags.points(number)
    moved = np.stack([wanted[axis] for axis in 'xyz'], axis=1).astype(np.float64)
    moved[:, 0] += SPEED * (0.007 + wanted['time'])
    return moved


def test_odometry_moves_points_to_the_frames_stamp(bags, tmp_path, container):
    found = bags.read(with_odometry(bags, bags.Drive()).write(tmp_path / 'b', container))
    assert len(found.pairs) == 4
    for i, pair in enumerate(found.pairs):
        np.testing.assert_allclose(pair.points[:, :3], expected(bags, i), atol=1e-4)
        np.testing.assert_allclose(pair.T_world_ego[:3, 3], [100 + i, 0, 0], atol=1e-6)
        assert pair.source['deskewed'] == '/odom (base_link)'
    assert found.noted('de-skewed', '/odom')


def test_tf_moves_points_as_well(bags, tmp_path):
    """odom -> base_footprint moves, base_footprint -> base_link is fixed; map -> odom jumps."""
    drive = bags.Drive()
    drive.add(
        '/tf_static',
        bags.START,
        bags.tf(bags.transform('base_footprint', 'base_link', (0, 0, 0.3))),
    )
    for i in range(-20, 60):
        stamp = bags.START + i * 20_000_000
        moved = bags.transform('odom', 'base_footprint', (SPEED * i * 0.02, 0, 0), stamp_ns=stamp)
        jump = bags.transform('map', 'odom', (5.0 * (i > 8), 0, 0), stamp_ns=stamp)
        drive.add('/tf', stamp, bags.tf(moved, jump))
    found = bags.read(drive.write(tmp_path / 'b'))
    for i, pair in enumerate(found.pairs):
        np.testing.assert_allclose(pair.points[:, :3], expected(bags, i), atol=1e-4)
        np.testing.assert_allclose(pair.T_world_ego[:3, 3], [i, 0, 0], atol=1e-6)
    assert found.noted('/tf (odom to base_footprint)')


@pytest.mark.parametrize('child', ['', '/base_link', 'lidar'])
def test_names_of_the_odometrys_frame(bags, tmp_path, child):
    drive = with_odometry(bags, bags.Drive(1), child=child)
    pair = bags.read(drive.write(tmp_path / 'b')).pairs[0]
    np.testing.assert_allclose(pair.points[:, :3], expected(bags, 0), atol=1e-4)


def test_not_asked_for(bags, tmp_path):
    path = with_odometry(bags, bags.Drive()).write(tmp_path / 'b')
    found = bags.read(path, deskew='none')
    np.testing.assert_array_equal(found.pairs[0].points[:, 0], bags.points(0)['x'])
    assert found.pairs[0].T_world_ego is not None
    assert 'deskewed' not in found.pairs[0].source
    with pytest.raises(RecordingError, match='--deskew tf is not possible: nothing moves'):
        bags.read(path, deskew='tf')
    with pytest.raises(RecordingError, match='--deskew poses means nothing'):
        bags.read(path, deskew='poses')


def test_reasons_not_to(bags, tmp_path):
    def without_time(stamp, message):
        columns = bags.points(0)
        del columns['time']
        return bags.cloud(stamp, columns)

    untimed = with_odometry(bags, bags.Drive(2)).replace('/lidar/points', without_time)
    found = bags.read(untimed.write(tmp_path / 'untimed'))
    assert found.noted('not de-skewed', 'no times')
    np.testing.assert_array_equal(found.pairs[0].points[:, 0], bags.points(0)['x'])
    named = with_odometry(bags, bags.Drive(2))
    named.messages = [(t.replace('/lidar/points', '/lidar/deskewed_points'), s, m)
                      for t, s, m in named.messages]  # fmt: skip
    assert bags.read(named.write(tmp_path / 'named')).noted('motion-compensated by its name')
    assert bags.read(bags.Drive(2).write(tmp_path / 'no_poses')).noted('no poses', 'kiss-icp')
    elsewhere = with_odometry(bags, bags.Drive(2), child='trailer')
    assert bags.read(elsewhere.write(tmp_path / 'b')).noted("to 'trailer'")


def test_scans_beyond_the_poses_stay_as_they_are(bags, tmp_path):
    drive = with_odometry(bags, bags.Drive(30))
    found = bags.read(drive.write(tmp_path / 'b'))
    assert len(found.pairs) == 30
    assert found.pairs[3].T_world_ego is not None
    assert found.pairs[29].T_world_ego is None
    np.testing.assert_array_equal(found.pairs[29].points[:, 0], bags.points(29)['x'])
    assert found.noted('outside of the poses')


@pytest.mark.parametrize('wild', [1e5, 1e300])
def test_a_wild_pose_is_left_out(bags, tmp_path, wild):
    def change(time, message):
        if time == bags.START + 100_000_000:
            message.pose.pose.position.x = wild
        return message

    drive = with_odometry(bags, bags.Drive()).replace('/odom', change)
    for i, pair in enumerate(bags.read(drive.write(tmp_path / 'b')).pairs):
        np.testing.assert_allclose(pair.points[:, :3], expected(bags, i), atol=1e-4)
        assert pair.T_world_ego[0, 3] == pytest.approx(100 + i, abs=1e-6)


def test_poses_that_jump_are_of_no_use(bags, tmp_path):
    """A localisation that finds itself elsewhere: everything from then on is moved."""

    def change(time, message):
        if time >= bags.START + 100_000_000:
            message.pose.pose.position.y += 80
        return message

    drive = with_odometry(bags, bags.Drive()).replace('/odom', change)
    found = bags.read(drive.write(tmp_path / 'b'))
    assert found.noted('no poses', 'jump')
    np.testing.assert_array_equal(found.pairs[0].points[:, 0], bags.points(0)['x'])


def test_pose_messages(bags, tmp_path):
    drive = bags.Drive(2)
    for i in range(-20, 60):
        stamp = bags.START + i * 20_000_000
        whole = bags.odometry(stamp, (SPEED * i * 0.02, 0, 0))
        drive.add('/pose', stamp, bags.make('geometry_msgs/msg/PoseStamped', header=whole.header,
                                            pose=whole.pose.pose))  # fmt: skip
    pair = bags.read(drive.write(tmp_path / 'b')).pairs[1]
    np.testing.assert_allclose(pair.points[:, :3], expected(bags, 1), atol=1e-4)


@pytest.mark.skipif(not has_kiss_icp(), reason='KISS-ICP is not installed')
def test_kiss_icp(bags, tmp_path):
    """A corner of walls that comes nearer at 10 m/s, seen by a lidar that takes 0.1 s."""
    drive = bags.Drive(0)
    rng = np.random.default_rng(0)
    for i in range(12):
        stamp = bags.START + i * bags.STEP
        drive.add('/cam/image_raw', stamp, bags.image(stamp, bags.picture(i)))
        x, y, z = rng.uniform([-30, -15, -2], [40, 15, 4], (4500, 3)).T
        walls = [(40, y, z), (x, 15, z), (x, -12, z)]
        world = np.concatenate(
            [np.column_stack(np.broadcast_arrays(*wall))[n::3] for n, wall in enumerate(walls)]
        )
        time = rng.uniform(0, 0.1, len(world))
        world[:, 0] -= SPEED * (i * 0.1 + time)
        columns = {a: world[:, n].astype(np.float32) for n, a in enumerate('xyz')}
        columns['time'] = time.astype(np.float32)
        drive.add('/lidar/points', stamp, bags.cloud(stamp, columns))
    path = drive.write(tmp_path / 'b')
    found = bags.read(path, deskew='kiss-icp')
    assert found.noted('KISS-ICP')
    pair = found.pairs[8]
    ahead = pair.points[(np.abs(pair.points[:, 1]) < 10) & (pair.points[:, 0] > 20), 0]
    # At the frame's stamp the wall is 40 - 8 m away; smeared, it was a metre thick.
    assert np.ptp(ahead) < 0.3
    assert ahead.mean() == pytest.approx(32, abs=0.3)
    moved = found.pairs[11].T_world_ego[:3, 3] - found.pairs[3].T_world_ego[:3, 3]
    assert np.linalg.norm(moved) == pytest.approx(8, abs=0.4)


# Stamps


def test_times_of_recording_instead_of_headers(bags, tmp_path):
    """The transport delays scans by 30 ms."""
    drive = bags.Drive()
    drive.messages = [
        (t, s + 30_000_000 * (t == '/lidar/points'), m) for t, s, m in drive.messages
    ]
    path = drive.write(tmp_path / 'b')
    assert bags.read(path, stamp='header').pairs[0].lidar_stamp_ns == bags.START + 7_000_000
    found = bags.read(path, stamp='bag')
    assert found.pairs[0].lidar_stamp_ns == bags.START + 37_000_000
    np.testing.assert_allclose(found.pairs[0].points[:, 5], bags.points(0)['time'])
    assert found.noted('times of recording')
    with pytest.raises(RecordingError, match='known are header, bag'):
        bags.read(path, stamp='receive')


def test_offsets_of_the_sensors(bags, tmp_path):
    path = bags.Drive().write(tmp_path / 'b')
    found = bags.read(path, camera_offset=-0.02, lidar_offset=0.005)
    assert found.pairs[1].camera_stamp_ns == bags.START + bags.STEP - 20_000_000
    assert found.pairs[1].lidar_stamp_ns == bags.START + bags.STEP + 12_000_000
    assert found.noted('-0.02 s are added to the stamps of the images')
    # A whole period makes the pairs others.
    shifted = bags.read(path, camera_offset=0.1)
    assert [p.key for p in shifted.pairs] == ['b/000000', 'b/000001', 'b/000002']
    np.testing.assert_array_equal(shifted.pairs[0].points[:, 0], bags.points(1)['x'])


def test_a_clock_that_was_set_back(bags, tmp_path):
    """The headers' clock goes back by 0.83 s amid the drive: stamps occur twice."""
    back = 830_000_000
    drive = bags.Drive(12)

    def late(time, message):
        if time < bags.START + 6 * bags.STEP:
            return message
        stamp = message.header.stamp
        ns = stamp.sec * 10**9 + stamp.nanosec - back
        message.header = bags.header(ns, message.header.frame_id)
        return message

    for topic in ('/cam/image_raw', '/lidar/points'):
        drive = drive.replace(topic, late)
    found = bags.read(with_odometry(bags, drive).write(tmp_path / 'b'))
    assert found.noted('jumps back 1 time')
    assert len(found.pairs) == 12
    for i, pair in enumerate(found.pairs):
        np.testing.assert_array_equal(pair.image, bags.picture(i))
        np.testing.assert_array_equal(pair.points[:, 0], bags.points(i)['x'])
        assert abs(pair.lidar_stamp_ns - pair.camera_stamp_ns) == 7_000_000
        assert pair.T_world_ego is None


@pytest.mark.parametrize('wild', [-3_000_000_000, 400_000_000_000_000_000])
def test_a_single_wild_stamp_is_no_clock_that_was_set(bags, tmp_path, wild):
    def change(time, message):
        if time == bags.START + 3 * bags.STEP:
            message.header = bags.header(time + wild, 'cam_optical')
        return message

    drive = with_odometry(bags, bags.Drive(6)).replace('/cam/image_raw', change)
    found = bags.read(drive.write(tmp_path / 'b'))
    assert not found.noted('jumps')
    assert [p.key for p in found.pairs] == [f'b/{i:06d}' for i in (0, 1, 2, 4, 5)]
    assert found.pairs[3].T_world_ego is not None


def test_stamps_without_sense(bags, tmp_path):
    def change(time, message):
        late = time >= bags.START + 3 * bags.STEP
        message.header = bags.header(time - 3_200_000_000_000_000_000 * late, 'cam_optical')
        return message

    path = bags.Drive(6).replace('/cam/image_raw', change).write(tmp_path / 'b')
    with pytest.raises(RecordingError, match='make no sense: use --stamp bag'):
        bags.read(path)


def test_clocks_that_know_nothing_of_each_other(bags, tmp_path):
    def boot_time(stamp, _):
        return bags.image(stamp - bags.START + 12 * 10**9, bags.picture(0))

    path = bags.Drive().replace('/cam/image_raw', boot_time).write(tmp_path / 'b')
    with pytest.raises(RecordingError, match=r'at least 1699999987\.\d s apart.*--stamp bag'):
        bags.read(path)
    assert len(bags.read(path, stamp='bag').pairs) == 4


def test_frames_come_in_the_order_of_their_stamps(bags, tmp_path):
    """Recorded in another order, as with several drivers on a busy machine."""
    drive = bags.Drive(6)
    rng = np.random.default_rng(1)
    drive.messages = [
        (
            t,
            s
            + int(rng.integers(0, 4 * bags.STEP)) * (t[1:4] in ('cam', 'lid') and 'info' not in t),
            m,
        )
        for t, s, m in drive.messages
    ]
    found = bags.read(drive.write(tmp_path / 'b'))
    stamps = [p.camera_stamp_ns for p in found.pairs]
    assert stamps == sorted(stamps)
    assert len(stamps) == 6
    for i, pair in enumerate(found.pairs):
        np.testing.assert_array_equal(pair.image, bags.picture(i))
        np.testing.assert_array_equal(pair.points[:, 0], bags.points(i)['x'])


def test_offset_of_a_bag_that_cannot_tell(bags, tmp_path):
    """Random points agree with nothing."""
    still = bags.Drive(8)
    for i in range(-20, 60):
        stamp = bags.START + i * 20_000_000
        still.add('/odom', stamp, bags.odometry(stamp, (0, 0, 0)))
    found = estimate_offset(bags.read(still.write(tmp_path / 'b')).recording)
    assert found.seconds is None
    assert 'cannot be told' in found.text


def yaw(time_s: float) -> float:
    return 0.5 * np.sin(2 * np.pi * time_s / 2.5)


def poles(azimuth: np.ndarray) -> np.ndarray:
    """Whether a pole is there, 6 m away; the wall behind is at 14 m."""
    return np.sin(9 * azimuth + 2 * np.sin(3 * azimuth)) > 0.75


def turning_drive(bags, camera_late_s: float):
    """A vehicle that turns to and fro before poles, its camera's stamps too late."""
    drive = bags.Drive(0).without('/tf_static', '/cam/camera_info')
    optical = bags.transform('lidar', 'cam_optical', (0, 0, 0), (-0.5, 0.5, -0.5, 0.5))
    mount = bags.tf(bags.transform('base_link', 'lidar'), optical)
    focal, width, height = 160.0, 240, 40
    k = np.array([focal, 0, 119.5, 0, focal, 19.5, 0, 0, 1])
    info = bags.camera_info(bags.START, k=k, width=width, height=height)
    drive.add('/tf_static', bags.START, mount).add('/cam/camera_info', bags.START, info)
    rng = np.random.default_rng(0)
    seen = -np.arctan((np.arange(width) - 119.5) / focal)  # to the left is positive
    for i in range(40):
        time = 0.1 * i
        stamp = bags.START + i * bags.STEP
        gray = np.where(poles(seen + yaw(time)), 40.0, 180.0) + rng.normal(0, 3, (height, width))
        pixels = gray.clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
        late = stamp + round(camera_late_s * 1e9)
        drive.add('/cam/image_raw', late, bags.image(late, pixels))
        ring, own = np.meshgrid(np.arange(8), np.linspace(0.9, -0.9, 600))
        ring, own = ring.ravel(), own.ravel()
        offset = (0.9 - own) / 1.8 * 0.09 - 0.045
        distance = np.where(poles(own + yaw(time + offset)), 6.0, 14.0)
        elevation = np.radians(ring - 4.0)
        drive.add('/lidar/points', stamp, bags.cloud(stamp, {
            'x': (distance * np.cos(own)).astype(np.float32),
            'y': (distance * np.sin(own)).astype(np.float32),
            'z': (distance * np.tan(elevation)).astype(np.float32),
            'ring': ring.astype(np.uint16), 'time': offset.astype(np.float32),
        }))  # fmt: skip
    for i in range(-20, 250):
        time = 0.02 * i
        half = yaw(time) / 2
        stamp = bags.START + i * 20_000_000
        turn = (0, 0, np.sin(half), np.cos(half))
        drive.add('/odom', stamp, bags.odometry(stamp, (0, 0, 0), turn))
    return drive


@pytest.mark.parametrize('deskew', ['auto', 'none'])
def test_offset_of_a_bag(bags, tmp_path, deskew):
    path = turning_drive(bags, 0.04).write(tmp_path / 'b')
    found = estimate_offset(bags.read(path, deskew=deskew).recording)
    assert found.seconds == pytest.approx(-0.04, abs=0.01), found.text
    assert '--camera-offset -0.0' in found.text
    # With what was suggested it has nothing to add.
    again = estimate_offset(bags.read(path, camera_offset=found.seconds).recording)
    assert again.seconds == pytest.approx(found.seconds, abs=0.01), again.text
    assert 'nothing needs to be changed' in again.text
