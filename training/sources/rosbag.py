# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags and ROS 2 bags (sqlite3, MCAP), through `rosbags`: no ROS installation needed.

Topics are chosen by their types and names (`_rosbag_topics`); intrinsics come from CameraInfo,
extrinsics from `/tf_static`, both or either from a YAML file instead (`_rosbag_calibration`).
Stamps come from the bag's index (`clcp_ros.bag_index`), so that the data is read once; images and
scans are decoded in threads, since the libraries that do it let go of the interpreter.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros import image_codec
from clcp_ros.bag_file import Bag, bag_groups, header_stamp
from clcp_ros.errors import ClcpError, ImageError, RecordingError
from clcp_ros.point_cloud import cloud_fields
from clcp_ros.replay import CONDITION_TOPIC
from training.pairs.geometry import Rectifier, inside_image, project_points
from training.pairs.motion import deskew
from training.pairs.odometry import lidar_odometry
from training.pairs.pair import Pair
from training.pairs.sync import Matches, match_nearest
from training.sources._pointcloud2 import Convention, decode_fields, learn_convention
from training.sources._rosbag_calibration import Calibration, read_calibration
from training.sources._rosbag_livox import livox_fields
from training.sources._rosbag_motion import BagMotion, bag_motion
from training.sources._rosbag_times import Times
from training.sources._rosbag_topics import LIVOX_TYPES, Topics, choose_topics
from training.sources.base import Drops, Recording, SourceOptions, fingerprint_files

LEARN_FROM = 5
"""Scans looked at to learn what the columns mean."""

STAMPS = ('header', 'bag')
DESKEW = ('auto', 'none', 'odom', 'tf', 'kiss-icp')

_LOOK_AHEAD = 4
"""Pairs per thread that are decoded before they are asked for."""


