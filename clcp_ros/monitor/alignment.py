# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Do image and lidar still agree, and if not, which of the two is to blame, or the mounting?

What the segmenter says of a place and what the lidar measures there are mapped into one small
space (canonical correlation, fitted on nominal drives). *Agreement* is the mean cosine of the
pairs minus that of pairs shuffled among points of the same frame at like range and height, which
takes away what the scene alone explains, relative to that of the points with themselves: an empty
road offers less to agree on than a street. A bad camera lowers it. So does a wrong mounting, but
then the agreement is higher for a lidar that is turned a little in thought: the lidar's points are
shifted in the image to both sides, and the side that agrees better is measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from clcp_ros.monitor.pair_evidence import (
    ShuffledPairs,
    image_evidence,
    lidar_evidence,
    mapped,
    sample_grid,
    unit,
)
from clcp_ros.monitor.scan_view import (
    DESCRIPTORS,
    SCAN_STATISTICS,
    CameraModel,
    ScanView,
    project_scan,
)

__all__ = [
    'Alignment', 'AlignmentReference', 'AlignmentState', 'AlignmentWindow',
    'CameraModel', 'ScanView', 'image_evidence', 'judge', 'lidar_evidence', 'project_scan',
    'sample_grid',
]  # fmt: skip

MIN_PAIRS = 500
"""With fewer pairs in a frame nothing is said of the agreement, only of the scan."""

MAX_DELAY_NS = 50_000_000
"""A scan and an image further apart are of different moments."""

SHIFTS_DEG = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
"""Angles by which the lidar is turned in thought, for yaw, and without the largest for pitch."""

_LEAST_SELF = 0.05  # agreement of the points with themselves, of a scene without any structure
_Z_RANGE = (-30.0, 30.0)


@dataclass(frozen=True)
class Alignment:
    """What one frame and its scan say.

    Attributes:
        value: Agreement: the mean cosine of the pairs minus that of the matched null, relative to
            that of the points with themselves; 1 would be perfect, 0 is chance. NaN, as `z`,
            `curve` and `sides`, where there are too few pairs.
        z: The same in standard deviations of held-out nominal frames; negative is worse.
        pairs: Points that were compared.
        curve: (S,) agreement when the lidar is turned by the reference's `shifts`.
        sides: (4,) by how much the agreement prefers a lidar turned to one side, in standard
            deviations of held-out nominal frames: yaw and pitch as errors of about a degree show,
            and the two as errors of some degrees show. Positive: the points lie too far to the
            left, or too high.
        lidar_z: How far the scan itself is from nominal ones; 0 is usual, 3 is seldom.
        points: Points of the whole scan.
    """

    value: float
    z: float
    pairs: int
    curve: np.ndarray
    sides: np.ndarray
    lidar_z: float
    points: int

    @property
    def compared(self) -> bool:
        """Whether there were enough pairs to say something of the agreement."""
        return self.pairs >= MIN_PAIRS

    @property
    def yaw_z(self) -> float:
        """Of yaw, as small errors show or, where that is much clearer, as large ones do."""
        return float(self.sides[_clearer(self.sides, 0)])

    @property
    def pitch_z(self) -> float:
        """Of pitch, in the same way."""
        return float(self.sides[_clearer(self.sides, 1)])


