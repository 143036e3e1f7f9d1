# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The readers on real recordings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from clcp_ros import image_codec
from clcp_ros.errors import RecordingError
from clcp_ros.point_cloud import cloud_fields
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points, visible_points
from training.sources import SourceOptions, a2d2, kitti_odometry, open_source
from training.sources._pointcloud2 import decode_cloud, learn_convention
from training.sources._rosbag_calibration import _intrinsics_of_info, _model
from training.sources._rosbag_topics import choose_topics
from training.sources.base import Drops

pytestmark = pytest.mark.sample_data


def convert(path: Path, out: Path, **options) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(), preview=True)
    return PairSet(out)


@pytest.fixture
def npz(sample_data) -> Path:
    return next((sample_data / 'a2d2').glob('camera_lidar_semantic_bboxes/*/lidar/*/*.npz'))


@pytest.fixture
def a2d2_calibration(sample_data) -> Path:
    return next((sample_data / 'a2d2').glob('cams_lidars*.json'))


def test_a2d2_row_and_col_are_reproduced(npz, a2d2_calibration):
    with np.load(npz, allow_pickle=False) as content:
        points = content['points']
        stated = np.stack([content['col'], content['row']], axis=1)
        depth_stated = content['depth']
    K = a2d2.read_calibration(a2d2_calibration, 'front_center').K
    uv, depth = project_points(points, K, a2d2.T_OPTICAL_VIEW)
    assert np.abs(uv - stated).max() < 1e-6
    np.testing.assert_allclose(depth, depth_stated)
    scan = a2d2.read_scan(npz)
    assert scan.points.shape == (8196, 5)
    assert 0 <= scan.points[:, 3].min() < scan.points[:, 3].max() <= 1
    assert np.abs(scan.points[:, 4]).max() < 0.2


def test_a2d2_scene(sample_data, npz, a2d2_calibration, tmp_path):
    """The npz's own image is not among the samples: another image stands in for it."""
    scene = tmp_path / 'a2d2' / 'camera_lidar_semantic' / '20180810_142822'
    images = sorted((sample_data / 'a2d2').glob('camera_lidar_semantic/*/camera/*/*.png'))
    for kind, source in (('camera', images[0]), ('lidar', npz)):
        folder = scene / kind / 'cam_front_center'
        folder.mkdir(parents=True)
        name = f'20180810142822_{kind}_frontcenter_000015196{source.suffix}'
        shutil.copy(source, folder / name)
    shutil.copy(a2d2_calibration, scene.parent / 'cams_lidars.json')
    pairs = convert(tmp_path / 'a2d2', tmp_path / 'pairs')
    pair = pairs[0]
    assert pair.image.shape == (1208, 1920, 3)
    # Telecam barrel distortion: rectified, the corners have moved by more than 20 px.
    distorted = image_codec.decode_bytes(images[0].read_bytes())
    assert np.abs(pair.image.astype(int) - distorted).mean() > 5
    _, _, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, 1920, 1208)
    assert seen.all()


def test_a2d2_samples_have_no_pairs(sample_data, tmp_path):
    with pytest.raises(RecordingError, match='no npz of the same number'):
        convert(sample_data / 'a2d2', tmp_path / 'pairs')
    assert list(tmp_path.iterdir()) == []


def test_a2d2_labels(sample_data):
    labels = sorted((sample_data / 'a2d2').glob('camera_lidar_semantic/*/label/*/*.png'))
    assert labels
    for path in labels:
        ids, unknown = a2d2.labels_to_train_ids(image_codec.decode_bytes(path.read_bytes()))
        assert unknown == 0
        assert {0, 10} <= set(np.unique(ids).tolist())
        # Sky is up, road is down.
        assert np.argwhere(ids == 10)[:, 0].mean() < 500 < np.argwhere(ids == 0)[:, 0].mean()


