# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark `simdg`: domain generalisation from a simulated clear day to other conditions.

Fixed towns, seeds and recipes in three sizes. `prepare` simulates the data, `run_benchmark` trains
and measures recipes on it; `python training/evaluate.py simdg` does both.
"""

from training.simdg.benchmark import BASELINE, Recipe, run_benchmark
from training.simdg.data import BenchmarkData, prepare
from training.simdg.report import Report, Row
from training.simdg.sizes import SIZES, Size

__all__ = [
    'BASELINE',
    'SIZES',
    'BenchmarkData',
    'Recipe',
    'Report',
    'Row',
    'Size',
    'prepare',
    'run_benchmark',
]
