# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Real bags, written with rosbags: what they hold comes out, what they lack is said."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import visible_points
from training.sources import SourceOptions, open_source

STORE = get_typestore(Stores.ROS2_JAZZY)
STORE_1 = get_typestore(Stores.ROS1_NOETIC)
STORE_1.register(
    get_types_from_msg('geometry_msgs/TransformStamped[] transforms', 'tf2_msgs/msg/TFMessage')
)
START = 1_700_000_000_000_000_000
STEP = 100_000_000
WIDTH, HEIGHT = 64, 48
K = np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]])

IMAGE = '/cam/image_raw'
TYPES = {
    IMAGE: 'sensor_msgs/msg/Image',
    '/cam/image_raw/compressed': 'sensor_msgs/msg/CompressedImage',
    '/cam/camera_info': 'sensor_msgs/msg/CameraInfo',
    '/lidar/points': 'sensor_msgs/msg/PointCloud2',
    '/tf_static': 'tf2_msgs/msg/TFMessage',
    '/simulation/condition': 'std_msgs/msg/String',
    '/odom': 'nav_msgs/msg/Odometry',
}


def make(kind: str, **fields: Any) -> Any:
    return STORE.types[kind](**fields)


def header(stamp_ns: int, frame: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=frame)


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 3, y * 4, np.full_like(x, 20 * number)], -1).astype(np.uint8)


def image(stamp_ns: int, number: int, encoding: str = 'bgr8') -> Any:
    rows = picture(number)[..., ::-1].reshape(HEIGHT, -1)
    padded = np.pad(rows, ((0, 0), (0, 8)))
    return make(
        'sensor_msgs/msg/Image', header=header(stamp_ns, 'cam_optical'), height=HEIGHT,
        width=WIDTH, encoding=encoding, is_bigendian=0, step=padded.shape[1],
        data=padded.ravel(),
    )  # fmt: skip


def compressed(stamp_ns: int, data: bytes) -> Any:
    return make(
        'sensor_msgs/msg/CompressedImage', header=header(stamp_ns, 'cam_optical'),
        format='rgb8; jpeg compressed bgr8', data=np.frombuffer(data, np.uint8),
    )  # fmt: skip


def camera_info(stamp_ns: int, **changes: Any) -> Any:
    roi = make('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
               do_rectify=False)  # fmt: skip
    fields = {
        'header': header(stamp_ns, 'cam_optical'), 'height': HEIGHT, 'width': WIDTH,
        'distortion_model': 'plumb_bob', 'd': np.zeros(5), 'k': K.ravel(), 'r': np.zeros(9),
        'p': np.zeros(12), 'binning_x': 0, 'binning_y': 0, 'roi': roi,
    }  # fmt: skip
    return make('sensor_msgs/msg/CameraInfo', **{**fields, **changes})


def scan_points(number: int) -> np.ndarray:
    """x, y, z, intensity 0..255; some NaN, one without echo."""
    rng = np.random.default_rng(number)
    points = rng.uniform([5, -4, -2, 0], [30, 4, 2, 255], (200, 4)).astype(np.float32)
    points[3] = np.nan
    points[7, 1] = np.nan
    points[11, :3] = 0
    return points


def cloud(stamp_ns: int, number: int) -> Any:
    """Big-endian, fields out of order, padded."""
    layout = np.dtype(
        {'names': ['intensity', 'z', 'x', 'y'], 'formats': ['>f4', '>f8', '>f4', '>f4'],
         'offsets': [2, 8, 20, 24], 'itemsize': 31}
    )  # fmt: skip
    table = np.zeros(200, layout)
    for column, name in enumerate(('x', 'y', 'z', 'intensity')):
        table[name] = scan_points(number)[:, column]
    field_ = 'sensor_msgs/msg/PointField'
    fields = [
        make(field_, name=n, offset=layout.fields[n][1], datatype=8 if n == 'z' else 7, count=1)
        for n in layout.names
    ]
    return make(
        'sensor_msgs/msg/PointCloud2', header=header(stamp_ns, 'lidar'), height=1, width=200,
        fields=fields, is_bigendian=True, point_step=31, row_step=31 * 200,
        data=np.frombuffer(table.tobytes(), np.uint8), is_dense=False,
    )  # fmt: skip


def transform(parent: str, child: str, xyz: tuple, quaternion: tuple) -> Any:
    x, y, z, w = quaternion
    body = make(
        'geometry_msgs/msg/Transform',
        translation=make('geometry_msgs/msg/Vector3', x=xyz[0], y=xyz[1], z=xyz[2]),
        rotation=make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w),
    )
    return make('geometry_msgs/msg/TransformStamped', header=header(START, parent),
                child_frame_id=child, transform=body)  # fmt: skip


