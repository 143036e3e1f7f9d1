# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""nuScenes: motion between the stamps by hand, trimmed and large tables, and damaged files."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.sources import SourceOptions, nuscenes, open_source
from training.sources._nuscenes_tables import rows, tags_of_description

START = 1_532_402_927_000_000
F = 100.0
K = [[F, 0, 60], [0, F, 30], [0, 0, 1]]
SPEED = 20.0
FORWARD = [0.5, -0.5, 0.5, -0.5]  # camera's axes (right, down, forward) on the vehicle, w x y z
LIDAR_TURN = [math.sqrt(0.5), 0, 0, -math.sqrt(0.5)]  # its x to the right, y forward
FRONT_EARLY = 35_000  # µs before the scan


def scan(number: int, count: int = 100) -> np.ndarray:
    rng = np.random.default_rng(number)
    points = np.zeros((count, 5), np.float32)
    # Right, forward, up of the scanner.
    points[:, :3] = rng.uniform([-3, 5, -1], [3, 50, 1], (count, 3))
    points[:, 3] = rng.integers(0, 256, count)
    points[:, 4] = rng.integers(0, 32, count)
    return points


class DataSet:
    """Scenes driven along the world's x axis at 20 m/s; key frames at 2 Hz, sweeps at 10 Hz."""

    def __init__(
        self, root: Path, version: str = 'v1.0-mini', scenes: int = 1, samples: int = 3
    ) -> None:
        self.root = root
        self.version = version
        self.tables: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ('sensor', 'calibrated_sensor', 'ego_pose', 'sample',
                                  'sample_data', 'scene')
        }  # fmt: skip
        channels = {'LIDAR_TOP': 'lidar', 'CAM_FRONT': 'camera', 'CAM_BACK': 'camera',
                    'RADAR_FRONT': 'radar'}  # fmt: skip
        for channel, modality in channels.items():
            self.tables['sensor'].append(
                {'token': f's-{channel}', 'channel': channel, 'modality': modality}
            )
            rotation, place = FORWARD, [1.7, 0, 1.5]
            if channel == 'CAM_BACK':
                rotation, place = [0.5, -0.5, -0.5, 0.5], [0, 0, 1.5]
            elif channel == 'LIDAR_TOP':
                rotation, place = LIDAR_TURN, [0.9, 0, 1.8]
            self.tables['calibrated_sensor'].append({
                'token': f'c-{channel}', 'sensor_token': f's-{channel}', 'translation': place,
                'rotation': rotation,
                'camera_intrinsic': K if modality == 'camera' else [],
            })  # fmt: skip
        for number in range(scenes):
            self.scene(f'scene-{number:04d}', samples)

    def scene(self, name: str, samples: int, description: str = 'Parked cars') -> None:
        begin = START + 100_000_000 * len(self.tables['scene'])
        self.tables['scene'].append(
            {'token': f't-{name}', 'name': name, 'description': description}
        )
        for i in range(samples):
            stamp = begin + 500_000 * i
            token = f'{name}-{i}'
            self.tables['sample'].append(
                {'token': token, 'timestamp': stamp, 'scene_token': f't-{name}'}
            )
            for k in range(5):  # the key frame, and four sweeps
                at = stamp + 100_000 * k
                self.file(token, 'LIDAR_TOP', at, k == 0, scan(i).tobytes(), begin)
                for channel, early, gray in (('CAM_FRONT', FRONT_EARLY, 50), ('CAM_BACK', 0, 150)):
                    image = np.full((60, 120, 3), gray + i, np.uint8)
                    data = image_codec.encode_jpeg(image)
                    self.file(token, channel, at - early, k == 0, data, begin)

    def file(self, sample: str, channel: str, at: int, key: bool, data: bytes, begin: int) -> None:
        extension = 'pcd.bin' if channel == 'LIDAR_TOP' else 'jpg'
        token = f'{channel}-{at}'
        name = f'{"samples" if key else "sweeps"}/{channel}/n015__{channel}__{at}.{extension}'
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.tables['ego_pose'].append({
            'token': token, 'timestamp': at, 'rotation': [1, 0, 0, 0],
            'translation': [SPEED * (at - begin) * 1e-6, 0, 0],
        })  # fmt: skip
        self.tables['sample_data'].append({
            'token': token, 'sample_token': sample, 'ego_pose_token': token,
            'calibrated_sensor_token': f'c-{channel}', 'timestamp': at, 'fileformat': extension,
            'is_key_frame': key, 'height': 60 if extension == 'jpg' else 0,
            'width': 120 if extension == 'jpg' else 0, 'filename': name,
        })  # fmt: skip

    def write(self) -> Path:
        folder = self.root / self.version
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            (folder / f'{name}.json').write_text(json.dumps(table, indent=0))
        return self.root


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    assert source.name == 'nuscenes'
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(), preview=False)
    return PairSet(out)


