# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a frame with its mask and scores, for a look at what the robot saw. No ROS here."""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clcp_ros.classes import UNLABELLED
from clcp_ros.errors import ClcpError
from clcp_ros.monitor import ShiftState
from clcp_ros.node_diagnostics import shift_values
from clcp_ros.pipeline import FrameResult


def default_folder() -> Path:
    """Where frames go without a setting: beside ROS' own logs."""
    home = os.environ.get('ROS_HOME') or '~/.ros'
    return Path(home).expanduser() / 'clcp_ros'


@dataclass(frozen=True)
class Snapshot:
    """The newest result of a camera; holding one costs the memory of one image.

    Attributes:
        result: Mask, confidence and frame.
        shift: The monitor's verdict, with the score of the newest frame that was scored and the
            stamp of that one.
        provider: Execution provider that made it.
        camera: Name of the camera; empty for the only one.
        topic: Where the image came from.
        frame_id: Of the image's header.
        latency_s: Acquisition to publication.
    """

    result: FrameResult
    shift: ShiftState
    provider: str
    camera: str
    topic: str
    frame_id: str
    latency_s: float

    def save(self, folder: Path) -> Path:
        """Write image, mask and confidence as PNG, and what is known of them as JSON.

        Every file is written beside and renamed; the JSON comes last, so a frame that has one is
        whole.

        Args:
            folder: Created when missing.

        Returns:
            The JSON file.

        Raises:
            ClcpError: The folder cannot be written.
        """
        name = re.sub(r'\W+', '_', self.camera).strip('_') or 'camera'
        stem = f'{name}_{self.result.stamp_ns}'
        images = {
            'image': self.result.frame.pixels,
            'mask': self.result.mask,
            'confidence': self.result.confidence,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for kind, pixels in images.items():
                _write(folder / f'{stem}.{kind}.png', _png(pixels))
            files = {kind: f'{stem}.{kind}.png' for kind in images}
            text = json.dumps({**self._facts(), 'files': files}, indent=2) + '\n'
            _write(folder / f'{stem}.json', text.encode())
        except OSError as error:
            raise ClcpError(
                f'cannot save the frame: {error}; set the parameter save.folder to a folder that '
                'can be written'
            ) from None
        return folder / f'{stem}.json'

    def _facts(self) -> dict[str, Any]:
        result, bundle = self.result, self.result.bundle
        classes = bundle.classes
        height, width = result.image_size
        pixels = np.bincount(result.mask.ravel(), minlength=256) / max(result.mask.size, 1)
        shares = {name: round(float(pixels[i]), 6) for i, name in enumerate(classes.names)}
        return {
            'stamp_ns': result.stamp_ns,
            'frame_id': self.frame_id,
            'camera': self.camera,
            'topic': self.topic,
            'image': {'height': height, 'width': width},
            'bundle': {
                'name': bundle.name, 'id': bundle.id, 'path': str(bundle.path)
            },
            'provider': self.provider,
            'classes': [
                {'id': i, 'name': name, 'color': list(color)}
                for i, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
            ],
            'unlabelled': UNLABELLED,
            'pixel_share': {**shares, 'unlabelled': round(float(pixels[UNLABELLED]), 6)},
            'mean_confidence': round(float(result.confidence.mean()) / 255, 6),
            'shift': {
                **shift_values(self.shift, result.source), 'reason': self.shift.reason,
                'scored_stamp_ns': self.shift.stamp_ns,
            },
            'seconds': {name: round(value, 6) for name, value in result.seconds.items()},
            'latency_s': round(self.latency_s, 6),
        }  # fmt: skip


def _png(pixels: np.ndarray) -> bytes:
    # OpenCV's own choice of filter and strategy is three times as fast as any stated level.
    color = pixels.ndim == 3
    done, data = cv2.imencode('.png', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if color else pixels)
    if not done:
        raise ClcpError(f'an image {pixels.shape} cannot be encoded as PNG')
    return data.tobytes()


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    part = path.with_name(f'.{path.name}.{os.getpid()}-{threading.get_ident()}.part')
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
