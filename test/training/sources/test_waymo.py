# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Waymo v2: range images by hand, clocks, rows in any order, and damaged files."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcp_ros import image_codec
from clcp_ros.errors import ClcpError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.pairs.pair import Pair
from training.sources import SourceOptions, open_source
from training.sources._waymo_parquet import (
    BATCH,
    RowReader,
    azimuths,
    inclinations,
    to_points,
)

SEGMENT = '1005081002024129653_5313_150_5333_150'
START = 1_510_593_600_000_000
WIDTH, HEIGHT = 80, 60
F = 50.0
BEAMS = [-0.3, -0.1, 0.0, 0.2]
SPEED = 20.0  # m/s, along the world's x
LATE = 0.030  # s, the images after their frames


def pose(x: float) -> list[float]:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix.ravel().tolist()


def mount(x: float, y: float, z: float, yaw: float = 0.0) -> list[float]:
    c, s = math.cos(yaw), math.sin(yaw)
    return [c, -s, 0, x, s, c, 0, y, 0, 0, 1, z, 0, 0, 0, 1]


def write(folder: Path, component: str, rows: list[dict[str, Any]], **options: Any) -> Path:
    path = folder / component / f'{SEGMENT}.parquet'
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {'key.frame_timestamp_micros': pa.int64(), 'key.camera_name': pa.int8(),
             'key.laser_name': pa.int8()}  # fmt: skip
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kind = kinds.get(name)
        if name.endswith('.values'):
            kind = pa.list_(pa.float64() if 'inclination' in name else pa.float32())
        columns[name] = pa.array(values, kind)
    pq.write_table(pa.table(columns), path, **options)
    return path


class Segment:
    """A drive along x at 20 m/s with five frames at 10 Hz, written as the components."""

    def __init__(self, folder: Path, frames: int = 5) -> None:
        self.folder = folder
        self.stamps = [START + 100_000 * i for i in range(frames)]
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for i, stamp in enumerate(self.stamps):
            self.frame(i, stamp)
        for camera in (1, 2, 3, 4, 5):
            self.rows.setdefault('camera_calibration', []).append(self.camera(camera))
        lidar = '[LiDARCalibrationComponent]'
        self.rows['lidar_calibration'] = [
            {
                'key.laser_name': 1,
                f'{lidar}.extrinsic.transform': mount(1.0, 0, 2.0),
                f'{lidar}.beam_inclination.values': BEAMS,
                f'{lidar}.beam_inclination.min': -0.3,
                f'{lidar}.beam_inclination.max': 0.2,
            },
            {
                'key.laser_name': 2,
                f'{lidar}.extrinsic.transform': mount(4.0, 0, 1.0),
                f'{lidar}.beam_inclination.values': None,
                f'{lidar}.beam_inclination.min': -0.4,
                f'{lidar}.beam_inclination.max': 0.4,
            },
        ]

    def camera(self, number: int) -> dict[str, Any]:
        prefix = '[CameraCalibrationComponent]'
        values = {'f_u': F, 'f_v': F, 'c_u': 39.5, 'c_v': 29.5}
        values |= dict.fromkeys(('k1', 'k2', 'p1', 'p2', 'k3'), 0.0)
        return {
            'key.camera_name': number,
            **{f'{prefix}.intrinsic.{name}': value for name, value in values.items()},
            f'{prefix}.extrinsic.transform': mount(1.5, 0, 2.0),
            f'{prefix}.width': WIDTH,
            f'{prefix}.height': HEIGHT,
        }

    def frame(self, i: int, stamp: int) -> None:
        key = {'key.frame_timestamp_micros': stamp}
        x = SPEED * 0.1 * i
        for camera in (1, 2, 3, 4, 5):
            image = np.full((HEIGHT, WIDTH, 3), 40 * camera, np.uint8)
            prefix = '[CameraImageComponent]'
            at = stamp * 1e-6 + LATE
            self.rows.setdefault('camera_image', []).append({
                **key, 'key.camera_name': camera,
                f'{prefix}.image': image_codec.encode_jpeg(image),
                f'{prefix}.pose.transform': pose(x + SPEED * LATE),
                f'{prefix}.pose_timestamp': at,
                f'{prefix}.rolling_shutter_params.camera_trigger_time': at - 0.02,
                f'{prefix}.rolling_shutter_params.camera_readout_done_time': at + 0.024,
            })  # fmt: skip
        # One echo each: the top lidar's second row (inclination 0), fourth column.
        top = np.full((4, 8, 4), -1, np.float32)
        top[1, 3] = [10, 0.5, 0, 0]
        front = np.full((2, 4, 4), -1, np.float32)
        front[0, 1] = [5, 100, 0, 0]
        poses = np.zeros((4, 8, 6), np.float32)
        # That pixel was measured 50 ms before the frame's time.
        poses[..., 3] = x - SPEED * 0.05
        for laser, image in ((1, top), (2, front)):
            prefix = '[LiDARComponent].range_image_return1'
            self.rows.setdefault('lidar', []).append({
                **key, 'key.laser_name': laser,
                f'{prefix}.values': image.ravel().tolist(), f'{prefix}.shape': list(image.shape),
            })  # fmt: skip
        prefix = '[LiDARPoseComponent].range_image_return1'
        self.rows.setdefault('lidar_pose', []).append({
            **key, 'key.laser_name': 1,
            f'{prefix}.values': poses.ravel().tolist(), f'{prefix}.shape': list(poses.shape),
        })  # fmt: skip
        name = '[VehiclePoseComponent].world_from_vehicle.transform'
        self.rows.setdefault('vehicle_pose', []).append({**key, name: pose(x)})
        self.rows.setdefault('stats', []).append({
            **key, '[StatsComponent].time_of_day': 'Dawn/Dusk', '[StatsComponent].weather': 'rain',
            '[StatsComponent].location': 'location_sf',
        })  # fmt: skip

    def write(self, **options: Any) -> Path:
        for component, rows in self.rows.items():
            write(self.folder / 'training', component, rows, **options)
        return self.folder


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    assert source.name == 'waymo'
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format='jpg'), preview=False)
    return PairSet(out)


