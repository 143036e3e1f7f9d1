# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a replay finds, frame by frame and in all, and what it hands its findings to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from clcp_ros.bundle import Bundle
from clcp_ros.inference import resize
from clcp_ros.monitor import Level
from clcp_ros.monitor.state import FRAME_NUMBERS, STANDING_NUMBERS
from clcp_ros.node_diagnostics import Status
from clcp_ros.replay_bag import BagFrame, Camera, FrameKey

SCORES = (*FRAME_NUMBERS, *STANDING_NUMBERS)
"""Figures of a record that the monitor fills."""


@dataclass(frozen=True)
class Outcome:
    """What a bundle made of a frame.

    Attributes:
        mask: (h, w) uint8 class ids, 255 is unlabelled.
        confidence: (h, w) uint8, 255 stands for probability 1; None where it is not known.
        status: The monitor's verdict as the node publishes it.
        monitored: Whether the monitor scored this frame: it scores a few a second.
        scores: Values of `SCORES` that are known.
        texts: What the monitor says in words, by the names of `TEXTS`.
        seconds: Time spent, by stage; `latency` is from sending to receiving, with --live.
        small: The image at the network's resolution, where it is at hand.
    """

    mask: np.ndarray
    confidence: np.ndarray | None
    status: Status
    monitored: bool
    scores: Mapping[str, float]
    texts: Mapping[str, str]
    seconds: Mapping[str, float]
    small: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class VersusRecord:
    """What the other bundle made of a frame; NaN stands for what is not known.

    Attributes:
        level: Its monitor's level.
        novelty_z: Novelty of the frame in standard deviations.
        miou_est: Expected mIoU.
        agreement: Share of pixels to which both give the same class.
        miou: Mean IoU over the classes present in the labels.
        shares: Share of the pixels of each class of the other bundle, and of none.
        seconds: Time spent, by stage.
    """

    level: Level
    novelty_z: float
    miou_est: float
    agreement: float
    miou: float
    shares: tuple[float, ...]
    seconds: Mapping[str, float] = field(compare=False)


@dataclass(frozen=True)
class FrameRecord:
    """What was found of one frame; NaN and '' stand for what is not known.

    Attributes:
        stamp_ns: Stamp of the frame.
        time_s: Seconds since the first frame, by stamps; where a camera's stamps go back, as in a
            looped recording, it goes on by the time of recording.
        level: The monitor's level.
        reason: The monitor's line for people.
        novelty_z: Novelty of the frame in standard deviations; NaN between the monitor's samples.
        low_z: Part of the raw image statistics.
        early_z: Part of the early features.
        deep_z: Part of the deep features.
        novelty_cusum: This and the following stand until the monitor's next sample; they are
            described in `ShiftState`.
        condition: Simulated condition, or empty.
        miou: Mean IoU over the classes present in the labels.
        camera: Name of the camera.
        time_ns: When the image was recorded.
        repeat: How many frames of this camera with this stamp came before it (a looped recording).
        monitored: Whether the monitor scored this frame.
        confidence: Mean confidence in [0, 1].
        shares: Share of the pixels of each class, and of none.
        seconds: Time spent, by stage.
        versus: The other bundle's.
    """

    stamp_ns: int
    time_s: float
    level: Level
    reason: str
    novelty_z: float = math.nan
    low_z: float = math.nan
    early_z: float = math.nan
    deep_z: float = math.nan
    novelty_cusum: float = math.nan
    cusum_threshold: float = math.nan
    innovation: float = math.nan
    miou_est: float = math.nan
    miou_lo: float = math.nan
    miou_hi: float = math.nan
    miou_drop: float = math.nan
    drop_threshold: float = math.nan
    window_s: float = math.nan
    kind: str = ''
    kind_prob: float = math.nan
    top_stats: str = ''
    top_classes: str = ''
    scope: str = ''
    alignment_z: float = math.nan
    alignment_pairs: float = math.nan
    alignment_yaw_deg: float = math.nan
    alignment_yaw_z: float = math.nan
    alignment_pitch_deg: float = math.nan
    alignment_pitch_z: float = math.nan
    samples: int = 0
    condition: str = ''
    miou: float = math.nan
    camera: str = ''
    time_ns: int = 0
    repeat: int = 0
    monitored: bool = True
    confidence: float = math.nan
    shares: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    versus: VersusRecord | None = None

    @property
    def key(self) -> FrameKey:
        """What the frame is found again by."""
        return self.camera, self.stamp_ns, self.repeat