def test_moving_vehicle_by_hand(tmp_path):
    pairs = convert(DataSet(tmp_path / 'nuscenes').write(), tmp_path / 'pairs')
    assert len(pairs) == 3
    pair = pairs[1]
    assert pair.key == f'scene-0000/{START + 500_000 - FRONT_EARLY}'
    assert pair.lidar_stamp_ns - pair.camera_stamp_ns == FRONT_EARLY * 1000
    # 0.4 m right, 20 m ahead of and 0.2 m below the scanner, so at the camera's height. The image
    # was taken 35 ms earlier, 0.7 m further back: 20 + 0.9 + 0.7 - 1.7 m ahead of the camera.
    point = np.array([[0.4, 20, -0.3]])
    uv, depth = project_points(point, pair.K, pair.T_camera_lidar)
    np.testing.assert_allclose(depth, 19.9)
    np.testing.assert_allclose(uv, [[60 + F * 0.4 / 19.9, 30]])
    # Without regard to the motion it would be 0.07 pixels beside: F * 0.4 / 19.2.
    np.testing.assert_allclose(pair.T_world_ego[:3, 3], [SPEED * 0.465, 0, 0])
    truth = scan(1)
    np.testing.assert_array_equal(pair.xyz, truth[:, :3])
    np.testing.assert_allclose(pair.intensity, truth[:, 3] / 255, rtol=1e-6)
    assert pair.columns == ('x', 'y', 'z', 'intensity', 'ring')
    np.testing.assert_array_equal(pair.points[:, 4], truth[:, 4])
    assert abs(int(pair.image[0, 0, 0]) - 51) <= 1


def test_turning_vehicle_shifts_pixels(tmp_path):
    data = DataSet(tmp_path / 'nuscenes', samples=1)
    for row in data.tables['ego_pose']:
        # 0.5 rad/s to the left about the camera's own place: only the direction changes.
        angle = 0.5 * (row['timestamp'] - START) * 1e-6
        row['rotation'] = [math.cos(angle / 2), 0, 0, math.sin(angle / 2)]
        row['translation'] = [-1.7 * math.cos(angle), -1.7 * math.sin(angle), 0]
    pair = convert(data.write(), tmp_path / 'pairs')[0]
    # Straight ahead at the scan's time. 35 ms before, the camera looked 0.0175 rad further right,
    # so the point was to the left of the axis.
    point = np.array([[0, 20, -0.3]])
    uv, _ = project_points(point, pair.K, pair.T_camera_lidar)
    np.testing.assert_allclose(uv, [[60 - F * math.tan(0.0175), 30]], atol=1e-9)


def test_all_cameras_and_backwards(tmp_path):
    root = DataSet(tmp_path / 'nuscenes').write()
    pairs = convert(root, tmp_path / 'pairs', camera='all')
    assert {p.sequence for p in pairs} == {'scene-0000_CAM_FRONT', 'scene-0000_CAM_BACK'}
    back = next(p for p in pairs if p.camera == 'CAM_BACK')
    assert back.camera_stamp_ns == back.lidar_stamp_ns
    # 10 m behind the scanner is 9.1 m behind the rear camera; its left is the vehicle's right.
    uv, depth = project_points(np.array([[0.5, -10, -0.3]]), back.K, back.T_camera_lidar)
    np.testing.assert_allclose(depth, 9.1)
    np.testing.assert_allclose(uv, [[60 - F * 0.5 / 9.1, 30]])
    assert len(convert(root, tmp_path / 'two', camera='CAM_BACK, cam_front')) == 6