def test_azimuth_of_column_centres():
    # Eight columns of 45 degrees, from behind over the left to behind.
    expected = np.radians([157.5, 112.5, 67.5, 22.5, -22.5, -67.5, -112.5, -157.5])
    np.testing.assert_allclose(azimuths(8, np.eye(4)), expected)
    # A laser that is turned by 30 degrees to the left: its own directions are smaller by that.
    turned = np.array(mount(0, 0, 0, math.radians(30))).reshape(4, 4)
    np.testing.assert_allclose(azimuths(8, turned), expected - math.radians(30))


def test_inclinations_are_flipped_and_made_up_where_null():
    np.testing.assert_allclose(inclinations(BEAMS, 0, 0, 4), [0.2, 0.0, -0.1, -0.3])
    # From -0.4 to 0.4 in four rows of 0.2, their middles, the highest first.
    for nothing in (None, []):
        np.testing.assert_allclose(inclinations(nothing, -0.4, 0.4, 4), [0.3, 0.1, -0.1, -0.3])


def test_points_of_a_range_image_by_hand():
    image = np.full((4, 8, 4), -1, np.float32)
    image[0, 4] = [10, 0.5, 0, 0]  # inclination 0.2, azimuth -22.5 degrees: ahead, right, up
    image[3, 0] = [20, 0, 0, 0]
    T = np.array(mount(1, 2, 3)).reshape(4, 4)
    points = to_points(image, inclinations(BEAMS, 0, 0, 4), T)
    first = [1 + 10 * math.cos(0.2) * math.cos(math.pi / 8),
             2 - 10 * math.cos(0.2) * math.sin(math.pi / 8), 3 + 10 * math.sin(0.2)]  # fmt: skip
    np.testing.assert_allclose(points[0], [*first, math.tanh(0.5)], rtol=1e-6)
    assert points[1, 0] == pytest.approx(1 - 20 * math.cos(0.3) * math.cos(math.pi / 8))
    assert points[1, 2] == pytest.approx(3 - 20 * math.sin(0.3))
    assert len(points) == 2


def test_pose_of_each_pixel():
    image = np.full((1, 2, 2), -1, np.float32)
    image[0, 1] = [10, 1]  # azimuth -90 degrees: 10 m to the right
    poses = np.zeros((1, 2, 6), np.float32)
    # The vehicle stood at (5, 0, 0) and looked to the left (yaw 90): the right is its world's +x.
    poses[0, 1] = [0, 0, math.pi / 2, 5, 0, 0]
    T_world_vehicle = np.array(pose(7.0)).reshape(4, 4)
    points = to_points(image, np.zeros(1), np.eye(4), poses, T_world_vehicle)
    np.testing.assert_allclose(points[0, :3], [5 + 10 - 7, 0, 0], atol=1e-5)


