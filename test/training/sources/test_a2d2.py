# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A2D2's layout with both key styles, both lenses, and the broken files it is known for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcp_ros import image_codec
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import CalibrationError, ClcpError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.sources import SourceOptions, a2d2, open_source

K = [[50.0, 0, 39.5], [0, 52, 24.5], [0, 0, 1]]
SCENE = '20180807_145028'
# As published.
FRONT_CENTER = {
    'CamMatrix': [[1687.3369140625, 0, 965.4341405582381], [0, 1783.428466796875,
                  684.4193604186803], [0, 0, 1]],
    'CamMatrixOriginal': [[1844.1774422790927, 0, 964.4299052386386],
                          [0, 1841.5212239377258, 679.5331911948183], [0, 0, 1]],
    'Distortion': [[-0.2611312587700434, 0, 0, 0, 0]],
    'Resolution': [1920, 1208],
    'Lens': 'Telecam',
    'view': {'origin': [1.711, 0, 0.943]},
}  # fmt: skip


def camera(lens: str = 'Telecam', distortion: list[float] | None = None) -> dict[str, Any]:
    count = 5 if lens == 'Telecam' else 4
    return {
        'CamMatrix': K,
        'CamMatrixOriginal': K,
        'Distortion': [distortion or [0.0] * count],
        'Resolution': [80, 50],
        'Lens': lens,
    }


def scan(number: int, count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    points = rng.uniform([4, -3, -1], [40, 3, 1], (count, 3))
    x, y, z = points.T
    return {
        'points': points,
        'reflectance': rng.integers(0, 256, count),
        'row': K[1][2] - K[1][1] * z / x,
        'col': K[0][2] - K[0][0] * y / x,
        'timestamp': 1_533_904_617_000_000 + np.arange(count) * 1000,
        'lidar_id': np.zeros(count),
    }


class Scene:
    """Writes the official layout."""

    def __init__(self, root: Path, calibration: dict[str, Any] | None = None) -> None:
        self.root = root
        self.set = root / 'camera_lidar_semantic'
        self.set.mkdir(parents=True, exist_ok=True)
        content = {'cameras': calibration or {'front_center': camera()}}
        (self.set / 'cams_lidars.json').write_text(json.dumps(content))

    def path(
        self,
        kind: str,
        number: int,
        extension: str,
        scene: str = SCENE,
        camera: str = 'front_center',
    ) -> Path:
        view = camera.replace('_', '')
        name = f'{scene.replace("_", "")}_{kind}_{view}_{number:09d}.{extension}'
        path = self.set / scene / kind / f'cam_{camera}' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, number: int, image: np.ndarray | None = None, **content: Any) -> Scene:
        if image is None:
            image = np.full((50, 80, 3), number % 256, np.uint8)
        self.path('camera', number, 'png').write_bytes(image_codec.encode_png(image))
        stamp = {'cam_tstamp': 1_533_904_617_000_000 + number * 33_333}
        self.path('camera', number, 'json').write_text(json.dumps(stamp))
        np.savez(self.path('lidar', number, 'npz'), **(content or scan(number)))
        return self


def convert(path: Path, out: Path, **options: Any) -> PairSet:
    source, recordings = open_source(path, options=SourceOptions(**options))
    assert source.name == 'a2d2'
    jobs = plan([(source.name, str(path), recording) for recording in recordings])
    build(jobs, out, BuildOptions(image_format='png'), preview=False)
    return PairSet(out)


