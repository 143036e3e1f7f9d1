# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Image messages and image files to RGB arrays, and back.

Messages are duck-typed: rclpy's (data is `array.array`) and rosbags' (data is a numpy array) both
work, and neither library is imported. This is the only place where OpenCV's BGR exists.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

from clcp_ros.errors import ImageError
from clcp_ros.preprocess import halve, halvings

MAX_PIXELS = 1 << 27
"""Larger images are refused: a damaged header must not make a robot allocate gigabytes."""

_REDUCED = (
    cv2.IMREAD_COLOR,
    cv2.IMREAD_REDUCED_COLOR_2,
    cv2.IMREAD_REDUCED_COLOR_4,
    cv2.IMREAD_REDUCED_COLOR_8,
)
"""How to decode a JPEG by how often its sides are halved."""

_JPEG_START = b'\xff\xd8\xff'
_PNG_START = b'\x89PNG\r\n\x1a\n'


class ImageMessage(Protocol):
    """What is used of a sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """What is used of a sensor_msgs/CompressedImage."""

    format: str
    data: Any


def _code(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: cv2.cvtColor(np.ascontiguousarray(pixels), code)


_BAYER = {
    # OpenCV names a Bayer pattern by its second row and column, ROS by its first.
    'bayer_rggb': cv2.COLOR_BayerBG2RGB,
    'bayer_bggr': cv2.COLOR_BayerRG2RGB,
    'bayer_gbrg': cv2.COLOR_BayerGR2RGB,
    'bayer_grbg': cv2.COLOR_BayerGB2RGB,
}

_ENCODINGS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    'rgb8': (3, np.ascontiguousarray),
    'bgr8': (3, _code(cv2.COLOR_BGR2RGB)),
    # Three channels without a stated order are OpenCV's: this encoding's name is its type's.
    '8UC3': (3, _code(cv2.COLOR_BGR2RGB)),
    'rgba8': (4, _code(cv2.COLOR_RGBA2RGB)),
    'bgra8': (4, _code(cv2.COLOR_BGRA2RGB)),
    'mono8': (1, _code(cv2.COLOR_GRAY2RGB)),
    '8UC1': (1, _code(cv2.COLOR_GRAY2RGB)),
    '8UC4': (4, _code(cv2.COLOR_BGRA2RGB)),
    **{f'{name}8': (1, _code(code)) for name, code in _BAYER.items()},
    'yuv422': (2, _code(cv2.COLOR_YUV2RGB_UYVY)),
    'uyvy': (2, _code(cv2.COLOR_YUV2RGB_UYVY)),
    'yuv422_yuy2': (2, _code(cv2.COLOR_YUV2RGB_YUY2)),
    'yuyv': (2, _code(cv2.COLOR_YUV2RGB_YUY2)),
}
"""Encoding: (bytes per pixel, (H, W, bytes) uint8 -> RGB)."""

_WORDS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    'mono16': (1, _code(cv2.COLOR_GRAY2RGB)),
    'rgb16': (3, np.ascontiguousarray),
    'bgr16': (3, _code(cv2.COLOR_BGR2RGB)),
    'rgba16': (4, _code(cv2.COLOR_RGBA2RGB)),
    'bgra16': (4, _code(cv2.COLOR_BGRA2RGB)),
    **{f'{name}16': (1, _code(code)) for name, code in _BAYER.items()},
}
"""Encoding of 16 bits: (words per pixel, (H, W, words) -> RGB)."""

_PER_PIXEL = frozenset(('rgb8', 'bgr8', '8UC3', 'rgba8', 'bgra8', '8UC4', 'mono8', '8UC1'))
"""Encodings whose pixels are converted one by one, so that shrinking may come first."""

ENCODINGS = (*_ENCODINGS, *_WORDS)
"""The encodings of sensor_msgs/Image that `decode_image` reads."""


def decode_image(message: ImageMessage, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a sensor_msgs/Image.

    Args:
        message: The message; rows may be padded (`step`).
        at_least: Height and width that are enough: the image may come halved, as
            `preprocess.halve` does it, where that leaves no less.

    Returns:
        (H, W, 3) uint8, RGB. For an unpadded `rgb8` message it shares the message's memory.

    Raises:
        ImageError: The encoding is not one of `ENCODINGS`, or the sizes contradict each other.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = message.encoding
    if encoding not in ENCODINGS:
        raise ImageError(
            f'image encoding {encoding!r} is not supported; known are {", ".join(ENCODINGS)}'
        )
    is_16_bit = encoding in _WORDS
    channels, convert = _WORDS[encoding] if is_16_bit else _ENCODINGS[encoding]
    per_pixel = channels * (1 + is_16_bit)
    _check_size(width, height)
    row = width * per_pixel
    data = _bytes(message.data)
    # The last row's padding may be missing.
    if step < row or data.size < step * (height - 1) + row:
        raise ImageError(
            f'{encoding} image of {width} x {height} needs rows of {row} bytes, '
            f'the message has step {step} and {data.size} bytes'
        )
    if 'yuv' in encoding or 'yuyv' in encoding or 'uyvy' in encoding:
        if width % 2:
            raise ImageError(
                f'{encoding} image of odd width {width}: two pixels share their colour'
            )
    elif encoding.startswith('bayer') and (width < 2 or height < 2):
        raise ImageError(
            f'{encoding} image of {width} x {height} is smaller than its colour pattern'
        )
    pixels = np.ndarray((height, width, per_pixel), np.uint8, data, strides=(step, per_pixel, 1))
    if per_pixel == 1:
        pixels = pixels[..., 0]
    if at_least is not None and encoding in _PER_PIXEL:
        pixels = halve(pixels, halvings(height, at_least[0]), halvings(width, at_least[1]))
    if is_16_bit:
        words = np.ascontiguousarray(pixels).view('>u2' if message.is_bigendian else '<u2')
        pixels = _to_8_bit(words[..., 0] if channels == 1 else words)
    return convert(pixels)


def _to_8_bit(words: np.ndarray) -> np.ndarray:
    """uint8 of uint16: 65535 becomes 255, rounded."""
    return ((words.astype(np.uint32) + 128) // 257).astype(np.uint8)


def decode_compressed(
    message: CompressedImageMessage, at_least: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage (JPEG or PNG).

    Args:
        message: The message. What the bytes are is told by the bytes; `format` tells only whether
            they are a picture at all and, in `...; jpeg compressed rgb8`, their channel order.
        at_least: As of `decode_bytes`.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ImageError: Depth images, unknown formats, truncated or damaged data.
    """
    stated = message.format or ''
    if 'compresseddepth' in stated.lower():
        raise ImageError(
            f'compressed image of format {stated!r} is a depth image, not a camera image'
        )
    try:
        data = _bytes(message.data)
        pattern = _mosaic(stated, data)
        image = decode_bytes(data, at_least) if pattern is None else _decode_mosaic(data, pattern)
    except ImageError as error:
        raise ImageError(f'compressed image of format {stated!r}: {error}') from None
    # By the message's definition the pixels were handed to the codec in this order. Publishers of
    # image_transport write bgr8, which makes an ordinary file; rgb8 one with red and blue swapped.
    if ';' in stated and 'compressed rgb' in stated:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return image


