# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of the shift monitor drives: three disjoint sets of drives, and what happens.

All of it follows from a size, so that a run can stop and go on anywhere. Every drive is simulated:

- `fit`: clear drives through the towns that the network was trained in;
- `calibration`: clear drives through other places, for scales and thresholds;
- `test`: clear drives through places that nothing was fitted on. Something happens on them: a
  condition begins at once (a switch) or by and by (a ramp), or the vehicle finds itself in another
  place (novel, harmless). Frames before it are those of the clear drive, and the clear frames of
  the same moments tell what it costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.simulation.config import FAULTS, CameraConfig, SimulationConfig
from training.simulation.sensors import NOSE_DOWN

SETS = ('fit', 'calibration', 'test')

OUTSIDE = ('low_sun', 'dusk', 'night', 'fog', 'rain', 'snow')
COMBINED = ('night+rain', 'night+fog', 'dusk+rain', 'low_sun+snow')
PLACE = 'place'
"""Another place in clear weather."""

SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
MIDDLE = 0.6
"""Of five severities the third: where attribution is judged."""

WARM_UP_S = 20.0
"""Of each drive, left out: traffic settles."""

LEAD_S = 120
"""Seconds of the clear drive before something happens: the monitor is awake and calm."""


@dataclass(frozen=True)
class Drive:
    """A clear drive.

    Attributes:
        part: One of `SETS`.
        town: Number of the place; it decides whether it is a town, a country road or a motorway.
        seconds: Length; a frame each second.
    """

    part: str
    town: int
    seconds: int

    @property
    def name(self) -> str:
        """Unique, for files."""
        return f'{self.part}-{self.town:03d}'

    def time(self, k: int) -> float:
        """Seconds since the simulated drive began, of frame `k`."""
        return WARM_UP_S + k


@dataclass(frozen=True)
class Case:
    """What happens.

    Attributes:
        condition: Of the simulator, or `PLACE`.
        severity: At the end of the ramp.
        ramp_s: How long it takes to get there; 0 at once.
        town: Of `PLACE`: where the vehicle finds itself.
    """

    condition: str
    severity: float
    ramp_s: int = 0
    town: int = 0

    @property
    def name(self) -> str:
        """Unique within a stop."""
        end = f'-town{self.town}' if self.town else f'-ramp{self.ramp_s}' if self.ramp_s else ''
        return f'{self.condition}-{self.severity:.2f}{end}'

    def severity_at(self, seconds: float) -> float:
        """Severity some seconds after the onset; a ramp begins at 0."""
        return self.severity * (min(seconds / self.ramp_s, 1.0) if self.ramp_s else 1.0)


@dataclass(frozen=True)
class Stop:
    """A stretch of a test drive that is seen again in other conditions.

    Attributes:
        number: Of the stop.
        drive: The clear drive.
        begin: Its frame at which things begin to happen.
        seconds: How long they last.
        cases: Each by itself; they share what was cast.
    """

    number: int
    drive: Drive
    begin: int
    seconds: int
    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        """Unique, for files."""
        kind = 'ramp' if self.cases[0].ramp_s else 'switch'
        return f'{kind}-{self.number:04d}'

    @property
    def frames(self) -> int:
        """Pictures that are rendered."""
        return self.seconds * len(self.cases)


@dataclass(frozen=True)
class Clip:
    """Some frames of a clear drive.

    Attributes:
        kind: `ladder`, to be degraded by the corruption ladder, or `scans`, with a lidar.
        number: Of the clip, among those of its set.
        drive: The drive.
        begin: First frame.
        frames: How many.
    """

    kind: str
    number: int
    drive: Drive
    begin: int
    frames: int

    @property
    def name(self) -> str:
        """Unique, for files."""
        place = f'{self.begin:05d}x{self.frames}'
        return f'{self.kind}/{self.drive.part}-{self.number:03d}-{place}'