def tf_static() -> list[Any]:
    """base -> lidar and base -> mast -> cam_optical, in two messages as two nodes send them."""
    one = make('tf2_msgs/msg/TFMessage', transforms=[
        transform('base', 'lidar', (0.0, 0.0, 2.0), (0.0, 0.0, 0.0, 1.0))])  # fmt: skip
    two = make('tf2_msgs/msg/TFMessage', transforms=[
        transform('base', 'mast', (0.5, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0)),
        transform('mast', 'cam_optical', (0.0, 0.1, 0.5), (-0.5, 0.5, -0.5, 0.5))])  # fmt: skip
    return [one, two]


T_CAMERA_LIDAR = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.5], [1, 0, 0, -0.5], [0, 0, 0, 1.0]])


@dataclass
class Recorded:
    """Messages to write: (topic, time, message); by default five pairs of a good recording."""

    messages: list[tuple[str, int, Any]] = field(default_factory=list)

    @classmethod
    def good(cls, count: int = 5, jpeg: bool = False) -> Recorded:
        messages = [('/tf_static', START, m) for m in tf_static()]
        messages += [('/cam/camera_info', START, camera_info(START))]
        for i in range(count):
            stamp = START + i * STEP
            if jpeg:
                data = image_codec.encode_jpeg(picture(i))
                messages.append(('/cam/image_raw/compressed', stamp, compressed(stamp, data)))
            else:
                messages.append((IMAGE, stamp, image(stamp, i)))
            messages.append(('/lidar/points', stamp + 7_000_000, cloud(stamp + 7_000_000, i)))
        return cls(messages)

    def without(self, topic: str) -> Recorded:
        return Recorded([m for m in self.messages if m[0] != topic])

    def replace(self, topic: str, change) -> Recorded:
        return Recorded([(t, s, change(m) if t == topic else m) for t, s, m in self.messages])

    def write(self, path: Path, plugin: StoragePlugin = StoragePlugin.MCAP) -> Path:
        with Writer2(path, version=9, storage_plugin=plugin) as writer:
            connections = {}
            for topic, time, message in sorted(self.messages, key=lambda m: m[1]):
                if topic not in connections:
                    connections[topic] = writer.add_connection(
                        topic, TYPES[topic], typestore=STORE
                    )
                data = STORE.serialize_cdr(message, TYPES[topic])
                writer.write(connections[topic], time, bytes(data))
        return path


def convert(path: Path, out: Path, image_format: str = 'png', **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format=image_format), preview=False)
    return PairSet(out)


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_ros2_bag(tmp_path, plugin):
    bag = Recorded.good().write(tmp_path / 'drive', plugin)
    assert open_source(bag)[0].name == 'rosbag'
    pairs = convert(bag, tmp_path / 'pairs')
    assert [p.key for p in pairs] == [f'drive/{i:06d}' for i in range(5)]
    for i, pair in enumerate(pairs):
        np.testing.assert_array_equal(pair.image, picture(i))
        expected = scan_points(i)
        expected = expected[np.isfinite(expected).all(1) & (expected[:, :3] != 0).any(1)]
        expected[:, 3] /= 255
        np.testing.assert_allclose(pair.points, expected, rtol=1e-6)
        np.testing.assert_allclose(pair.T_camera_lidar, T_CAMERA_LIDAR, atol=1e-12)
        np.testing.assert_array_equal(pair.K, K)
        assert pair.camera_stamp_ns == START + i * STEP
        assert pair.lidar_stamp_ns == START + i * STEP + 7_000_000
        assert (pair.camera, pair.lidar) == ('cam', 'lidar')
    assert pairs.report['dropped'] == {'points: not finite': 10, 'points: no echo (0, 0, 0)': 5}
    assert pairs.report['recordings'][0]['gaps']['median_ms'] == 7


def test_single_mcap_file(tmp_path):
    Recorded.good(2).write(tmp_path / 'drive')
    file = tmp_path / 'other.mcap'
    shutil.copy(tmp_path / 'drive' / 'drive.mcap', file)
    assert len(convert(file, tmp_path / 'pairs')) == 2


def test_ros1_bag(tmp_path):
    """The same recording as ROS 1 wrote it: capital D K R P, a sequence number in headers."""
    path = write_ros1(tmp_path / 'drive.bag', Recorded.good())
    pairs = convert(path, tmp_path / 'pairs')
    assert len(pairs) == 5
    np.testing.assert_array_equal(pairs[4].image, picture(4))
    np.testing.assert_allclose(pairs[4].T_camera_lidar, T_CAMERA_LIDAR, atol=1e-12)
    assert pairs[4].camera_stamp_ns == START + 4 * STEP


