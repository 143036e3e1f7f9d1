# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags and ROS 2 bags (sqlite3, MCAP), through `rosbags`: no ROS installation needed.

Topics are chosen by their types and names (`_rosbag_topics`); intrinsics come from CameraInfo,
extrinsics from `/tf_static`, both or either from a YAML file instead (`_rosbag_calibration`).
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import CalibrationError, ClcpError, ImageError, RecordingError
from clcp_ros.replay import CONDITION_TOPIC
from training.pairs.geometry import Rectifier
from training.pairs.pair import Pair
from training.pairs.sync import Matches, match_nearest
from training.sources._pointcloud2 import (
    Convention,
    cloud_fields,
    decode_cloud,
    learn_convention,
)
from training.sources._rosbag_calibration import read_calibration
from training.sources._rosbag_file import Bag, bag_groups
from training.sources._rosbag_topics import Topics, choose_topics
from training.sources.base import (
    Drops,
    Recording,
    SourceOptions,
    fingerprint_files,
    rectify_encoded,
)

"""std_msgs/String; becomes the tag `condition`."""

LEARN_FROM = 5
"""Scans looked at to learn what the columns mean."""

_NO_STAMP = -(1 << 62)


@dataclass
class BagRecording:
    """One bag, one of its cameras and one lidar."""

    files: list[Path]
    sequence: str
    topics: Topics
    options: SourceOptions
    notes: list[str] = field(default_factory=list)
    use_bag_time: bool = False

    def __post_init__(self) -> None:
        self.camera = self.topics.camera
        self.lidar = self.topics.lidar

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`. Reads through the bag once, without decoding."""
        header: dict[str, list[int]] = {self.topics.image: [], self.topics.points: []}
        receive: dict[str, list[int]] = {topic: [] for topic in header}
        with Bag(self.files) as bag:
            # A missing calibration shows now rather than after an hour of other recordings.
            read_calibration(bag, self.topics, self.options, [])
            for topic, time, raw in bag.raw_messages(list(header)):
                header[topic].append(_header_stamp(raw, bag.is_ros2))
                receive[topic].append(time)
        if any(stamps and not any(stamps) for stamps in header.values()):
            self.use_bag_time = True
            self._note('headers without stamps: the times of recording are used')
        images, scans = (receive if self.use_bag_time else header).values()
        return match_nearest(np.array(images, np.int64), np.array(scans, np.int64), max_gap)

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """See `Recording.read`. Reads through the bag again, decoding only what is matched."""
        with Bag(self.files) as bag:
            calibration = read_calibration(bag, self.topics, self.options, self.notes)
            convention = self._learn(bag)
            self._note(convention.describe())
            conditions = _Conditions(bag)
            for position, image, cloud in self._partners(bag, matches):
                where = f'{self.files[0].name}, image {position}'
                try:
                    message = bag.decode(self.topics.image, image[1])
                    pixels, encoded = _picture(message, calibration.rectifier)
                except (ImageError, RecordingError) as error:
                    if isinstance(error, CalibrationError):
                        raise
                    dropped.add(f'image: {_reason(error)}', where)
                    continue
                camera_ns = image[0] if self.use_bag_time else _stamp(message)
                try:
                    message = bag.decode(self.topics.points, cloud[1])
                    lidar_ns = cloud[0] if self.use_bag_time else _stamp(message)
                    points = decode_cloud(message, convention, lidar_ns, dropped)
                except RecordingError as error:
                    dropped.add(f'scan: {_reason(error)}', where)
                    continue
                yield Pair(
                    key=f'{sequence}/{position:06d}',
                    sequence=sequence,
                    camera=self.camera,
                    lidar=self.lidar,
                    camera_stamp_ns=camera_ns,
                    lidar_stamp_ns=lidar_ns,
                    image=pixels,
                    encoded=encoded,
                    points=points,
                    columns=convention.columns,
                    K=calibration.rectifier.K,
                    T_camera_lidar=calibration.T_camera_lidar,
                    tags=conditions.tags(image[0]),
                    source={
                        'reader': SOURCE.name,
                        'bag': self.files[0].name,
                        'image': self.topics.image,
                        'points': self.topics.points,
                    },
                )

    def fingerprint(self) -> str:
        """See `Recording.fingerprint`."""
        files = [f for path in self.files for f in (path.rglob('*') if path.is_dir() else [path])]
        if self.options.calibration is not None:
            files.append(self.options.calibration)
        return fingerprint_files([f for f in files if f.is_file()], self.topics)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _learn(self, bag: Bag) -> Convention:
        clouds = []
        for _, _, raw in bag.raw_messages([self.topics.points]):
            try:
                clouds.append(cloud_fields(bag.decode(self.topics.points, raw)))
            except RecordingError:
                continue  # counted when it is its turn to be read
            if len(clouds) == LEARN_FROM:
                break
        return learn_convention(clouds)

    def _partners(
        self, bag: Bag, matches: Matches
    ) -> Iterator[tuple[int, tuple[int, bytes], tuple[int, bytes]]]:
        """Position of the image, and (time of recording, raw message) of both.

        Messages wait for their partners, so the memory needed is that of the largest gap.
        """
        scan_of = dict(zip(matches.camera.tolist(), matches.lidar.tolist(), strict=True))
        image_of = {scan: image for image, scan in scan_of.items()}
        waiting: dict[tuple[str, int], tuple[int, bytes]] = {}
        counts = {self.topics.image: 0, self.topics.points: 0}
        for topic, time, raw in bag.raw_messages(list(counts)):
            position = counts[topic]
            counts[topic] += 1
            is_image = topic == self.topics.image
            partner = (scan_of if is_image else image_of).get(position)
            if partner is None:
                continue
            other = waiting.pop(('scan' if is_image else 'image', partner), None)
            if other is None:
                waiting['image' if is_image else 'scan', position] = (time, raw)
            elif is_image:
                yield position, (time, raw), other
            else:
                yield partner, other, (time, raw)


class Rosbag:
    """The reader."""

    name = 'rosbag'
    description = 'a .bag, .mcap or .db3 file, a ROS 2 bag folder, or a folder of those'

    def detect(self, path: Path) -> bool:
        """See `Source.detect`."""
        return bool(bag_groups(path))

    def recordings(self, path: Path, options: SourceOptions) -> list[Recording]:
        """See `Source.recordings`. Reads what topics there are, no messages."""
        options.refuse_others(
            self.name, ['image_topic', 'points_topic', 'camera_info_topic', 'calibration']
        )
        recordings: list[Recording] = []
        for name, files in bag_groups(path):
            with Bag(files) as bag:
                choices = choose_topics(bag.topics, str(files[0]), options)
            for topics in choices:
                sequence = name if len(choices) == 1 else f'{name}_{topics.camera}'
                notes = [topics.describe()]
                recordings.append(BagRecording(files, sequence, topics, options, notes))
        return recordings


class _Conditions:
    """The simulated weather or light at a time, where a bag says it."""

    def __init__(self, bag: Bag) -> None:
        self.times: list[int] = []
        self.values: list[str] = []
        if bag.topics.get(CONDITION_TOPIC, ('',))[0] == 'std_msgs/msg/String':
            for _, time, raw in bag.raw_messages([CONDITION_TOPIC]):
                self.times.append(time)
                self.values.append(str(bag.decode(CONDITION_TOPIC, raw).data))

    def tags(self, time: int) -> dict[str, str]:
        position = bisect.bisect_right(self.times, time) - 1
        return {} if position < 0 else {'condition': self.values[position]}


def _picture(message: Any, rectifier: Rectifier) -> tuple[np.ndarray | None, bytes | None]:
    """The rectified image, or the bytes of a file that needs no change."""
    if not hasattr(message, 'format'):
        return rectifier.rectify(image_codec.decode_image(message)), None
    # Depth pictures, and files with red and blue swapped, are the decoder's to tell.
    if 'compressed rgb' in message.format or 'epth' in message.format:
        return rectifier.rectify(image_codec.decode_compressed(message)), None
    return rectify_encoded(bytes(message.data), rectifier)


def _reason(error: ClcpError) -> str:
    return str(error).partition(':')[0]


def _stamp(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _header_stamp(raw: bytes, is_ros2: bool) -> int:
    """The stamp of a message that begins with a header, without decoding the rest."""
    try:
        if is_ros2:
            # CDR: the second byte of the encapsulation tells the byte order.
            sec, nanosec = struct.unpack_from('<iI' if raw[1] & 1 else '>iI', raw, 4)
        else:
            sec, nanosec = struct.unpack_from('<II', raw, 4)
    except (struct.error, IndexError):
        return _NO_STAMP
    return sec * 1_000_000_000 + nanosec


SOURCE = Rosbag()