@dataclass(frozen=True)
class Size:
    """How much is driven.

    Attributes:
        name: Of the size.
        camera: Width and height; that of the network's training frames.
        drives: (number, seconds) by set.
        repeats: Switches into each condition and severity.
        switch_s: Seconds after a switch.
        ramps: Ramps of each of `RAMPS`.
        ramp_s: Seconds that a ramp takes.
        places: Switches into other places.
        per_stop: Cases that share a stretch of a drive.
        clips: Clips of the calibration and of the test drives that are degraded in every way of
            the corruption ladder: the former to fit on, the latter to test on.
        clip: Frames of a clip.
        draws: Severities of each family that a clip of the calibration drives is degraded in.
        ladder_severities: Of 1 to 5, in all of which a clip of the test drives is degraded.
        families: Of the corruption ladder; all when empty.
        scans: Clips with a lidar, of the calibration and of the test drives: the alignment of
            image and lidar is fitted on the former and tested on the latter.
        scan_clip: Frames of such a clip.
        seed: Of the simulation: that of the network's training towns.
        fit_towns: Where the network was trained.
    """

    name: str
    camera: tuple[int, int] = (480, 300)
    drives: tuple[tuple[int, int], ...] = ((6, 600), (48, 1800), (48, 1800))
    repeats: int = 6
    switch_s: int = 90
    ramps: int = 8
    ramp_s: int = 480
    places: int = 60
    per_stop: int = 6
    clips: tuple[int, int] = (24, 12)
    clip: int = 20
    draws: int = 2
    ladder_severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    families: tuple[str, ...] = ()
    scans: tuple[int, int] = (48, 48)
    scan_clip: int = 10
    conditions: tuple[str, ...] = (*OUTSIDE, *FAULTS, *COMBINED)
    severities: tuple[float, ...] = SEVERITIES
    seed: int = 1
    fit_towns: tuple[int, ...] = (1, 2, 3, 4, 5, 6)

    @property
    def simulation(self) -> SimulationConfig:
        """The camera of simdg, and its lidar, at one frame a second."""
        camera = CameraConfig(*self.camera, math.radians(50), rotation=(0.0, NOSE_DOWN, 0.0))
        return SimulationConfig(seed=self.seed, rate_hz=1, camera_configs=(camera,))

    def drives_of(self, part: str) -> tuple[Drive, ...]:
        """The drives of a set; no place is in two of them."""
        count, seconds = self.drives[SETS.index(part)]
        if part == 'fit':
            towns = list(self.fit_towns[:count])
        else:
            # 11 to 25 are simdg's own towns to develop and to test on.
            towns = list(
                range(31, 31 + count) if part == 'calibration' else range(201, 201 + count)
            )
        return tuple(Drive(part, town, seconds) for town in towns)

    @property
    def all_drives(self) -> tuple[Drive, ...]:
        """Of all sets."""
        return tuple(drive for part in SETS for drive in self.drives_of(part))

    @property
    def nominal_hours(self) -> float:
        """Of the test drives."""
        return sum(drive.seconds for drive in self.drives_of('test')) / 3600

    @property
    def nominal_frames(self) -> int:
        """Of all clear drives."""
        return sum(drive.seconds for drive in self.all_drives)


RAMPS = ('dusk', 'night', 'fog', 'rain', 'snow')