def write_ros1(path: Path, recorded: Recorded) -> Path:
    with Writer1(path) as writer:
        connections = {}
        for topic, time, message in sorted(recorded.messages, key=lambda m: m[1]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, TYPES[topic], typestore=STORE_1)
            writer.write(connections[topic], time, ros1(message))
    return path


def test_split_ros1_bag_is_one_recording(tmp_path):
    """Calibration is in the first file, a scan on the other side of the cut from its image."""
    folder = tmp_path / 'bags'
    folder.mkdir()
    messages = sorted(Recorded.good(4).messages, key=lambda m: m[1])
    cut = [i for i, m in enumerate(messages) if m[0] == IMAGE][2] + 1
    write_ros1(folder / 'run_0.bag', Recorded(messages[:cut]))
    write_ros1(folder / 'run_1.bag', Recorded(messages[cut:]))
    pairs = convert(folder, tmp_path / 'pairs')
    assert [p.key for p in pairs] == [f'run/{i:06d}' for i in range(4)]
    # Numbered from 1 they are runs of their own.
    (folder / 'run_0.bag').rename(folder / 'run_2.bag')
    assert [r.sequence for r in open_source(folder)[1]] == ['run_1', 'run_2']


def ros1(message: Any) -> bytes:
    def translate(value: Any) -> Any:
        if isinstance(value, list):
            return [translate(entry) for entry in value]
        if not hasattr(value, '__msgtype__'):
            return value
        kind = value.__msgtype__
        fields = {n: translate(v) for n, v in vars(value).items() if n != '__msgtype__'}
        if kind == 'std_msgs/msg/Header':
            fields['seq'] = 0
        if kind == 'sensor_msgs/msg/CameraInfo':
            fields = {n.upper() if n in 'dkrp' else n: v for n, v in fields.items()}
        return STORE_1.types[kind](**fields)

    return bytes(STORE_1.serialize_ros1(translate(message), message.__msgtype__))


def test_recorded_jpeg_is_kept_byte_for_byte(tmp_path):
    pairs = convert(Recorded.good(2, jpeg=True).write(tmp_path / 'b'), tmp_path / 'p', 'jpg')
    assert pairs.image_bytes(1) == image_codec.encode_jpeg(picture(1))


@pytest.mark.parametrize(
    ('model', 'd'), [('plumb_bob', [-0.2, 0.03, 0, 0, 0]), ('equidistant', [0.05, 0, 0, 0]),
                     ('rational_polynomial', [0.1, 0, 0, 0, 0, 0.2, 0, 0])],
)  # fmt: skip
def test_distorted_camera_is_rectified(tmp_path, model, d):
    P = np.array([[36.0, 0, 30, 0], [0, 37, 24, 0], [0, 0, 1, 0]])
    recorded = Recorded.good(1, jpeg=True).replace(
        '/cam/camera_info',
        lambda m: camera_info(START, distortion_model=model, d=np.array(d), p=P.ravel()),
    )
    pair = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')[0]
    np.testing.assert_array_equal(pair.K, P[:, :3])
    assert np.abs(pair.image.astype(int) - picture(0)).mean() > 2


def test_rotation_of_rectification_goes_into_the_extrinsics(tmp_path):
    angle = 0.1
    R = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    P = np.column_stack([K, np.zeros(3)])
    recorded = Recorded.good(1).replace(
        '/cam/camera_info', lambda m: camera_info(START, r=R.ravel(), p=P.ravel())
    )
    pair = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')[0]
    np.testing.assert_allclose(pair.T_camera_lidar[:3], R @ T_CAMERA_LIDAR[:3], atol=1e-12)
    # A pixel of the picture and the rectified pixel of the same ray have the same colour.
    ray = np.linalg.inv(K) @ [31.5, 23.5, 1]
    u, v, w = K @ (R @ ray)
    moved = pair.image[round(v / w), round(u / w)].astype(int)
    assert np.abs(moved - picture(0)[23, 31]).max() <= 6


def test_half_size_images_scale_the_calibration(tmp_path):
    recorded = Recorded.good(1).replace(
        '/cam/camera_info',
        lambda m: camera_info(START, width=2 * WIDTH, height=2 * HEIGHT),
    )
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')
    np.testing.assert_allclose(pairs[0].K[:2, :2], K[:2, :2] / 2)
    np.testing.assert_allclose(pairs[0].K[:2, 2], (K[:2, 2] + 0.5) / 2 - 0.5)
    assert any('K scaled' in note for note in pairs.report['recordings'][0]['notes'])


