# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Broken cameras, looked for in every frame, without waiting for a statistic.

All is judged on a thumbnail, in which sensor noise averages out and structure stays: a night has
lamps, fog has a road. Nothing is a fault before it has lasted, by the images' stamps: the way out
of a tunnel is white for a moment. Of nearly every frame some thousand pixels say that it is
neither flat nor the one before, and a closer look is only taken where they do not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, fields

import cv2
import numpy as np

from clcp_ros.monitor.order import middle, quantile
from clcp_ros.preprocess import halve, halvings

KINDS = ('black', 'white', 'covered', 'partly_covered', 'frozen', 'nonfinite')
"""What can be wrong; `nonfinite` is of the model and found by the stream."""

TILES = (6, 8)
"""Rows and columns of tiles in which a partial cover is looked for."""

_SIDE = 8  # of a tile of the thumbnail
_SIZE = (_SIDE * TILES[1], _SIDE * TILES[0])  # width, height
_LAMP = 25  # grey levels by which the smallest thing that can be seen sticks out
_PLAIN = 12.0  # times `flat_std`: more than noise gives in pixels that are not averaged
_SAMPLE_S = 0.25  # between two looks at what stays the same: nothing moves in less


@dataclass(frozen=True)
class FaultConfig:
    """What counts as a fault; a duration of 0 turns that fault off.

    Attributes:
        flat_std: Standard deviation of the grey levels (0 to 255), noise averaged out, below which
            an image shows nothing.
        black: Mean grey level up to which a flat image is black.
        white: Mean grey level from which a flat image is white.
        flat_s: A flat image must last as long.
        frozen_s: Identical images must last as long.
        frozen_samples: And be as many.
        cover_s: Part of the image must stay the same for as long while the rest moves.
        cover_share: And be that much of the image.
        gap_s: After a longer gap between stamps, or a stamp that goes back, all starts anew.
    """

    flat_std: float = 2.0
    black: float = 20.0
    white: float = 235.0
    flat_s: float = 1.0
    frozen_s: float = 1.0
    frozen_samples: int = 3
    cover_s: float = 15.0
    cover_share: float = 0.03
    gap_s: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f'{field.name} must not be negative')


@dataclass(frozen=True)
class Fault:
    """A broken camera.

    Attributes:
        kind: One of `KINDS`.
        text: One line for people.
    """

    kind: str
    text: str


