# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Page faults of writing to a large array again and again.
SCRIPT = """
import resource, sys
import numpy as np
from training.allocator import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()
def faults():
    for _ in range(20):
        np.ones(64 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = faults()
print(faults() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='mallopt belongs to glibc')
def test_memory_is_not_fetched_anew(root: Path) -> None:
    counts = {
        how: int(
            subprocess.run(
                [sys.executable, '-c', SCRIPT, how],
                cwd=root, check=True, capture_output=True, text=True,
            ).stdout
        )
        for how in ('keep', 'default')
    }  # fmt: skip
    assert counts['default'] > 100
    assert counts['keep'] < counts['default'] / 10
