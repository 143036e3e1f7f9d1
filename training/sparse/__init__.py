# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse 3D convolution in plain PyTorch: no compiler, CPU and GPU."""

from training.sparse.convolution import SparseConv, sparse_conv
from training.sparse.grid import KernelMap, SparseGrid
from training.sparse.voxelize import Voxels, batch_voxels, join_voxels, voxelize

__all__ = [
    'KernelMap',
    'SparseConv',
    'SparseGrid',
    'Voxels',
    'batch_voxels',
    'join_voxels',
    'sparse_conv',
    'voxelize',
]