class FaultDetector:
    """Looks at every frame of one camera.

    Args:
        config: Thresholds; may be replaced at any time.
        static: (6, 8) bool, tiles that always show the vehicle itself or an overlay: there a
            picture that does not change covers nothing. See `static_tiles`.
    """

    def __init__(
        self, config: FaultConfig | None = None, static: np.ndarray | None = None
    ) -> None:
        self.config = config or FaultConfig()
        self.static = np.zeros(TILES, bool) if static is None else np.asarray(static, bool)
        if self.static.shape != TILES:
            raise ValueError(f'static is {self.static.shape}, not {TILES}')
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._last_ns: int | None = None
        self._last_sample: bytes | None = None
        self._last_image: np.ndarray | None = None
        self._same_since_ns, self._same = 0, 0
        self._flat_since_ns: int | None = None
        self._change = _Change()
        self._cover: tuple[object, Fault | None] = None, None

    def update(self, stamp_ns: int, small: np.ndarray) -> Fault | None:
        """Take in a frame.

        Args:
            stamp_ns: Its stamp.
            small: (h, w, 3) uint8, the image, best at a lower resolution.

        Returns:
            The fault, if there is one that has lasted long enough.
        """
        last = self._last_ns
        if last is not None and not 0 <= stamp_ns - last <= self.config.gap_s * 1e9:
            self.reset()
        self._last_ns = stamp_ns
        look = _Look(small)
        flat = self._flat(stamp_ns, look)
        frozen = self._frozen(stamp_ns, look)
        if self._flat_since_ns is None and self._same == 1 and self._change.due(stamp_ns):
            self._change.update(stamp_ns, look.thumbnail)
        return flat or frozen or self._partly_covered()

    def _flat(self, stamp_ns: int, look: _Look) -> Fault | None:
        if not self.config.flat_s or not look.is_flat(self.config.flat_std):
            self._flat_since_ns = None
            return None
        if self._flat_since_ns is None:
            self._flat_since_ns = stamp_ns
        if stamp_ns - self._flat_since_ns < self.config.flat_s * 1e9:
            return None
        level = float(look.thumbnail.mean())
        if level <= self.config.black:
            return Fault('black', f'image is black (mean grey level {level:.0f})')
        if level >= self.config.white:
            return Fault('white', f'image is white (mean grey level {level:.0f})')
        return Fault(
            'covered', f'image is flat (mean grey level {level:.0f}): covered or broken camera'
        )

    def _frozen(self, stamp_ns: int, look: _Look) -> Fault | None:
        if not self._is_last(look):
            self._same_since_ns, self._same = stamp_ns, 1
            return None
        self._same += 1
        lasted_s = (stamp_ns - self._same_since_ns) * 1e-9
        enough = self._same >= max(self.config.frozen_samples, 2)
        if not self.config.frozen_s or lasted_s < self.config.frozen_s or not enough:
            return None
        return Fault('frozen', f'{self._same} identical frames in {lasted_s:.1f} s: frozen camera')

    def _is_last(self, look: _Look) -> bool:
        last, self._last_sample = self._last_sample, look.sample_bytes
        if last is None or last != look.sample_bytes:
            self._last_image = None
            return False
        # From here on all pixels count. Of the first two frames that look the same the sample
        # alone decides: to keep every frame only for that, as a copy since its owner may write the
        # next one into it, would cost more than all the rest.
        image = self._last_image
        same = image is None or np.array_equal(image, look.image)
        if image is None or not same:
            self._last_image = look.image.copy()
        return same

    def _partly_covered(self) -> Fault | None:
        if not self.config.cover_s or self._change.moving_s < self.config.cover_s:
            return None
        known = self._change.moving_s, self.config, self.static.tobytes()
        if self._cover[0] != known:
            self._cover = known, self._look_for_cover()
        return self._cover[1]

    def _look_for_cover(self) -> Fault | None:
        still = self._change.still()
        still &= ~self.static.repeat(_SIDE, axis=0).repeat(_SIDE, axis=1)
        if np.count_nonzero(still) < self.config.cover_share * still.size:
            return None
        share = float(_covers(still).mean())
        if share < self.config.cover_share:
            return None
        return Fault(
            'partly_covered',
            f'{100 * share:.0f} % of the image have not changed for {self._change.moving_s:.0f} s '
            'while the rest moved: dirt or a cover on the lens',
        )


class _Look:
    """A frame, looked at no closer than needed.

    Args:
        image: (h, w, 3) uint8.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.sample = cv2.resize(image, _SIZE, interpolation=cv2.INTER_NEAREST)
        self.sample_bytes = self.sample.tobytes()

    @functools.cached_property
    def thumbnail(self) -> np.ndarray:
        """(48, 64, 3) uint8."""
        return _thumbnail(self.image)

    def is_flat(self, least_std: float) -> bool:
        """Whether it shows nothing."""
        if _deviation(self.sample) >= _PLAIN * least_std:
            return False
        return _is_flat(self.thumbnail, least_std)


class _Change:
    """How much each pixel of the thumbnail changes while the vehicle moves."""

    TIME_S = 8.0  # constant of the running means
    MOVES = 3.0  # grey levels by which a quarter of the tiles must change: the vehicle moves
    LIT = 30.0  # median grey level below which dark surroundings look like a cover
    STILL = 1.0  # grey levels (standard deviation) below which a pixel shows the same
    STILL_SHARE = 0.15  # of the median pixel's: light that gets through changes with the scene

    def __init__(self) -> None:
        self._last_ns = 0
        self._last: np.ndarray | None = None
        self._mean = np.zeros(1, np.float32)
        self._square = np.zeros(1, np.float32)
        self.moving_s = 0.0

    def due(self, stamp_ns: int) -> bool:
        """Whether to look at a frame."""
        return self._last is None or stamp_ns - self._last_ns >= _SAMPLE_S * 1e9

    def update(self, stamp_ns: int, thumbnail: np.ndarray) -> None:
        """Take in a frame's (48, 64, 3) uint8 thumbnail, when it is due."""
        gray = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY).astype(np.float32)
        if self._last is None:
            self._mean, self._square = gray, gray**2
        elif middle(gray) >= self.LIT and self._moves(gray - self._last):
            dt_s = (stamp_ns - self._last_ns) * 1e-9
            weight = np.float32(1 - np.exp(-dt_s / self.TIME_S))
            self._mean = self._mean + weight * (gray - self._mean)
            self._square = self._square + weight * (gray**2 - self._square)
            self.moving_s += dt_s
        self._last_ns, self._last = stamp_ns, gray

    def _moves(self, change: np.ndarray) -> bool:
        return quantile(_tiles(np.abs(change)).mean(axis=1), 0.75) >= self.MOVES

    def still(self) -> np.ndarray:
        """(48, 64) bool: pixels that showed the same all the time."""
        variance = cv2.blur(np.maximum(self._square - self._mean**2, 0), (3, 3))
        deviation = np.sqrt(variance)
        return deviation < max(self.STILL, self.STILL_SHARE * middle(deviation))


