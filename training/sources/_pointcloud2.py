# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Vendors' conventions of sensor_msgs/PointCloud2: what its columns mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clcp_ros.errors import RecordingError
from clcp_ros.point_cloud import INTENSITY, cloud_fields, intensity_scale
from training.pairs.pair import COLUMNS
from training.sources.base import Drops, keep_finite

_RING = ('ring', 'channel', 'line', 'laser_id', 'laser_number', 'beam', 'row')
_TIME = (
    't',
    'time',
    'timestamp',
    'offset_time',
    'time_offset',
    'time_stamp',
    'timeoffset',
    'point_time_offset',
    'relative_time',
    'relative_timestamp',
    'time_offset_ns',
    'timestamp_ns',
    'timestamp_us',
    'timestamps',
    'ts',
)
_TIME_PARTS = (
    ('time_sec', 'time_nsec'),
    ('timestamp_sec', 'timestamp_nsec'),
    ('timestamp_s', 'timestamp_ns'),
    ('ts_sec', 'ts_nsec'),
    ('sec', 'nsec'),
    ('lidar_sec', 'lidar_nsec'),
)
"""Luminar and others: whole seconds and nanoseconds apart."""

_UNITS = (1.0, 1e-3, 1e-6, 1e-9)
_LONGEST_SCAN_S = 2.0


