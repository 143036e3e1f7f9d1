# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images and scans of one bag, straight and through the node: the same agreement."""

from __future__ import annotations

import csv
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')
pytest.importorskip('rosbags')

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from clcp_ros.bundle import load_bundle, write_description
from clcp_ros.monitor import Knowledge
from clcp_ros.monitor.alignment import AlignmentReference
from clcp_ros.monitor.scan_view import DESCRIPTORS, SCAN_STATISTICS
from clcp_ros.replay import replay_direct
from clcp_ros.replay_node import replay_live
from training.replaying.table import write_scores

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
FRAMES = 40
DOMAIN = 1 + (os.getpid() + 25) % 100
ALIGNED = (
    'alignment_z', 'alignment_pairs', 'alignment_yaw_deg', 'alignment_yaw_z',
    'alignment_pitch_deg', 'alignment_pitch_z',
)  # fmt: skip


def any_alignment(classes: int = 3) -> AlignmentReference:
    """A reference that finds something in whatever it is given."""
    rng = np.random.default_rng(0)
    d, f, k, s = len(DESCRIPTORS), 4, 3, 5
    numbers = {
        'location': np.zeros(d), 'scale': np.ones(d), 'weights': rng.normal(size=(d + 1, f)),
        'lidar_mean': np.zeros(d + f), 'lidar_map': rng.normal(size=(d + f, k)),
        'image_mean': np.zeros(3 * classes), 'image_map': rng.normal(size=(3 * classes, k)),
        'range_edges': np.array([1.0, 2.0]), 'height_edges': np.array([0.0]),
        'shifts': np.array([[0, 0], [0.02, 0], [-0.02, 0], [0, 0.02], [0, -0.02]]),
        'value_location': np.zeros(()), 'value_spread': np.full((), 0.1),
        'value_drift': np.zeros(()), 'sides': rng.normal(size=(4, s)),
        'side_location': np.zeros(4), 'side_spread': np.ones(4), 'side_drift': np.zeros(4),
        'side_degrees': np.ones(4),
        'scan_location': np.zeros(len(SCAN_STATISTICS)),
        'scan_spread': np.full(len(SCAN_STATISTICS), 1e6),
    }  # fmt: skip
    return AlignmentReference.from_arrays(numbers)


@pytest.fixture
def lidar_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / 'with_lidar'))
    old = load_bundle(tiny_bundle)
    sha256 = old.sha256['model.onnx']
    known = Knowledge.load(old.reference_path, sha256)
    facts = replace(known.facts, model_sha256=sha256)
    replace(known, alignment=any_alignment(), facts=facts).save(folder / 'reference.npz')
    write_description(
        folder, name='lidar', classes=old.classes, input_spec=old.input, provenance={}
    )
    return folder


