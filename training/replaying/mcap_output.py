# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bag of a replay: what the node would have published, beside what was recorded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from clcp_ros.bundle import Bundle
from clcp_ros.errors import RecordingError
from clcp_ros.image_codec import encode_jpeg
from clcp_ros.monitor import Level
from clcp_ros.node_diagnostics import Status
from clcp_ros.overlay import overlay
from clcp_ros.replay import Outcome, ReplayBag, ReplayFrame, status_prefixes
from clcp_ros.replay_bag import LABEL_INFO_TYPE, BagFrame
from training.replaying import messages
from training.replaying.input_copy import InputCopy

DIAGNOSTICS_TOPIC = '/diagnostics'
_QUALITY = 85
_FOREVER = QosTime(9_223_372_036, 854_775_807)
_LATCHED = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False,
)  # fmt: skip


class McapOutput:
    """Writes a rosbag2 folder of one MCAP file, as an output of a replay.

    Topics are the node's: `/segment/mask`, `confidence`, `shift`, `camera_info`, `label_info` and
    `/diagnostics`, and `overlay/compressed`, a JPEG at the mask's size. With several cameras their
    names come in between, as in `/segment/front/mask`. Where the bag has such topics already, ours
    begin with `/replay`; those of the other bundle begin with `/segment_versus`.

    Args:
        folder: Does not exist yet; the file in it is called the same.
        bag: The bag that is replayed.
        bundle: What it is replayed with.
        versus: The other bundle.
        copy_inputs: Take over the bag's own topics.
        draw: Write overlays.
    """

    def __init__(
        self,
        folder: Path,
        bag: ReplayBag,
        bundle: Bundle,
        versus: Bundle | None = None,
        *,
        copy_inputs: bool = True,
        draw: bool = True,
    ) -> None:
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._bag = bag
        self._copies = copy_inputs
        self._draw = draw
        taken = copy_inputs and any(
            topic.startswith(('/segment/', '/segment_versus/')) for topic in bag.topics
        )
        node = '/replay/segment' if taken else '/segment'
        kind = bag.topics.get(DIAGNOSTICS_TOPIC, (messages.DIAGNOSTICS, 0))[0]
        self._diagnostics = DIAGNOSTICS_TOPIC
        if copy_inputs and kind != messages.DIAGNOSTICS:
            self._diagnostics = f'/replay{DIAGNOSTICS_TOPIC}'
        self._bundles = [(node, bundle)] + ([(f'{node}_versus', versus)] if versus else [])
        self._prefixes = status_prefixes(bag.cameras)
        self._topic_of = {camera.name: camera.topic for camera in bag.cameras}
        self._infos = _calibrations(bag)
        self._connections: dict[str, Connection] = {}
        self._copy: InputCopy | None = None
        self._started = False
        self._verdicts: dict[str, tuple[Level, str]] = {}
        self.node = node

    @property
    def notes(self) -> list[str]:
        """What a reader of the file should know."""
        return [] if self._copy is None else self._copy.notes

    def __enter__(self) -> McapOutput:
        self._writer.open()
        if self._copies:
            self._copy = InputCopy(self._bag.bag, self._writer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._connections:
            self._writer.close()
        else:
            self._writer.abort()

    def others(self, found: list[tuple[str, int, bytes]]) -> None:
        """See `Output.others`."""
        for topic, time_ns, raw in found:
            if self._copy is not None:
                self._copy.write(topic, time_ns, raw)

    def frame(self, frame: ReplayFrame) -> None:
        """See `Output.frame`."""
        source = frame.source
        self._copy_image(source)
        self._start(source.time_ns)
        outcomes = [frame.outcome] + ([frame.versus] if frame.versus else [])
        # Live, the node of the other bundle may have dropped this frame.
        for (node, bundle), outcome in zip(self._bundles, outcomes, strict=False):
            self._write_outcome(f'{node}/{self._prefixes[source.camera]}', frame, outcome, bundle)

    def unused(self, frame: BagFrame) -> None:
        """See `Output.unused`."""
        self._copy_image(frame)

    def diagnostics(self, time_ns: int, statuses: list[Status]) -> None:
        """See `Output.diagnostics`."""
        data = messages.diagnostics(statuses, messages.header(time_ns, ''))
        self._write(self._diagnostics, messages.DIAGNOSTICS, time_ns, data)

    def _copy_image(self, source: BagFrame) -> None:
        if self._copy is not None:
            self._copy.write(self._topic_of[source.camera], source.time_ns, source.raw)

    def _start(self, time_ns: int) -> None:
        if self._started:
            return
        self._started = True
        for node, bundle in self._bundles:
            data = messages.label_info(bundle.classes.names, messages.header(time_ns, ''))
            self._write(f'{node}/label_info', LABEL_INFO_TYPE, time_ns, data, latched=True)

    def _write_outcome(
        self, prefix: str, frame: ReplayFrame, outcome: Outcome, bundle: Bundle
    ) -> None:
        source, time_ns = frame.source, frame.source.time_ns
        head = messages.header(source.stamp_ns, str(source.message.header.frame_id))
        self._write(
            f'{prefix}mask', messages.IMAGE, time_ns, messages.gray_image(outcome.mask, head)
        )
        if outcome.confidence is not None:
            data = messages.gray_image(outcome.confidence, head)
            self._write(f'{prefix}confidence', messages.IMAGE, time_ns, data)
        # As the node: the monitor's own frames, and every change, which words it anew.
        verdict = (outcome.status.level, outcome.status.message)
        if outcome.monitored or self._verdicts.get(prefix) != verdict:
            self._verdicts[prefix] = verdict
            status = messages.renamed(
                outcome.status, f'/segment: {self._prefixes[source.camera]}shift'
            )
            data = messages.diagnostics([status], head)
            self._write(f'{prefix}shift', messages.DIAGNOSTICS, time_ns, data)
        info = self._infos.get(source.camera)
        if info is not None:
            height, width = outcome.mask.shape
            data = messages.camera_info(info, height, width, head)
            self._write(f'{prefix}camera_info', messages.CAMERA_INFO, time_ns, data)
        if self._draw:
            picture = overlay(frame.small_image, outcome.mask, bundle.classes.palette)
            data = messages.encoded_image(
                encode_jpeg(picture, _QUALITY), 'rgb8; jpeg compressed bgr8', head
            )
            self._write(f'{prefix}overlay/compressed', messages.COMPRESSED, time_ns, data)

    def _write(
        self, topic: str, kind: str, time_ns: int, data: bytes, latched: bool = False
    ) -> None:
        if topic not in self._connections:
            # The robot's diagnostics and ours are one topic.
            same = None if self._copy is None else self._copy.connection(topic)
            self._connections[topic] = same or self._writer.add_connection(
                topic,
                kind,
                typestore=messages.typestore(),
                offered_qos_profiles=[_LATCHED] if latched else [],
            )
        self._writer.write(self._connections[topic], time_ns, data)


def _calibrations(bag: ReplayBag) -> dict[str, Any]:
    """The first CameraInfo of each camera: it does not change."""
    found = {}
    for camera in bag.cameras:
        # ROS 1 writes K, D, R, P where ROS 2 writes k, d, r, p.
        if camera.camera_info is None or not bag.is_ros2:
            continue
        for topic, _, raw in bag.bag.few_messages([camera.camera_info]):
            with contextlib.suppress(RecordingError):
                found[camera.name] = bag.bag.decode(topic, raw)
            break
    return found
