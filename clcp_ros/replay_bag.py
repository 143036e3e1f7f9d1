# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The cameras of a bag, frame by frame, with what was recorded beside them."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import posixpath
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clcp_ros.bag_topics import (
    IMAGE_TYPES,
    base_topic,
    camera_info_topic,
    camera_topics,
    describe,
)
from clcp_ros.errors import ImageError, RecordingError
from clcp_ros.frame import Frame

if TYPE_CHECKING:
    from clcp_ros.bag_file import Bag

CONDITION_TOPIC = '/simulation/condition'
LABELS_TOPIC = '/simulation/labels/compressed'
"""What the simulator adds to its bags: std_msgs/String, and PNG of Cityscapes ids."""

LABELS_NAME = 'labels/compressed'
"""Name, beside an image topic, of true labels: PNG of class ids with the image's stamps."""

LABEL_INFO_NAME = 'labels/label_info'
"""Name, beside an image topic, of the labels' class names (vision_msgs/LabelInfo)."""

LABEL_INFO_TYPE = 'vision_msgs/msg/LabelInfo'

FrameKey = tuple[str, int, int]
"""A frame of a bag: camera, stamp, and how often the camera's stamp came before."""

_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*\Z')
_PART_BYTES = 16 << 20


@dataclass(frozen=True)
class Camera:
    """A camera of a bag.

    Attributes:
        name: Short name, valid as a part of a topic.
        topic: Of its images.
        compressed: Whether these are sensor_msgs/CompressedImage.
        camera_info: Topic of its calibration, or None.
        labels: Topic of its true labels, or None.
        label_info: Topic of the names of the labels' classes, or None.
    """

    name: str
    topic: str
    compressed: bool
    camera_info: str | None = None
    labels: str | None = None
    label_info: str | None = None


