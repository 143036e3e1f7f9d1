# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every layout, read back by the project's readers and others', against the simulated truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.pairs.pair_set import PairSet
from training.segmentation.frames import open_frames
from training.simulation.a2d2 import A2D2
from training.simulation.acdc import ADVERSE, Acdc
from training.simulation.bags import Bag, pack, unpack
from training.simulation.cityscapes import Cityscapes, Part
from training.simulation.config import (
    CONDITIONS,
    Condition,
    SimulationConfig,
    SimulationError,
    camera_rig,
    lidar_preset,
)
from training.simulation.frame import Frame, Moment
from training.simulation.kitti_odometry import RAW_IDS, KittiOdometry, calib_txt, sequences
from training.simulation.nuscenes import LIDARSEG, NuScenes, scenes
from training.simulation.recording import TRUTH, Recording, Shot, read_truths
from training.simulation.run import recordings_of, write_recordings
from training.sources import SourceOptions, open_source

CONFIG = SimulationConfig(
    rate_hz=10, seconds=0.2, width=96, height=64, beams=16, columns=180, train_frames=1,
    val_frames=1,
)  # fmt: skip
PARTS = (Part('train', 1, 1, ('clear',)), Part('val', 3, 1, CONDITIONS))
LAYOUTS: tuple[Recording, ...] = (
    A2D2(), Bag(1, (('clear', 1.0), ('fog', 1.0))), Cityscapes(parts=PARTS), Acdc(),
    KittiOdometry(), NuScenes(),
)  # fmt: skip


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('sim') / 'out'
    write_recordings(out, CONFIG, LAYOUTS, workers=1)
    return out


def frame_of(recording: Recording, shot: Shot, condition: str, config: Any = CONFIG) -> Frame:
    sensors = recording.sensors(config)
    moment = Moment(sensors, shot.town, shot.time, recording.with_lidar)
    return moment.frame(Condition(condition, config.severity))


def shot_of(recording: Recording, place: int, config: Any = CONFIG) -> tuple[Shot, str]:
    found = [(s, c) for s in recording.shots(config) for c in s.conditions]
    return found[place]


def pairs_of(path: Path, reader: str, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, 'auto', SourceOptions(**options))
    assert source.name == reader
    jobs = plan([(source.name, str(path), r) for r in recordings])
    build(jobs, out, BuildOptions(image_format='png'), preview=False)
    return PairSet(out)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def by_tag(pairs: PairSet, **tags: str) -> list[Any]:
    """Pairs with these tags, in the order of the set."""
    return [p for p in (pairs[i] for i in range(len(pairs))) if tags.items() <= p.tags.items()]


def assert_labels_under_points(frame: Frame, pair: Any) -> None:
    """Points of the pair lie on pixels of the class that they were simulated to hit."""
    uv, depth = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
    u, v = np.round(np.nan_to_num(uv, nan=-1)).astype(int).T
    h, w = frame.labels.shape
    inside = (depth > 1) & (u >= 0) & (v >= 0) & (u < w) & (v < h)
    assert inside.sum() > 50
    seen = frame.depth[v[inside], u[inside]]
    near = np.abs(seen - depth[inside]) < 0.05 * depth[inside] + 0.2
    assert near.mean() > 0.8


@pytest.mark.slow
def test_same_bytes_whatever_the_number_of_workers(written: Path, tmp_path: Path) -> None:
    write_recordings(tmp_path / 'three', CONFIG, LAYOUTS, workers=3)
    first = digests(written)
    assert first == digests(tmp_path / 'three')
    assert len(first) > 200


def test_every_recording_holds_its_truth(written: Path) -> None:
    for recording in LAYOUTS:
        truths = read_truths(written / recording.path / TRUTH)
        shots = [(s, c) for s in recording.shots(CONFIG) for c in s.conditions]
        assert [(t.town, t.condition, t.stamp_ns) for t in truths] == [
            (s.town, c, s.stamp_ns) for s, c in shots
        ]
        assert len({t.frame for t in truths}) == len(truths)
        assert {t.severity for t in truths} == {0.8}
        shot, condition = shots[-1]
        pose = frame_of(recording, shot, condition).T_world_base
        assert np.allclose(truths[-1].pose, pose, atol=1e-12)