@pytest.mark.parametrize('prefixed', [False, True])
def test_scene(tmp_path, prefixed):
    scene = Scene(tmp_path / 'a2d2')
    for number in (7, 30, 12):
        content = scan(number)
        if prefixed:
            content = {
                'pcloud_points' if k == 'points' else f'pcloud_attr.{k}': v
                for k, v in content.items()
            }
        scene.add(number, **content)
    pairs = convert(tmp_path / 'a2d2', tmp_path / 'pairs')
    assert [p.key for p in pairs] == [f'{SCENE}/{n:09d}' for n in (7, 12, 30)]
    for pair, number in zip(pairs, (7, 12, 30), strict=True):
        truth = scan(number)
        assert pair.camera_stamp_ns == (1_533_904_617_000_000 + number * 33_333) * 1000
        assert pair.lidar_stamp_ns == (1_533_904_617_000_000 + 29_500) * 1000
        assert pair.columns == ('x', 'y', 'z', 'intensity', 'time')
        np.testing.assert_allclose(pair.xyz, truth['points'], rtol=1e-6)
        np.testing.assert_allclose(pair.intensity, truth['reflectance'] / 255, rtol=1e-6)
        np.testing.assert_allclose(pair.points[:, 4], np.arange(60) * 1e-3 - 0.0295, atol=1e-7)
        # What the file states for each point is where it is projected to.
        uv, depth = project_points(truth['points'], pair.K, pair.T_camera_lidar)
        np.testing.assert_allclose(uv, np.stack([truth['col'], truth['row']], 1), atol=1e-9)
        np.testing.assert_allclose(depth, truth['points'][:, 0])
    assert pairs.report['recordings'][0]['notes'] == []


@pytest.mark.parametrize(
    'inside', ['.', 'camera_lidar_semantic', f'camera_lidar_semantic/{SCENE}']
)
def test_any_folder_of_the_layout_will_do(tmp_path, inside):
    Scene(tmp_path / 'a2d2').add(1)
    assert len(convert(tmp_path / 'a2d2' / inside, tmp_path / 'pairs')) == 1


def test_condition_in_an_images_json_becomes_a_tag(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1).add(2)
    path = scene.path('camera', 2, 'json')
    path.write_text(json.dumps({**json.loads(path.read_text()), 'condition': 'fog'}))
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert [p.tags for p in pairs] == [{}, {'condition': 'fog'}]


def test_images_without_json(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1)
    scene.path('camera', 1, 'json').unlink()
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert pairs[0].camera_stamp_ns == pairs[0].lidar_stamp_ns
    assert 'cam_tstamp' in pairs.report['recordings'][0]['notes'][0]


@pytest.mark.parametrize(
    ('lens', 'distortion'), [('Telecam', [-0.26, 0, 0, 0, 0]), ('Fisheye', [0.05, 0.01, 0, 0])]
)
def test_lenses(tmp_path, lens, distortion):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (50, 80, 3)).astype(np.uint8)
    scene = Scene(tmp_path / 'a2d2', {'front_center': camera(lens, distortion)}).add(1, image)
    pair = convert(scene.root, tmp_path / 'pairs')[0]
    # Near the principal point nothing moves; at the corners it does.
    assert np.abs(pair.image[24:26, 39:41].astype(int) - image[24:26, 39:41]).max() < 60
    assert np.abs(pair.image[:8, :8].astype(int) - image[:8, :8]).mean() > 30
    np.testing.assert_array_equal(pair.K, K)


def test_broken_files_are_skipped_and_counted(tmp_path):
    scene = Scene(tmp_path / 'a2d2')
    for number in range(10):
        scene.add(number)
    without = {k: v for k, v in scan(1).items() if k != 'reflectance'}
    np.savez(scene.path('lidar', 1, 'npz'), **without)
    np.savez(scene.path('lidar', 2, 'npz'), **scan(2, 0))
    truncated = scene.path('lidar', 3, 'npz')
    truncated.write_bytes(truncated.read_bytes()[:-400])
    truncated = scene.path('camera', 4, 'png')
    truncated.write_bytes(truncated.read_bytes()[:-20])
    np.savez(scene.path('lidar', 5, 'npz'), points=np.array([{}]), reflectance=np.zeros(1))
    scene.path('lidar', 6, 'npz').unlink()
    rowless = {k: v for k, v in scan(7).items() if k not in ('row', 'col')}
    rowless['points'][:5] = np.nan
    np.savez(scene.path('lidar', 7, 'npz'), **rowless)
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert [int(p.key[-9:]) for p in pairs] == [0, 7, 8, 9]
    assert pairs.report['dropped'] == {
        'points: not finite': 5,
        'npz truncated or damaged': 2,
        'no npz of the same number': 1,
        'npz without reflectance': 1,
        'npz without points': 1,
        'image: truncated PNG': 1,
    }
    assert pairs.report['recordings'][0]['examples']['npz without reflectance'].endswith('1.npz')