@pytest.mark.parametrize('inside', ['.', 'v1.0-mini', 'samples'])
def test_any_folder_of_the_layout_will_do(tmp_path, inside):
    root = DataSet(tmp_path / 'nuscenes').write()
    assert len(convert(root / inside, tmp_path / 'pairs')) == 3


def test_sweeps(tmp_path):
    root = DataSet(tmp_path / 'nuscenes').write()
    pairs = convert(root / 'sweeps', tmp_path / 'pairs')
    assert len(pairs) == 15
    gaps = {p.lidar_stamp_ns - p.camera_stamp_ns for p in pairs}
    assert gaps == {FRONT_EARLY * 1000}


def test_offsets_move_the_poses_too(tmp_path):
    root = DataSet(tmp_path / 'nuscenes').write()
    pairs = convert(root, tmp_path / 'pairs', camera_offset=0.035)
    assert all(p.lidar_stamp_ns == p.camera_stamp_ns for p in pairs)
    uv, depth = project_points(np.array([[0.4, 20, -0.3]]), pairs[1].K, pairs[1].T_camera_lidar)
    np.testing.assert_allclose(depth, 19.2, atol=1e-6)
    np.testing.assert_allclose(uv, [[60 + F * 0.4 / 19.2, 30]], atol=1e-6)


def test_several_versions_and_partial_downloads(tmp_path):
    root = tmp_path / 'nuscenes'
    large = DataSet(root, 'v1.0-trainval', scenes=3)
    small = DataSet(root, 'v1.0-mini', scenes=1)
    large.write()
    small.write()
    begin = START + 200_000_000
    for path in root.rglob('*'):
        if (
            path.is_file()
            and '__' in path.name
            and int(path.name.split('__')[2][:16]) > begin - 1e6
        ):
            path.unlink()
    pairs = convert(root, tmp_path / 'pairs')
    assert {p.sequence for p in pairs} == {'scene-0000', 'scene-0001'}
    notes = pairs.report['recordings'][0]['notes']
    assert notes == ['1 of 3 scenes of v1.0-trainval have no files here']
    assert {p.sequence for p in convert(root / 'v1.0-mini', tmp_path / 'mini')} == {'scene-0000'}


def test_tags(tmp_path):
    data = DataSet(tmp_path / 'nuscenes', scenes=0)
    data.scene('scene-0001', 1, 'Night, heavy rain, construction')
    data.scene('scene-0002', 1, 'Overcast, train station, brain')
    data.tables['scene'][1]['tags'] = {'condition': 'fog'}
    data.tables['scene'][1]['log_token'] = 'log'
    data.tables['log'] = [{'token': 'log', 'location': 'boston-seaport'}]
    pairs = convert(data.write(), tmp_path / 'pairs')
    assert [p.tags for p in pairs] == [
        {'weather': 'rain', 'light': 'night'},
        {'location': 'boston-seaport', 'condition': 'fog'},
    ]
    assert tags_of_description('After rain, parked cars') == {}
    assert tags_of_description('Rainy, difficult lighting') == {'weather': 'rain'}