def test_a2d2_through_the_reader(written: Path, tmp_path: Path) -> None:
    recording = LAYOUTS[0]
    pairs = pairs_of(written / 'a2d2' / 'camera_lidar_semantic', 'a2d2', tmp_path / 'pairs')
    assert len(pairs) == 2 * len(CONDITIONS)
    shot, condition = shot_of(recording, 9)
    pair = by_tag(pairs, condition=condition, severity='0.8', town='1')[1]
    frame = frame_of(recording, shot, condition)
    assert (pair.pixels() == frame.image).all()
    assert_labels_under_points(frame, pair)


def test_bag_through_the_reader(written: Path, tmp_path: Path) -> None:
    recording = LAYOUTS[1]
    pairs = pairs_of(written / 'bags' / 'town01', 'rosbag', tmp_path / 'pairs')
    assert len(pairs) == 4
    shot, condition = shot_of(recording, 3)
    frame = frame_of(recording, shot, condition)
    pair = pairs[3]
    assert pair.camera_stamp_ns == shot.stamp_ns
    assert np.allclose(pair.T_camera_lidar, frame.T_camera_lidar, atol=1e-9)
    assert np.abs(pair.pixels().astype(int) - frame.image).mean() < 6  # JPEG
    assert pair.T_world_ego is None or np.allclose(pair.T_world_ego, frame.T_world_base, atol=1e-6)


def test_kitti_of_a_stereo_rig_has_the_baseline_in_its_projections() -> None:
    config = SimulationConfig(camera_configs=camera_rig('stereo', 96, 64))
    rows = dict(line.split(': ') for line in calib_txt(config).splitlines())
    P2, P3 = (np.array(rows[name].split(), float).reshape(3, 4) for name in ('P2', 'P3'))
    assert P3[0, 3] == pytest.approx(-0.54 * P2[0, 0])
    assert np.allclose(P3[:, :3], P2[:, :3])
    assert P2[0, 3] == 0


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_storages_hold_the_same_messages(written: Path, tmp_path: Path, storage: str) -> None:
    bag = Bag(1, (('clear', 1.0), ('fog', 1.0)), storage)  # type: ignore[arg-type]
    write_recordings(tmp_path / 'out', CONFIG, [bag], workers=1)
    folder = tmp_path / 'out' / 'bags' / 'town01'
    suffix = {'mcap': '.mcap', 'sqlite3': '.db3'}[storage]
    assert [p.suffix for p in folder.iterdir() if p.stem == 'town01'] == [suffix]
    with Reader(folder) as found, Reader(written / 'bags' / 'town01') as expected:
        a, b = (
            [(c.topic, when, data) for c, when, data in r.messages()] for r in (found, expected)
        )
    assert len(a) > 30
    assert sorted(a) == sorted(b)


def test_bag_states_condition_severity_and_pose(written: Path) -> None:
    truths = read_truths(written / 'bags' / 'town01' / TRUTH)
    said: dict[str, list[Any]] = {}
    with AnyReader([written / 'bags' / 'town01']) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            said.setdefault(connection.topic, []).append(message)
    assert [m.data for m in said['/simulation/condition']] == ['clear'] * 2 + ['fog'] * 2
    assert [m.data for m in said['/simulation/severity']] == pytest.approx([0.8] * 4)
    poses = [(m.pose.pose.position, m.pose.pose.orientation) for m in said['/odometry']]
    transforms = [m.transforms[0].transform for m in said['/tf']]
    for stated in (poses, [(t.translation, t.rotation) for t in transforms]):
        for (p, q), truth in zip(stated, truths, strict=True):
            assert np.allclose([p.x, p.y, p.z], truth.pose[:3, 3])
            forward = [1 - 2 * (q.y**2 + q.z**2), 2 * (q.x * q.y + q.w * q.z)]
            assert np.allclose(forward, truth.pose[:2, 0], atol=1e-6)
    odometry = said['/odometry'][0]
    assert (odometry.header.frame_id, odometry.child_frame_id) == ('odom', 'base_link')