@dataclass(frozen=True)
class ReplayFrame:
    """A frame as it is handed to an output.

    Attributes:
        record: Its scores.
        source: The image as it was recorded.
        outcome: What the bundle made of it.
        versus: What the other bundle made of it.
    """

    record: FrameRecord
    source: BagFrame
    outcome: Outcome
    versus: Outcome | None = None

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, all of it."""
        return self.source.image

    @property
    def small_image(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB at the mask's resolution."""
        small, (height, width) = self.outcome.small, self.mask.shape
        if small is not None and small.shape[:2] == (height, width):
            return small
        return resize(self.source.frame.at_least(height, width), height, width)

    def scaled_image(self, width: int) -> np.ndarray:
        """The image no wider than this, (h, w, 3) uint8 RGB."""
        height, full = self.source.frame.size
        scale = min(1.0, width / full)
        size = (max(1, round(height * scale)), max(1, round(full * scale)))
        image = self.source.frame.at_least(*size)
        if image.shape[:2] == size:
            return image
        return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)

    @property
    def mask(self) -> np.ndarray:
        """(h, w) uint8 class ids."""
        return self.outcome.mask


@dataclass(frozen=True)
class LiveFigures:
    """What only a live replay knows.

    Attributes:
        published: Images sent.
        received: Masks that came back.
        latency_s: Time from sending an image to receiving its mask, of each that came back.
        node_counts: The node's own counters (received, dropped, bad, lost, ...).
        provider: Execution provider that the node used.
        exit_code: Of the node after SIGINT.
        by_camera: Images sent and masks that came back, by camera.
    """

    published: int
    received: int
    latency_s: list[float]
    node_counts: dict[str, int]
    provider: str
    exit_code: int
    by_camera: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Images without a mask."""
        return self.published - self.received


class BadFrame(NamedTuple):
    """A frame that could not be used.

    Attributes:
        stamp_ns: Its stamp.
        reason: Why.
        camera: Its camera.
    """

    stamp_ns: int
    reason: str
    camera: str


@dataclass
class Versus:
    """Another bundle on the same frames.

    Attributes:
        bundle: The other bundle.
        provider: Execution provider it ran on.
        confusion: As of `ReplayResult`, of the other bundle, in its own classes' order.
        crossed: (C, D + 1) int64: pixels by class of the first and of the second bundle.
        missing: Classes of the other bundle that the first does not have: they agree with nothing.
        live: Figures of its live replay.
    """

    bundle: Bundle
    provider: str
    confusion: dict[tuple[str, str], np.ndarray]
    crossed: np.ndarray
    missing: tuple[str, ...]
    live: LiveFigures | None = None


@dataclass
class ReplayResult:
    """A replay.

    Attributes:
        bundle: The bundle used.
        image_topic: Topics of the images, with commas.
        records: One per segmented frame, in the order of the bag.
        bad: Frames that could not be used.
        confusion: (C, C + 1) int64 by camera and condition, rows are labels; empty without labels.
        notes: What a reader should know.
        seconds: Duration of the replay.
        live: Figures of a live replay.
        cameras: The cameras.
        provider: Execution provider that the bundle ran on.
        versus: The other bundle.
        unanswered: Frames without a mask by camera (with --live).
        simulated: Whether the labels or conditions are a simulator's.
    """

    bundle: Bundle
    image_topic: str
    records: list[FrameRecord] = field(default_factory=list)
    bad: list[BadFrame] = field(default_factory=list)
    confusion: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    live: LiveFigures | None = None
    cameras: tuple[Camera, ...] = ()
    provider: str = ''
    versus: Versus | None = None
    unanswered: dict[str, int] = field(default_factory=dict)
    simulated: bool = False


class LabelSource(Protocol):
    """True masks of frames."""

    def get(self, frame: BagFrame, names: Sequence[str]) -> np.ndarray | None:
        """The labels of a frame.

        Args:
            frame: Which.
            names: Classes whose ids are wanted.

        Returns:
            (H, W) uint8 ids of `names`, 255 is unlabelled; None where there are none.
        """


class Output(Protocol):
    """Takes in a replay while it runs; everything comes in the bag's order."""

    def others(self, messages: list[tuple[str, int, bytes]]) -> None:
        """Topic, time and bytes of messages that are no camera's image."""

    def frame(self, frame: ReplayFrame) -> None:
        """A frame that was segmented."""

    def unused(self, frame: BagFrame) -> None:
        """A frame that was not: bad, or dropped by the node."""

    def diagnostics(self, time_ns: int, statuses: list[Status]) -> None:
        """What the node publishes on /diagnostics; names are complete."""


class _Callback:
    """An output that only wants frames."""

    def __init__(self, on_frame: OnFrame | None) -> None:
        self._on_frame = on_frame

    def others(self, messages: list[tuple[str, int, bytes]]) -> None:
        """Nothing."""

    def frame(self, frame: ReplayFrame) -> None:
        """Hand it on."""
        if self._on_frame:
            self._on_frame(frame)

    def unused(self, frame: BagFrame) -> None:
        """Nothing."""

    def diagnostics(self, time_ns: int, statuses: list[Status]) -> None:
        """Nothing."""


OnFrame = Callable[[ReplayFrame], None]
Track = Callable[[Iterator[Any], int], Iterable[Any]]


def callback_output(on_frame: OnFrame | None) -> Output:
    """An output that hands frames to a function."""
    return _Callback(on_frame)