def test_lidarseg(tmp_path):
    data = DataSet(tmp_path / 'nuscenes')
    labels = (np.arange(100) % 3 + 24).astype(np.uint8)  # road, other flat, sidewalk
    names = ['flat.driveable_surface', 'flat.other', 'flat.sidewalk', 'vehicle.ego']
    data.tables['category'] = [
        {'token': str(i), 'name': name, 'index': 24 + i} for i, name in enumerate(names)
    ]
    data.tables['lidarseg'] = []
    folder = data.root / 'lidarseg' / 'v1.0-mini'
    folder.mkdir(parents=True)
    for i in range(3):
        token = f'LIDAR_TOP-{START + 500_000 * i}'
        name = f'lidarseg/v1.0-mini/{token}_lidarseg.bin'
        data.tables['lidarseg'].append({'token': token, 'sample_data_token': token,
                                        'filename': name})  # fmt: skip
        labels[: 100 - i].tofile(data.root / name)
    (data.root / name).unlink()
    root = data.write()
    points = scan(0)
    points[5, 0] = np.nan
    points.tofile(root / f'samples/LIDAR_TOP/n015__LIDAR_TOP__{START}.pcd.bin')
    pairs = convert(root, tmp_path / 'pairs')
    assert pairs[0].columns == ('x', 'y', 'z', 'intensity', 'ring', 'label')
    np.testing.assert_array_equal(pairs[0].points[:, 5], np.delete(labels, 5))
    assert (pairs[1].points[:, 5] == 0).all()  # one label short
    assert '2 scans have no lidarseg' in pairs.report['recordings'][0]['notes'][0]
    found = nuscenes.category_names(root / 'v1.0-mini')
    ids, unknown = nuscenes.challenge_ids(np.array([24, 25, 26, 27, 31]), found)
    assert ids.tolist() == [11, 12, 13, 0, 0]
    assert unknown == 1
    assert [nuscenes.LIDARSEG_CLASSES[i] for i in ids[:3]] == [
        'driveable_surface', 'other_flat', 'sidewalk'
    ]  # fmt: skip


def test_trimmed_tables(tmp_path):
    data = DataSet(tmp_path / 'nuscenes')
    del data.tables['scene']
    for row in data.tables['sample_data']:
        for key in ('is_key_frame', 'width', 'height', 'fileformat'):
            del row[key]
    pairs = convert(data.write(), tmp_path / 'pairs')
    assert {p.sequence for p in pairs} == {'scene-t-scene-'}
    assert len(pairs) == 15  # without the key frames' mark all count as such


def test_damaged_frames_are_counted(tmp_path):
    data = DataSet(tmp_path / 'nuscenes', samples=8)
    root = data.write()

    def file(channel: str, i: int, extension: str) -> Path:
        early = FRONT_EARLY if channel == 'CAM_FRONT' else 0
        return (
            root / f'samples/{channel}/n015__{channel}__{START + 500_000 * i - early}.{extension}'
        )

    path = file('LIDAR_TOP', 0, 'pcd.bin')
    path.write_bytes(path.read_bytes()[:-3])
    four_columns = np.random.default_rng(0).uniform(0.1, 40, (125, 4)).astype(np.float32)
    four_columns.tofile(file('LIDAR_TOP', 1, 'pcd.bin'))
    path = file('CAM_FRONT', 2, 'jpg')
    path.write_bytes(path.read_bytes()[:-30])
    other = np.zeros((60, 100, 3), np.uint8)
    file('CAM_FRONT', 3, 'jpg').write_bytes(image_codec.encode_jpeg(other))
    points = scan(4)
    points[0, 4], points[1, 4], points[2, 3], points[3, 0] = 0.5, np.nan, 300, np.inf
    points.tofile(file('LIDAR_TOP', 4, 'pcd.bin'))
    file('CAM_FRONT', 5, 'jpg').unlink()
    poses = data.tables['ego_pose']
    token = f'LIDAR_TOP-{START + 6 * 500_000}'
    next(p for p in poses if p['token'] == token)['rotation'] = [0, 0, 0, 0]
    data.write()
    pairs = convert(root, tmp_path / 'pairs')
    assert len(pairs) == 2
    assert len(pairs[0].points) == 96
    dropped = dict(pairs.report['dropped'])
    assert dropped.pop('no scan within the maximum gap') == 1
    assert dropped == {
        'scan: truncated or empty .bin': 1,
        'scan: not rows of x, y, z, intensity, ring': 1,
        'image: truncated JPEG': 1,
        'image: not of the size 120 x 60 of its camera': 1,
        'points: ring is no whole number': 2,
        'points: intensity not in 0 to 255': 1,
        'points: not finite': 1,
    }
    assert '1 files have no ego_pose' in pairs.report['recordings'][0]['notes'][0]