def test_messages_survive_waiting_in_a_file() -> None:
    messages = [('/a', 5, b'xyz'), ('/b/ü', -3, b''), ('/a', 2**62, bytes(300))]
    assert unpack(pack(messages)) == messages
    assert unpack(b'') == []


def test_cityscapes_through_the_reader(written: Path) -> None:
    frames = open_frames(written / 'cityscapes', 'val')
    assert frames.simulated
    assert set(frames.conditions) == set(CONDITIONS)
    recording = LAYOUTS[2]
    shot = recording.shots(CONFIG)[-1]
    for frame in frames.frames:
        truth = frame_of(recording, shot, frame.condition)
        image, labels = frames.read(frame)
        assert (image == truth.image).all()
        assert (labels == truth.labels).all()
    camera = json.loads(
        next((written / 'cityscapes' / 'camera').rglob('*_camera.json')).read_text()
    )
    assert camera['intrinsic']['fx'] == CONFIG.camera.K[0, 0]


def test_acdc_pairs_each_frame_with_its_clear_counterpart(written: Path) -> None:
    root = written / 'acdc'
    adverse, clear = open_frames(root, 'val'), open_frames(root, 'val_ref')
    assert adverse.layout == 'acdc'
    assert adverse.conditions == sorted(ADVERSE)
    assert clear.conditions == ['clear']
    assert len(open_frames(root, 'train')) == len(ADVERSE) * 2
    shot = next(s for s in LAYOUTS[3].shots(CONFIG) if s.town == 3)
    for frame in adverse.frames:
        name = str(frame.image).replace('/val/', '/val_ref/')
        other = next(
            f for f in clear.frames if str(f.image) == name.replace('_rgb_anon', '_rgb_ref_anon')
        )
        image, labels = adverse.read(frame)
        reference, same_labels = clear.read(other)
        assert (labels == same_labels).all()
        assert (image == frame_of(LAYOUTS[3], shot, frame.condition).image).all()
        assert (reference == frame_of(LAYOUTS[3], shot, 'clear').image).all()
        assert np.abs(image.astype(int) - reference).mean() > 3
    names = {p.name.partition('_gt_')[2] for p in (root / 'gt' / 'fog' / 'val').rglob('*.png')}
    assert names == {'labelTrainIds.png', 'labelIds.png', 'labelColor.png'}


def test_kitti_odometry_through_the_reader(written: Path, tmp_path: Path) -> None:
    root = written / 'kitti_odometry'
    pairs = pairs_of(root, 'kitti_odometry', tmp_path / 'pairs')
    assert len(pairs) == 2 * len(sequences())
    recording = LAYOUTS[4]
    shot, condition = shot_of(recording, 2 * CONDITIONS.index('rain') + 1)
    frame = frame_of(recording, shot, condition)
    pair = by_tag(pairs, condition='rain')[1]
    assert (pair.pixels() == frame.image).all()
    assert np.allclose(pair.T_camera_lidar, frame.T_camera_lidar, atol=1e-9)
    assert np.allclose(pair.xyz, frame.scan.points)
    assert np.allclose(pair.intensity, frame.scan.intensity)
    assert_labels_under_points(frame, pair)
    name = recording.name(shot, condition).split('/')
    labels = np.fromfile(root / 'sequences' / name[0] / 'labels' / f'{name[1]}.label', np.uint32)
    assert (labels == RAW_IDS[frame.scan.category]).all()
    # The second pose is where the camera has come to, in the first one's frame.
    poses = np.loadtxt(root / 'poses' / f'{name[0]}.txt').reshape(-1, 3, 4)
    first = frame_of(recording, *shot_of(recording, 2 * CONDITIONS.index('rain')))
    T = np.linalg.inv(first.T_world_base @ first.camera.T_base_camera)
    T = T @ frame.T_world_base @ frame.camera.T_base_camera
    assert np.allclose(poses[0], np.eye(4)[:3])
    assert np.allclose(poses[1], T[:3], atol=1e-6)
    assert poses[1][2, 3] > 0.2  # it drives along the optical axis
    assert (root / 'sequences' / name[0] / 'poses.txt').read_text() == (
        root / 'poses' / f'{name[0]}.txt'
    ).read_text()


