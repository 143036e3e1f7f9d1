# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clcp_ros.errors import BundleError, ModelError
from clcp_ros.monitor import STATISTICS, ShiftReference
from training.monitor_fit import fit_reference, fit_reference_by_drive

DIMENSIONS = {'low': len(STATISTICS), 'early': 40, 'deep': 64}


def frames(seed: int, count: int, offset: float = 0.0, drive: int | None = None) -> dict:
    """Frames around a common mean; a drive moves them together, a shift moves them far."""
    rng = np.random.default_rng(seed)
    place = np.random.default_rng(drive)
    result = {}
    for tap, dimension in DIMENSIONS.items():
        base = np.linspace(1, 2, dimension) + offset
        own = 0.0 if drive is None else place.normal(0, 0.1, dimension)
        result[tap] = base + own + rng.normal(0, 0.1, (count, dimension))
    return result


def joined(parts: list[dict]) -> dict:
    return {tap: np.concatenate([p[tap] for p in parts]) for tap in DIMENSIONS}


def novelty(reference: ShiftReference, of: dict) -> np.ndarray:
    rows = zip(of['low'], of['early'], of['deep'], strict=True)
    return np.array([reference.score(a, {'early': b, 'deep': c}).novelty for a, b, c in rows])


def test_new_frames_of_a_new_drive_are_in_domain_and_a_shift_is_not() -> None:
    drives = [frames(i, 30, drive=i) for i in range(6)]
    names = [f'd{i}' for i in range(6) for _ in range(30)]
    reference = fit_reference_by_drive(joined(drives), names, 'sha')
    new = novelty(reference, frames(50, 60, drive=50))
    assert abs(new.mean()) < 2.5
    shifted = frames(51, 60, drive=51)
    shifted['low'][:, 3] += 3
    shifted['early'] = shifted['early'][:, ::-1]
    shifted['deep'] = shifted['deep'][:, ::-1]
    assert novelty(reference, shifted).min() > 6


def test_leaving_drives_out_matters() -> None:
    """Calibrated on frames that it was fitted on, a monitor finds every new drive strange."""
    drives = [frames(i, 30, drive=i) for i in range(4)]
    names = [f'd{i}' for i in range(4) for _ in range(30)]
    honest = fit_reference_by_drive(joined(drives), names, 'sha')
    flattered = fit_reference(joined(drives), joined(drives), 'sha')
    new = frames(50, 60, drive=50)
    assert novelty(flattered, new).mean() > novelty(honest, new).mean() + 2


def test_scores_are_finite_whatever_comes() -> None:
    reference = fit_reference(frames(0, 40), frames(1, 40), 'sha')
    zeros = {tap: np.zeros((1, d)) for tap, d in DIMENSIONS.items()}
    huge = {tap: np.full((1, d), 1e30) for tap, d in DIMENSIONS.items()}
    for extreme in (zeros, huge):
        assert np.isfinite(novelty(reference, extreme)).all()
        assert novelty(reference, extreme)[0] > 4


def test_dead_channels_do_not_decide() -> None:
    fit, held_out, new = (frames(i, 40) for i in range(3))
    for part in (fit, held_out, new):
        part['deep'][:, :5] = 0
    new['deep'][:, 0] = 1e-5
    reference = fit_reference(fit, held_out, 'sha')
    assert novelty(reference, new).mean() < 2.5


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ModelError, match='to fit'):
        fit_reference(frames(0, 3), frames(1, 40), 'sha')
    with pytest.raises(ModelError, match='beside a'):
        fit_reference_by_drive(frames(0, 20), ['a'] * 18 + ['b'] * 2, 'sha')


def test_a_reference_survives_the_disk_and_knows_its_model(tmp_path: Path) -> None:
    reference = fit_reference(frames(0, 40), frames(1, 40), 'sha')
    reference.save(tmp_path / 'r.npz')
    again = ShiftReference.load(tmp_path / 'r.npz', 'sha')
    new = frames(2, 5)
    assert (novelty(again, new) == novelty(reference, new)).all()
    with pytest.raises(BundleError, match='another model'):
        ShiftReference.load(tmp_path / 'r.npz', 'other')
    (tmp_path / 'r.npz').write_bytes((tmp_path / 'r.npz').read_bytes()[:500])
    with pytest.raises(BundleError, match='not a monitor reference'):
        ShiftReference.load(tmp_path / 'r.npz', 'sha')