def is_plain_file(stated_format: str, data: bytes | bytearray | memoryview | np.ndarray) -> bool:
    """Whether a CompressedImage's bytes are an ordinary picture: what any viewer would show.

    Not so are depth images, files with red and blue swapped, and mosaics of a Bayer camera.

    Raises:
        ImageError: Neither JPEG nor PNG, or it ends before the header does.
    """
    stated = stated_format.lower()
    special = 'depth' in stated or 'compressed rgb' in stated
    return not special and _mosaic(stated_format, _bytes(data)) is None


def _mosaic(stated: str, data: np.ndarray) -> str | None:
    """The Bayer pattern of a picture that was compressed before its colours were computed.

    image_transport compresses the images of Bayer cameras as they are: a gray file whose format
    is `bayer_rggb8; png compressed `.
    """
    pattern = stated.partition(';')[0].strip().rstrip('0123456789')
    return pattern if pattern in _BAYER and _components(data) == 1 else None


def _decode_mosaic(data: np.ndarray, pattern: str) -> np.ndarray:
    width, height = check_bytes(data)
    try:
        raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raw = None
    if raw is None or raw.shape != (height, width) or min(raw.shape) < 2:
        raise ImageError(f'damaged image: {width} x {height} mosaic that cannot be decoded')
    return cv2.cvtColor(_to_8_bit(raw) if raw.dtype == np.uint16 else raw, _BAYER[pattern])


def _components(array: np.ndarray) -> int:
    """How many channels a file's pixels have."""
    view = memoryview(array.data)
    if _kind(array) == 'PNG':
        if len(view) < 33:
            raise ImageError(f'truncated PNG: it ends after {len(view)} bytes, in its header')
        # PNG specification, table 11.1; an indexed picture counts as colour.
        return {0: 1, 4: 2}.get(view[25], 3)
    return int(view[_jpeg_frame(view) + 7])