def test_kiss_icp_reads_kitti_odometry(written: Path) -> None:
    reason = "KISS-ICP's reader of KITTI judges the layout"
    kitti = pytest.importorskip('kiss_icp.datasets.kitti', reason=reason)
    dataset = kitti.KITTIOdometryDataset(written / 'kitti_odometry', '01')
    assert len(dataset) == 2
    points = dataset.scans(1) if hasattr(dataset, 'scans') else dataset[1]
    points = points[0] if isinstance(points, tuple) else points
    shot, condition = shot_of(LAYOUTS[4], 3)
    expected = frame_of(LAYOUTS[4], shot, condition).scan.points
    # It corrects the vertical angle of KITTI's own scanner by 0.2 degrees.
    assert points.shape == expected.shape
    ranges = [np.linalg.norm(p, axis=1) for p in (points, expected)]
    assert np.allclose(*ranges, atol=1e-3)
    assert dataset.gt_poses.shape == (2, 4, 4)


def test_nuscenes_through_the_reader(written: Path, tmp_path: Path) -> None:
    recording = LAYOUTS[5]
    pairs = pairs_of(written / 'nuscenes', 'nuscenes', tmp_path / 'pairs')
    assert len(pairs) == len(scenes(CONFIG))  # key frames
    place = 2 * CONDITIONS.index('snow')
    frame = frame_of(recording, *shot_of(recording, place))
    pair = by_tag(pairs, condition='snow')[0]
    assert np.abs(pair.pixels().astype(int) - frame.image).mean() < 6  # JPEG
    assert np.allclose(pair.K, frame.camera.K)
    assert_labels_under_points(frame, pair)
    assert np.allclose(pair.T_world_ego, frame.T_world_base, atol=1e-6)


def test_nuscenes_tables_hang_together(written: Path) -> None:
    root = written / 'nuscenes'
    tables = {p.stem: json.loads(p.read_text()) for p in (root / 'v1.0-mini').glob('*.json')}
    assert len(tables) == 14
    tokens = {name: {row['token'] for row in rows} for name, rows in tables.items()}
    assert all(len(tokens[name]) == len(rows) for name, rows in tables.items())
    for row in tables['sample_data']:
        assert (root / row['filename']).is_file()
        assert row['sample_token'] in tokens['sample']
        assert row['ego_pose_token'] in tokens['ego_pose']
        assert row['calibrated_sensor_token'] in tokens['calibrated_sensor']
        assert {row['prev'], row['next']} <= tokens['sample_data'] | {''}
        assert row['is_key_frame'] == row['filename'].startswith('samples/')
    assert sum(row['is_key_frame'] for row in tables['sample_data']) == 2 * len(tables['sample'])
    recording = LAYOUTS[5]
    frame = frame_of(recording, *shot_of(recording, 0))
    seg = next(r for r in tables['lidarseg'])
    assert (np.fromfile(root / seg['filename'], np.uint8) == LIDARSEG[frame.scan.category]).all()
    boxes = tables['sample_annotation']
    assert all(r['instance_token'] in tokens['instance'] for r in boxes)
    # A car's box holds the points that were simulated to hit cars.
    scan, T = frame.scan, frame.T_world_base @ frame.lidar.T_base_lidar
    points = scan.points @ T[:3, :3].T + T[:3, 3]
    first = [r for r in boxes if r['sample_token'] == tables['sample'][0]['token']]
    near = np.zeros(len(points), bool)
    for box in first:
        near |= np.linalg.norm(points - box['translation'], axis=1) < max(box['size'])
    movable = np.isin(scan.category, [11, 12, 13, 14, 15, 16, 17, 18])
    assert movable.sum() > 20
    assert near[movable].mean() > 0.9