@dataclass(frozen=True)
class Convention:
    """How one lidar's driver writes its columns; learned once, so that all scans are alike.

    Attributes:
        intensity: Field, or None: then intensity is 0.
        intensity_scale: The value that becomes 1.
        ring: Field, or None.
        time: Field, or None.
        time_nanoseconds: Field that is added to `time`, in nanoseconds, or None.
        time_unit: Seconds per unit.
        time_base: What times count from: 'stamp' (of the scan), 'epoch', or 'first': a clock of
            the lidar's own, of which only differences are of use.
    """

    intensity: str | None = None
    intensity_scale: float = 1.0
    ring: str | None = None
    time: str | None = None
    time_nanoseconds: str | None = None
    time_unit: float = 1.0
    time_base: str = 'stamp'

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `decode_cloud`."""
        return COLUMNS + ('ring',) * (self.ring is not None) + ('time',) * (self.time is not None)

    def describe(self) -> str:
        """For the report."""
        if self.intensity is None:
            text = 'scans have no intensity: it is 0'
        else:
            text = f'intensity is {self.intensity} / {self.intensity_scale:g}'
        if self.time is not None:
            kind = {
                'stamp': "from the scan's stamp",
                'epoch': 'absolute',
                'first': "by a clock of the lidar's own: the first point is taken to be at the "
                "scan's stamp",
            }[self.time_base]
            names = self.time
            if self.time_nanoseconds is not None:
                names += f' + {self.time_nanoseconds}'
            text += f', time is {names} (units of {self.time_unit:g} s, {kind})'
        return text


def learn_convention(
    clouds: list[np.ndarray], stamps_ns: list[int] | None = None, period_s: float | None = None
) -> Convention:
    """Find out from a few clouds what the columns mean.

    Args:
        clouds: From `cloud_fields`, of one topic.
        stamps_ns: Of the clouds; without them times far from 0 are believed to be absolute.
        period_s: From scan to scan, where known: a scan's points do not span much more.
    """
    # Random bytes may be any number.
    with np.errstate(over='ignore', invalid='ignore'):
        return _learn(clouds, stamps_ns, period_s)


def _learn(
    clouds: list[np.ndarray], stamps_ns: list[int] | None, period_s: float | None
) -> Convention:
    known = [(c, None if stamps_ns is None else stamps_ns[i]) for i, c in enumerate(clouds)]
    known = [(cloud, stamp) for cloud, stamp in known if len(cloud)]
    if not known:
        return Convention()
    clouds = [cloud for cloud, _ in known]
    fields = clouds[0].dtype.fields
    assert fields is not None
    # A field that only some scans have is of no use.
    shared = [name for name in fields if all(name in (c.dtype.names or ()) for c in clouds)]
    lower = {name.lower(): name for name in reversed(shared)}

    def find(candidates: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in candidates if name in lower), None)

    intensity, ring, time = find(INTENSITY), find(_RING), find(_TIME)
    scale = 1.0
    if intensity is not None:
        joined = np.concatenate([np.asarray(cloud[intensity], np.float64) for cloud in clouds])
        scale = intensity_scale(joined[np.isfinite(joined)], fields[intensity][0])
    seconds = nanoseconds = None
    for parts in _TIME_PARTS:
        if all(part in lower for part in parts):
            seconds, nanoseconds = (lower[part] for part in parts)
            break
    if seconds is not None and nanoseconds is not None:
        offsets = [
            _seconds_and_nanoseconds(cloud, seconds, nanoseconds, stamp or 0)
            for cloud, stamp in known
        ]
        base = _time_base(offsets, stamps_ns is not None)
        return Convention(intensity, scale, ring, seconds, nanoseconds, 1.0, base)
    if time is None:
        return Convention(intensity, scale, ring)
    values = [np.asarray(cloud[time], np.float64) for cloud in clouds]
    values = [v[np.isfinite(v)] for v in values]
    unit, base = _time_unit(values, period_s)
    largest = max((float(np.abs(v).max()) for v in values if len(v)), default=0.0)
    kind = fields[time][0]
    if (kind.kind, kind.itemsize) == ('f', 4) and np.spacing(np.float32(largest)) * unit > 1e-3:
        # Seconds since 1970 in float32 are good to 128 s: as good as none.
        return Convention(intensity, scale, ring)
    if base == 'epoch' and stamps_ns is not None:
        found = Convention(time=time, time_unit=unit, time_base=base)
        offsets = [
            _relative_time(cloud, found, stamp) for cloud, stamp in known if stamp is not None
        ]
        base = _time_base(offsets, True)
    return Convention(intensity, scale, ring, time, None, unit, base)


def decode_cloud(
    message: Any, convention: Convention, stamp_ns: int, dropped: Drops
) -> np.ndarray:
    """Points of a message.

    Args:
        message: A sensor_msgs/PointCloud2.
        convention: Of its topic.
        stamp_ns: Of the scan; times are relative to it.
        dropped: Gets the numbers of NaN and (0, 0, 0) points.

    Returns:
        (N, C) float32 with `convention.columns`, finite rows only.

    Raises:
        RecordingError: The message contradicts itself, or lacks a field that others had.
    """
    return decode_fields(cloud_fields(message), convention, stamp_ns, dropped)


def decode_fields(
    cloud: np.ndarray, convention: Convention, stamp_ns: int, dropped: Drops
) -> np.ndarray:
    """As `decode_cloud`, of a cloud from `cloud_fields`."""
    wanted = (
        convention.intensity, convention.ring, convention.time, convention.time_nanoseconds
    )  # fmt: skip
    there = cloud.dtype.names or ()
    missing = [name for name in wanted if name is not None and name not in there]
    if missing:
        raise RecordingError(f'points without {", ".join(missing)}, which earlier scans had')
    points = np.zeros((len(cloud), len(convention.columns)), np.float32)
    # Values beyond float32, as random bytes may be, become infinite and go with the NaN.
    with np.errstate(over='ignore', invalid='ignore'):
        for column, axis in enumerate('xyz'):
            points[:, column] = cloud[axis]
        if convention.intensity is not None:
            intensity = cloud[convention.intensity]
            # float32 halves the time and holds what these types hold
            exact = intensity.dtype.itemsize <= 2 or intensity.dtype.char == 'f'
            kind = np.float32 if exact else np.float64
            scaled = intensity.astype(kind)
            scaled /= kind(convention.intensity_scale)
            points[:, 3] = np.clip(scaled, 0, 1, out=scaled)
        if convention.ring is not None:
            points[:, 4] = cloud[convention.ring]
        if convention.time is not None:
            points[:, -1] = _relative_time(cloud, convention, stamp_ns)
    return keep_finite(points, dropped, drop_origin=True)


def _time_unit(scans: list[np.ndarray], period_s: float | None) -> tuple[float, str]:
    """Seconds per unit, and what times count from, told by their sizes.

    A scan lasts 0.01 to 1 s and not much longer than the time to the next one; an epoch's time is
    about 1e9 s; a lidar that was not told the time counts from when it was switched on.
    """
    scans = [scan for scan in scans if len(scan)]
    if not scans:
        return 1.0, 'stamp'
    largest = max(float(np.abs(scan).max()) for scan in scans)
    span = max(float(scan.max() - scan.min()) for scan in scans)
    longest = _LONGEST_SCAN_S if period_s is None else min(_LONGEST_SCAN_S, 1.5 * period_s)
    for unit in _UNITS:
        if 1e8 <= largest * unit <= 1e10 and span * unit <= longest:
            return unit, 'epoch'
    # Times from the stamp begin or end near 0, whichever end the stamp is at.
    nearest = min(float(np.abs(scan).min()) for scan in scans)
    if nearest > 2 * span and span > 0:
        unit = next((unit for unit in _UNITS if span * unit <= longest), 1e-9)
        return unit, 'stamp' if largest * unit <= longest else 'first'
    for unit in _UNITS:
        if largest * unit <= longest:
            return unit, 'stamp'
    return 1e-9, 'stamp'


def _time_base(offsets: list[np.ndarray], stamped: bool) -> str:
    """'epoch' where absolute times agree with the scans' stamps, else 'first'.

    They do not where the lidar's clock is set to GPS time (18 s off) or TAI (37 s).
    """
    middles = [float(np.median(o[np.isfinite(o)])) for o in offsets if np.isfinite(o).any()]
    if not stamped or not middles:
        return 'epoch'
    return 'epoch' if abs(float(np.median(middles))) <= _LONGEST_SCAN_S else 'first'


def _seconds_and_nanoseconds(
    cloud: np.ndarray, seconds: str, nanoseconds: str, stamp_ns: int
) -> np.ndarray:
    whole = np.asarray(cloud[seconds], np.float64) - stamp_ns // 1_000_000_000
    return whole + (np.asarray(cloud[nanoseconds], np.float64) - stamp_ns % 1_000_000_000) * 1e-9


def _relative_time(cloud: np.ndarray, convention: Convention, stamp_ns: int) -> np.ndarray:
    """(N,) seconds from the scan's stamp."""
    assert convention.time is not None
    raw = cloud[convention.time]
    if convention.time_nanoseconds is not None:
        times = _seconds_and_nanoseconds(
            cloud, convention.time, convention.time_nanoseconds, stamp_ns
        )
    elif convention.time_base == 'stamp':
        times = np.asarray(raw, np.float64) * convention.time_unit
    elif raw.dtype.kind in 'iu':
        # Subtract while these are integers: float64 keeps only 0.2 µs of a time in 2026.
        per_second = round(1 / convention.time_unit)
        start = stamp_ns * per_second // 1_000_000_000
        times = (raw.astype(np.int64) - start) * convention.time_unit
    else:
        times = np.asarray(raw, np.float64) * convention.time_unit - stamp_ns * 1e-9
    if convention.time_base == 'first' and len(times):
        finite = times[np.isfinite(times)]
        times = times - (finite.min() if len(finite) else 0.0)
    return times