@dataclass
class BagRecording:
    """One bag, one of its cameras and one lidar."""

    files: list[Path]
    sequence: str
    topics: Topics
    options: SourceOptions
    notes: list[str] = field(default_factory=list)
    drive: str = ''

    def __post_init__(self) -> None:
        self.camera = self.topics.camera
        self.lidar = self.topics.lidar
        self._times: Times | None = None

    def match(self, max_gap: float) -> Matches:
        """See `Recording.match`."""
        with Bag(self.files) as bag:
            # A missing calibration shows now rather than after an hour of other recordings.
            read_calibration(bag, self.topics, self.options, [])
            times = self._read_times(bag)
        return match_nearest(times.matched(0), times.matched(1), max_gap)

    def read(self, matches: Matches, sequence: str, dropped: Drops) -> Iterator[Pair]:
        """See `Recording.read`. Goes through the bag once, decoding only what is matched."""
        with Bag(self.files) as bag:
            times = self._read_times(bag)
            calibration = read_calibration(bag, self.topics, self.options, self.notes)
            convention = self._learn(bag, times)
            self._note(convention.describe())
            motion = self._motion(bag, times, calibration, convention)
            decoder = _Decoder(
                self, bag, times, calibration, convention, motion,
                self._may_deskew(convention, motion), _Conditions(bag), sequence,
            )  # fmt: skip
            seen: list[float] = []
            for found in _in_threads(decoder, self._partners(bag, matches, times), matches):
                for reason, count in found.dropped.items():
                    dropped.add(reason, found.dropped.examples.get(reason, ''), count)
                if found.pair is not None:
                    if len(seen) < LEARN_FROM:
                        seen.append(_share_seen(found.pair, calibration.rectifier))
                    yield found.pair
            if seen and max(seen) < 0.001:
                self._note(
                    'no point of the first scans falls on their images: is the frame of '
                    f'{self.topics.image} optical (x right, y down, z forward)?'
                )
            if decoder.without_pose:
                self._note(
                    f'{decoder.without_pose} scans outside of the poses were left as recorded'
                )

    def lidar_motion(self) -> BagMotion | None:
        """The poses that the bag holds, for whoever needs the lidar's motion; slow for long bags.

        Raises:
            RecordingError: The bag cannot be read.
        """
        with Bag(self.files) as bag:
            times = self._read_times(bag)
            calibration = read_calibration(bag, self.topics, self.options, [])
            motion, _ = bag_motion(
                bag, 'auto', calibration.lidar_frame, calibration.tree, times.use_bag
            )
        return motion

    def fingerprint(self) -> str:
        """See `Recording.fingerprint`."""
        files = [f for path in self.files for f in (path.rglob('*') if path.is_dir() else [path])]
        if self.options.calibration is not None:
            files.append(self.options.calibration)
        o = self.options
        settings = (self.topics, o.stamp, o.camera_offset, o.lidar_offset, o.deskew)
        return fingerprint_files([f for f in files if f.is_file()], *settings)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _read_times(self, bag: Bag) -> Times:
        if self._times is None:
            topics = [self.topics.image, self.topics.points]
            stamps = bag.stamps(topics)
            self._times = Times.of([stamps[t] for t in topics], self.options)
        for note in self._times.notes:
            self._note(note)
        if self._times.problem:
            raise RecordingError(f'{self.files[0]}: {self._times.problem}')
        return self._times

    def _fields(self, bag: Bag, raw: bytes) -> np.ndarray:
        if bag.topics[self.topics.points][0] in LIVOX_TYPES:
            return livox_fields(raw, bag.is_ros2)
        return cloud_fields(bag.decode(self.topics.points, raw))

    def _learn(self, bag: Bag, times: Times) -> Convention:
        """What the columns mean, from scans all over the recording."""
        clouds: list[np.ndarray] = []
        stamps: list[int] = []
        receive = times.scans.receive_ns
        in_order = len(receive) > 1 and bool((np.diff(receive) > 0).all())
        wanted = np.linspace(0, max(len(receive) - 1, 0), LEARN_FROM).astype(int)
        starts = [int(receive[i]) for i in np.unique(wanted)] if in_order else []
        for start in [*starts, None]:
            if start is None and clouds:
                break
            for _, _, raw in bag.raw_messages([self.topics.points], start):
                try:
                    cloud = self._fields(bag, raw)
                except RecordingError:
                    continue  # counted when it is its turn to be read
                if not len(cloud):
                    continue
                clouds.append(cloud)
                stamps.append(header_stamp(raw, bag.is_ros2))
                if start is not None or len(clouds) == LEARN_FROM:
                    break
        scans = np.sort(times.scans.header_ns if not times.use_bag else receive)
        period = float(np.median(np.diff(scans))) * 1e-9 if len(scans) > 2 else 0.0
        known = all(stamp > 0 for stamp in stamps)
        return learn_convention(clouds, stamps if known else None, period or None)

    def _motion(
        self, bag: Bag, times: Times, calibration: Calibration, convention: Convention
    ) -> BagMotion | None:
        kind = self.options.deskew or 'auto'
        if times.jumps:
            if kind not in ('auto', 'none'):
                raise RecordingError(
                    f'{self.files[0]}: --deskew {kind} needs a clock that does not jump back'
                )
            return None
        if kind == 'kiss-icp':
            self._note("poses are KISS-ICP's, of the lidar")
            trajectory = lidar_odometry(self._all_scans(bag, times, convention))
            return BagMotion(trajectory, np.eye(4), 'KISS-ICP')
        motion, reason = bag_motion(
            bag, 'auto' if kind == 'none' else kind, calibration.lidar_frame, calibration.tree,
            times.use_bag,
        )  # fmt: skip
        if motion is None:
            if kind not in ('auto', 'none'):
                raise RecordingError(f'{self.files[0]}: --deskew {kind} is not possible: {reason}')
            self._note(f'no poses: {reason}')
        else:
            self._note(f'poses are those of {motion.source}')
        return motion

    def _may_deskew(self, convention: Convention, motion: BagMotion | None) -> bool:
        if self.options.deskew == 'none':
            return False
        if self.topics.compensated:
            self._note(f'not de-skewed: {self.topics.points} is motion-compensated by its name')
            return False
        if convention.time is None:
            self._note('not de-skewed: the points have no times')
            return False
        if motion is None:
            self._note('not de-skewed: no poses; --deskew kiss-icp takes them from the scans')
            return False
        self._note(f"de-skewed to the frames' stamps with the poses of {motion.source}")
        return True

    def _all_scans(
        self, bag: Bag, times: Times, convention: Convention
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        stamps = times.of_messages(1)
        for position, (_, time, raw) in enumerate(bag.raw_messages([self.topics.points])):
            try:
                stamp = _base_stamp(raw, bag.is_ros2, time)
                points = decode_fields(self._fields(bag, raw), convention, stamp, Drops())
            except RecordingError:
                continue
            offsets = points[:, -1] if convention.time is not None else None
            yield int(stamps[position]), points[:, :3], offsets

    def _partners(
        self, bag: Bag, matches: Matches, times: Times
    ) -> Iterator[tuple[int, _Raw, _Raw]]:
        """Place in the matches, raw image and raw scan.

        Messages wait for their partners, so the memory needed is that of the largest gap.
        """
        place_of = (
            {position: place for place, position in enumerate(matches.camera.tolist())},
            {position: place for place, position in enumerate(matches.lidar.tolist())},
        )
        stamps = (times.images, times.scans)
        counts = [0, 0]
        waiting: dict[int, _Raw] = {}
        left = len(matches)
        topics = [self.topics.image, self.topics.points]
        for topic, time, raw in bag.raw_messages(topics):
            which = topics.index(topic)
            position = counts[which]
            counts[which] += 1
            place = place_of[which].get(position)
            if place is None:
                continue
            if header_stamp(raw, bag.is_ros2) != stamps[which].header_ns[position]:
                raise RecordingError(f'{self.files[0]}: its index contradicts its messages')
            own = _Raw(position, time, raw)
            other = waiting.pop(place, None)
            if other is None:
                waiting[place] = own
                continue
            yield (place, own, other) if which == 0 else (place, other, own)
            left -= 1
            if not left:
                return
        if left:
            raise RecordingError(
                f'{self.files[0]}: messages of {left} pairs are missing that its index has'
            )


@dataclass(frozen=True)
class _Raw:
    position: int
    time_ns: int
    data: bytes


@dataclass
class _Found:
    """What became of a pair."""

    dropped: Drops
    pair: Pair | None = None


@dataclass
class _Decoder:
    """Makes pairs of raw messages; called from several threads."""

    recording: BagRecording
    bag: Bag
    times: Times
    calibration: Calibration
    convention: Convention
    motion: BagMotion | None
    may_deskew: bool
    conditions: _Conditions
    sequence: str
    without_pose: int = 0

    def __call__(self, image: _Raw, cloud: _Raw) -> _Found:
        found = _Found(Drops())
        topics = self.recording.topics
        where = f'{self.recording.files[0].name}, image {image.position}'
        calibration, convention = self.calibration, self.convention
        try:
            message = self.bag.decode(topics.image, image.data)
            pixels, encoded = _picture(message, calibration.rectifier)
        except (ImageError, RecordingError) as error:
            found.dropped.add(f'image: {_reason(error)}', where)
            return found
        try:
            fields = self.recording._fields(self.bag, cloud.data)
            stamp = _base_stamp(cloud.data, self.bag.is_ros2, cloud.time_ns)
            points = decode_fields(fields, convention, stamp, found.dropped)
        except RecordingError as error:
            found.dropped.add(f'scan: {_reason(error)}', where)
            return found
        camera_ns = int(self.times.of_messages(0)[image.position])
        lidar_ns = int(self.times.of_messages(1)[cloud.position])
        source = {
            'reader': SOURCE.name,
            'bag': self.recording.files[0].name,
            'image': topics.image,
            'points': topics.points,
        }
        pose = None
        if self.motion is not None and self.motion.trajectory.covers(camera_ns):
            pose = self.motion.trajectory.at(camera_ns)
        if self.may_deskew and len(points):
            assert self.motion is not None
            try:
                points[:, :3] = deskew(
                    points[:, :3], points[:, -1], lidar_ns, self.motion.T_ego_lidar,
                    self.motion.trajectory, camera_ns,
                )  # fmt: skip
                source['deskewed'] = self.motion.source
            except RecordingError:
                self.without_pose += 1
        found.pair = Pair(
            key=f'{self.sequence}/{image.position:06d}',
            sequence=self.sequence,
            camera=self.recording.camera,
            lidar=self.recording.lidar,
            camera_stamp_ns=camera_ns,
            lidar_stamp_ns=lidar_ns,
            image=pixels,
            encoded=encoded,
            points=points,
            columns=convention.columns,
            K=calibration.rectifier.K,
            T_camera_lidar=calibration.T_camera_lidar,
            T_world_ego=pose,
            tags=self.conditions.tags(image.time_ns),
            source=source,
            checked=True,
        )
        return found


def _in_threads(
    decoder: _Decoder, partners: Iterator[tuple[int, _Raw, _Raw]], matches: Matches
) -> Iterator[_Found]:
    """Decode in threads; results come in the order of the matches, and few at a time."""
    threads = min(4, os.cpu_count() or 1)
    running: dict[int, Future[_Found]] = {}
    place = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for own, image, cloud in partners:
            running[own] = pool.submit(decoder, image, cloud)
            while place in running and (
                len(running) > threads * _LOOK_AHEAD or running[place].done()
            ):
                yield running.pop(place).result()
                place += 1
        for rest in range(place, len(matches)):
            yield running.pop(rest).result()
    finally:
        pool.shutdown(cancel_futures=True)


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
            self.name,
            ['image_topic', 'points_topic', 'camera_info_topic', 'calibration', 'stamp',
             'camera_offset', 'lidar_offset', 'deskew'],
        )  # fmt: skip
        for option, value, known in (
            ('stamp', options.stamp, STAMPS),
            ('deskew', options.deskew, DESKEW),
        ):
            if value is not None and value not in known:
                raise RecordingError(
                    f'--{option} {value} means nothing to the {self.name} reader; known are '
                    f'{", ".join(known)}'
                )
        recordings: list[Recording] = []
        for name, files in bag_groups(path):
            with Bag(files) as bag:
                choices = choose_topics(bag.topics, str(files[0]), options)
            cameras = len({t.image for t in choices}) > 1
            lidars = len({t.points for t in choices}) > 1
            for topics in choices:
                sequence = name
                if cameras:
                    sequence += f'_{topics.camera}'
                if lidars:
                    sequence += f'_{topics.lidar}'
                notes = [topics.describe()]
                recordings.append(BagRecording(files, sequence, topics, options, notes, name))
        return recordings


