# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from training.simulate import main as simulate_command
from training.simulation.a2d2 import scenes
from training.simulation.bags import Bag
from training.simulation.cityscapes import TRAIN_ROADS, TRAIN_TOWNS, Cityscapes, Part
from training.simulation.config import CONDITIONS, SimulationConfig, SimulationError
from training.simulation.recording import read_truths
from training.simulation.run import SimulatedData, simulate, write_recordings

TINY = SimulationConfig(
    rate_hz=10, seconds=0.2, width=96, height=64, beams=16, columns=120, train_frames=1,
    val_frames=1,
)  # fmt: skip
DRIVE = Bag(1, (('clear', 1.0),))
STREET = Cityscapes(parts=(Part('train', 1, 24, ('clear',)),), span=3.0)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> SimulatedData:
    return simulate(tmp_path_factory.mktemp('sim') / 'out', TINY, workers=1)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_same_bytes_in_two_processes_and_in_one(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_recordings(tmp_path / str(workers), TINY, [DRIVE, STREET], workers)
    first = digests(tmp_path / '1')
    assert first == digests(tmp_path / '2')
    assert len(first) > 50


def test_second_run_reuses_and_other_parameters_rebuild(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert write_recordings(out, TINY, [DRIVE], workers=1) == (2, False)
    before = digests(out)
    begin = time.perf_counter()
    assert write_recordings(out, TINY, [DRIVE], workers=1) == (2, True)
    assert time.perf_counter() - begin < 1
    assert digests(out) == before
    assert not write_recordings(out, replace(TINY, seed=5), [DRIVE], workers=1)[1]
    assert digests(out) != before


def test_other_layouts_join_those_that_are_there(tmp_path: Path) -> None:
    out, street = tmp_path / 'out', Cityscapes(parts=(Part('train', 1, 1, ('clear',)),))
    write_recordings(out, TINY, [DRIVE], workers=1)
    stamp = (out / DRIVE.path / 'metadata.yaml').stat().st_mtime_ns
    assert not write_recordings(out, TINY, [street], workers=1)[1]
    assert write_recordings(out, TINY, [DRIVE, street], workers=1) == (3, True)
    assert (out / DRIVE.path / 'metadata.yaml').stat().st_mtime_ns == stamp
    # Another storage replaces the bag alone; other parameters replace everything.
    image = next((out / 'cityscapes').rglob('*_leftImg8bit.png')).stat().st_mtime_ns
    write_recordings(out, TINY, [DRIVE.stored_as('sqlite3')], workers=1)
    assert (out / DRIVE.path / 'town01.db3').is_file()
    assert next((out / 'cityscapes').rglob('*_leftImg8bit.png')).stat().st_mtime_ns == image
    write_recordings(out, replace(TINY, seed=5), [DRIVE], workers=1)
    assert not (out / 'cityscapes').exists()


def test_interrupted_run_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'out'
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Cityscapes, 'encode', interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_recordings(out, TINY, [DRIVE, STREET], workers=1)
    whole = sorted(p.name for p in out.iterdir() if not p.name.startswith('.'))
    assert whole == ['bags', 'simulation.json']
    stamp = (out / 'bags' / 'town01' / 'metadata.yaml').stat().st_mtime_ns
    assert write_recordings(out, TINY, [DRIVE, STREET], workers=1) == (26, False)
    assert (out / 'bags' / 'town01' / 'metadata.yaml').stat().st_mtime_ns == stamp
    assert not list(out.glob('.*'))


def test_killed_run_goes_on_with_the_frames_that_are_missing(root: Path, tmp_path: Path) -> None:
    code = (
        'import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);'
        'from training.simulation.run import write_recordings as write;'
        'from training.simulation.config import SimulationConfig as C;'
        'from training.simulation.cityscapes import Cityscapes, Part;'
        f'write(Path(sys.argv[2]), {TINY!r}, '
        f'[Cityscapes(parts={STREET.parts!r}, span=3.0)], 1)'
    ).replace('SimulationConfig(', 'C(')
    killed, through = tmp_path / 'killed', tmp_path / 'through'
    run = subprocess.Popen([sys.executable, '-c', code, str(root), str(killed)])
    pages = killed / '.building-cityscapes' / 'journal'
    while run.poll() is None and not list(pages.glob('*.jsonl')):
        time.sleep(0.02)
    run.kill()
    run.wait()
    done = {p.name for p in pages.glob('*.jsonl')}
    assert done
    assert len(done) < 3
    early = killed / '.building-cityscapes/cityscapes/leftImg8bit/train/town01-clear'
    stamp = (early / 'town01-clear_000000_000000_leftImg8bit.png').stat().st_mtime_ns
    write_recordings(killed, TINY, [STREET], workers=1)
    write_recordings(through, TINY, [STREET], workers=1)
    assert digests(killed) == digests(through)
    whole = killed / 'cityscapes/leftImg8bit/train/town01-clear'
    assert (whole / 'town01-clear_000000_000000_leftImg8bit.png').stat().st_mtime_ns == stamp
    assert not list(killed.glob('.*'))


def test_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / 'a2d2').mkdir()
    (tmp_path / 'a2d2' / 'mine.txt').write_text('mine')
    with pytest.raises(SimulationError, match='choose another'):
        simulate(tmp_path, TINY, workers=1)
    assert (tmp_path / 'a2d2' / 'mine.txt').read_text() == 'mine'


def test_bad_requests_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match='workers must be at least 1'):
        simulate(tmp_path / 'out', TINY, workers=0)
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(SimulationError, match='not a folder'):
        simulate(tmp_path / 'file', TINY, workers=1)
    assert (tmp_path / 'file').read_text() == 'mine'