def static_tiles(images: Iterable[np.ndarray], share: float = 0.9) -> np.ndarray:
    """Tiles that show the same in all nominal frames: the own bonnet, a mount, an overlay.

    Args:
        images: (H, W, 3) uint8 RGB frames of several drives, seconds apart.
        share: Of the frames in which a tile must look as in the median frame.

    Returns:
        (6, 8) bool for `FaultDetector`; none for fewer than ten frames.
    """
    rows = [
        _tiles(cv2.cvtColor(_thumbnail(image), cv2.COLOR_RGB2GRAY).astype(np.float32))
        for image in images
    ]
    if len(rows) < 10:
        return np.zeros(TILES, bool)
    tiles = np.stack(rows)
    shapes = tiles - tiles.mean(axis=2, keepdims=True)
    distance = np.abs(shapes - np.median(shapes, axis=0)).mean(axis=2)
    # A sky is flat in most frames, too, but as often something stands before it.
    return ((distance < 2.0).mean(axis=0) >= share).reshape(TILES)


def _is_flat(thumbnail: np.ndarray, least_std: float) -> bool:
    """Whether there is neither structure nor a single lamp; strong noise is neither."""
    if _deviation(thumbnail) >= least_std:
        return False
    gray = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    mean, noise = (float(x[0, 0]) for x in cv2.meanStdDev(gray))
    return float(gray.max()) - mean < max(_LAMP, 6 * noise)


def _deviation(image: np.ndarray) -> float:
    """Largest standard deviation of a channel between 12 by 16 parts of the image."""
    blocks = cv2.resize(image, (16, 12), interpolation=cv2.INTER_AREA)
    return float(cv2.meanStdDev(blocks)[1].max())


def _covers(still: np.ndarray) -> np.ndarray:
    """Of the pixels that do not change, those that are no sky and no road.

    What hangs together with the upper edge may be a clear sky, a fog, or the far end of a straight
    road under it; what spans most of the lower edge, the own bonnet. Both are left to novelty,
    which knows what is usual for this camera.
    """
    opened = cv2.morphologyEx(still.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels = cv2.connectedComponents(opened, connectivity=4)
    covers = labels > 0
    for label in range(1, int(labels.max()) + 1):
        region = labels == label
        if region[:2].any() or region[-2:].any(axis=0).sum() > _SIZE[0] // 2:
            covers[region] = False
    return covers


def _thumbnail(small: np.ndarray) -> np.ndarray:
    """(48, 64, 3) uint8."""
    times = (
        max(halvings(size, least) - 1, 0)
        for size, least in zip(small.shape, _SIZE[::-1], strict=False)
    )
    return cv2.resize(halve(small, *times), _SIZE, interpolation=cv2.INTER_AREA)


def _tiles(gray: np.ndarray) -> np.ndarray:
    """(48, 64) pixels of the tiles of a thumbnail."""
    rows, columns = TILES
    return gray.reshape(rows, _SIDE, columns, _SIDE).swapaxes(1, 2).reshape(rows * columns, -1)
