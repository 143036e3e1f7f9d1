# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: one line that says what is wrong and what to do about it."""

from __future__ import annotations


class ClcpError(Exception):
    """Base of all errors that commands print as one line instead of a traceback."""


class BundleError(ClcpError):
    """A bundle is missing a file, has a wrong hash, or an unknown schema version."""


class ImageError(ClcpError):
    """An image cannot be read: truncated file, unknown encoding, impossible geometry."""


class RecordingError(ClcpError):
    """A recording lacks what was asked of it: a topic, a calibration, readable frames."""


class CalibrationError(RecordingError):
    """Intrinsics or extrinsics are missing or impossible."""


class PairSetError(ClcpError):
    """A pair set is empty, damaged, or not a pair set."""


class LabelError(ClcpError):
    """A label image is missing, unreadable, or does not fit its image or class set."""


class ModelError(ClcpError):
    """Weights do not fit the model, or training cannot go on."""