class _Conditions:
    """The simulated weather or light at a time, where a bag says it."""

    def __init__(self, bag: Bag) -> None:
        self.times: list[int] = []
        self.values: list[str] = []
        if bag.topics.get(CONDITION_TOPIC, ('',))[0] == 'std_msgs/msg/String':
            for _, time, raw in bag.few_messages([CONDITION_TOPIC]):
                self.times.append(time)
                self.values.append(str(bag.decode(CONDITION_TOPIC, raw).data))

    def tags(self, time: int) -> dict[str, str]:
        position = bisect.bisect_right(self.times, time) - 1
        return {} if position < 0 else {'condition': self.values[position]}


def _picture(message: Any, rectifier: Rectifier) -> tuple[np.ndarray | None, bytes | None]:
    """The rectified image, or the bytes of a file that needs no change and can be decoded."""
    encoded = None
    if not hasattr(message, 'format'):
        image = image_codec.decode_image(message)
        height, width = image.shape[:2]
    elif rectifier.is_identity and image_codec.is_plain_file(message.format or '', message.data):
        encoded = bytes(message.data)
        width, height = image_codec.verify_bytes(encoded)
    else:
        image = image_codec.decode_compressed(message)
        height, width = image.shape[:2]
    if (width, height) != (rectifier.width, rectifier.height):
        raise ImageError(
            f'another size than the first one: {width} x {height}, not {rectifier.width} x '
            f'{rectifier.height}'
        )
    return (None, encoded) if encoded is not None else (rectifier.rectify(image), None)


def _share_seen(pair: Pair, rectifier: Rectifier) -> float:
    """Share of a scan's points that fall on the image."""
    uv, _ = project_points(pair.xyz, pair.K, pair.T_camera_lidar)
    inside = inside_image(uv, rectifier.width, rectifier.height)
    return float(inside.mean()) if len(inside) else 0.0


def _base_stamp(raw: bytes, is_ros2: bool, receive_ns: int) -> int:
    """What the times of a scan's points count from: its header's stamp where it has one."""
    stamp = header_stamp(raw, is_ros2)
    return stamp if stamp > 0 else receive_ns


def _reason(error: ClcpError) -> str:
    return str(error).partition(':')[0]


SOURCE = Rosbag()
