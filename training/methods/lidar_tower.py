# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The lidar encoder that the options of pretraining ask for: any of training/models/lidar."""

from __future__ import annotations

from typing import Any

from training.methods.config import ModelConfig
from training.models.lidar import create_lidar_encoder
from training.models.lidar.base import LidarEncoder, LidarOptions
from training.models.minkunet import ARCHITECTURES
from training.pairs.contrastive import ViewConfig


def make_lidar_encoder(model: ModelConfig, views: ViewConfig) -> LidarEncoder:
    """Create the lidar encoder.

    Args:
        model: Its name, weights, settings and how to compute.
        views: The size of voxels, for encoders that have some.

    Raises:
        ModelError: Unknown encoder or setting, or weights that do not fit.
    """
    settings: dict[str, Any] = dict(model.lidar_settings)
    if model.lidar_encoder in ARCHITECTURES:
        settings.setdefault('voxel_size_m', views.voxel_size_m)
    options = LidarOptions(
        model.lidar_weights, model.freeze_lidar and not model.lidar_batchnorm_trains,
        model.lidar_precision, model.sparse_backend, model.checkpoint_activations,
    )  # fmt: skip
    return create_lidar_encoder(model.lidar_encoder, options, **settings)
