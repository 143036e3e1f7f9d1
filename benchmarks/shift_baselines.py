# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The libraries that the shift monitor is compared with, each in an environment of its own.

This file runs in two ways. Imported, it makes the environments. Run by the Python of one of them,
it needs numpy and that library only, reads scores from a file and writes what the library's
detectors say. The libraries do not fit into one environment: river wants numpy 2.2.5 or later,
frouros one before 2.2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = {
    'river': ('river==0.26.1',),
    'frouros': ('frouros==0.9.0',),
    'pytorch-ood': ('pytorch-ood==0.4.0',),
}
"""Pinned requirements by the name of the environment."""

EPISODES, VERSIONS = 'alarms', 'versions'

_SHARES_TORCH = ('pytorch-ood',)
_READY = 'ready.json'


def make_environment(library: str, folder: Path) -> Path:
    """Make the environment of a library, or take the one that is there.

    Args:
        library: One of `LIBRARIES`.
        folder: Of all environments.

    Returns:
        Its Python.
    """
    place = folder / library
    python = place / 'bin' / 'python'
    wanted = {'requirements': list(LIBRARIES[library])}
    ready = place / _READY
    if ready.is_file() and json.loads(ready.read_text())['requirements'] == wanted['requirements']:
        return python
    print(f'{library}: making an environment in {place}', flush=True)
    venv.create(place, with_pip=True, clear=True)
    install = [str(python), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    if library in _SHARES_TORCH:
        # Torch is large and here already: the environment may see this one's packages, after
        # its own.
        packages = Path(sysconfig.get_path('purelib', vars={'base': str(place)}))
        (packages / 'shared.pth').write_text(sysconfig.get_path('purelib') + '\n')
        install.append('--no-deps')
    subprocess.run([*install, *LIBRARIES[library]], check=True)
    ready.write_text(json.dumps(wanted))
    return python


def run_library(python: Path, *arguments: str) -> None:
    """Run this file with the Python of a library's environment.

    Args:
        python: Of the environment.
        arguments: `detect`, library, input and output; or `score`, input and output.

    Raises:
        ShiftBenchmarkError: It failed; the last line of what it said.
    """
    ended = subprocess.run([str(python), __file__, *arguments], stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        # Only here: the other environments do not have it.
        from benchmarks.shift_streams import ShiftBenchmarkError

        lines = ended.stderr.strip().splitlines() or ['it said nothing']
        raise ShiftBenchmarkError(f'{python} {" ".join(arguments)}: {lines[-1]}')


# ------------------------------------------------------------ in the library's own environment


def _river() -> dict[str, Callable[[], Any]]:
    from river import drift

    return {
        'river ADWIN': drift.ADWIN,
        'river PageHinkley': drift.PageHinkley,
        'river KSWIN': lambda: drift.KSWIN(seed=0),
    }


def _frouros() -> dict[str, Callable[[], Any]]:
    from frouros.detectors import concept_drift as streaming

    return {
        'frouros CUSUM': lambda: streaming.CUSUM(config=streaming.CUSUMConfig()),
        'frouros PageHinkley': lambda: streaming.PageHinkley(config=streaming.PageHinkleyConfig()),
        'frouros GMA': lambda: streaming.GeometricMovingAverage(
            config=streaming.GeometricMovingAverageConfig()
        ),
        'frouros KSWIN': lambda: streaming.KSWIN(config=streaming.KSWINConfig(seed=0)),
    }


_DETECTORS = {'river': _river, 'frouros': _frouros}


def alarms_of(make: Callable[[], Any], library: str, series: np.ndarray) -> list[int]:
    """Samples at which a detector with the library's defaults reports a change.

    Args:
        make: Makes the detector.
        library: `river`, whose detectors go on by themselves, or `frouros`, whose are reset here.
        series: (N,) scores.
    """
    detector, found = make(), []
    for i, value in enumerate(series):
        if library == 'river':
            detector.update(float(value))
            drifted = detector.drift_detected
        else:
            detector.update(value=float(value))
            drifted = detector.drift
            if drifted:
                detector.reset()
        if drifted:
            found.append(i)
    return found


def detect(library: str, source: Path, target: Path) -> None:
    """Run a library's detectors on all streams.

    Args:
        library: `river` or `frouros`.
        source: `series.*`, `length` of each stream.
        target: JSON file: samples with an alarm by detector and stream.
    """
    with np.load(source, allow_pickle=False) as stored:
        ends = np.cumsum(stored['length'])[:-1]
        series = {
            key.partition('.')[2]: np.split(stored[key], ends)
            for key in stored.files if key.startswith('series.')
        }  # fmt: skip
    found = {}
    for key, streams in series.items():
        for name, make in _DETECTORS[library]().items():
            print(f'{name} on {key}: {sum(map(len, streams))} samples', flush=True)
            found[f'{name} on {key}'] = [alarms_of(make, library, one) for one in streams]
    _write(target, {EPISODES: found, VERSIONS: _versions(library)})


def score(source: Path, target: Path) -> None:
    """Score frames with pytorch-ood.

    Args:
        source: `fit` (F, D) features of training frames, `features` (N, D), and `logits`
            (M, C, h, w) of a few frames.
        target: JSON file: scores by detector, higher for stranger frames.
    """
    import torch
    from pytorch_ood.detector import (
        KNN,
        EnergyBased,
        Entropy,
        Mahalanobis,
        MaxLogit,
        MaxSoftmax,
    )

    torch.set_num_threads(1)
    with np.load(source, allow_pickle=False) as stored:
        fit, features, logits = (
            torch.from_numpy(stored[key].astype(np.float32))
            for key in ('fit', 'features', 'logits')
        )
    torch.manual_seed(0)
    found: dict[str, list[float]] = {}
    one_class = torch.zeros(len(fit), dtype=torch.long)
    for name, detector in {
        'Mahalanobis': Mahalanobis(None),
        'KNN': KNN(None, _neighbours(fit)),
    }.items():
        detector.fit_features(fit, one_class)
        found[f'features: pytorch-ood {name}'] = detector.predict_features(features).tolist()
    for name, kind in {
        'MaxSoftmax': MaxSoftmax, 'EnergyBased': EnergyBased, 'MaxLogit': MaxLogit,
        'Entropy': Entropy,
    }.items():  # fmt: skip
        scores = [kind.score(one[None]).mean().item() for one in logits]
        found[f'logits: pytorch-ood {name}'] = scores
    _write(target, {'scores': found, VERSIONS: _versions('pytorch-ood')})


def _neighbours(fit: Any) -> int:
    """The library's default of 50, or fewer where there are not so many frames."""
    return min(50, len(fit) - 1)


def _versions(library: str) -> dict[str, str]:
    names = [library, 'numpy'] + (['torch'] if library in _SHARES_TORCH else [])
    found = {name: version(name) for name in names}
    found['python'] = '.'.join(map(str, sys.version_info[:3]))
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(json.dumps(content) + '\n')
    partial.replace(path)


if __name__ == '__main__':
    task, *rest = sys.argv[1:]
    if task == 'detect':
        detect(rest[0], Path(rest[1]), Path(rest[2]))
    else:
        score(Path(rest[0]), Path(rest[1]))