def test_only_broken_files(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(3)
    path = scene.path('lidar', 3, 'npz')
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(
        RecordingError, match=r'no pairs: npz truncated or damaged \(1, first: .*npz'
    ):
        convert(scene.root, tmp_path / 'pairs')
    assert [p.name for p in tmp_path.iterdir()] == ['a2d2']


def test_calibration_of_other_data_is_noticed(tmp_path):
    content = scan(1)
    content['row'] = content['row'] + 40
    pairs = convert(Scene(tmp_path / 'a2d2').add(1, **content).root, tmp_path / 'pairs')
    assert 'does the calibration belong' in pairs.report['recordings'][0]['notes'][0]


def test_missing_calibration(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1)
    calibration = scene.set / 'cams_lidars.json'
    elsewhere = tmp_path / 'elsewhere.json'
    calibration.rename(elsewhere)
    with pytest.raises(CalibrationError, match=r'no cams_lidars.json.*--calibration'):
        convert(scene.root, tmp_path / 'pairs')
    assert len(convert(scene.root, tmp_path / 'pairs', calibration=elsewhere)) == 1
    elsewhere.write_text('{"cameras": {"front_center": {"Lens": "Telecam"}}}')
    with pytest.raises(CalibrationError, match=r"lacks 'Resolution' for camera 'front_center'"):
        convert(scene.root, tmp_path / 'other', calibration=elsewhere)


def test_wrong_camera(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1)
    with pytest.raises(RecordingError, match="no images of camera 'rear'; it has front_center"):
        convert(scene.root, tmp_path / 'pairs', camera='rear')


def test_image_of_another_size(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1, np.zeros((50, 81, 3), np.uint8))
    with pytest.raises(CalibrationError, match='for 80 x 50, the image is 81 x 50'):
        convert(scene.root, tmp_path / 'pairs')
    assert [p.name for p in tmp_path.iterdir()] == ['a2d2']


def test_colors_to_cityscapes():
    colors = {
        'road': 'ff00ff', 'sidewalk': 'b496c8', 'building': 'f1e6ff', 'pole': 'fff68f',
        'traffic light': '0080ff', 'traffic sign': '00ffff', 'vegetation': '93fdc2',
        'sky': '87ceff', 'person': 'cc99ff', 'car': '800000', 'truck': 'ff8000',
        'motorcycle': '009600', 'bicycle': '5a1e1e',
    }  # fmt: skip
    rgb = np.array(
        [[list(bytes.fromhex(c)) for c in [*colors.values(), '48d1cc', '010203']]], 'u1'
    )
    ids, unknown = a2d2.labels_to_train_ids(rgb)
    assert [CITYSCAPES.names[i] for i in ids[0, :-2]] == list(colors)
    assert ids[0, -2:].tolist() == [255, 255]
    assert unknown == 1  # the ego car is known and has no class; the last colour is not A2D2's


def test_published_front_center(tmp_path):
    """The true calibration: a point on the axis, one beside it, and what rectifying moves."""
    path = tmp_path / 'cams_lidars.json'
    path.write_text(json.dumps({'cameras': {'front_center': FRONT_CENTER}}))
    rectifier = a2d2.read_calibration(path, 'front_center')
    view = np.array([[10.0, 0, 0], [20, -2, 1]])  # forward, left, up
    uv, depth = project_points(view, rectifier.K, a2d2.T_OPTICAL_VIEW)
    np.testing.assert_allclose(depth, [10, 20])
    np.testing.assert_allclose(uv[0], [965.4341405582381, 684.4193604186803])
    np.testing.assert_allclose(
        uv[1], [965.4341405582381 + 168.73369140625, 684.4193604186803 - 89.17142333984375]
    )
    # Where the second point lies in the distorted image: x = 0.1, y = -0.05, r2 = 0.0125.
    factor = 1 - 0.2611312587700434 * 0.0125
    at = [964.4299052386386 + 1844.1774422790927 * 0.1 * factor,
          679.5331911948183 - 1841.5212239377258 * 0.05 * factor]  # fmt: skip
    image = np.zeros((1208, 1920, 3), np.uint8)
    cv2.circle(image, (round(at[0]), round(at[1])), 3, (255, 255, 255), -1)
    rows, columns = np.nonzero(rectifier.rectify(image)[..., 0] > 127)
    np.testing.assert_allclose([columns.mean(), rows.mean()], uv[1], atol=1)


def test_all_cameras(tmp_path):
    names = ['front_center', 'front_left', 'rear_center']
    lenses = {'front_left': camera('Fisheye'), 'rear_center': camera()}
    scene = Scene(tmp_path / 'a2d2', {'front_center': camera(), **lenses})
    for number, name in enumerate(names):
        image = np.full((50, 80, 3), 50 * number, np.uint8)
        scene.path('camera', 5, 'png', camera=name).write_bytes(image_codec.encode_png(image))
        np.savez(scene.path('lidar', 5, 'npz', camera=name), **scan(number))
    pairs = convert(scene.root, tmp_path / 'pairs', camera='all')
    assert [p.sequence for p in pairs] == [f'{SCENE}_{name}' for name in names]
    for number, pair in enumerate(pairs):
        np.testing.assert_allclose(pair.xyz, scan(number)['points'], rtol=1e-6)
        assert pair.image[25, 40, 0] == 50 * number
    two = convert(scene.root, tmp_path / 'two', camera='rear_center,front_center')
    assert {p.camera for p in two} == {'front_center', 'rear_center'}
    assert [p.sequence for p in convert(scene.root, tmp_path / 'one')] == [SCENE]


def test_all_cameras_of_a_partial_calibration(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1)
    image = image_codec.encode_png(np.zeros((50, 80, 3), np.uint8))
    scene.path('camera', 1, 'png', camera='side_left').write_bytes(image)
    pairs = convert(scene.root, tmp_path / 'pairs', camera='all')
    assert [p.camera for p in pairs] == ['front_center']
    notes = pairs.report['recordings'][0]['notes']
    assert notes == ['cams_lidars.json has no camera side_left: its images are left out']
    with pytest.raises(CalibrationError, match="lacks 'side_left'"):
        convert(scene.root, tmp_path / 'other', camera='side_left')


def test_scene_without_lidar_is_reported(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1)
    image = image_codec.encode_png(np.zeros((50, 80, 3), np.uint8))
    scene.path('camera', 7, 'png', '20181016_095036').write_bytes(image)
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert len(pairs) == 1
    report = {r['sequence']: r for r in pairs.report['recordings']}
    assert report['20181016_095036']['notes'] == ['no lidar files of cam_front_center']
    assert report['20181016_095036']['pairs'] == 0
    assert pairs.report['dropped'] == {'no npz of the same number': 1}


def test_odd_descriptions_of_images(tmp_path):
    scene = Scene(tmp_path / 'a2d2')
    odd = ('{"cam_tstamp": "soon", "tags": [1]}', '{"cam_tstamp": NaN}', '[]', '{', '')
    for number, text in enumerate(odd):
        scene.add(number)
        scene.path('camera', number, 'json').write_text(text)
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert len(pairs) == len(odd)
    assert all(p.camera_stamp_ns == p.lidar_stamp_ns and p.tags == {} for p in pairs)


def test_one_image_of_another_size_costs_one_pair(tmp_path):
    scene = Scene(tmp_path / 'a2d2').add(1).add(2, np.zeros((50, 81, 3), np.uint8)).add(3)
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert [p.key[-1] for p in pairs] == ['1', '3']
    assert pairs.report['dropped'] == {'image: not of the size of its camera': 1}


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'timestamp': np.full(60, np.nan)}, 'npz with impossible times'),
        ({'timestamp': np.arange(60) * 1e12}, 'npz with impossible times'),
        ({'timestamp': np.full(60, -1)}, 'npz with impossible times'),
        ({'timestamp': np.arange(59)}, 'npz arrays of different lengths'),
        ({'reflectance': np.zeros((60, 1))}, 'npz arrays of different lengths'),
        ({'reflectance': np.array(5)}, 'npz arrays of different lengths'),
        ({'points': np.zeros((60, 2))}, 'npz arrays of different lengths'),
        ({'points': np.zeros(180)}, 'npz arrays of different lengths'),
        ({'points': np.full((60, 3), 'a')}, 'npz arrays are not numbers'),
        ({'reflectance': np.zeros(0)}, 'npz without points'),
    ],
)
def test_arrays_that_contradict_each_other(tmp_path, change, reason):
    scene = Scene(tmp_path / 'a2d2').add(1).add(2, **{**scan(2), **change})
    pairs = convert(scene.root, tmp_path / 'pairs')
    assert len(pairs) == 1
    assert pairs.report['dropped'] == {reason: 1}