def test_condition_becomes_a_tag(tmp_path):
    recorded = Recorded.good(4)
    for time, name in ((START, 'clear'), (START + 2 * STEP, 'fog')):
        recorded.messages.insert(
            0, ('/simulation/condition', time, make('std_msgs/msg/String', data=name))
        )
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')
    assert [p.tags['condition'] for p in pairs] == ['clear', 'clear', 'fog', 'fog']


def test_headers_without_stamps(tmp_path):
    recorded = Recorded.good(3).replace(IMAGE, lambda m: image(0, 0))
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')
    assert pairs[2].camera_stamp_ns == START + 2 * STEP
    assert any('times of recording' in note for note in pairs.report['recordings'][0]['notes'])


def test_calibration_file(tmp_path):
    recorded = Recorded.good(1).without('/cam/camera_info').without('/tf_static')
    bag = recorded.write(tmp_path / 'b')
    file = tmp_path / 'calibration.yaml'
    T = T_CAMERA_LIDAR.tolist()
    file.write_text(f'K: {K.tolist()}\ndistortion_model: plumb_bob\nD: [0, 0, 0, 0, 0]\n'
                    f'T_camera_lidar: {T}\n')  # fmt: skip
    pair = convert(bag, tmp_path / 'p', calibration=file)[0]
    np.testing.assert_array_equal(pair.K, K)
    np.testing.assert_array_equal(pair.T_camera_lidar, T_CAMERA_LIDAR)
    _, _, seen = visible_points(pair.xyz, pair.K, pair.T_camera_lidar, WIDTH, HEIGHT)
    assert seen.any()


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('K: [1, 2]', r'K is not \(3, 3\)'),
        ('intrinsics: 3', "unknown key 'intrinsics'"),
        ('K: [', 'cannot be read'),
        ('', 'none of the keys'),
        (f'T_camera_lidar: {np.ones((4, 4)).tolist()}', 'not a rigid'),
        (f'K: {K.tolist()}\nD: [1, 2, 3]', 'coefficients'),
        (f'K: {K.tolist()}\nD: [0, 0, 0, 0]\ndistortion_model: omni', 'omni'),
    ],
)
def test_bad_calibration_file(tmp_path, text, says):
    file = tmp_path / 'calibration.yaml'
    file.write_text(text)
    bag = Recorded.good(1).write(tmp_path / 'b')
    fails(tmp_path, bag, CalibrationError, says, calibration=file)


def fails(tmp_path: Path, bag: Path, kind: type, says: str, **options: Any) -> None:
    """One line, and nothing written."""
    with pytest.raises(kind, match=says) as error:
        convert(bag, tmp_path / 'out', **options)
    assert '\n' not in str(error.value).strip()
    assert not (tmp_path / 'out').exists()
    assert not (tmp_path / '.out.partial').exists()


@pytest.mark.parametrize(
    ('topic', 'kind', 'says'),
    [
        (IMAGE, RecordingError, r'no image topic; the bag has /cam/camera_info \(sensor_msgs'),
        ('/lidar/points', RecordingError, r'no PointCloud2 topic; the bag has .*/cam/image_raw'),
        (
            '/cam/camera_info',
            CalibrationError,
            'no CameraInfo for /cam/image_raw; .*--calibration',
        ),
        ('/tf_static', CalibrationError, "no transform from 'lidar'.*--calibration"),
    ],
)
def test_missing_topics(tmp_path, topic, kind, says):
    fails(tmp_path, Recorded.good(1).without(topic).write(tmp_path / 'b'), kind, says)


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'image_topic': '/nope'}, r"no topic '/nope' .*the bag has .*/cam/image_raw \(sensor"),
        ({'image_topic': '/lidar/points'}, 'is sensor_msgs/msg/PointCloud2, not'),
        ({'points_topic': '/tf_static'}, 'is tf2_msgs/msg/TFMessage, not'),
        ({'camera': 'front'}, '--camera means nothing to the rosbag reader'),
    ],
)
def test_wrong_options(tmp_path, options, says):
    fails(tmp_path, Recorded.good(1).write(tmp_path / 'b'), RecordingError, says, **options)


def test_unknown_encoding(tmp_path):
    recorded = Recorded.good(2).replace(IMAGE, lambda m: image(START, 0, '32FC1'))
    fails(tmp_path, recorded.write(tmp_path / 'b'), RecordingError, "'32FC1' is not supported")


