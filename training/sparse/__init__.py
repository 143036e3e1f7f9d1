# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse 3D convolution in plain PyTorch: no compiler, CPU and GPU."""

from training.sparse.backends import BACKENDS, find_backend
from training.sparse.grid import SparseGrid
from training.sparse.interpolate import interpolate
from training.sparse.kernel_map import KernelMap
from training.sparse.layers import (
    SparseConv,
    conv_norm_act,
    fold_norm,
    set_backend,
    sparse_conv,
)
from training.sparse.modules import BatchNorm, Conv, ReLU
from training.sparse.tensor import SparseTensor, cat
from training.sparse.voxelize import Voxels, batch_voxels, join_voxels, voxelize

__all__ = [
    'BACKENDS',
    'BatchNorm',
    'Conv',
    'KernelMap',
    'ReLU',
    'SparseConv',
    'SparseGrid',
    'SparseTensor',
    'Voxels',
    'batch_voxels',
    'cat',
    'conv_norm_act',
    'find_backend',
    'fold_norm',
    'interpolate',
    'join_voxels',
    'set_backend',
    'sparse_conv',
    'voxelize',
]
