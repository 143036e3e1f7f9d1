# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""JPEG files of which a window can be decoded without the rest.

Most of the time of decoding a JPEG at a fraction of its size goes into reading its Huffman codes,
one after the other: but restart markers (ITU T.81, E.1.4) begin anew. A file with a marker every
few blocks can be cut into a smaller file of the segments that a window needs, which any decoder
reads. Such files are ordinary JPEG, about one per cent larger.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import cv2
import numpy as np

from clcp_ros.errors import ImageError

_SEGMENT_MCUS = 8
_BASELINE = 0xC0
_RESTART = [bytes([0xFF, 0xD0 + i]) for i in range(8)]


def encode_seekable(image: np.ndarray, quality: int) -> bytes:
    """Encode an image as a JPEG file with restart markers.

    Args:
        image: (H, W, 3) uint8 RGB.
        quality: Of OpenCV, 0 to 100.

    Raises:
        ImageError: Not such an array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ImageError(f'cannot encode an array {image.shape} of {image.dtype} as jpg')
    # Two by two blocks of eight pixels: OpenCV halves the colour's resolution.
    across = -(-image.shape[1] // 16)
    # Segments must end with the rows, so their length divides the row's.
    interval = max(n for n in range(1, across + 1) if across % n == 0 and n <= _SEGMENT_MCUS)
    if interval < _SEGMENT_MCUS // 2:
        interval = across
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode('.jpg', bgr, options)
    if not done:
        raise ImageError(f'cannot encode an image {image.shape} as jpg')
    return encoded.tobytes()


@dataclass(frozen=True)
class _Layout:
    """Where things are in a file.

    Attributes:
        size_at: Offset of the height and width in the header.
        scan_at: Offset of the picture data.
        width: Pixels.
        height: Pixels.
        mcu: Width and height of a minimum coded unit, pixels.
        interval: Units from one restart marker to the next.
    """

    size_at: int
    scan_at: int
    width: int
    height: int
    mcu: tuple[int, int]
    interval: int


def cut(
    data: bytes | memoryview, x: int, y: int, width: int, height: int, margin: int = 0
) -> tuple[bytes, int, int] | None:
    """A JPEG file that holds a window of another, bit for bit the same blocks.

    Args:
        data: A whole JPEG file.
        x: Left column of the window.
        y: Top row.
        width: Columns.
        height: Rows.
        margin: Units more on each side; one is needed where colours are interpolated.

    Returns:
        The file, and the column and row of the original that its first pixel is; None where the
        file has no suitable restart markers.
    """
    layout = _layout(data)
    if layout is None:
        return None
    unit_w, unit_h = layout.mcu
    across, down = -(-layout.width // unit_w), -(-layout.height // unit_h)
    if across % layout.interval:
        return None
    per_row = across // layout.interval
    array = np.frombuffer(data, np.uint8)[layout.scan_at :]
    # In picture data FF is followed by 00, or by a marker.
    after = np.flatnonzero(array[:-1] == 0xFF) + 1
    codes = array[after]
    restarts = after[(codes >= 0xD0) & (codes <= 0xD7)] - 1
    ends = after[codes == 0xD9] - 1
    segments = per_row * down
    if len(restarts) != segments - 1 or not len(ends) or (len(ends) and ends[0] < restarts[-1:]):
        return None
    starts = np.concatenate([[0], restarts + 2]) + layout.scan_at
    stops = np.concatenate([restarts, ends[:1]]) + layout.scan_at
    step = layout.interval * unit_w
    left = max(0, (x - margin * unit_w) // step)
    right = min(per_row, -(-(x + width + margin * unit_w) // step))
    top = max(0, y // unit_h - margin)
    bottom = min(down, -(-(y + height) // unit_h) + margin)
    rows = np.arange(top, bottom)[:, None] * per_row + np.arange(left, right)
    parts = [_header(data, layout, left * step, right * step, top * unit_h, bottom * unit_h)]
    chosen = rows.ravel()
    for number, (start, stop) in enumerate(
        zip(starts[chosen].tolist(), stops[chosen].tolist(), strict=True)
    ):
        if number:
            parts.append(_RESTART[(number - 1) % 8])
        parts.append(bytes(data[start:stop]))
    parts.append(b'\xff\xd9')
    return b''.join(parts), left * step, top * unit_h


def _header(
    data: bytes | memoryview, layout: _Layout, left: int, right: int, top: int, bottom: int
) -> bytes:
    """All before the picture data, with the window's size."""
    header = bytearray(data[: layout.scan_at])
    size = min(bottom, layout.height) - top, min(right, layout.width) - left
    struct.pack_into('>HH', header, layout.size_at, *size)
    return bytes(header)


def _layout(data: bytes | memoryview) -> _Layout | None:
    """The layout of a baseline file with one scan and restart markers; None of any other."""
    position, frame, interval = 2, None, 0
    try:
        while True:
            fill, marker, length = struct.unpack_from('>BBH', data, position)
            if fill != 0xFF or length < 2:
                return None
            if marker == _BASELINE:
                frame = position
            elif marker == 0xDD:
                (interval,) = struct.unpack_from('>H', data, position + 4)
            elif 0xC1 <= marker <= 0xCF and marker not in (0xC4, 0xC8):
                return None
            elif marker == 0xDA:
                components = data[position + 4]
                break
            position += 2 + length
        if frame is None or not interval or components != data[frame + 9]:
            return None
        height, width = struct.unpack_from('>HH', data, frame + 5)
        samplings = [data[frame + 11 + 3 * i] for i in range(components)]
    except (struct.error, IndexError):
        return None
    if components == 1 or not (width and height):
        return None
    mcu = 8 * max(s >> 4 for s in samplings), 8 * max(s & 15 for s in samplings)
    if not all(8 <= side <= 32 for side in mcu):
        return None
    return _Layout(frame + 5, position + 2 + length, width, height, mcu, interval)