def test_uncalibrated_camera(tmp_path):
    recorded = Recorded.good(2).replace(
        '/cam/camera_info', lambda m: camera_info(START, k=np.zeros(9))
    )
    fails(tmp_path, recorded.write(tmp_path / 'b'), CalibrationError, '--calibration')


def test_calibration_of_another_shape(tmp_path):
    recorded = Recorded.good(2).replace('/cam/camera_info', lambda m: camera_info(START, width=9))
    fails(tmp_path, recorded.write(tmp_path / 'b'), CalibrationError, 'calibration is for 9 x 48')


def test_one_bad_message_costs_one_pair(tmp_path):
    recorded = Recorded.good(5, jpeg=True)
    images = [i for i, m in enumerate(recorded.messages) if m[0].endswith('compressed')]
    for position, message in (
        (images[2], lambda m: compressed(m[1], bytes(m[2].data)[:-300])),
        (images[4] + 1, lambda m: STORE.types[TYPES[m[0]]](**{**vars(m[2]), 'width': 9999})),
    ):
        topic, time, _ = entry = recorded.messages[position]
        recorded.messages[position] = (topic, time, message(entry))
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p', 'jpg')
    assert [p.key for p in pairs] == ['b/000000', 'b/000001', 'b/000003']
    dropped = pairs.report['dropped']
    assert dropped['image: truncated JPEG'] == 1
    assert dropped['scan: contradictory layout'] == 1


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('keep', [0.0, 0.3, 0.9])
def test_truncated_bag(tmp_path, plugin, keep):
    bag = Recorded.good(5).write(tmp_path / 'b', plugin)
    file = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    fails(tmp_path, bag, RecordingError, r'b cannot be read, it may be truncated')


def test_two_cameras_are_two_recordings(tmp_path):
    TYPES.update({'/left/image_raw': TYPES[IMAGE], '/left/camera_info': TYPES['/cam/camera_info']})
    recorded = Recorded.good(2)
    recorded.messages += [
        (t.replace('/cam/', '/left/'), s, m) for t, s, m in recorded.messages if '/cam/' in t
    ]
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')
    assert pairs.sequences == ['b_cam', 'b_left']
    assert len(pairs) == 4
    only = convert(tmp_path / 'b', tmp_path / 'q', image_topic='/left/image_raw')
    assert only.sequences == ['b']


def test_folder_of_bags(tmp_path):
    (tmp_path / 'bags').mkdir()
    for name in ('one', 'two'):
        Recorded.good(2).write(tmp_path / 'bags' / name)
    assert convert(tmp_path / 'bags', tmp_path / 'p').sequences == ['one', 'two']


def test_messages_out_of_order_and_far_apart(tmp_path):
    """Scans recorded long after their images still find them; memory is another matter."""
    recorded = Recorded.good(4)
    recorded.messages = [
        (t, s + 10_000_000_000 if t == '/lidar/points' else s, m) for t, s, m in recorded.messages
    ]
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p')
    assert [p.key for p in pairs] == [f'b/{i:06d}' for i in range(4)]
    np.testing.assert_array_equal(pairs[3].image, picture(3))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_never_a_traceback(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('damaged')
    plugin = data.draw(st.sampled_from([StoragePlugin.MCAP, StoragePlugin.SQLITE3]))
    bag = Recorded.good(2, jpeg=True).write(folder / 'b', plugin)
    file = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        pairs = convert(bag, folder / 'out', 'jpg')
    except ClcpError:
        assert [p.name for p in folder.iterdir()] == ['b']
    else:
        assert 0 < len(pairs) <= 2
        assert all(np.isfinite(pair.points).all() for pair in pairs)


def test_a_jpeg_damaged_between_intact_ends_is_dropped(tmp_path):
    """It passes every check short of decoding, and no member of a set may fail to decode."""
    recorded = Recorded.good(3, jpeg=True)
    places = [i for i, m in enumerate(recorded.messages) if m[0] == '/cam/image_raw/compressed']
    topic, stamp, message = recorded.messages[places[1]]
    damaged = bytearray(message.data.tobytes())
    table = damaged.index(b'\xff\xc4')  # a Huffman table with more codes than there can be
    damaged[table + 5 : table + 21] = bytes([255] * 16)
    image_codec.check_bytes(bytes(damaged))
    recorded.messages[places[1]] = (topic, stamp, compressed(stamp, bytes(damaged)))
    pairs = convert(recorded.write(tmp_path / 'b'), tmp_path / 'p', 'jpg')
    assert [pair.key for pair in pairs] == ['b/000000', 'b/000002']
    assert sum(n for reason, n in pairs.report['dropped'].items() if 'damaged' in reason) == 1