def test_data_of_an_earlier_version_are_replaced(tmp_path: Path) -> None:
    write_recordings(tmp_path, TINY, [DRIVE], workers=1)
    whole = digests(tmp_path)
    marker = json.loads((tmp_path / 'simulation.json').read_text())
    (tmp_path / 'simulation.json').write_text(json.dumps({**marker, 'done': [DRIVE.path]}))
    (tmp_path / DRIVE.path / 'metadata.yaml').write_text('old')
    assert not write_recordings(tmp_path, TINY, [DRIVE], workers=1)[1]
    assert digests(tmp_path) == whole


def test_nothing_outside_the_folder_is_removed_on_the_marker_s_word(tmp_path: Path) -> None:
    mine = tmp_path / 'mine'
    mine.mkdir()
    (tmp_path / 'out').mkdir()
    done = {'../mine': {}, str(mine): {}}
    marker = {'parameters': {'seed': 99}, 'done': done}
    (tmp_path / 'out' / 'simulation.json').write_text(json.dumps(marker))
    write_recordings(tmp_path / 'out', TINY, [DRIVE], workers=1)
    assert mine.is_dir()


def test_damaged_marker_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / 'simulation.json').write_text('{"parameters": ')
    with pytest.raises(SimulationError, match=r'simulation\.json cannot be read'):
        simulate(tmp_path, TINY, workers=1)


@pytest.mark.parametrize(
    ('text', 'said'), [('fog', 'severities are given as'), ('hail=0.3', 'no condition')]
)
def test_severities_that_make_no_sense_are_one_clear_line(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(SimulationError, match=said):
        simulate_command(out=tmp_path / 'out', severities=text)
    assert not (tmp_path / 'out').exists()


def test_frames_say_the_severity_that_their_condition_has(tmp_path: Path) -> None:
    config = replace(TINY, severities=(('night', 0.7),))
    layout = Cityscapes(parts=(Part('val', 3, 1, ('fog', 'night')),))
    write_recordings(tmp_path / 'out', config, [layout], workers=1)
    truths = read_truths(tmp_path / 'out' / 'cityscapes' / 'truth.jsonl')
    assert {t.condition: t.severity for t in truths} == {'fog': config.severity, 'night': 0.7}


def test_command_reports_bad_parameters_in_one_line(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / 'training' / 'simulate.py'), '--severity', '2'],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == 'error: severity must lie in [0, 1], not 2.0\n'
    assert not (tmp_path / 'sim').exists()