SIZES = {
    size.name: size
    for size in (
        Size(
            'tiny', (96, 64), ((2, 40), (2, 40), (2, 50)), repeats=1, switch_s=6, ramps=1,
            ramp_s=12, places=1, clips=(2, 1), clip=5, draws=1, ladder_severities=(3,),
            scans=(8, 2), scan_clip=4,
            families=('fog', 'night', 'noise', 'defocus', 'jpeg', 'dirt'),
            conditions=('night', 'fog', 'covered'), severities=(0.6,),
        ),
        Size(
            'small', drives=((3, 40), (3, 60), (2, 150)), repeats=1, switch_s=12, ramps=1,
            ramp_s=24, places=1, clips=(3, 1), draws=1, ladder_severities=(3,),
            scans=(4, 2), scan_clip=8,
            severities=(0.6,), per_stop=6,
            families=('fog', 'night', 'noise', 'defocus', 'jpeg', 'dirt', 'snow', 'rain'),
        ),
        Size(
            'hours', drives=((6, 300), (16, 900), (16, 600)), repeats=2, switch_s=60, ramps=2,
            ramp_s=300, places=30, clips=(12, 6), ladder_severities=(1, 3, 5), scans=(16, 16),
        ),
        Size(
            'day', drives=((6, 300), (16, 1800), (32, 1800)), repeats=3, switch_s=60, ramps=4,
            ramp_s=300, places=30, clips=(16, 8), draws=1, ladder_severities=(1, 3, 5),
            scans=(32, 32),
        ),
        Size('full'),
    )
}  # fmt: skip
"""`tiny` shows only that everything runs, `small` that it works; `full` is for figures, `day` for
figures in half of the time: eight hours to calibrate on, each drive of which is judged by the
others, too, and sixteen to test on. `hours` drives the beginnings of some of the drives of `day`:
for work on the monitor."""


def stops(size: Size) -> tuple[Stop, ...]:
    """Everything that happens on the test drives.

    Cases are dealt in a random order to stretches at random times; those of one stretch are of
    different conditions, so that no stretch decides about one.

    Args:
        size: The size.
    """
    rng = np.random.default_rng([size.seed, 9])
    drives = size.drives_of('test')
    cases = [
        Case(condition, severity)
        for _ in range(size.repeats)
        for condition in size.conditions
        for severity in ((1.0,) if condition == 'frozen' else size.severities)
    ]
    # Beyond all places that are driven: no alarm may be due to having seen it before.
    cases += [Case(PLACE, 0.0, town=401 + k) for k in range(size.places)]
    hands = [(hand, size.switch_s) for hand in _dealt(cases, size.per_stop, rng)]
    for k in range(size.ramps * len(RAMPS)):
        ramp = Case(RAMPS[k % len(RAMPS)], 0.9, size.ramp_s)
        hands.append(((ramp,), size.ramp_s + size.switch_s))
    return tuple(
        _stop(number, drives, hand, seconds, rng) for number, (hand, seconds) in enumerate(hands)
    )


def _dealt(cases: list[Case], most: int, rng: np.random.Generator) -> list[tuple[Case, ...]]:
    hands: list[list[Case]] = []
    for i in rng.permutation(len(cases)):
        case = cases[int(i)]
        free = (
            h for h in hands if len(h) < most and case.condition not in [c.condition for c in h]
        )
        hand = next(free, None)
        if hand is None:
            hands.append([case])
        else:
            hand.append(case)
    return [tuple(hand) for hand in hands]


def _stop(
    number: int,
    drives: tuple[Drive, ...],
    cases: tuple[Case, ...],
    seconds: int,
    rng: np.random.Generator,
) -> Stop:
    drive = drives[int(rng.integers(len(drives)))]
    first, last = min(LEAD_S, drive.seconds // 3), drive.seconds - seconds
    if last <= first:
        raise ValueError(f'{drive.name} is too short for {seconds} s of something')
    return Stop(number, drive, int(rng.integers(first, last)), seconds, cases)


def clips(size: Size, part: str, scans: bool = False) -> tuple[Clip, ...]:
    """The clips of a set, by turns of all of its drives.

    Args:
        size: The size.
        part: `calibration` or `test`.
        scans: Those with a lidar, not those of the corruption ladder.
    """
    rng = np.random.default_rng([size.seed, 10 + scans, SETS.index(part)])
    drives = size.drives_of(part)
    count = (size.scans if scans else size.clips)[SETS.index(part) - 1]
    frames = size.scan_clip if scans else size.clip
    found = []
    for number in range(count):
        drive = drives[number % len(drives)]
        begin = int(rng.integers(0, max(1, drive.seconds - frames)))
        kind = 'scans' if scans else 'ladder'
        found.append(Clip(kind, number, drive, begin, min(frames, drive.seconds)))
    return tuple(found)