def decode_bytes(
    data: bytes | bytearray | memoryview | np.ndarray, at_least: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode the bytes of a JPEG or PNG file; 16-bit and gray images become 8-bit RGB.

    OpenCV returns a partly gray picture for a truncated JPEG, so wholeness is checked first. An
    orientation in EXIF is ignored: the calibration belongs to the sensor's own rows and columns.

    Args:
        data: The file.
        at_least: Height and width that are enough: a JPEG is decoded at a half, a quarter or an
            eighth of its size where that leaves no less and no rest, in half the time.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ImageError: Neither JPEG nor PNG, truncated, damaged, or too large.
    """
    array = _bytes(data)
    width, height = check_bytes(array)
    times = _reduction(array, width, height, at_least)
    try:
        image = cv2.imdecode(array, _REDUCED[times] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None or image.shape != (height >> times, width >> times, 3):
        raise ImageError(
            f'damaged image: {width} x {height} {_kind(array)} that cannot be decoded'
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def decode_gray(data: bytes | bytearray | memoryview | np.ndarray) -> np.ndarray:
    """Luminance of a JPEG file at full size, in less than half the time of its colours.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: As `decode_bytes`.
    """
    array = _bytes(data)
    width, height = check_bytes(array)
    try:
        image = cv2.imdecode(array, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None or image.shape != (height, width):
        raise ImageError(
            f'damaged image: {width} x {height} {_kind(array)} that cannot be decoded'
        )
    return image


def _reduction(
    array: np.ndarray, width: int, height: int, at_least: tuple[int, int] | None
) -> int:
    """How often a file's sides are halved while it is decoded."""
    if at_least is None or _kind(array) != 'JPEG':
        return 0
    times = min(halvings(height, at_least[0]), halvings(width, at_least[1]), len(_REDUCED) - 1)
    # Lengths with a rest are rounded up, which would stretch the picture by up to a small pixel.
    while (width | height) & ((1 << times) - 1):
        times -= 1
    return times


def check_bytes(data: bytes | bytearray | memoryview | np.ndarray) -> tuple[int, int]:
    """Width and height of a JPEG or PNG file that is whole, without decoding it.

    Raises:
        ImageError: Neither JPEG nor PNG, truncated, too large, or a PNG with a wrong checksum.
    """
    array = _bytes(data)
    width, height = image_size(array)
    _check_size(width, height)
    _check_whole(memoryview(array.data))
    return width, height


def verify_bytes(data: bytes | bytearray | memoryview | np.ndarray) -> tuple[int, int]:
    """Width and height of a JPEG or PNG file that can be decoded.

    Finds what `decode_bytes` would find, several times faster: a JPEG's damage is in its entropy
    code, which is decoded whole also for a picture of an eighth of the size.

    Raises:
        ImageError: As `decode_bytes`.
    """
    array = _bytes(data)
    width, height = check_bytes(array)
    # At a depth of 8 bits: OpenCV refuses the combination of "any depth" and a scale.
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 if _kind(array) == 'JPEG' else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(array, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(
            f'damaged image: {width} x {height} {_kind(array)} that cannot be decoded'
        )
    return width, height


def image_format(data: bytes) -> str:
    """'jpg' or 'png', by the first bytes.

    Raises:
        ImageError: Neither.
    """
    return 'png' if _kind(_bytes(data)) == 'PNG' else 'jpg'


def image_size(data: bytes | bytearray | memoryview | np.ndarray) -> tuple[int, int]:
    """Width and height from the header of a JPEG or PNG, without decoding it.

    Raises:
        ImageError: Neither JPEG nor PNG, or it ends before the header does.
    """
    array = _bytes(data)
    view = memoryview(array.data)
    if _kind(array) == 'PNG':
        if len(view) < 33:
            raise ImageError(f'truncated PNG: it ends after {len(view)} bytes, in its header')
        return struct.unpack_from('>II', view, 16)
    height, width = struct.unpack_from('>HH', view, _jpeg_frame(view) + 3)
    return width, height


def _jpeg_frame(view: memoryview) -> int:
    """Position of the frame header's length field."""
    for marker, start, length in _jpeg_segments(view):
        # Start of frame, all processes; C4, C8 and CC are other things (ITU T.81, table B.1).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and length >= 8:
            return start
    raise ImageError('damaged JPEG: no frame header before the picture data')


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a JPEG file.

    Raises:
        ImageError: Not such an array.
    """
    return _encode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB or (H, W) uint8 or uint16 as a PNG file.

    Raises:
        ImageError: Not such an array.
    """
    # Stating a level would switch OpenCV's filter and run lengths off: larger and much slower.
    return _encode('.png', image, [])


def _encode(extension: str, image: np.ndarray, options: list[int]) -> bytes:
    gray = extension == '.png' and image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    color = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not (gray or color) or image.size == 0:
        raise ImageError(
            f'cannot encode an array {image.shape} of {image.dtype} as {extension[1:]}'
        )
    pixels = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR) if color else image
    done, encoded = cv2.imencode(extension, pixels, options)
    if not done:
        raise ImageError(f'cannot encode an image {image.shape} as {extension[1:]}')
    return encoded.tobytes()


def _bytes(data: Any) -> np.ndarray:
    """Any bytes-like object as flat uint8 without copying; a list of numbers is copied."""
    if isinstance(data, (list, tuple)):
        return np.asarray(data, np.uint8)
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        if isinstance(data, np.ndarray) or len(data) == 0:
            return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        raise ImageError(
            f'image data of type {type(data).__name__} cannot be read: {error}'
        ) from None


def _check_size(width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise ImageError(f'image of impossible size {width} x {height}')
    if width * height > MAX_PIXELS:
        raise ImageError(f'image of {width} x {height} has more than {MAX_PIXELS} pixels')


def _kind(array: np.ndarray) -> str:
    start = array[:8].tobytes()
    if start.startswith(_PNG_START):
        return 'PNG'
    if start.startswith(_JPEG_START):
        return 'JPEG'
    raise ImageError(
        f'neither JPEG nor PNG: {array.size} bytes that begin with {start.hex(" ")}'
        if array.size
        else 'an image of no bytes'
    )


def _check_whole(view: memoryview) -> None:
    """Raise ImageError when a file ends before its end marker, or a PNG chunk is damaged."""
    if _kind(np.frombuffer(view[:8], np.uint8)) == 'JPEG':
        scan = 0
        for marker, start, length in _jpeg_segments(view):
            if marker == 0xDA:
                scan = start + length
        # Past the scan's header FF D9 can only be the end: a data byte FF is followed by 00.
        # Before it, it also ends an EXIF thumbnail. Cameras pad after the end: need not be last.
        end = max(scan, len(view) - 4096)  # where it is, unless a camera pads a lot
        if bytes(view[end:]).find(b'\xff\xd9') < 0 and bytes(view[scan:]).find(b'\xff\xd9') < 0:
            raise ImageError(f'truncated JPEG: no end marker in {len(view)} bytes')
        return
    position = len(_PNG_START)
    while position + 12 <= len(view):
        length, name = struct.unpack_from('>I4s', view, position)
        end = position + 12 + length
        if end > len(view):
            break
        (checksum,) = struct.unpack_from('>I', view, end - 4)
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            raise ImageError(f'damaged PNG: wrong checksum of the chunk at byte {position}')
        if name == b'IEND':
            return
        position = end
    raise ImageError(f'truncated PNG: no end chunk in {len(view)} bytes')


def _jpeg_segments(view: memoryview) -> list[tuple[int, int, int]]:
    """(marker, start of the length field, length) up to and with the first scan header."""
    segments = []
    position = 2
    while True:
        while position + 1 < len(view) and view[position] == 0xFF and view[position + 1] == 0xFF:
            position += 1  # fill bytes may precede a marker
        if position + 4 > len(view):
            raise ImageError(f'truncated JPEG: it ends after {len(view)} bytes, in its header')
        if view[position] != 0xFF:
            raise ImageError(f'damaged JPEG: no marker at byte {position}')
        marker = view[position + 1]
        if 0xD0 <= marker <= 0xD9 or marker == 0x01:  # stand alone
            if marker == 0xD9:
                raise ImageError('damaged JPEG: it ends before its picture data')
            position += 2
            continue
        (length,) = struct.unpack_from('>H', view, position + 2)
        if position + 2 + length > len(view):
            raise ImageError(f'truncated JPEG: it ends after {len(view)} bytes, in its header')
        if length < 2:
            raise ImageError(f'damaged JPEG: segment of length {length} at byte {position}')
        segments.append((marker, position + 2, length))
        if marker == 0xDA:
            return segments
        position += 2 + length