def test_kitti_raw(sample_data, tmp_path):
    pairs = convert(sample_data / 'kitti_raw', tmp_path / 'pairs')
    assert len(pairs) == 10
    assert pairs.verify() == []
    pair = pairs[5]
    assert pair.image.shape == (375, 1242, 3)
    assert 100_000 < len(pair.points) < 130_000
    uv, depth, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, 1242, 375)
    assert 12_000 < seen.sum() < 25_000
    # Below the horizon lies the road, 1.65 m below the camera: depth = fy * 1.65 / (v - cy).
    below = seen & (uv[:, 1] > 330) & (np.abs(uv[:, 0] - 600) < 60)
    expected = 721.5 * 1.65 / (uv[below, 1] - 172.9)
    assert np.median(np.abs(depth[below] / expected - 1)) < 0.1
    # Depth edges of a good calibration lie on image edges: more so than shifted by 20 pixels.
    gray = pair.image.astype(np.float32).mean(axis=-1)
    gradient = np.abs(np.gradient(gray, axis=1))
    order = np.argsort(np.arctan2(pair.points[:, 1], pair.points[:, 0]) + 10 * np.round(
        np.arcsin(pair.points[:, 2] / np.linalg.norm(pair.xyz, axis=1)) / 0.007))  # fmt: skip
    order = order[seen[order]]
    jump = np.diff(depth[order]) > 3
    edges = np.round(uv[order][:-1][jump]).astype(int).clip(25, [1215, 374])
    strength = [gradient[edges[:, 1], edges[:, 0] + shift].mean() for shift in (0, -20, 20)]
    assert strength[0] > max(strength[1:])
    preview = image_codec.decode_bytes((tmp_path / 'pairs' / 'preview.png').read_bytes())
    assert len(np.unique(preview.reshape(-1, 3), axis=0)) > 5000


def road_error(pair, box: tuple[int, int, int, int], height: float) -> float:
    """Median relative error of depths in a box that shows flat road, the camera at a height."""
    rows, columns = pair.image.shape[:2]
    uv, depth, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, columns, rows)
    left, top, right, bottom = box
    road = seen & (uv[:, 0] > left) & (uv[:, 0] < right) & (uv[:, 1] > top) & (uv[:, 1] < bottom)
    assert road.sum() > 50
    expected = pair.K[1, 1] * height / (uv[road, 1] - pair.K[1, 2])
    return float(np.median(np.abs(depth[road] / expected - 1)))


def test_kitti_object(sample_data, tmp_path):
    pairs = convert(sample_data / 'kitti_object', tmp_path / 'pairs')
    assert len(pairs) == 3
    assert pairs.verify() == []
    assert len({tuple(p.K.ravel()) for p in pairs}) > 1  # frames of several drives
    for pair in pairs:
        rows, columns = pair.image.shape[:2]
        _, _, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, columns, rows)
        assert 10_000 < seen.sum() < 30_000
    # Frame 1 is a straight road; KITTI's cameras are 1.65 m above it.
    assert road_error(pairs[1], (450, 250, 750, 375), 1.65) < 0.1


def test_kitti_object_boxes(sample_data, tmp_path):
    """The labelled pedestrian of frame 0 is as far in the scan as in its 3-D box."""
    pair = convert(sample_data / 'kitti_object', tmp_path / 'pairs')[0]
    label = (sample_data / 'kitti_object/training/label_2/000000.txt').read_text().split()
    assert label[0] == 'Pedestrian'
    left, top, right, bottom = (float(v) for v in label[4:8])
    uv, depth = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
    middle = (np.abs(uv[:, 0] - (left + right) / 2) < 8) & (np.abs(uv[:, 1] - top - 70) < 30)
    assert middle.sum() > 20
    assert abs(np.median(depth[middle]) - float(label[13])) < 0.5
    assert bottom > top


def test_nuscenes_all_cameras(sample_data, tmp_path):
    pairs = convert(sample_data / 'nuscenes', tmp_path / 'pairs', camera='all')
    assert len(pairs) == 6
    assert pairs.verify() == []
    by_camera = {p.camera: p for p in pairs}
    for pair in pairs:
        assert pair.image.shape == (900, 1600, 3)
        assert len(pair.points) == 34_688
        assert pair.columns == ('x', 'y', 'z', 'intensity', 'ring')
        assert set(np.unique(pair.points[:, 4])) == set(range(32))
        _, _, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, 1600, 900)
        assert 2500 < seen.sum() < 6000
    # All six together see nearly all directions: no two look the same way.
    seen = [visible_points(p.xyz, p.K, p.T_camera_lidar, 1600, 900)[2] for p in pairs]
    assert np.sum(seen, axis=0).max() <= 2
    assert road_error(by_camera['CAM_FRONT'], (600, 650, 1000, 900), 1.51) < 0.06
    gaps = {c: (p.lidar_stamp_ns - p.camera_stamp_ns) / 1e6 for c, p in by_camera.items()}
    assert gaps['CAM_FRONT'] == pytest.approx(35.491)
    # The vehicle drove 0.3 m between front image and scan: compensated, the camera sees the scan
    # from further back than it is mounted.
    mounted = np.array([1.70079, 0.01595, 1.51096]) - np.array([0.943713, 0.0, 1.84023])
    origin = np.linalg.inv(by_camera['CAM_FRONT'].T_camera_lidar)[:3, 3]
    assert np.linalg.norm(origin) - np.linalg.norm(mounted) < -0.2


