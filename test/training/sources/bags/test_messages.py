# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images, clouds and calibrations as drivers write them."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, RecordingError


@pytest.mark.parametrize(
    ('encoding', 'make'),
    [
        ('rgb8', lambda p: p),
        ('bgr8', lambda p: p[..., ::-1]),
        ('rgba8', lambda p: p[..., [0, 1, 2, 0]]),
        ('bgra8', lambda p: p[..., [2, 1, 0, 0]]),
        ('rgb16', lambda p: p.astype(np.uint16) * 257),
    ],
)
def test_color_images(bags, tmp_path, encoding, make):
    drive = bags.Drive(2).replace(
        '/cam/image_raw', lambda s, _: bags.image(s, make(bags.picture(1)), encoding)
    )
    for pair in bags.read(drive.write(tmp_path / 'b')).pairs:
        np.testing.assert_array_equal(pair.image, bags.picture(1))


def test_big_endian_gray_with_padded_rows(bags, tmp_path):
    gray = bags.picture(0)[..., 0].astype('>u2') * 257
    rows = np.pad(np.ascontiguousarray(gray.astype('>u2')).view(np.uint8), ((0, 0), (0, 6)))
    message = bags.image(bags.START, gray, 'mono16', is_bigendian=1, step=rows.shape[1],
                         data=rows.ravel())  # fmt: skip
    drive = bags.Drive(1).replace('/cam/image_raw', lambda s, _: message)
    pair = bags.read(drive.write(tmp_path / 'b')).pairs[0]
    np.testing.assert_array_equal(pair.image, bags.picture(0)[..., :1].repeat(3, 2))


@pytest.mark.parametrize('bits', [8, 16])
def test_bayer_images(bags, tmp_path, bits):
    tile = np.array([[200, 90], [90, 30]], np.uint16 if bits == 16 else np.uint8)
    mosaic = np.tile(tile * (257 if bits == 16 else 1), (24, 32)).astype(tile.dtype)
    drive = bags.Drive(1).replace(
        '/cam/image_raw', lambda s, _: bags.image(s, mosaic, f'bayer_rggb{bits}')
    )
    pair = bags.read(drive.write(tmp_path / 'b')).pairs[0]
    np.testing.assert_array_equal(pair.image[0, 0], [200, 90, 30])


@pytest.mark.parametrize(
    ('stated', 'kept'),
    [('jpeg', True), ('bgr8; jpeg compressed bgr8', True), ('rgb8; png compressed', True),
     ('rgb8; jpeg compressed rgb8', False)],
)  # fmt: skip
def test_compressed_images_are_kept_where_they_are_plain_files(bags, tmp_path, stated, kept):
    encode = image_codec.encode_png if 'png' in stated else image_codec.encode_jpeg
    data = encode(bags.picture(1))
    drive = bags.Drive(1).without('/cam/image_raw')
    drive.add('/cam/image_raw/compressed', bags.START, bags.compressed(bags.START, data, stated))
    pair = bags.read(drive.write(tmp_path / 'b')).pairs[0]
    assert (pair.encoded == data) is kept
    assert (pair.image is None) is kept
    if not kept:
        swapped = image_codec.decode_bytes(data)[..., ::-1]
        np.testing.assert_array_equal(pair.image, swapped)


def test_depth_pictures_are_refused(bags, tmp_path):
    drive = bags.Drive(2).without('/cam/image_raw')
    for i in range(2):
        data = image_codec.encode_png(bags.picture(1))
        message = bags.compressed(bags.START, data, '16UC1; compressedDepth png')
        drive.add('/cam/image_raw/compressed', bags.START + i, message)
    found = bags.read(drive.write(tmp_path / 'b'))
    assert not found.pairs
    assert any('depth image' in reason for reason in found.dropped) or 'compressed' in str(
        found.dropped
    )


