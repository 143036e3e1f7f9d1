# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML reports: a page of sections, and the sections of a replay."""

from training.reporting.page import (
    Figure,
    Section,
    Table,
    figure_uri,
    image_uri,
    jpeg_uri,
    render_page,
)

__all__ = ['Figure', 'Section', 'Table', 'figure_uri', 'image_uri', 'jpeg_uri', 'render_page']
