# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The pair set: synchronized camera frames and scans on disk (docs/formats.md)."""

from __future__ import annotations

from training.pairs.pair import Pair
from training.pairs.pair_set import PairSet
from training.pairs.writer import PairSetWriter

__all__ = ['Pair', 'PairSet', 'PairSetWriter']
