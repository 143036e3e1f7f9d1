# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A2D2's layout with both key styles, both lenses, and the broken files it is known for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clcp_ros import image_codec
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import CalibrationError, RecordingError
from training.pairs import PairSet
from training.pairs.build import BuildOptions, build, plan
from training.pairs.geometry import project_points
from training.sources import SourceOptions, a2d2, open_source

K = [[50.0, 0, 39.5], [0, 52, 24.5], [0, 0, 1]]
SCENE = '20180807_145028'


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

    def path(self, kind: str, number: int, extension: str, scene: str = SCENE) -> Path:
        name = f'{scene.replace("_", "")}_{kind}_frontcenter_{number:09d}.{extension}'
        path = (
            self.set / scene / ('camera' if kind == 'camera' else kind) / 'cam_front_center' / name
        )
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