def test_semantickitti_labels(sample_data):
    folder = sample_data / 'semantickitti' / 'sequences' / 'XX'
    points = np.fromfile(folder / 'velodyne' / '000000.bin', '<f4').reshape(-1, 4)
    semantic, _ = kitti_odometry.read_labels(folder / 'labels' / '000000.label', len(points))
    assert len(np.unique(semantic)) == 19
    ids, unknown = kitti_odometry.learning_ids(semantic)
    assert unknown == 0
    # Roads lie about 1.73 m below the scanner; buildings rise above it.
    road = kitti_odometry.SEMANTIC_CLASSES.index('road')
    building = kitti_odometry.SEMANTIC_CLASSES.index('building')
    assert np.median(points[ids == road, 2]) == pytest.approx(-1.73, abs=0.25)
    assert points[ids == building, 2].max() > 1


def test_semantickitti_without_images(sample_data, tmp_path):
    with pytest.raises(
        RecordingError, match='has scans and no images; KITTI publishes them apart'
    ):
        convert(sample_data / 'semantickitti', tmp_path / 'pairs')


def test_a2d2_class_list_is_known(sample_data):
    names = json.loads((sample_data / 'a2d2/camera_lidar_semantic/class_list.json').read_text())
    rgb = np.array([[list(bytes.fromhex(color[1:])) for color in names]], np.uint8)
    ids, unknown = a2d2.labels_to_train_ids(rgb)
    assert (len(names), unknown) == (55, 0)
    found = dict(zip(names.values(), ids[0].tolist(), strict=True))
    assert (found['Car 3'], found['RD normal street'], found['Rain dirt']) == (13, 0, 255)


def test_luminar_clouds(sample_data):
    bag = sample_data / 'rosbags' / 'embag_luminar_pointcloud2_ros1.bag'
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic == '/luminar_pointcloud']
        messages = [
            reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)
        ]
    assert len(messages) == 5
    clouds = [cloud_fields(m) for m in messages]
    convention = learn_convention(clouds)
    dropped = Drops()
    for message, cloud in zip(messages, clouds, strict=True):
        points = decode_cloud(message, convention, 0, dropped)
        assert np.isfinite(points).all()
        assert len(points) > 30_000
        raw = np.frombuffer(message.data, '<f4').reshape(-1, message.point_step // 4)[:, :3]
        kept = np.isfinite(raw).all(1) & (raw != 0).any(1)
        np.testing.assert_array_equal(points[:, :3], raw[kept])
        assert 0 <= points[:, 3].min() < points[:, 3].max() <= 1
        assert len(cloud) == message.width


def test_raspberry_camera(sample_data):
    bag = sample_data / 'rosbags' / 'fiducials_compressedimage_camerainfo_ros1.bag'
    with AnyReader([bag]) as reader:
        kinds = {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}
        kinds['/points'] = ('sensor_msgs/msg/PointCloud2', 1)
        (topics,) = choose_topics(kinds, str(bag), SourceOptions())
        assert topics.image == '/raspicam_node/image/compressed'
        assert topics.camera_info == '/raspicam_node/camera_info'
        first = {}
        for connection, _, raw in reader.messages():
            first.setdefault(connection.topic, reader.deserialize(raw, connection.msgtype))
    image = image_codec.decode_compressed(first[topics.image])
    assert image.shape == (960, 1280, 3)
    intrinsics = _intrinsics_of_info(first[topics.camera_info], topics, str(bag))
    assert intrinsics.K[0, 0] == pytest.approx(1014.3431)
    assert intrinsics.K_rectified[0, 0] == pytest.approx(1031.86841)
    assert intrinsics.model == _model('plumb_bob', intrinsics.D, '') == 'plumb_bob'


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('embag_luminar_pointcloud2_ros1', r'no image topic; the bag has .*/luminar_pointcloud'),
        ('fiducials_compressedimage_camerainfo_ros1', 'no PointCloud2 topic; the bag has .*info'),
    ],
)
def test_bags_with_one_sensor(sample_data, tmp_path, name, says):
    with pytest.raises(RecordingError, match=says):
        convert(sample_data / 'rosbags' / f'{name}.bag', tmp_path / 'pairs')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('keep', [0, 100, 5000, 100_000, 3_000_000])
def test_truncated_ros1_bag(sample_data, tmp_path, keep):
    bag = sample_data / 'rosbags' / 'embag_luminar_pointcloud2_ros1.bag'
    cut = tmp_path / 'cut.bag'
    cut.write_bytes(bag.read_bytes()[:keep])
    with pytest.raises(RecordingError, match=r'cut\.bag cannot be read, it may be truncated'):
        convert(cut, tmp_path / 'pairs')
    assert [p.name for p in tmp_path.iterdir()] == ['cut.bag']