def test_a2d2_layout_and_pixels_follow_from_points(data: SimulatedData) -> None:
    calibration = json.loads((data.a2d2 / 'cams_lidars.json').read_text())
    camera = calibration['cameras']['front_center']
    K = np.array(camera['CamMatrix'])
    assert camera['Resolution'] == [96, 64]
    hexes = json.loads((data.a2d2 / 'class_list.json').read_text())
    known = {tuple(int(h[i : i + 2], 16) for i in (1, 3, 5)) for h in hexes}
    archives = sorted(data.a2d2.glob('*/lidar/cam_front_center/*.npz'))
    assert len(archives) == 2 * len(CONDITIONS)
    assert {p.parents[2].name for p in archives} == set(scenes(TINY))
    for path in archives:
        with np.load(path, allow_pickle=False) as npz:
            x, y, z = npz['points'].T
            u, v = K[0, 2] - K[0, 0] * y / x, K[1, 2] - K[1, 1] * z / x
            assert len(x) > 50
            assert np.abs(u - npz['col']).max() < 1e-6
            assert np.abs(v - npz['row']).max() < 1e-6
            assert np.allclose(npz['depth'], x)
            assert npz['reflectance'].min() >= 0
            assert npz['reflectance'].max() <= 255
            times = npz['timestamp']
        camera_file, label_file = (
            path.parents[2] / kind / 'cam_front_center' / path.name.replace('_lidar_', f'_{kind}_')
            for kind in ('camera', 'label')
        )
        about = json.loads(camera_file.with_suffix('.json').read_text())
        assert about['pcld_npz'] == path.name
        assert np.abs(times - about['cam_tstamp']).max() < 60_000
        image = cv2.imread(str(camera_file.with_suffix('.png')))
        label = cv2.imread(str(label_file.with_suffix('.png')))[..., ::-1]
        assert image.shape == label.shape == (64, 96, 3)
        assert {tuple(map(int, c)) for c in np.unique(label.reshape(-1, 3), axis=0)} <= known


def test_bag_has_the_topics_and_counts(data: SimulatedData) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(data.training_bag) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        frames = 2 * len(CONDITIONS)
        assert counts == {
            '/tf_static': 1,
            '/tf': frames,
            '/odometry': frames,
            '/camera/front/image/compressed': frames,
            '/camera/front/camera_info': frames,
            '/lidar/points': frames,
            '/simulation/condition': frames,
            '/simulation/severity': frames,
            '/simulation/labels/compressed': frames,
        }
        latched = next(c for c in reader.connections if c.topic == '/tf_static')
        assert latched.ext.offered_qos_profiles[0].durability is QosDurability.TRANSIENT_LOCAL
        conditions, severities, stamps = [], [], {}
        for connection, when, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            if connection.topic == '/simulation/condition':
                conditions.append(message.data)
            if connection.topic == '/simulation/severity':
                severities.append(message.data)
            if hasattr(message, 'header'):
                stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
                assert stamp == when
                stamps.setdefault(connection.topic, []).append(stamp)
            if connection.topic == '/lidar/points':
                assert [f.name for f in message.fields] == [
                    'x', 'y', 'z', 'intensity', 'ring', 'time',
                ]  # fmt: skip
                assert message.width * message.point_step == len(message.data)
            if connection.topic == '/simulation/labels/compressed':
                labels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
                assert labels.shape == (64, 96)
                assert labels.max() < 19
    assert conditions == [name for name in CONDITIONS for _ in range(2)]
    assert severities == pytest.approx([0.8] * frames)
    image = np.array(stamps['/camera/front/image/compressed'])
    assert (image == stamps['/simulation/labels/compressed']).all()
    gap = np.abs(image - np.array(stamps['/lidar/points']))
    assert 0 < gap.max() <= 4_000_000


def test_raw_images_on_request(tmp_path: Path) -> None:
    write_recordings(tmp_path / 'out', replace(TINY, raw_images=True), [DRIVE], workers=1)
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(tmp_path / 'out' / DRIVE.path) as reader:
        chosen = [c for c in reader.connections if c.topic == '/camera/front/image']
        connection, _, raw = next(reader.messages(chosen))
        image = store.deserialize_cdr(raw, connection.msgtype)
    assert (image.encoding, image.height, image.width, image.step) == ('rgb8', 64, 96, 288)
    assert len(image.data) == 64 * 288


def test_cityscapes_layout_and_label_ids(data: SimulatedData) -> None:
    valid = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
    labels = sorted(data.cityscapes.glob('gtFine/*/*/*_gtFine_labelIds.png'))
    images = sorted(data.cityscapes.glob('leftImg8bit/*/*/*_leftImg8bit.png'))
    assert len(labels) == len(images) == len(TRAIN_TOWNS + TRAIN_ROADS) + len(CONDITIONS)
    for label, image in zip(labels, images, strict=True):
        assert label.name.split('_gtFine')[0] == image.name.split('_leftImg8bit')[0]
        ids = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        assert ids.shape == (64, 96)
        assert set(np.unique(ids)) <= valid
    cities = {p.parent.name for p in labels if 'val' in p.parts}
    assert cities == {f'town03-{name}' for name in CONDITIONS}
    pair = [data.cityscapes / f'gtFine/val/town03-{n}' for n in ('clear', 'night')]
    a, b = ([cv2.imread(str(p), -1) for p in sorted(folder.iterdir())] for folder in pair)
    assert (np.array(a) == np.array(b)).all()