def test_segment(tmp_path):
    pairs = convert(Segment(tmp_path / 'waymo').write(), tmp_path / 'pairs')
    assert [p.key for p in pairs] == [f'{SEGMENT}/{START + 100_000 * i}' for i in range(5)]
    pair = pairs[2]
    assert pair.camera == 'FRONT'
    assert pair.camera_stamp_ns - pair.lidar_stamp_ns == 30_000_000
    assert pair.tags == {'light': 'dawn/dusk', 'weather': 'rain', 'location': 'location_sf'}
    assert abs(int(pair.image[0, 0, 0]) - 40) <= 1
    np.testing.assert_allclose(pair.T_world_ego[0, 3], SPEED * (0.2 + LATE))
    # The top lidar at (1, 0, 2): 10 m at 22.5 degrees to the left at its height; it was taken when
    # the vehicle was 1 m further back. The front one at (4, 0, 1): 5 m, upper of two rows (0.2),
    # second of four columns (45 degrees to the left).
    top = [1 + 10 * math.cos(math.pi / 8) - 1, 10 * math.sin(math.pi / 8), 2]
    flat = 5 * math.cos(0.2) * math.sqrt(0.5)
    front = [4 + flat, flat, 1 + 5 * math.sin(0.2)]
    np.testing.assert_allclose(pair.xyz, [top, front], atol=1e-5)
    np.testing.assert_allclose(pair.intensity, [math.tanh(0.5), 1], rtol=1e-6)
    # At the image's time the vehicle is 0.6 m further on, and the camera at 1.5 m.
    uv, depth = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
    ahead = top[0] - 1.5 - 0.6
    np.testing.assert_allclose(depth[0], ahead, atol=1e-5)
    np.testing.assert_allclose(uv[0], [39.5 - F * top[1] / ahead, 29.5], atol=1e-4)
    notes = pairs.report['recordings'][0]['notes']
    assert [note.partition(':')[0] for note in notes] == ['rolling shutter']
    assert '44 ms' in notes[0]


def test_point_on_the_optical_axis(tmp_path):
    segment = Segment(tmp_path / 'waymo')
    for i, row in enumerate(segment.rows['lidar']):
        image = np.full((2, 1, 4), -1, np.float32)
        image[0] = [12 + i, 0.5, 0, 0]
        row['[LiDARComponent].range_image_return1.values'] = image.ravel().tolist()
        row['[LiDARComponent].range_image_return1.shape'] = [2, 1, 4]
    segment.rows['lidar'] = [r for r in segment.rows['lidar'] if r['key.laser_name'] == 2]
    del segment.rows['lidar_pose']
    calibration = segment.rows['lidar_calibration'][1]
    # At the camera's place; the upper of two rows between -0.1 and 0.0333 looks straight ahead.
    calibration['[LiDARCalibrationComponent].extrinsic.transform'] = mount(1.5, 0, 2.0)
    calibration['[LiDARCalibrationComponent].beam_inclination.min'] = -0.15
    calibration['[LiDARCalibrationComponent].beam_inclination.max'] = 0.05
    pair = convert(segment.write(), tmp_path / 'pairs')[0]
    uv, _ = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
    np.testing.assert_allclose(uv[0], [39.5, 29.5], atol=1e-4)


