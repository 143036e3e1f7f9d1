# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""All that the monitor knows: one file of the bundle, arrays only.

The file belongs to one model and is refused with any other. It is checked whole before any of it
is used: its size, its version, every number and, by the parts themselves, every shape.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from clcp_ros.bundle import DESCRIPTION, Bundle
from clcp_ros.errors import BundleError
from clcp_ros.monitor.alignment import AlignmentReference
from clcp_ros.monitor.arrays import part
from clcp_ros.monitor.attribution import KindReference
from clcp_ros.monitor.close import CloseReference
from clcp_ros.monitor.faults import TILES
from clcp_ros.monitor.harm import HarmReference
from clcp_ros.monitor.reference import ShiftReference
from clcp_ros.monitor.sequential import SequentialReference

VERSION = 1
"""Of the file's format."""

MOST_BYTES = 4_000_000
"""Largest file that is written or read."""

_MOST_UNPACKED = 16 * MOST_BYTES  # a small file must not fill the memory
_DAMAGED = (
    OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, EOFError,
    RuntimeError, BadZipFile, zlib.error,
)  # fmt: skip
_Part = TypeVar('_Part', HarmReference, KindReference, AlignmentReference, CloseReference)
# Of the facts.
_MAY_MISS = ('supported_h', 'static', 'preprocessing_sha256', 'nominal_drop', 'slope_drop')
_LEAST_H, _LEAST_C = 1.0, 2.0  # thresholds for a short interval do not sink into the noise


@dataclass(frozen=True)
class Facts:
    """What the thresholds were made of, and how much they can be relied on.

    Attributes:
        model_sha256: Hash of the model whose outputs all parts were fitted on.
        preprocessing_sha256: `Bundle.preprocessing_sha256` of the same; empty where not known, in
            a bundle of before.
        interval_h: Hours between two false alarms of one camera that the thresholds were solved
            for.
        supported_h: Hours between two false alarms that the calibration drives show with 95 %
            confidence; NaN when nothing is known.
        hours: Hours of nominal driving that the thresholds were tried on, each drive with
            thresholds from the others.
        drives: Number of those drives.
        alarms: False alarms on them.
        slope_h: By how much `h` rises when the interval becomes e times as long.
        slope_c: The same of `c`.
        hours_from: How the hours were counted, for people.
        site: What a site calibration changed, for people; empty without one.
        nominal_drop: Drop of the expected mIoU from which that alone may warn: smaller ones come
            on nominal drives, too; 0 where nobody has looked.
        slope_drop: By how much it rises when the interval becomes e times as long.
        static: (6, 8) bool, tiles of the image in which something that belongs to the robot always
            stands; None when not known.
    """

    model_sha256: str = ''
    interval_h: float = 8.0
    supported_h: float = math.nan
    hours: float = 0.0
    drives: int = 0
    alarms: int = 0
    slope_h: float = 2.0
    slope_c: float = 0.3
    hours_from: str = ''
    site: str = ''
    static: np.ndarray | None = field(default=None, compare=False, repr=False)
    preprocessing_sha256: str = ''
    nominal_drop: float = 0.0
    slope_drop: float = 0.0

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields; what is not known is left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if math.isnan(self.supported_h):
            del values['supported_h']
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Facts:
        """Undo `arrays`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field is not what it should be.
        """
        values: dict[str, Any] = {}
        for known in fields(cls):
            if known.name in _MAY_MISS and known.name not in arrays:
                continue
            value = np.asarray(arrays[known.name])
            if known.name == 'static':
                if value.shape != TILES or value.dtype != bool:
                    raise ValueError(f'static is {value.dtype} of shape {value.shape}')
                values['static'] = value
                continue
            text = isinstance(known.default, str)
            if value.shape != () or value.dtype.kind not in ('U' if text else 'fiu'):
                raise ValueError(f'{known.name} is {value.dtype} of shape {value.shape}')
            kind: type[Any] = type(known.default)
            values[known.name] = kind(value.item())
        facts = cls(**values)
        if not facts.interval_h > 0 or facts.supported_h <= 0:
            raise ValueError('an interval between false alarms is not positive')
        counts = (facts.hours, facts.drives, facts.alarms)
        if min(*counts, facts.slope_h, facts.slope_c, facts.slope_drop, facts.nominal_drop) < 0:
            raise ValueError('a count or a slope is negative')
        return facts


