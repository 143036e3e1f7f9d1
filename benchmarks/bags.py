# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast bags are converted, against `rosbags` alone on the same messages in the same run.

Three times for each container, interleaved: `rosbags` reads and deserializes the messages of the
chosen topics; the same, and the pictures are decoded to pixels and the scans to arrays, in one
thread as a script would; the conversion, which checks every picture and writes the shards.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from clcp_ros.image_codec import encode_jpeg
from training.cli import run_command
from training.pairs.build import BuildOptions, plan
from training.pairs.job import run_job
from training.sources import SourceOptions, open_source

START = 1_700_000_000_000_000_000
STORE = get_typestore(Stores.ROS2_JAZZY)
IMAGE, INFO, POINTS, TF = (
    '/camera/image_raw/compressed',
    '/camera/camera_info',
    '/points',
    '/tf_static',
)
KINDS = {
    IMAGE: 'sensor_msgs/msg/CompressedImage',
    INFO: 'sensor_msgs/msg/CameraInfo',
    POINTS: 'sensor_msgs/msg/PointCloud2',
    TF: 'tf2_msgs/msg/TFMessage',
}
POINT = np.dtype(
    {
        'names': ['x', 'y', 'z', 'intensity', 't', 'ring'],
        'formats': ['<f4', '<f4', '<f4', '<f4', '<u4', '<u2'],
        'offsets': [0, 4, 8, 16, 20, 24],
        'itemsize': 32,
    }
)


def benchmark(
    pairs: int = 60, width: int = 1920, height: int = 1208, points: int = 65536, repeats: int = 5,
    containers: Literal['both', 'mcap', 'sqlite3'] = 'both', folder: Path | None = None,
) -> None:  # fmt: skip
    """Time the conversion of bags.

    Args:
        pairs: Frames and scans in a bag.
        width: Of the frames, pixels.
        height: Of the frames, pixels.
        points: In a scan.
        repeats: Of the three measurements; the medians are printed.
        containers: Which bags.
        folder: Where bags and sets are written for the while; default: the system's place for
            temporary files, which should be a disk that is not slower than the rest.
    """
    names = ('mcap', 'sqlite3') if containers == 'both' else (containers,)
    print(f'{pairs} frames of {width} x {height} (JPEG) and scans of {points:,} points')
    print('| bag | rosbags reads | reads and decodes | conversion | of reading | of decoding |')
    print('|---|---:|---:|---:|---:|---:|')
    with tempfile.TemporaryDirectory(dir=folder) as work:
        messages = _messages(pairs, width, height, points)
        for name in names:
            bag = Path(work) / name
            _write(bag, messages, StoragePlugin[name.upper()])
            steps: tuple[Callable[[], object], ...] = (
                lambda bag=bag: _read(bag, False),  # type: ignore[misc]
                lambda bag=bag: _read(bag, True),  # type: ignore[misc]
                lambda bag=bag: _convert(bag, Path(work) / 'pairs'),  # type: ignore[misc]
            )
            # The first round warms up.
            rounds = [[_seconds(step) for step in steps] for _ in range(repeats + 1)][1:]
            read, decode, convert = np.median(rounds, axis=0)
            ratios = np.array(rounds)
            print(
                f'| {name} | {pairs / read:,.0f} pairs/s | {pairs / decode:,.0f} pairs/s '
                f'| {pairs / convert:,.0f} pairs/s '
                f'| {np.median(ratios[:, 0] / ratios[:, 2]):.0%} '
                f'| {np.median(ratios[:, 1] / ratios[:, 2]):.0%} |'
            )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read(bag: Path, decode: bool) -> None:
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic in (IMAGE, POINTS)]
        for connection, _, raw in reader.messages(connections=connections):
            message: Any = reader.deserialize(raw, connection.msgtype)
            if decode and connection.topic == IMAGE:
                cv2.imdecode(message.data, cv2.IMREAD_COLOR)
            elif decode:
                cloud = message.data.view(POINT)
                np.stack([cloud[name].astype(np.float32) for name in POINT.names or ()], axis=1)