def test_nuscenes_devkit_projects_points_onto_objects(written: Path) -> None:
    devkit = pytest.importorskip(
        'nuscenes', reason='pip install nuscenes-devkit judges the layout; it needs numpy < 2'
    )
    data = devkit.NuScenes('v1.0-mini', str(written / 'nuscenes'), verbose=False)
    sample = data.sample[0]
    lidar, camera = sample['data']['LIDAR_TOP'], sample['data']['CAM_FRONT']
    points, depth, _ = data.explorer.map_pointcloud_to_image(lidar, camera, min_dist=1.0)
    frame = frame_of(LAYOUTS[5], *shot_of(LAYOUTS[5], 0))
    u, v = np.round(points[:2]).astype(int)
    seen = frame.depth[v, u]
    assert len(u) > 50
    assert (np.abs(seen - depth) < 0.05 * depth + 0.2).mean() > 0.8
    _, boxes, _ = data.get_sample_data(lidar)
    assert len(boxes) == len(sample['anns'])
    assert data.get('scene', sample['scene_token'])['name'] == 'scene-0061'


def test_surround_cameras_distortion_and_raw_scans(tmp_path: Path) -> None:
    rig = camera_rig('surround', 64, 48)
    config = SimulationConfig(
        rate_hz=10, seconds=0.1, camera_configs=(rig[0], rig[3]), beams=16, columns=120,
        lidar_config=lidar_preset(16, 120, 'raw'),
    )  # fmt: skip
    bag, a2d2, nuscenes = Bag(1, (('clear', 1.0),)), A2D2(), NuScenes()
    for recording in (a2d2, nuscenes):
        assert recording.sensors(config).lidar.motion == 'compensated'
    assert bag.sensors(config).lidar.motion == 'raw'
    write_recordings(tmp_path / 'out', config, [bag, nuscenes, a2d2], workers=1)
    shot, condition = shot_of(nuscenes, 0, config)
    back = frame_of(nuscenes, shot, condition, config).pictures[1]
    pair = pairs_of(
        tmp_path / 'out' / 'nuscenes', 'nuscenes', tmp_path / 'pairs', camera='CAM_BACK'
    )[0]
    assert np.abs(pair.pixels().astype(int) - back.image).mean() < 8
    uv, depth = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
    u, v = np.round(np.nan_to_num(uv, nan=-1)).astype(int).T
    inside = (depth > 1) & (u >= 0) & (v >= 0) & (u < 64) & (v < 48)
    seen = back.depth[v[inside], u[inside]]
    assert (np.abs(seen - depth[inside]) < 0.1 * depth[inside] + 0.5).mean() > 0.75
    with Reader(tmp_path / 'out' / 'bags' / 'town01') as reader:
        topics = {c.topic for c in reader.connections}
    assert {'/camera/front/image/compressed', '/camera/back/image/compressed'} <= topics
    assert '/simulation/back/labels/compressed' in topics
    label = next((tmp_path / 'out' / 'a2d2').rglob('*_label_rearcenter_*.png'))
    assert cv2.imread(str(label)).shape == (48, 64, 3)


def test_unknown_layout_or_storage_is_one_clear_error() -> None:
    with pytest.raises(SimulationError, match="no layout 'waymo'; there are a2d2, "):
        recordings_of(['a2d2', 'waymo'])
    with pytest.raises(SimulationError, match="no storage 'bag'"):
        recordings_of(['bags'], 'bag')  # type: ignore[arg-type]
