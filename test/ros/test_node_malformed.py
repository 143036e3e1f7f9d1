# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever arrives on the topics, the node goes on and accounts for every message."""

from __future__ import annotations

import array
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clcp_ros.image_codec import ENCODINGS, encode_jpeg, encode_png

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

U32 = st.one_of(st.sampled_from([0, 1, 2**31, 2**32 - 1]), st.integers(0, 300))
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    return {
        'frame_id': draw(st.sampled_from(['', 'cam', 'a' * 5000, 'ü/😀', ' "\\'])),
        'sec': draw(st.sampled_from([0, 1, -(2**31), 2**31 - 1])),
        'nanosec': draw(st.sampled_from([0, 10**9, 2**32 - 1])),
    }


@st.composite
def images(draw: st.DrawFn) -> Image:
    height, width = draw(U32), draw(U32)
    encoding = draw(st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=20)))
    plausible = height * width <= 1 << 16 and draw(st.booleans())
    step = width * draw(st.sampled_from([1, 2, 3, 4, 8])) if plausible else draw(U32)
    size = height * step if plausible else draw(st.integers(0, 4000))
    message = Image(
        height=height,
        width=width,
        encoding=encoding.replace('\x00', ''),
        is_bigendian=draw(st.sampled_from([0, 1, 255])),
        step=min(step, 2**32 - 1),
    )
    message.data = array.array('B', bytes([draw(st.integers(0, 255))]) * min(size, 1 << 19))
    return stamped(message, draw(headers()))


@st.composite
def compressed(draw: st.DrawFn) -> CompressedImage:
    picture = np.full((draw(st.integers(1, 40)), draw(st.integers(1, 40)), 3), 90, np.uint8)
    data = bytearray(draw(st.sampled_from([encode_jpeg(picture), encode_png(picture), b''])))
    for position, value in draw(
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)
    ):
        if data:
            data[position % len(data)] = value
    data = data[: draw(st.one_of(st.none(), st.integers(0, 400)))]
    stated = draw(
        st.sampled_from(
            ['jpeg', 'png', '', 'bgr8; jpeg compressed bgr8', 'rgb8; png compressed rgb8',
             '16UC1; compressedDepth', 'bayer_rggb8; png compressed ', 'x' * 2000, ';;;']
        )
    )  # fmt: skip
    message = CompressedImage(format=stated)
    message.data = array.array('B', bytes(data))
    return stamped(message, draw(headers()))


@st.composite
def infos(draw: st.DrawFn) -> CameraInfo:
    # Not st.floats(): running a model may leave a thread without subnormal numbers.
    special = [float('nan'), float('inf'), -float('inf'), 0.0, 1e308, -1e300]
    number = st.one_of(st.sampled_from(special), st.integers(-2000, 2000).map(float))
    info = CameraInfo(height=draw(U32), width=draw(U32))
    info.k = draw(st.lists(number, min_size=9, max_size=9))
    info.p = draw(st.lists(number, min_size=12, max_size=12))
    info.d = draw(st.lists(number, max_size=8))
    info.binning_x, info.binning_y = draw(U32), draw(U32)
    info.roi.x_offset, info.roi.width, info.roi.height = draw(U32), draw(U32), draw(U32)
    return info


def stamped(message: Any, header: dict[str, Any]) -> Any:
    message.header.frame_id = header['frame_id']
    message.header.stamp.sec, message.header.stamp.nanosec = header['sec'], header['nanosec']
    return message


class Attacked:
    """A node that everything is thrown at; still serving after each throw."""

    def __init__(self, rig: Any, image: np.ndarray) -> None:
        self.rig = rig.start().listen('mask', 'camera_info', 'overlay')
        self.image = image

    def counts(self) -> dict[str, int]:
        return self.rig.camera.statistics.counts

    def survive(self, topic: str, kind: Any, message: Any) -> None:
        rig, counts = self.rig, self.counts()
        before = counts['received']
        rig.publisher(kind, topic).publish(message)
        if kind is not CameraInfo and not isinstance(message, bytes):
            rig.until(lambda: counts['received'] > before)
        kinds = ('processed', 'dropped', 'bad', 'failed')
        rig.until(lambda: counts['received'] == sum(counts[k] for k in kinds))
        assert rig._thread.is_alive()

    def serves(self) -> None:
        rig = self.rig
        # The other transport may have been in use just now.
        rig.camera._last = None
        count = len(rig.got['mask'])
        rig.send(self.image, time.time_ns())
        rig.until(lambda: len(rig.got['mask']) > count)
        rig.until(lambda: rig.diagnostics)


@pytest.fixture
def attacked(make_rig: Any, daylight_image: Any) -> Attacked:
    return Attacked(make_rig(), daylight_image(0))


def test_any_image(attacked: Attacked) -> None:
    @EXAMPLES
    @given(images())
    def throw(message: Image) -> None:
        attacked.survive('image', Image, message)

    throw()
    assert attacked.counts()['bad'] > 0
    attacked.serves()


def test_any_compressed_image(attacked: Attacked) -> None:
    @EXAMPLES
    @given(compressed())
    def throw(message: CompressedImage) -> None:
        attacked.survive('image/compressed', CompressedImage, message)

    throw()
    assert attacked.counts()['bad'] > 0
    attacked.serves()


def test_any_camera_info(attacked: Attacked, daylight_image: Any) -> None:
    pixels = [daylight_image(i) for i in range(4)]

    @settings(EXAMPLES, max_examples=40)
    @given(infos())
    def throw(info: CameraInfo) -> None:
        attacked.survive('camera_info', CameraInfo, info)
        attacked.rig.send(pixels[int(info.height) % 4], time.time_ns())

    throw()
    attacked.serves()
    assert attacked.counts()['failed'] == 0
    attacked.rig.until(lambda: attacked.rig.got['camera_info'])


def test_bytes_that_are_no_message(attacked: Attacked) -> None:
    good = serialize_message(attacked.rig.send(attacked.image, time.time_ns(), encoding='rgb8'))
    attacked.serves()

    @settings(EXAMPLES, max_examples=30)
    @given(st.data())
    def throw(data: st.DataObject) -> None:
        raw = bytearray(good)
        for _ in range(data.draw(st.integers(0, 6))):
            # The first bytes are lengths and the header's text: where damage is worst.
            raw[data.draw(st.integers(0, 90))] = data.draw(st.integers(0, 255))
        attacked.rig.publisher(Image, 'image').publish(
            bytes(raw[: data.draw(st.sampled_from([4, 40, 70, len(raw) - 1000, len(raw)]))])
        )
        time.sleep(0.02)
        assert attacked.rig._thread.is_alive()

    throw()
    attacked.serves()