@pytest.mark.parametrize('shift', [0, 40])
def test_stated_projections_are_compared(tmp_path, shift):
    """Lens with distortion, a vehicle that turns: the stated pixels are of the distorted image."""
    segment = Segment(tmp_path / 'waymo', 1)
    camera = segment.rows['camera_calibration'][0]
    camera['[CameraCalibrationComponent].intrinsic.k1'] = -0.3
    image = np.full((4, 80, 4), -1, np.float32)
    image[:, 25:55] = [20, 0.5, 0, 0]
    row = segment.rows['lidar'][0]
    row['[LiDARComponent].range_image_return1.values'] = image.ravel().tolist()
    row['[LiDARComponent].range_image_return1.shape'] = [4, 80, 4]
    poses = np.zeros((4, 80, 6), np.float32)
    prefix = '[LiDARPoseComponent].range_image_return1'
    segment.rows['lidar_pose'][0][f'{prefix}.values'] = poses.ravel().tolist()
    segment.rows['lidar_pose'][0][f'{prefix}.shape'] = [4, 80, 6]
    stated = np.zeros((4, 80, 6), np.int32)
    for i, tilt in enumerate(BEAMS[::-1]):
        for j in range(25, 55):
            azimuth = ((80 - j - 0.5) / 80 * 2 - 1) * math.pi
            x = 1 + 20 * math.cos(tilt) * math.cos(azimuth) - 1.5 - SPEED * LATE
            y = 20 * math.cos(tilt) * math.sin(azimuth)
            u, v = -y / x, -20 * math.sin(tilt) / x
            lens = 1 - 0.3 * (u * u + v * v)
            stated[i, j] = [1, 39.5 + F * u * lens + shift, 29.5 + F * v * lens, 0, 0, 0]
    prefix = '[LiDARCameraProjectionComponent].range_image_return1'
    segment.rows['lidar_camera_projection'] = [{
        'key.frame_timestamp_micros': START, 'key.laser_name': 1,
        f'{prefix}.values': stated.ravel().tolist(), f'{prefix}.shape': [4, 80, 6],
    }]  # fmt: skip
    notes = convert(segment.write(), tmp_path / 'pairs').report['recordings'][0]['notes']
    found = [n for n in notes if 'lidar_camera_projection' in n]
    assert found == (['points fall 40 px from where lidar_camera_projection states: do the '
                      'files belong together?'] if shift else [])  # fmt: skip


def test_all_cameras(tmp_path):
    pairs = convert(Segment(tmp_path / 'waymo', 2).write(), tmp_path / 'pairs', camera='all')
    names = {'FRONT', 'FRONT_LEFT', 'FRONT_RIGHT', 'SIDE_LEFT', 'SIDE_RIGHT'}
    assert {p.camera for p in pairs} == names
    assert {p.sequence for p in pairs} == {f'{SEGMENT}_{name}' for name in names}
    grays = {p.camera: round(int(p.image[0, 0, 0]) / 40) for p in pairs}
    in_order = ('FRONT', 'FRONT_LEFT', 'FRONT_RIGHT', 'SIDE_LEFT', 'SIDE_RIGHT')
    assert grays == {name: number for number, name in enumerate(in_order, 1)}


@pytest.mark.parametrize('order', ['by laser', 'backwards', 'small row groups'])
def test_rows_in_any_order(tmp_path, order):
    plain = convert(Segment(tmp_path / 'plain', 30).write(), tmp_path / 'pairs')
    segment = Segment(tmp_path / 'waymo', 30)
    options = {}
    for component in ('lidar', 'camera_image', 'lidar_pose'):
        rows = segment.rows[component]
        if order == 'by laser':
            rows.sort(key=lambda r: (r.get('key.laser_name', 0), r.get('key.camera_name', 0)))
        elif order == 'backwards':
            rows.reverse()
        else:
            options = {'row_group_size': 7}
    pairs = convert(segment.write(**options), tmp_path / 'other')
    assert len(pairs) == 30
    for one, other in zip(plain, pairs, strict=True):
        assert one.key == other.key
        key = np.lexsort(one.points.T), np.lexsort(other.points.T)
        np.testing.assert_array_equal(one.points[key[0]], other.points[key[1]])
        np.testing.assert_array_equal(one.T_camera_lidar, other.T_camera_lidar)


def test_rows_are_read_a_few_at_a_time(tmp_path):
    path = write(tmp_path, 'x', [{'value': i} for i in range(100)], row_group_size=40)
    reader = RowReader(path, ['value'])
    for number in (0, 1, 39, 40, 99, 98, 3, 77, 41):
        assert reader.row(number)['value'].as_py() == number
        assert reader._batch is not None
        assert reader._batch.num_rows <= BATCH
    reader.close()


