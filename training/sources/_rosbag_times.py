# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the times of messages counts, and where the clocks behind them were set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from clcp_ros.bag_file import NO_STAMP, Stamps
from training.sources.base import SourceOptions

_JUMP_NS = 500_000_000
"""A header's clock that goes back by more was set; less are messages out of order."""


@dataclass
class Times:
    """When images and scans were taken.

    Attributes:
        images: Times of the messages.
        scans: Times of the messages.
        use_bag: The times of recording count.
        offsets_ns: Added to the images' and the scans' stamps.
        jumps: Times of recording at which a header's clock was set back.
        notes: For the report.
        problem: Why nothing can be matched.
    """

    images: Stamps
    scans: Stamps
    use_bag: bool
    offsets_ns: tuple[int, int]
    jumps: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ''

    @classmethod
    def of(cls, stamps: list[Stamps], options: SourceOptions) -> Times:
        """Decide which time counts, and find where clocks were set."""
        offsets = tuple(
            round((seconds or 0.0) * 1e9)
            for seconds in (options.camera_offset, options.lidar_offset)
        )
        times = cls(stamps[0], stamps[1], options.stamp == 'bag', (offsets[0], offsets[1]))
        usable = [_valid(s.header_ns) for s in stamps]
        if times.use_bag:
            times.notes.append('stamps are the times of recording')
        elif any(len(s) and not s.any() for s in usable):
            times.use_bag = True
            times.notes.append('headers without stamps: the times of recording are used')
        for name, offset in zip(('images', 'scans'), offsets, strict=True):
            if offset:
                times.notes.append(f'{offset * 1e-9:g} s are added to the stamps of the {name}')
        if not times.use_bag:
            times._find_jumps()
            times._compare_clocks(usable)
        return times

    def of_messages(self, which: int) -> np.ndarray:
        """(N,) int64 stamps of the images (0) or scans (1)."""
        own = (self.images, self.scans)[which]
        return (own.receive_ns if self.use_bag else own.header_ns) + self.offsets_ns[which]

    def matched(self, which: int) -> np.ndarray:
        """As `of_messages`, but each stretch between two jumps of the clock is far from others."""
        stamps = self.of_messages(which)
        if not self.jumps:
            return stamps
        receive = (self.images.receive_ns, self.scans.receive_ns)
        part = np.searchsorted(self.jumps, receive[which], side='right')
        return stamps + part * self._stretch_ns()

    def _stretch_ns(self) -> int:
        """More than any two stamps are apart."""
        both = np.concatenate([_valid(self.images.header_ns), _valid(self.scans.header_ns)])
        day = 86_400_000_000_000
        return int(both.max()) - int(both.min()) + sum(map(abs, self.offsets_ns)) + day

    def _find_jumps(self) -> None:
        found: list[int] = []
        for own in (self.images, self.scans):
            known = own.header_ns != NO_STAMP
            stamps, receive = own.header_ns[known], own.receive_ns[known]
            if len(stamps) < 2:
                continue
            # A single wild stamp, high or low, is not a clock that was set.
            before = np.minimum(stamps[:-1], np.concatenate([stamps[:1], stamps[:-2]]))
            after = np.maximum(stamps[1:], np.concatenate([stamps[2:], stamps[-1:]]))
            found += receive[1:][after < before - _JUMP_NS].tolist()
        for time in sorted(found):
            if not self.jumps or time - self.jumps[-1] > 2_000_000_000:
                self.jumps.append(time)
        if self.jumps and self._stretch_ns() * (len(self.jumps) + 2) > 1 << 62:
            self.problem = 'the stamps in the headers make no sense: use --stamp bag'
        elif self.jumps:
            self.notes.append(
                f'the clock of the headers jumps back {len(self.jumps)} time(s): frames are '
                'paired within each stretch; no poses, nothing is de-skewed'
            )

    def _compare_clocks(self, usable: list[np.ndarray]) -> None:
        if not all(len(stamps) for stamps in usable):
            return
        a, b = usable
        apart = max(int(a.min() - b.max()), int(b.min() - a.max()))
        received = [self.images.receive_ns, self.scans.receive_ns]
        together = (
            received[0].min() <= received[1].max() and received[1].min() <= received[0].max()
        )
        if apart > 1_000_000_000 and together and not any(self.offsets_ns):
            self.problem = (
                f'the stamps in the headers of images and scans are at least {apart * 1e-9:.1f} s '
                'apart, though they were recorded together: use --stamp bag, or give the '
                'difference with --camera-offset'
            )


def _valid(header_ns: np.ndarray) -> np.ndarray:
    return header_ns[header_ns != NO_STAMP]