def test_images_of_another_size_cost_a_pair(bags, tmp_path):
    def change(stamp, message):
        if stamp != bags.START + bags.STEP:
            return message
        return bags.image(stamp, bags.picture(1)[:24, :32])

    found = bags.read(bags.Drive(3).replace('/cam/image_raw', change).write(tmp_path / 'b'))
    assert [p.key for p in found.pairs] == ['b/000000', 'b/000002']
    assert found.dropped['image: another size than the first one'] == 1


# Calibration


def test_region_of_interest_and_binning(bags, tmp_path):
    """K is for the whole sensor; the image is part of it, every second pixel."""
    full = np.array([[80.0, 0, 160], [0, 80, 120], [0, 0, 1]])
    info = bags.camera_info(
        bags.START, roi=(40, 20, 2 * bags.WIDTH, 2 * bags.HEIGHT), width=320, height=240,
        binning_x=2, binning_y=2, k=full.ravel(),
    )  # fmt: skip
    found = bags.read(
        bags.Drive(1).replace('/cam/camera_info', lambda s, _: info).write(tmp_path / 'b')
    )
    # Pixel (40, 20) of the sensor begins at -0.5 of the image; a pixel is two of the sensor's.
    wanted = [[40, 0, (160 - 40 + 0.5) / 2 - 0.5], [0, 40, (120 - 20 + 0.5) / 2 - 0.5], [0, 0, 1]]
    np.testing.assert_allclose(found.pairs[0].K, wanted)
    assert found.noted('region of interest at 40, 20', 'binning 2 x 2')


@pytest.mark.parametrize('binning', [(2, 2), (2, 1)])
def test_binning_alone(bags, tmp_path, binning):
    info = bags.camera_info(
        bags.START, width=bags.WIDTH * binning[0], height=bags.HEIGHT * binning[1],
        binning_x=binning[0], binning_y=binning[1],
    )  # fmt: skip
    found = bags.read(
        bags.Drive(1).replace('/cam/camera_info', lambda s, _: info).write(tmp_path / 'b')
    )
    np.testing.assert_allclose(
        found.pairs[0].K[[0, 1], [0, 1]], [bags.K[0, 0] / binning[0], bags.K[1, 1] / binning[1]]
    )


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'k': np.zeros(9)}, 'not calibrated, its K is zero'),
        ({'roi': (10, 10, 64, 48)}, 'not inside of 70 x 50'),
        ({'distortion_model': 'fisheye_poly9'}, "unknown distortion model 'fisheye_poly9'"),
        ({'d': np.array([np.nan] * 5)}, 'not finite'),
        ({'k': np.full(9, np.inf)}, 'not the matrix'),
    ],
)
def test_impossible_calibrations(bags, tmp_path, changes, says):
    if 'roi' in changes:
        changes = {**changes, 'width': 70, 'height': 50}
    info = bags.camera_info(bags.START, **changes)
    path = bags.Drive(1).replace('/cam/camera_info', lambda s, _: info).write(tmp_path / 'b')
    with pytest.raises(CalibrationError, match=says):
        bags.read(path)


def tf_drive(bags, *messages):
    drive = bags.Drive(1).without('/tf_static')
    for message in messages:
        drive.add('/tf_static', bags.START, message)
    return drive


def test_long_chains_both_ways_and_slashes(bags, tmp_path):
    """lidar up to the root and down to the camera, in a forest of other trees."""
    t, optical = bags.transform, (-0.5, 0.5, -0.5, 0.5)
    message = bags.tf(
        t('/roof', '/lidar', (0, 0, 0.2)), t('/body', 'roof', (0, 0, 1.3)),
        t('base_link', '/body', (0, 0, 0.5)), t('base_link', 'mast', (0, 0, 1)),
        t('mast', 'arm', (0, 0, 0.25)), t('arm', 'cam', (0, 0, 0.25)),
        t('cam', 'cam_optical', (0, 0, 0), optical), t('moon', 'crater'),
        t('trailer', 'trailer_lidar'),
    )  # fmt: skip
    found = bags.read(tf_drive(bags, message).write(tmp_path / 'b'))
    np.testing.assert_allclose(found.pairs[0].T_camera_lidar, bags.T_CAMERA_LIDAR, atol=1e-12)
    assert not found.noted('contradict')