def test_unusable_frames_are_counted(tmp_path):
    segment = Segment(tmp_path / 'waymo', 8)
    scans = [r for r in segment.rows['lidar'] if r['key.laser_name'] == 1]
    prefix = '[LiDARComponent].range_image_return1'
    scans[0][f'{prefix}.values'] = scans[0][f'{prefix}.values'][:-3]
    scans[1][f'{prefix}.values'] = scans[1][f'{prefix}.shape'] = None
    image = next(r for r in segment.rows['camera_image'] if r['key.camera_name'] == 1
                 and r['key.frame_timestamp_micros'] == segment.stamps[2])  # fmt: skip
    image['[CameraImageComponent].image'] = image['[CameraImageComponent].image'][:-10]
    del segment.rows['vehicle_pose'][3]
    segment.rows['lidar'] = [
        r for r in segment.rows['lidar'] if r['key.frame_timestamp_micros'] != segment.stamps[4]
    ]
    values = np.array(scans[5][f'{prefix}.values'], np.float32).reshape(4, 8, 4)
    values[2, 2] = [np.nan, 0, 0, 0]
    scans[5][f'{prefix}.values'] = values.ravel().tolist()
    pairs = convert(segment.write(), tmp_path / 'pairs')
    assert [p.lidar_stamp_ns // 1000 for p in pairs] == segment.stamps[5:]
    assert pairs.report['dropped'] == {
        'no scan of the same frame': 1,
        'scan: range image and shape contradict each other': 1,
        'scan: no range image': 1,
        'image: truncated JPEG': 1,
        'frame: no vehicle_pose': 1,
        'points: not finite': 1,
    }


def test_without_what_is_optional(tmp_path):
    segment = Segment(tmp_path / 'waymo', 2)
    del segment.rows['stats'], segment.rows['lidar_pose']
    pairs = convert(segment.write(), tmp_path / 'pairs')
    assert pairs[0].tags == {}
    notes = pairs.report['recordings'][0]['notes']
    assert [n.partition(':')[0] for n in notes[:2]] == ['no stats', 'no lidar_pose']
    np.testing.assert_allclose(pairs[0].xyz[0, 0], 1 + 10 * math.cos(math.pi / 8), rtol=1e-5)


@pytest.mark.parametrize(
    ('damage', 'says'),
    [
        (lambda s: s.rows.pop('lidar_calibration'), r'lacks the components lidar_calibration'),
        (
            lambda s: s.rows['camera_calibration'].pop(0),
            r'no calibration of camera FRONT$',
        ),
        (
            lambda s: s.rows['camera_calibration'][0].update(
                {'[CameraCalibrationComponent].intrinsic.f_u': 0.0}
            ),
            'not the matrix of a calibrated camera',
        ),
        (
            lambda s: s.rows['lidar_calibration'][0].update(
                {'[LiDARCalibrationComponent].extrinsic.transform': [float('nan')] * 16}
            ),
            'not a rigid transform',
        ),
        (
            lambda s: [r.pop('[LiDARComponent].range_image_return1.shape')
                       for r in s.rows['lidar']],
            r"lidar/.*parquet lacks the column '\[LiDARComponent\].range_image_return1.shape'",
        ),
    ],
)  # fmt: skip
def test_bad_components(tmp_path, damage, says):
    segment = Segment(tmp_path / 'waymo', 2)
    damage(segment)
    with pytest.raises(RecordingError, match=says):
        convert(segment.write(), tmp_path / 'pairs')


def test_wrong_camera(tmp_path):
    with pytest.raises(RecordingError, match="no images of camera 'REAR'; it has FRONT, "):
        convert(Segment(tmp_path / 'waymo', 1).write(), tmp_path / 'pairs', camera='REAR')


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> Path:
    # With checksums, as pyarrow can write them, no flipped bit of the data goes unnoticed.
    return Segment(tmp_path_factory.mktemp('whole'), 1).write(write_page_checksum=True)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    component=st.sampled_from(
        ['camera_image', 'camera_calibration', 'lidar', 'lidar_calibration', 'lidar_pose',
         'vehicle_pose', 'stats']
    ),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)  # fmt: skip
def test_damaged_files_give_one_line_or_drops(
    written, tmp_path_factory, read_all, damage, component, place, bit, cut
):
    folder = tmp_path_factory.mktemp('waymo')
    shutil.copytree(written, folder, dirs_exist_ok=True)
    path = folder / 'training' / component / f'{SEGMENT}.parquet'
    damage(path, place, bit, cut)
    try:
        pairs = read_all(folder)
    except ClcpError as error:
        lines = str(error).splitlines()
    else:
        lines = ['']
        _check(pairs)
    assert len(lines) == 1


def _check(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert np.isfinite(pair.points).all()
        assert (np.abs(pair.xyz) < 1000).all()