@pytest.mark.parametrize(
    ('table', 'change', 'says'),
    [
        ('sensor', None, 'sensor.json is missing'),
        ('calibrated_sensor', None, 'calibrated_sensor.json is missing'),
        ('ego_pose', None, 'ego_pose.json is missing'),
        ('sample', None, 'sample.json is missing'),
        ('calibrated_sensor', ('camera_intrinsic', [[0] * 3] * 3), 'calibrated camera'),
        ('calibrated_sensor', ('camera_intrinsic', []), 'calibrated_sensor.json is damaged'),
        ('calibrated_sensor', ('rotation', [0, 0, 0, 0]), 'CAM_FRONT: translation or rotation'),
        ('calibrated_sensor', ('translation', [0, float('nan'), 0]), 'translation or rotation'),
        ('calibrated_sensor', ('sensor_token', 'x'), "calibrated_sensor lacks 'x'"),
        ('sample_data', ('timestamp', 'soon'), 'sample_data.json is damaged'),
        ('sample_data', ('filename', '../../etc/passwd'), 'none of the files'),
    ],
)
def test_bad_tables(tmp_path, table, change, says):
    data = DataSet(tmp_path / 'nuscenes')
    root = data.write()
    if change is None:
        (root / 'v1.0-mini' / f'{table}.json').unlink()
    else:
        for row in data.tables[table]:
            if 'FRONT' in row['token'] and not row['token'].startswith('c-RADAR'):
                row[change[0]] = change[1]
        data.write()
    with pytest.raises((RecordingError, CalibrationError), match=says):
        convert(root, tmp_path / 'pairs')


def test_what_is_not_understood_is_refused(tmp_path):
    root = DataSet(tmp_path / 'nuscenes', samples=1).write()
    with pytest.raises(RecordingError, match="no images of camera 'CAM_TOP'; it has CAM_BACK"):
        convert(root, tmp_path / 'pairs', camera='CAM_TOP')
    with pytest.raises(RecordingError, match='moved to their stamps already'):
        convert(root, tmp_path / 'pairs', deskew='poses')
    (root / 'v1.0-mini' / 'sample_data.json').write_text('[{"token": 1},')
    with pytest.raises(RecordingError, match='sample or sample_data lacks'):
        convert(root, tmp_path / 'pairs')
    (root / 'v1.0-mini' / 'sample_data.json').write_text('{}')
    with pytest.raises(RecordingError, match='is no JSON list'):
        convert(root, tmp_path / 'pairs')


def test_large_tables_do_not_fill_the_memory(tmp_path):
    """Reading 60,000 rows (20 MB) holds about a chunk at a time."""
    path = tmp_path / 'table.json'
    row = {'token': 'a' * 32, 'filename': 'b' * 200, 'values': [1.5, [2, {'x': ']},['}]]}
    with path.open('w') as stream:
        stream.write('[\n' + ',\n'.join(json.dumps(row) for _ in range(60_000)) + '\n]\n')
    tracemalloc.start()
    count = sum(found == row for found in rows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 8e6


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=st.sampled_from(['sensor', 'calibrated_sensor', 'ego_pose', 'sample', 'sample_data',
                           'scene']),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)  # fmt: skip
def test_damaged_tables_give_one_line_or_drops(
    tmp_path_factory, read_all, damage, table, place, bit, cut
):
    root = DataSet(tmp_path_factory.mktemp('nuscenes'), samples=1).write()
    path = root / 'v1.0-mini' / f'{table}.json'
    damage(path, place, bit, cut)
    try:
        read_all(root)
    except ClcpError as error:
        lines = str(error).splitlines()
    else:
        lines = ['']
    assert len(lines) == 1