def test_all_colors_of_the_class_list():
    """The table of docs and specification, colour by colour; 55 of them."""
    table = {
        'ff0000 c80000 960000 800000': 13, 'b65906 963204 5a1e01 5a1e1e': 18,
        'cc99ff bd499b ef59bf': 11, 'ff8000 c88000 968000': 14, '00ff00 00c800 009600': 17,
        '0080ff 1e1c9e 3c1c64': 6, '00ffff 1edcdc 3c9dc7': 7, 'ffff00 ffffc8': 255, 'e96400': 255,
        '6e6e00': 0, '808000': 1, 'ffc125': 0, 'eee9bf': 0, '93fdc2': 8, 'b496c8': 1, 'c87dd2': 0,
        '8000ff': 0, '87ceff': 10, '60458f': 255, '400040': 255, 'b97a57': 255, '000064': 255,
        '8b636c': 255, 'd23273': 0, 'ff0080': 255, 'fff68f': 5, '960096': 255, 'ccff99': 255,
        'eea2ad': 4, '212cb1': 6, 'b432b4': 0, 'ff46b9': 255, '9696c8': 255, '48d1cc': 255,
        '9f79ee': 255, 'ff00ff': 0, 'f1e6ff': 2, '352e52': 255,
    }  # fmt: skip
    expected = {color: i for colors, i in table.items() for color in colors.split()}
    assert len(expected) == 55
    rgb = np.array([[list(bytes.fromhex(color)) for color in expected]], np.uint8)
    ids, unknown = a2d2.labels_to_train_ids(rgb)
    assert unknown == 0
    assert ids[0].tolist() == list(expected.values())