@dataclass(frozen=True)
class BagFrame:
    """An image message of a bag.

    Attributes:
        camera: Name of its camera.
        stamp_ns: The header's stamp; where the driver left it zero, the time of recording.
        time_ns: When it was recorded.
        raw: The serialised message.
        message: The message; None where it does not fit its type.
        condition: The simulated condition in force; empty where the bag names none.
        problem: Why there is no message.
        stamped: Whether the header has a stamp.
        repeat: How many images of this camera with this stamp came before it: a recording of a bag
            that was played in a loop holds every stamp several times.
    """

    camera: str
    stamp_ns: int
    time_ns: int
    raw: bytes = field(repr=False)
    message: Any = field(repr=False)
    condition: str
    problem: str = ''
    stamped: bool = True
    repeat: int = 0

    @property
    def key(self) -> FrameKey:
        """What results are found again by."""
        return self.camera, self.stamp_ns, self.repeat

    @property
    def usable(self) -> Any:
        """The message.

        Raises:
            ImageError: There is none.
        """
        if self.message is None:
            raise ImageError(self.problem)
        return self.message

    @cached_property
    def frame(self) -> Frame:
        """The image, decoded on demand.

        Raises:
            ImageError: There is none.
        """
        return Frame(self.usable)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Raises:
            ImageError: It cannot be decoded.
        """
        return self.frame.pixels


@dataclass(frozen=True)
class Part:
    """A stretch of a bag: what was recorded before a frame, and the frame.

    Attributes:
        others: Topic, time and bytes of other messages; those of the frame are not among them.
        frame: None at the end, or where much else came between two frames.
    """

    others: list[tuple[str, int, bytes]]
    frame: BagFrame | None


class Spool:
    """Bytes by key in a temporary file: a drive of masks is larger than memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._places: dict[Any, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, key: Any) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def put(self, key: Any, data: bytes) -> None:
        """Keep bytes; a key that was there names the new ones from now on."""
        self._file.seek(self._end)
        self._file.write(data)
        self._places[key] = (self._end, len(data))
        self._end += len(data)

    def get(self, key: Any) -> bytes | None:
        """The bytes, or None."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place[0])
        return self._file.read(place[1])

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


class ReplayBag:
    """A bag of one camera or several: rosbag2 (folder, MCAP, sqlite3) or ROS 1.

    Args:
        path: The bag: a file, a folder with metadata.yaml, or one whose recorder crashed.
        image_topic: Topics of the images, with commas; default: one of each camera there is.
        cameras: Names to choose among the cameras found, with commas; beside `image_topic`, names
            for its topics.

    Raises:
        RecordingError: The bag cannot be read, or does not have what was named.
    """

    def __init__(
        self, path: str | Path, image_topic: str | None = None, cameras: str | None = None
    ) -> None:
        self.path = Path(path)
        self._stack = contextlib.ExitStack()
        self.bag = self._stack.enter_context(open_bag(self.path))
        try:
            self.topics = self.bag.topics
            topics = self._image_topics(image_topic)
            self.cameras = self._name_cameras(topics, image_topic is not None, cameras)
            self._conditions = self._read_conditions()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> ReplayBag:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @classmethod
    def of(
        cls, bag: ReplayBag | str | Path, image_topic: str | None, cameras: str | None
    ) -> contextlib.AbstractContextManager[ReplayBag]:
        """A bag that is open, and stays so, or one to open.

        Args:
            bag: The bag; an open one has its cameras chosen already.
            image_topic: As of the class.
            cameras: As of the class.
        """
        if isinstance(bag, ReplayBag):
            return contextlib.nullcontext(bag)
        return cls(bag, image_topic, cameras)

    @property
    def is_ros2(self) -> bool:
        """Whether messages are CDR."""
        return self.bag.is_ros2

    @property
    def frame_count(self) -> int:
        """Number of images of all cameras."""
        return sum(self.topics[camera.topic][1] for camera in self.cameras)

    @property
    def image_topic(self) -> str:
        """Topics of the images, with commas."""
        return ','.join(camera.topic for camera in self.cameras)

    def _image_topics(self, given: str | None) -> list[str]:
        where = describe(self.topics)
        if given is None:
            found = camera_topics(self.topics) or sorted(
                topic
                for topic, (kind, count) in self.topics.items()
                if kind in IMAGE_TYPES and count and not topic.startswith('/simulation/')
            )
            if not found:
                raise RecordingError(f'{self.path}: no images; {where}')
            return found
        names = []
        for entry in filter(None, (part.strip() for part in given.split(','))):
            # A leading slash is easily forgotten.
            topic = entry if entry in self.topics else f'/{entry.strip("/")}'
            kind = self.topics.get(topic, ('', 0))[0]
            if kind not in IMAGE_TYPES:
                what = f'is a {kind}' if kind else 'does not exist'
                raise RecordingError(f'{self.path}: topic {entry} {what}; {where}')
            names.append(topic)
        if not names:
            raise RecordingError(f'{self.path}: no image topic named; {where}')
        return list(dict.fromkeys(names))

    def _name_cameras(
        self, topics: list[str], are_chosen: bool, wanted: str | None
    ) -> tuple[Camera, ...]:
        names = short_names(topics)
        if wanted is not None:
            asked = [name.strip() for name in wanted.split(',') if name.strip()]
            if bad := [name for name in asked if not _NAME.match(name)]:
                raise RecordingError(f'a camera cannot be called {bad[0]!r}: letters, digits, _')
            if len(set(asked)) < len(asked) or not asked:
                raise RecordingError(f'cameras must have names of their own, not {wanted!r}')
            if are_chosen:
                if len(asked) != len(topics):
                    raise RecordingError(
                        f'{len(asked)} names in --cameras for {len(topics)} topics'
                    )
                names = asked
            else:
                if missing := [name for name in asked if name not in names]:
                    raise RecordingError(
                        f'{self.path}: no camera {missing[0]!r}; it has {", ".join(names)}'
                    )
                topics = [topics[names.index(name)] for name in asked]
                names = asked
        labels = self._labels_topics(dict(zip(topics, names, strict=True)))
        return tuple(
            Camera(
                name,
                topic,
                self.topics[topic][0] == IMAGE_TYPES[1],
                camera_info_topic(self.topics, topic, alone=len(topics) == 1),
                labels.get(topic),
                self._beside(topic, LABEL_INFO_NAME, LABEL_INFO_TYPE),
            )
            for topic, name in zip(topics, names, strict=True)
        )

    def _labels_topics(self, names: dict[str, str]) -> dict[str, str]:
        """Topic of the labels by topic of the images."""
        found = {}
        for topic, name in names.items():
            own = f'/simulation/{name}/labels/compressed'
            labels = self._beside(topic, LABELS_NAME, IMAGE_TYPES[1])
            labels = labels or (own if self.topics.get(own, ('', 0))[1] else None)
            if labels:
                found[topic] = labels
        # The simulator's main camera has no name of its own there.
        rest = [topic for topic in names if topic not in found]
        if len(rest) == 1 and self.topics.get(LABELS_TOPIC, ('', 0))[1]:
            found[rest[0]] = LABELS_TOPIC
        return found

    def _beside(self, image: str, name: str, kind: str) -> str | None:
        base = base_topic(image)
        for parent in (base, posixpath.dirname(base)):
            topic = posixpath.join(parent, name)
            if self.topics.get(topic, ('', 0))[0] == kind and self.topics[topic][1]:
                return topic
        return None

    def frames(self) -> Iterator[BagFrame]:
        """The images of all cameras in the order of recording.

        Raises:
            RecordingError: The bag is damaged.
        """
        for part in self.parts(()):
            if part.frame is not None:
                yield part.frame

    def parts(self, others: Iterable[str] | None = None) -> Iterator[Part]:
        """The whole bag in the order of recording, cut after every frame.

        Args:
            others: Topics beside the cameras'; default: all.

        Raises:
            RecordingError: The bag is damaged.
        """
        cameras = {camera.topic: camera.name for camera in self.cameras}
        wanted = set(self.topics if others is None else others) | set(cameras)
        waiting: list[tuple[str, int, bytes]] = []
        size = 0
        repeats: Counter[tuple[str, int]] = Counter()
        # Opened anew: sqlite3 wants to be read by the thread that opened it.
        with open_bag(self.path) as bag:
            for topic, time_ns, raw in bag.raw_messages(sorted(wanted)):
                if topic in cameras:
                    frame = self._frame(bag, cameras[topic], topic, time_ns, bytes(raw))
                    same = frame.camera, frame.stamp_ns
                    frame = dataclasses.replace(frame, repeat=repeats[same])
                    repeats[same] += 1
                    yield Part(waiting, frame)
                    waiting, size = [], 0
                    continue
                waiting.append((topic, time_ns, bytes(raw)))
                size += len(raw)
                if size > _PART_BYTES:
                    yield Part(waiting, None)
                    waiting, size = [], 0
        yield Part(waiting, None)

    def _frame(self, bag: Bag, camera: str, topic: str, time_ns: int, raw: bytes) -> BagFrame:
        message, problem, stamp_ns = None, '', 0
        try:
            message = bag.decode(topic, raw)
            stamp = message.header.stamp
            stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        except RecordingError as error:
            problem = str(error)
        stamped = stamp_ns != 0 or message is None
        stamp_ns = stamp_ns or time_ns
        condition = self.condition_at(stamp_ns)
        return BagFrame(camera, stamp_ns, time_ns, raw, message, condition, problem, stamped)

    def condition_at(self, stamp_ns: int) -> str:
        """The simulated condition in force; empty where the bag names none."""
        at = bisect.bisect_right(self._conditions, stamp_ns, key=lambda entry: entry[0]) - 1
        return self._conditions[at][1] if at >= 0 else ''

    def labels(self, camera: Camera) -> Spool:
        """Encoded label images of a camera by stamp, for the caller to close.

        Raises:
            RecordingError: The bag is damaged.
        """
        spool = Spool()
        if camera.labels is not None:
            for topic, _, raw in self.bag.few_messages([camera.labels]):
                message = self.bag.decode(topic, raw)
                stamp = message.header.stamp
                stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
                spool.put(stamp_ns, np.asarray(message.data, np.uint8).tobytes())
        return spool

    def label_names(self, camera: Camera) -> dict[int, str] | None:
        """Names of the labels' ids where the bag tells them; ids without a class left out."""
        if camera.label_info is None:
            return None
        for topic, _, raw in self.bag.few_messages([camera.label_info]):
            message = self.bag.decode(topic, raw)
            return {
                int(entry.class_id): str(entry.class_name)
                for entry in message.class_map
                if int(entry.class_id) != 255
            }
        return None

    def _read_conditions(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        if CONDITION_TOPIC in self.topics:
            for topic, when, raw in self.bag.few_messages([CONDITION_TOPIC]):
                name = str(self.bag.decode(topic, raw).data)
                if not found or found[-1][1] != name:
                    found.append((when, name))
        return found


def open_bag(path: Path) -> Bag:
    """A bag that is not open yet.

    Raises:
        RecordingError: There is none, or more than one; or rosbags is not installed.
    """
    try:
        from clcp_ros.bag_file import Bag, bag_groups
    except ImportError:
        raise RecordingError('bags are read with rosbags: pip install rosbags') from None
    if not path.exists():
        raise RecordingError(f'{path}: no such bag')
    groups = bag_groups(path)
    if not groups:
        what = 'there is no bag in it' if path.is_dir() else 'not a .bag, .mcap or .db3 file'
        raise RecordingError(f'{path} is not a bag: {what}')
    if len(groups) > 1:
        names = ', '.join(str(files[0].relative_to(path)) for _, files in groups[:8])
        raise RecordingError(f'{path} holds {len(groups)} bags, give one of them: {names}')
    return Bag(groups[0][1])


def short_names(topics: Sequence[str]) -> list[str]:
    """Names of cameras from their image topics: as short as tells them apart.

    `/camera/front/image` and `/camera/rear/image` are `front` and `rear`.

    Args:
        topics: Of the images, one of each camera.
    """
    keys = []
    for topic in topics:
        parts = base_topic(topic).strip('/').split('/')
        if len(parts) > 1 and parts[-1].startswith('image'):
            parts = parts[:-1]
        keys.append(parts)
    common = 0
    shortest = min(len(key) for key in keys)
    while common < shortest - 1 and len({tuple(key[: common + 1]) for key in keys}) == 1:
        common += 1
    names = []
    for key in keys:
        name = re.sub(r'[^A-Za-z0-9_]', '_', '_'.join(key[common:]))
        names.append(name if _NAME.match(name) else f'camera_{name}')
    # Two topics of one namespace: their whole names.
    if len(set(names)) < len(names):
        names = [f'camera_{re.sub(r"[^A-Za-z0-9_]", "_", t.strip("/"))}' for t in topics]
    return names