def test_contradicting_transforms_are_noted(bags, tmp_path):
    t, optical = bags.transform, (-0.5, 0.5, -0.5, 0.5)
    message = bags.tf(
        t('lidar', 'cam_optical', (0, 0, -0.5), optical), t('lidar', 'base', (0, 0, -2)),
        t('base', 'cam_optical', (1, 0, 1.5), optical),
    )  # fmt: skip
    found = bags.read(tf_drive(bags, message).write(tmp_path / 'b'))
    np.testing.assert_allclose(found.pairs[0].T_camera_lidar, bags.T_CAMERA_LIDAR, atol=1e-12)
    assert found.noted('contradict each other')


def test_a_changed_static_transform_is_noted(bags, tmp_path):
    optical = (-0.5, 0.5, -0.5, 0.5)
    old = bags.tf(bags.transform('lidar', 'cam_optical', (9, 0, -0.5), optical))
    new = bags.tf(bags.transform('lidar', 'cam_optical', (0, 0, -0.5), optical))
    drive = tf_drive(bags, old).add('/tf_static', bags.START + 1, new)
    found = bags.read(drive.write(tmp_path / 'b'))
    np.testing.assert_allclose(found.pairs[0].T_camera_lidar, bags.T_CAMERA_LIDAR, atol=1e-12)
    assert found.noted('published with different values')


def test_loops_end(bags, tmp_path):
    t = bags.transform
    loop = bags.tf(t('a', 'b'), t('b', 'c'), t('c', 'a'), t('lidar', 'lidar'))
    with pytest.raises(CalibrationError, match="nothing is known of 'cam_optical'"):
        bags.read(tf_drive(bags, loop).write(tmp_path / 'b'))


def test_two_trees(bags, tmp_path):
    message = bags.tf(bags.transform('x', 'lidar'), bags.transform('y', 'cam_optical'))
    with pytest.raises(CalibrationError, match=r'different trees.*x -> lidar, y -> cam_optical'):
        bags.read(tf_drive(bags, message).write(tmp_path / 'b'))


def test_impossible_transforms_are_left_out(bags, tmp_path):
    message = bags.tf(bags.transform('lidar', 'other', (0, 0, 0), (0, 0, 0, 0)))
    drive = bags.Drive(1).add('/tf_static', bags.START, message)
    found = bags.read(drive.write(tmp_path / 'b'))
    assert len(found.pairs) == 1
    assert found.noted('damaged or impossible')


def test_frames_that_are_not_optical_are_noticed(bags, tmp_path):
    message = bags.tf(bags.transform('lidar', 'cam_optical', (0, 0, 50)))
    found = bags.read(tf_drive(bags, message).write(tmp_path / 'b'))
    assert found.noted('no point of the first scans falls on their images')


def test_calibration_file_for_several_cameras_and_lidars(bags, tmp_path):
    drive = bags.Drive(2).without('/tf_static', '/cam/camera_info')
    for topic, time, message in list(drive.messages):
        other = '/rear/image_raw' if 'image' in topic else '/second/points'
        drive.add(other, time, message)
    T, U = bags.T_CAMERA_LIDAR, bags.T_CAMERA_LIDAR @ np.diag([-1.0, -1, 1, 1])
    entry = {'K': bags.K.tolist()}
    file = tmp_path / 'c.yaml'
    lidars = {'lidar': T.tolist(), 'second': U.tolist()}
    cameras = {
        'cam': {**entry, 'T_camera_lidar': lidars},
        'rear': {**entry, 'T_camera_lidar': lidars},
    }
    file.write_text(yaml.safe_dump({'cameras': cameras}))
    path = drive.write(tmp_path / 'b')
    options = {'calibration': file, 'points_topic': 'all'}
    first = bags.read(path, 0, **options)
    assert first.sequences == ['b_cam_lidar', 'b_cam_second', 'b_rear_lidar', 'b_rear_second']
    np.testing.assert_array_equal(first.pairs[0].T_camera_lidar, T)
    np.testing.assert_array_equal(bags.read(path, 3, **options).pairs[0].T_camera_lidar, U)
    assert bags.read(path, 1, calibration=file).sequences == ['b_cam', 'b_rear']
    del cameras['rear']
    file.write_text(yaml.safe_dump({'cameras': cameras}))
    with pytest.raises(CalibrationError, match="nothing for 'rear', only for cam"):
        bags.read(path, 2, **options)