def test_labels_are_rectified_without_mixing(tmp_path):
    calibration = {'front_center': camera(distortion=[-0.26, 0, 0, 0, 0])}
    scene = Scene(tmp_path / 'a2d2', calibration)
    rectifier = a2d2.read_calibration(scene.set / 'cams_lidars.json', 'front_center')
    colors = np.array([[255, 0, 255], [180, 150, 200]], np.uint8)
    label = colors[np.random.default_rng(0).integers(0, 2, (50, 80))]
    found = np.unique(rectifier.rectify(label, labels=True).reshape(-1, 3), axis=0)
    assert {tuple(c) for c in found.tolist()} <= {(0, 0, 0), (255, 0, 255), (180, 150, 200)}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    compressed=st.booleans(),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_damaged_npz_is_refused_or_whole(tmp_path_factory, compressed, place, bit, cut):
    """A zip has checksums: what is read is what was written, or the file is refused."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **scan(1))
    data = bytearray(stream.getvalue())
    position = int(place * len(data))
    if cut:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    path = tmp_path_factory.mktemp('npz') / 'scan.npz'
    path.write_bytes(data)
    try:
        found = a2d2.read_scan(path)
    except ClcpError as error:
        lines = str(error).splitlines()
        found = None
    else:
        lines = ['']
    assert len(lines) == 1
    if found is not None:
        truth = scan(1)
        np.testing.assert_allclose(found.points[:, :3], truth['points'], rtol=1e-6)
        np.testing.assert_allclose(found.points[:, 3], truth['reflectance'] / 255, rtol=1e-6)
