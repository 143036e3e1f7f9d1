# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What runs on a workstation: the commands from recordings to a bundle, and their parts."""

from __future__ import annotations

import os

# Threads that spin while they wait take the cores from each other: with anything else running, a
# training step took three times the processor time. Read when torch loads its OpenMP library, so
# that commands import this package first.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