# Choice of topics


def test_named_topics(bags, tmp_path):
    drive = bags.Drive(2)
    for topic, time, message in list(drive.messages):
        if topic == '/lidar/points':
            drive.add('/rear_lidar/points', time, message)
            drive.add('/rear_lidar/points', time + 1, message)
    path = drive.write(tmp_path / 'b')
    assert bags.read(path).recording.lidar == 'rear_lidar'  # most messages
    assert bags.read(path, points_topic='lidar/points').recording.lidar == 'lidar'
    both = bags.read(path, points_topic='/lidar/points, /rear_lidar/points')
    assert both.sequences == ['b_lidar', 'b_rear_lidar']
    assert both.recording.drive == 'b'
    with pytest.raises(RecordingError, match=r"no topic '/nope'.*the bag has"):
        bags.read(path, points_topic='/lidar/points,/nope')


def test_packets_say_what_to_do(bags, tmp_path):
    """Only the driver makes points of a Velodyne's packets."""
    from rosbags.typesys import get_types_from_msg

    bags.store().register(
        get_types_from_msg(
            'std_msgs/Header header\nuint8[] packets', 'velodyne_msgs/msg/VelodyneScan'
        )
    )
    drive = bags.Drive(1).without('/lidar/points')
    scan = bags.make('velodyne_msgs/msg/VelodyneScan', header=bags.header(bags.START, 'velodyne'),
                     packets=np.zeros(1206, np.uint8))  # fmt: skip
    path = drive.add('/velodyne_packets', bags.START, scan).write(tmp_path / 'b')
    with pytest.raises(
        RecordingError, match=r'/velodyne_packets holds packets .*velodyne_pointcloud'
    ):
        bags.read(path)


@pytest.mark.parametrize('container', ['mcap', 'ros1'])
def test_livox_custom_messages(bags, tmp_path, container):
    drive = bags.Drive(3).without('/lidar/points')
    wanted = []
    for i in range(3):
        rng = np.random.default_rng(i)
        place = rng.uniform([5, -2, -1], [30, 2, 1], (50, 3)).astype(np.float32)
        place[7] = 0
        wanted.append(place)
        kind = 'livox_ros_driver2/msg/CustomPoint'
        points = [
            bags.make(kind, offset_time=n * 2_000_000, x=p[0], y=p[1], z=p[2], reflectivity=n,
                      tag=16, line=n % 4)
            for n, p in enumerate(place)
        ]  # fmt: skip
        stamp = bags.START + i * bags.STEP
        message = bags.make(
            'livox_ros_driver2/msg/CustomMsg', header=bags.header(stamp, 'lidar'), timebase=stamp,
            point_num=50, lidar_id=3, rsvd=np.zeros(3, np.uint8), points=points,
        )  # fmt: skip
        drive.add('/lidar/points', stamp, message)
    found = bags.read(drive.write(tmp_path / 'b', container))
    assert len(found.pairs) == 3
    for place, pair in zip(wanted, found.pairs, strict=True):
        kept = np.arange(50) != 7
        assert pair.columns == ('x', 'y', 'z', 'intensity', 'ring', 'time')
        np.testing.assert_array_equal(pair.points[:, :3], place[kept])
        np.testing.assert_allclose(pair.points[:, 3], np.arange(50)[kept] / 255, rtol=1e-6)
        np.testing.assert_array_equal(pair.points[:, 4], np.arange(50)[kept] % 4)
        np.testing.assert_allclose(pair.points[:, 5], np.arange(50)[kept] * 0.002, rtol=1e-6)