def _convert(bag: Path, out: Path) -> None:
    """All but index and report, whose second a set pays once."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    source, recordings = open_source(bag, 'auto', SourceOptions())
    for job in plan([(source.name, str(bag), recording) for recording in recordings]):
        run_job(job, str(out), BuildOptions(), lambda _: None)


def _messages(pairs: int, width: int, height: int, points: int) -> list[tuple[str, int, bytes]]:
    """A structured, noisy picture and random points, different each time."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 30, width // 30, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    noisy = smooth + rng.normal(0, 5, smooth.shape)
    files = [
        encode_jpeg(np.roll(noisy, 40 * i, axis=1).clip(0, 255).astype(np.uint8), 85)
        for i in range(4)
    ]
    scan = np.zeros(points, POINT)
    for axis in 'xyz':
        scan[axis] = rng.normal(0, 20, points)
    scan['intensity'] = rng.uniform(0, 255, points)
    scan['t'] = np.linspace(0, 99_000_000, points)
    scan['ring'] = np.arange(points) % 64
    K = np.array([0.9 * width, 0, width / 2, 0, 0.9 * width, height / 2, 0, 0, 1])
    found = [(TF, START, _mount())]
    for i in range(pairs):
        stamp = START + i * 100_000_000
        found += [
            (INFO, stamp, _info(stamp, width, height, K)),
            (IMAGE, stamp, _make(KINDS[IMAGE], header=_header(stamp, 'camera'), format='jpeg',
                                 data=np.frombuffer(files[i % 4], np.uint8))),
            (POINTS, stamp + 5_000_000, _cloud(stamp + 5_000_000, scan)),
        ]  # fmt: skip
    return [(t, s, bytes(STORE.serialize_cdr(message, KINDS[t]))) for t, s, message in found]


def _write(path: Path, messages: list[tuple[str, int, bytes]], plugin: StoragePlugin) -> None:
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {t: writer.add_connection(t, k, typestore=STORE) for t, k in KINDS.items()}
        for topic, stamp, data in messages:
            writer.write(connections[topic], stamp, data)


def _make(kind: str, /, **fields: Any) -> Any:
    return STORE.types[kind](**fields)


def _header(stamp: int, frame: str) -> Any:
    sec, nanosec = divmod(stamp, 1_000_000_000)
    when = _make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return _make('std_msgs/msg/Header', stamp=when, frame_id=frame)


def _info(stamp: int, width: int, height: int, K: np.ndarray) -> Any:
    roi = _make('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
                do_rectify=False)  # fmt: skip
    return _make(
        KINDS[INFO], header=_header(stamp, 'camera'), height=height, width=width,
        distortion_model='plumb_bob', d=np.zeros(5), k=K, r=np.eye(3).ravel(), p=np.zeros(12),
        binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def _cloud(stamp: int, scan: np.ndarray) -> Any:
    codes = {'<f4': 7, '<u4': 6, '<u2': 4}
    layout: Any = POINT.fields
    fields = [
        _make('sensor_msgs/msg/PointField', name=name, offset=offset, datatype=codes[kind.str],
              count=1)
        for name, (kind, offset, *_) in layout.items()
    ]  # fmt: skip
    return _make(
        KINDS[POINTS], header=_header(stamp, 'lidar'), height=1, width=len(scan), fields=fields,
        is_bigendian=False, point_step=POINT.itemsize, row_step=scan.nbytes,
        data=scan.view(np.uint8), is_dense=True,
    )  # fmt: skip


def _mount() -> Any:
    transform = _make(
        'geometry_msgs/msg/Transform',
        translation=_make('geometry_msgs/msg/Vector3', x=0.0, y=0.0, z=-0.3),
        rotation=_make('geometry_msgs/msg/Quaternion', x=-0.5, y=0.5, z=-0.5, w=0.5),
    )
    stamped = _make('geometry_msgs/msg/TransformStamped', header=_header(START, 'lidar'),
                    child_frame_id='camera', transform=transform)  # fmt: skip
    return _make(KINDS[TF], transforms=[stamped])


if __name__ == '__main__':
    run_command(benchmark)
