# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

# Two test workers on two cores: OpenMP's spinning threads would slow each other down.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope='session')
def sample_data() -> Path:
    """The folder of real sample frames; the test is skipped where it is not there."""
    folder = Path(os.environ.get('CLCP_SAMPLE_DATA', ROOT.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no real sample frames at {folder}; set CLCP_SAMPLE_DATA to their folder')
    return folder