def write_drive(path: Path, daylight_image: Any, with_frames: bool = True) -> Path:
    """Ten images and ten scans a second; each scan is recorded when its sweep is over."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types

    def stamp(ns: int) -> Any:
        return types['builtin_interfaces/msg/Time'](sec=ns // 10**9, nanosec=ns % 10**9)

    def header(ns: int, frame: str) -> Any:
        return types['std_msgs/msg/Header'](stamp=stamp(ns), frame_id=frame)

    rng = np.random.default_rng(1)
    records: list[tuple[int, str, Any]] = []
    if with_frames:
        # z of the camera looks along x of the lidar.
        vector, quaternion = (types[f'geometry_msgs/msg/{n}'] for n in ('Vector3', 'Quaternion'))
        transform = types['geometry_msgs/msg/Transform'](
            translation=vector(x=0.0, y=0.0, z=0.0),
            rotation=quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5),
        )
        frames = types['geometry_msgs/msg/TransformStamped'](
            header=header(START_NS, 'lidar'), child_frame_id='cam', transform=transform
        )
        message = types['tf2_msgs/msg/TFMessage'](transforms=[frames])
        records.append((START_NS - STEP_NS, 'tf2_msgs/msg/TFMessage:/tf_static', message))
    field = types['sensor_msgs/msg/PointField']
    for i in range(FRAMES):
        now = START_NS + i * STEP_NS
        image = daylight_image(i)
        records.append((now, 'sensor_msgs/msg/Image:/cam/image', types['sensor_msgs/msg/Image'](
            header=header(now, 'cam'), height=96, width=160, encoding='rgb8', is_bigendian=0,
            step=480, data=image.ravel(),
        )))  # fmt: skip
        info = types['sensor_msgs/msg/CameraInfo'](
            header=header(now, 'cam'), height=96, width=160, distortion_model='plumb_bob',
            d=np.zeros(5), k=np.array([100.0, 0, 79.5, 0, 100.0, 47.5, 0, 0, 1]),
            r=np.eye(3).ravel(), p=np.eye(3, 4).ravel(), binning_x=0, binning_y=0,
            roi=types['sensor_msgs/msg/RegionOfInterest'](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )  # fmt: skip
        records.append((now - 1, 'sensor_msgs/msg/CameraInfo:/cam/camera_info', info))
        n = 4000
        x = rng.uniform(4, 40, n)
        points = np.column_stack([x, x * rng.uniform(-0.7, 0.7, n), x * rng.uniform(-0.4, 0.4, n)])
        cloud = types['sensor_msgs/msg/PointCloud2'](
            header=header(now, 'lidar'), height=1, width=n,
            fields=[field(name=a, offset=4 * j, datatype=7, count=1) for j, a in enumerate('xyz')],
            is_bigendian=False, point_step=12, row_step=12 * n,
            data=points.astype('<f4').reshape(-1).view(np.uint8), is_dense=True,
        )  # fmt: skip
        records.append((now + STEP_NS, 'sensor_msgs/msg/PointCloud2:/lidar/points', cloud))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for time_ns, key, message in sorted(records, key=lambda record: record[0]):
            kind, _, topic = key.partition(':')
            if key not in connections:
                connections[key] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[key], time_ns, bytes(store.serialize_cdr(message, kind)))
    return path


def test_agreement_with_the_lidar_is_the_same_live_and_straight(
    tmp_path: Path, lidar_bundle: Path, tiny_bundle: Path, daylight_image: Any
) -> None:
    bag = write_drive(tmp_path / 'bag', daylight_image)
    direct = replay_direct(bag, lidar_bundle).records
    scored = [r for r in direct if r.monitored]
    known = [r for r in scored if not math.isnan(r.alignment_z)]
    assert len(known) >= len(scored) - 3  # the first waits for its scan
    assert all(r.alignment_pairs >= 500 for r in known)
    for name in ('alignment_yaw_deg', 'alignment_pitch_deg', 'alignment_pitch_z'):
        assert len({getattr(r, name) for r in known if math.isfinite(getattr(r, name))}) > 1
    write_scores(tmp_path / 'scores.csv', direct)
    rows = list(csv.DictReader((tmp_path / 'scores.csv').open()))
    assert {name: f'{getattr(known[-1], name):.6f}' for name in ALIGNED}.items() <= next(
        row for row in rows if row['stamp_ns'] == str(known[-1].stamp_ns)
    ).items()
    assert direct == replay_direct(bag, lidar_bundle).records
    assert math.isnan(replay_direct(bag, tiny_bundle).records[-1].alignment_z)

    live = replay_live(bag, lidar_bundle, domain_id=DOMAIN).records
    if len(live) < FRAMES:
        pytest.skip('this busy machine dropped frames, after which the monitor sees others')
    for one, other in zip(live, direct, strict=True):
        for name in ALIGNED:
            assert f'{getattr(one, name):.6f}' == f'{getattr(other, name):.6f}', one.stamp_ns


def test_without_a_transform_there_is_no_agreement(
    tmp_path: Path, lidar_bundle: Path, daylight_image: Any
) -> None:
    bag = write_drive(tmp_path / 'bag', daylight_image, with_frames=False)
    assert all(math.isnan(r.alignment_z) for r in replay_direct(bag, lidar_bundle).records)