@dataclass(frozen=True)
class AlignmentReference:
    """How image and lidar agree on nominal drives; C classes, k dimensions, S shifts.

    Attributes:
        location: (D,) of the descriptors.
        scale: (D,) of the descriptors.
        weights: (D + 1, F), see `lidar_evidence`.
        lidar_mean: (D + F,) of the lidar's evidence.
        lidar_map: (D + F, k) into the common space.
        image_mean: (3 C,) of the image's evidence.
        image_map: (3 C, k) into the common space.
        range_edges: (R,) ascending log ranges between the bins of the null.
        height_edges: (H,) ascending heights between them, metres.
        shifts: (S, 2) yaw and pitch in radians; the first is (0, 0).
        value_location: () of the agreement on held-out nominal frames.
        value_spread: () its standard deviation.
        value_drift: () standard deviation between the means of drives, in units of the spread.
        sides: (4, S) weights of the curve that say which side agrees better, see
            `Alignment.sides`.
        side_location: (4,) of these on held-out nominal frames.
        side_spread: (4,) standard deviation.
        side_drift: (4,) standard deviation between the means of drives, in units of the spread.
        side_degrees: (4,) degrees per unit of the weighted curve, at a good camera.
        scan_location: (M,) of `ScanView.statistics` on nominal drives.
        scan_spread: (M,) standard deviation, floored.
    """

    ARRAYS: ClassVar[tuple[str, ...]]

    location: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    lidar_mean: np.ndarray
    lidar_map: np.ndarray
    image_mean: np.ndarray
    image_map: np.ndarray
    range_edges: np.ndarray
    height_edges: np.ndarray
    shifts: np.ndarray
    value_location: np.ndarray
    value_spread: np.ndarray
    value_drift: np.ndarray
    sides: np.ndarray
    side_location: np.ndarray
    side_spread: np.ndarray
    side_drift: np.ndarray
    side_degrees: np.ndarray
    scan_location: np.ndarray
    scan_spread: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes of the segmenter."""
        return len(self.image_mean) // 3

    def curve(self, logits: np.ndarray, view: ScanView) -> np.ndarray:
        """Agreement for every shift.

        Args:
            logits: (C, h, w) finite.
            view: At least one point.

        Returns:
            (S,) float64.
        """
        evidence = lidar_evidence(view.descriptors, self.location, self.scale, self.weights)
        points = unit(mapped(evidence, self.lidar_mean, self.lidar_map))
        grid = mapped(image_evidence(logits), self.image_mean, self.image_map)
        bins = np.searchsorted(self.range_edges, view.descriptors[:, 0]) * (
            len(self.height_edges) + 1
        ) + np.searchsorted(self.height_edges, view.descriptors[:, 1])
        order = np.argsort(bins, kind='stable')
        starts = np.flatnonzero(np.diff(bins[order], prepend=-1))
        null = ShuffledPairs(points[order], starts)
        uv, yaw, pitch = view.uv[order], view.uv_yaw[order], view.uv_pitch[order]
        found = [
            null.agreement(unit(sample_grid(grid, logits.shape[1:], uv + a * yaw + b * pitch)))
            for a, b in self.shifts.astype(np.float32)
        ]
        return np.array(found) / max(null.agreement(points[order]), _LEAST_SELF)

    def score(self, logits: np.ndarray, view: ScanView) -> Alignment | None:
        """Compare a frame with its scan.

        Args:
            logits: (C, h, w) of the segmenter.
            view: The scan as the camera sees it.

        Returns:
            What they say, without an agreement where there are too few pairs; None for logits that
            are not finite or of other classes.
        """
        if len(logits) != self.classes or not np.isfinite(logits).all():
            return None
        if len(view) < MIN_PAIRS:
            none = np.full(len(self.shifts), math.nan)
            return Alignment(
                math.nan, math.nan, len(view), none, np.full(4, math.nan), self.scan_z(view),
                view.points,
            )  # fmt: skip
        curve = self.curve(logits, view)
        sides = (self.sides @ curve - self.side_location) / self.side_spread
        z = (curve[0] - self.value_location) / self.value_spread
        return Alignment(
            float(curve[0]), _clipped(z), len(view), curve, np.clip(sides, *_Z_RANGE),
            self.scan_z(view), view.points,
        )  # fmt: skip

    def scan_z(self, view: ScanView) -> float:
        """How far a scan is from nominal ones: its strangest statistic."""
        z = np.abs(view.statistics - self.scan_location) / self.scan_spread
        return float(min(z.max(), _Z_RANGE[1]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields, as they are kept in a file."""
        return {name: np.asarray(getattr(self, name)) for name in self.ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> AlignmentReference:
        """Undo `arrays`.

        Raises:
            KeyError: A field is missing.
            ValueError: Shapes do not fit each other, or a number is not finite or impossible.
        """
        found = {name: np.asarray(arrays[name], np.float64) for name in cls.ARRAYS}
        D, M = len(DESCRIPTORS), len(SCAN_STATISTICS)
        shape = {name: array.shape for name, array in found.items()}
        if len(shape['weights']) != 2 or len(shape['image_map']) != 2 or len(shape['shifts']) != 2:
            raise ValueError('maps and shifts of the alignment are matrices')
        F, (Y, k), S = shape['weights'][1], shape['image_map'], shape['shifts'][0]
        wanted = {
            'location': (D,), 'scale': (D,), 'weights': (D + 1, F), 'lidar_mean': (D + F,),
            'lidar_map': (D + F, k), 'image_mean': (Y,), 'image_map': (Y, k), 'shifts': (S, 2),
            'value_location': (), 'value_spread': (), 'value_drift': (), 'sides': (4, S),
            'side_location': (4,), 'side_spread': (4,), 'side_drift': (4,), 'side_degrees': (4,),
            'scan_location': (M,), 'scan_spread': (M,),
        }  # fmt: skip
        for name, array in found.items():
            if array.shape != wanted.get(name, (array.size,)):
                raise ValueError(f'{name} of the alignment has the shape {array.shape}')
            if not np.isfinite(array).all():
                raise ValueError(f'{name} of the alignment is not finite')
        positive = ('scale', 'value_spread', 'side_spread', 'scan_spread')
        if not all((found[name] > 0).all() for name in positive):
            raise ValueError('a spread of the alignment is not positive')
        if Y % 3 or not k or not S or found['shifts'][0].any():
            raise ValueError('the alignment has maps of impossible shapes')
        for name in ('range_edges', 'height_edges'):
            if (np.diff(found[name]) <= 0).any():
                raise ValueError(f'{name} of the alignment do not ascend')
        return cls(**found)


AlignmentReference.ARRAYS = tuple(f.name for f in fields(AlignmentReference))


def _clipped(z: float) -> float:
    return float(np.clip(z, *_Z_RANGE))


@dataclass(frozen=True)
class AlignmentState:
    """What the last seconds say; numbers are NaN and `verdict` is empty where nothing is known.

    Attributes:
        z: Agreement in standard deviations of such windows of nominal drives; negative is worse.
        pairs: Mean number of pairs; 0 where nothing is known.
        yaw_deg: By how many degrees the lidar seems turned to the left against its calibration;
            good to some tenths for errors below 2 degrees, too small for larger ones.
        yaw_z: How sure that is, in standard deviations of such windows of nominal drives.
        pitch_deg: By how many degrees the lidar seems turned up.
        pitch_z: How sure that is.
        lidar_z: How far scans are from nominal ones.
        points: Mean number of points of a scan.
        verdict: 'ok', 'camera', 'calibration', 'lidar', or empty.
        samples: Frames in the window.
    """

    z: float = math.nan
    pairs: int = 0
    yaw_deg: float = math.nan
    yaw_z: float = math.nan
    pitch_deg: float = math.nan
    pitch_z: float = math.nan
    lidar_z: float = math.nan
    points: int = 0
    verdict: str = ''
    samples: int = 0

    @property
    def cause(self) -> str:
        """What the verdict comes of, for people; empty where all is well."""
        if self.verdict == 'lidar':
            return (
                f'scans of {self.points} points, {self.pairs} of them in the image, are '
                f'{self.lidar_z:.0f} sd from nominal ones'
            )
        if self.verdict != 'calibration':
            return ''
        turned = [
            f'{name} {degrees:+.1f} degrees'
            for name, degrees, z, limit in (
                ('yaw', self.yaw_deg, self.yaw_z, _YAW_Z),
                ('pitch', self.pitch_deg, self.pitch_z, _PITCH_Z),
            )
            if abs(z) >= limit
        ]
        if not turned:
            return 'whichever way the points are turned'
        return f'the lidar seems turned by {" and ".join(turned)}'


class AlignmentWindow:
    """Judges the agreement over the last seconds.

    Args:
        reference: The nominal agreement.
        window_s: Length of the window; a wrong mounting stays, a bad moment does not.
        max_gap_s: A longer gap between stamps starts anew; may be changed at any time.
    """

    def __init__(
        self, reference: AlignmentReference, window_s: float = 20.0, max_gap_s: float = 2.0
    ) -> None:
        self.reference = reference
        self.window_s = window_s
        self.max_gap_s = max_gap_s
        self._samples: deque[tuple[int, Alignment]] = deque()
        self._last_ns: int | None = None

    def reset(self) -> None:
        """Forget the stream."""
        self._samples.clear()
        self._last_ns = None

    def update(
        self, stamp_ns: int, alignment: Alignment | None, novelty_z: float = math.nan
    ) -> AlignmentState:
        """Take a frame in.

        Args:
            stamp_ns: Of the frame at which the agreement is told.
            alignment: The agreement, or None where there is none.
            novelty_z: The camera's novelty in standard deviations, where known.

        Returns:
            The state after the frame.
        """
        last, self._last_ns = self._last_ns, stamp_ns
        if last is not None and not 0 < stamp_ns - last <= self.max_gap_s * 1e9:
            self._samples.clear()
        if alignment is not None:
            self._samples.append((stamp_ns, alignment))
        while self._samples and stamp_ns - self._samples[0][0] > self.window_s * 1e9:
            self._samples.popleft()
        if not self._samples:
            return AlignmentState()
        span_s = (self._samples[-1][0] - self._samples[0][0]) * 1e-9
        compared = sum(a.compared for _, a in self._samples)
        independent = max(min(float(compared), 1 + span_s / _CORRELATED_S), 1.0)
        return judge([a for _, a in self._samples], self.reference, independent, novelty_z)


_CORRELATED_S = 2.0  # frames that are closer to each other say the same
_LOW_Z = -2.5
_RATHER_LOW_Z, _NOVEL_Z = -1.5, 4.0  # with an image that is novel beyond doubt
_VERY_LOW_Z = -4.5  # with one that looks as ever
_MARGIN_Z = 1.5
_YAW_Z, _PITCH_Z = 6.0, 7.0  # beyond what a drive of eight hours brings by chance
_LIDAR_Z = 6.0
_CALM_Z = 2.0
_LEAST_SAMPLES = 5


def judge(
    alignments: Sequence[Alignment],
    reference: AlignmentReference,
    independent: float,
    novelty_z: float = math.nan,
) -> AlignmentState:
    """What several frames say together, and whom to blame.

    A lidar that is not itself is blamed first, for nothing can be compared with it; then the
    mounting, where the points clearly agree better when they are turned, and then as well as they
    should; then the camera, unless its images look as ever: then the mounting is wrong in a way
    that no turning mends.

    Args:
        alignments: Of the frames.
        reference: The nominal agreement.
        independent: As how many independent frames those with enough pairs count.
        novelty_z: The camera's novelty in standard deviations, where known.
    """
    if not alignments:
        return AlignmentState()
    found = _compared([a for a in alignments if a.compared], reference, independent, novelty_z)
    lidar_z = float(np.median([a.lidar_z for a in alignments]))
    if len(alignments) >= _LEAST_SAMPLES and lidar_z >= _LIDAR_Z:
        found = replace(found, verdict='lidar')
    return replace(
        found,
        pairs=round(float(np.mean([a.pairs for a in alignments]))),
        lidar_z=lidar_z,
        points=round(float(np.mean([a.points for a in alignments]))),
        samples=len(alignments),
    )


def _compared(
    alignments: Sequence[Alignment],
    reference: AlignmentReference,
    independent: float,
    novelty_z: float,
) -> AlignmentState:
    """`judge` of frames that have enough pairs, whatever their scans look like."""
    if not alignments:
        return AlignmentState()
    # The frames' own noise averages out, the offset that every drive has does not.
    noise = math.sqrt(1 / independent + float(reference.value_drift) ** 2)
    z = float(np.mean([a.z for a in alignments])) / noise
    best = float(np.mean([a.curve for a in alignments], axis=0).max())
    best_z = (best - float(reference.value_location)) / float(reference.value_spread) / noise
    sides = np.mean([a.sides for a in alignments], axis=0)
    sides_z = sides / np.sqrt(1 / independent + reference.side_drift**2)
    degrees = sides * reference.side_spread * reference.side_degrees
    yaw, pitch = _clearer(sides_z, 0), _clearer(sides_z, 1)
    yaw_z, pitch_z = float(sides_z[yaw]), float(sides_z[pitch])
    verdict = 'ok'
    if len(alignments) < _LEAST_SAMPLES:
        verdict = ''
    elif best_z > _LOW_Z and (abs(yaw_z) >= _YAW_Z or abs(pitch_z) >= _PITCH_Z):
        verdict = 'calibration'
    elif z <= (_RATHER_LOW_Z if novelty_z >= _NOVEL_Z else _LOW_Z):
        verdict = 'camera'
        if novelty_z < _CALM_Z:
            # Another kind of street lowers the agreement, too.
            verdict = 'calibration' if z <= _VERY_LOW_Z else 'ok'
    return AlignmentState(
        z, yaw_deg=float(degrees[yaw]), yaw_z=yaw_z, pitch_deg=float(degrees[pitch]),
        pitch_z=pitch_z, verdict=verdict,
    )  # fmt: skip


def _clearer(sides: np.ndarray, axis: int) -> int:
    """Place of the entry to believe: of two noisy ones the larger would be a false alarm twice."""
    return axis + 2 if abs(sides[axis + 2]) > abs(sides[axis]) + _MARGIN_Z else axis