@dataclass(frozen=True)
class Knowledge:
    """What the monitor was fitted to; parts that are None were not fitted.

    Attributes:
        novelty: The training domain.
        sequential: Thresholds of the sequential test.
        harm: How logits tell the expected mIoU.
        kinds: What the kinds of degradation look like.
        alignment: How well image and lidar agree on nominal drives.
        close: Which classes can fill the view; seconds of that were passed over when the
            thresholds were found, and are by the monitor.
        facts: What the thresholds were made of.
    """

    novelty: ShiftReference
    sequential: SequentialReference = field(default_factory=SequentialReference)
    harm: HarmReference | None = None
    kinds: KindReference | None = None
    alignment: AlignmentReference | None = None
    close: CloseReference | None = None
    facts: Facts = field(default_factory=Facts)

    def sequential_for(self, interval_h: float = 0.0, cameras: int = 1) -> SequentialReference:
        """Thresholds for another interval between false alarms.

        The rate of false alarms falls by a factor of e for each `slope_h` of `h`; that is carried
        on beyond what the drives show.

        Args:
            interval_h: Hours between two false alarms of all cameras together; 0 takes the
                interval of the bundle.
            cameras: How many cameras share it: each gets its part (Bonferroni).

        Returns:
            Thresholds of one camera.
        """
        folds = self._folds(interval_h, cameras)
        return replace(
            self.sequential,
            h=max(self.sequential.h + folds * self.facts.slope_h, _LEAST_H),
            c=max(self.sequential.c + folds * self.facts.slope_c, _LEAST_C),
            c_lasting=max(self.sequential.c_lasting + folds * self.facts.slope_c, _LEAST_C),
        )

    def drop_for(self, interval_h: float = 0.0, cameras: int = 1) -> float:
        """Drop from which the expected mIoU may warn by itself; 0 where nobody has looked.

        Args:
            interval_h: As for `sequential_for`.
            cameras: As for `sequential_for`.
        """
        return max(
            self.facts.nominal_drop + self._folds(interval_h, cameras) * self.facts.slope_drop, 0.0
        )

    def _folds(self, interval_h: float, cameras: int) -> float:
        wanted = (interval_h or self.facts.interval_h) * max(cameras, 1)
        return math.log(wanted / self.facts.interval_h)

    def supported_h(self, interval_h: float = 0.0, cameras: int = 1) -> float:
        """Hours between two false alarms of all cameras together that the drives support.

        Alarms were counted with the thresholds of `Facts.interval_h`. Higher ones are at least as
        good; of lower ones nobody knows.

        Args:
            interval_h: As for `sequential_for`.
            cameras: As for `sequential_for`.

        Returns:
            NaN where nothing is known.
        """
        if self._lowered(interval_h, cameras):
            return math.nan
        return self.facts.supported_h / max(cameras, 1)

    def _lowered(self, interval_h: float, cameras: int) -> bool:
        wanted = (interval_h or self.facts.interval_h) * max(cameras, 1)
        return wanted < self.facts.interval_h * (1 - 1e-9)

    def reservation(self, interval_h: float = 0.0, cameras: int = 1) -> str:
        """Say so when more is asked of the thresholds than the drives support.

        Args:
            interval_h: As for `sequential_for`.
            cameras: As for `sequential_for`.

        Returns:
            One line for the log; empty when there is nothing to say.
        """
        facts, asked = self.facts, (interval_h or self.facts.interval_h)
        supported = self.supported_h(interval_h, cameras)
        if supported >= asked:
            return ''
        if self._lowered(interval_h, cameras):
            return (
                f'one false alarm in {asked:g} h is asked for, with lower thresholds than those '
                f'for {facts.interval_h:g} h that false alarms were counted with; calibrate with '
                f'training/fit_monitor.py --false_alarm_interval_h {asked:g}'
            )
        if not supported > 0:
            return (
                f'one false alarm in {asked:g} h is asked for, but nobody has counted them; '
                'calibrate with training/fit_monitor.py'
            )
        return (
            f'one false alarm in {asked:g} h is asked for, but {facts.hours:.2g} h of '
            f'{facts.drives} held-out drives with {facts.alarms} false alarms support one in '
            f'{supported:.2g} h; '
            'calibrate on more nominal drives with training/fit_monitor.py'
        )

    def save(self, path: Path) -> None:
        """Write the file.

        Args:
            path: Its name, ending in .npz.

        Raises:
            BundleError: It would be too large, or hold a number that is not finite.
        """
        arrays: dict[str, np.ndarray] = {'facts.version': np.asarray(VERSION)}
        for name in (f.name for f in fields(self)):
            part = getattr(self, name)
            if part is not None:
                arrays |= {f'{name}.{key}': np.asarray(a) for key, a in part.arrays().items()}
        _check_arrays(path, arrays)
        with path.open('wb') as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        if (size := path.stat().st_size) > MOST_BYTES:
            path.unlink()
            raise BundleError(f'{path}: {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}')

    @classmethod
    def load(cls, path: Path, model_sha256: str) -> Knowledge:
        """Read the file and check that it belongs to the model.

        Args:
            path: The .npz file.
            model_sha256: Hash of the model in use.

        Raises:
            BundleError: The file is damaged, of another version, or of another model.
        """
        try:
            arrays = _read(path)
            version = int(arrays.pop('facts.version'))
            if version != VERSION:
                raise ValueError(f'version {version}, this release reads {VERSION}')
            facts = Facts.from_arrays(part(arrays, 'facts'))
            if facts.model_sha256 != model_sha256:
                raise BundleError(
                    f'{path}: fitted on outputs of another model '
                    f'({facts.model_sha256[:12]}, not {model_sha256[:12]}); export again'
                )
            _check_arrays(path, arrays)
            if unknown := {name.partition('.')[0] for name in arrays} - {
                f.name for f in fields(cls)
            }:
                raise ValueError(f'unknown part {min(unknown)!r}')
            knowledge = cls(
                novelty=ShiftReference.from_arrays(part(arrays, 'novelty')),
                sequential=SequentialReference.from_arrays(part(arrays, 'sequential')),
                facts=facts,
                harm=_optional(HarmReference, part(arrays, 'harm')),
                kinds=_optional(KindReference, part(arrays, 'kinds')),
                alignment=_optional(AlignmentReference, part(arrays, 'alignment')),
                close=_optional(CloseReference, part(arrays, 'close')),
            )
            knowledge._check_features()
            return knowledge
        except _DAMAGED as error:
            raise BundleError(
                f'{path}: not what a monitor of this release knows ({error}); export again'
            ) from None

    def _check_features(self) -> None:
        taps = self.novelty.low, self.novelty.early, self.novelty.deep
        low, *features = (tap.measures[0].channels for tap in taps)
        known = low if self.kinds is None else len(self.kinds.location)
        if known not in (low, low + sum(features)):
            raise ValueError('kinds and novelty know other numbers of features')

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Knowledge:
        """Read a bundle's file and check that it belongs to the bundle.

        Args:
            bundle: Verified.

        Raises:
            BundleError: As of `load`; or it was fitted with another preprocessing or other
                classes than the description states.
        """
        path = bundle.reference_path
        knowledge = cls.load(path, bundle.sha256[bundle.model_path.name])
        if knowledge.facts.preprocessing_sha256 not in ('', bundle.preprocessing_sha256):
            raise BundleError(
                f'{path}: fitted with another preprocessing or other class names than '
                f'{DESCRIPTION} states; restore {DESCRIPTION} or export again'
            )
        harm, alignment, scene = knowledge.harm, knowledge.alignment, knowledge.novelty.scene
        counts = {
            'harm': None if harm is None else len(harm.expected),
            'alignment': None if alignment is None else alignment.classes,
            'novelty': None if scene is None else len(scene.weights),
            'close': None if knowledge.close is None else len(knowledge.close.vehicles),
        }
        for name, count in counts.items():
            if count not in (None, len(bundle.classes)):
                raise BundleError(
                    f'{path}: {name} knows {count} classes, the model has '
                    f'{len(bundle.classes)}; export again'
                )
        return knowledge


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f'more than {MOST_BYTES / 1e6:g} MB')
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_UNPACKED:
            raise ValueError('too large when unpacked')
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in 'biufU':
            raise BundleError(f'{path}: {name} is of type {array.dtype}, no numbers or text')
        if array.dtype.kind == 'f' and not np.isfinite(array).all():
            raise BundleError(f'{path}: {name} holds numbers that are not finite')


def _optional(kind: type[_Part], arrays: dict[str, np.ndarray]) -> _Part | None:
    return kind.from_arrays(arrays) if arrays else None
