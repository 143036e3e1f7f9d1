# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Loads the bundle that the node's parameters name, and says what it is.

A node module: imports rclpy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from clcp_ros import node_parameters
from clcp_ros.errors import ClcpError
from clcp_ros.pipeline import FramePipeline


def load_pipeline(values: Mapping[str, Any], logger: Any) -> FramePipeline:
    """Load, verify and test a bundle.

    Args:
        values: The node's parameters by name.
        logger: Is told what was loaded, and what is not as it was asked for.

    Returns:
        The pipeline, whose model has run once.

    Raises:
        ClcpError: No bundle is named, or it cannot be used.
    """
    path = values['bundle.path']
    if not path:
        raise ClcpError(
            'no bundle: set the parameter bundle.path to the folder that training/export.py wrote'
        )
    start = time.perf_counter()
    pipeline = FramePipeline(
        path,
        cameras=node_parameters.camera_names(values['cameras']),
        monitor=node_parameters.monitor_config(values),
        providers=_wanted_providers(values) or None,
        threads=values['model.threads'],
        runtime=values['model.runtime'],
        image_resolution=values['mask.resolution'] == 'image',
    )
    # The first run allocates and optimises: not while a robot waits for its first mask.
    warm_s = pipeline.warm_up()
    spec = pipeline.bundle.frame
    logger.info(
        f'{pipeline.bundle.name} ({pipeline.bundle.id}, {len(pipeline.bundle.classes)} '
        f'classes, {spec.width}x{spec.height}) on {pipeline.segmenter.provider} '
        f'({pipeline.segmenter.runtime}), '
        f'{warm_s * 1e3:.0f} ms a frame, ready in {time.perf_counter() - start:.1f} s'
    )
    if reason := pipeline.reservation:
        logger.warning(f'shift monitor: {reason}')
    if reason := pipeline.segmenter.fallback_reason:
        logger.warning(f'fell back to {pipeline.segmenter.provider}: {reason}')
    return pipeline


def _wanted_providers(values: Mapping[str, Any]) -> list[str]:
    wanted = list(values['model.providers'])
    return [] if wanted == list(node_parameters.AUTO_PROVIDERS) else wanted
