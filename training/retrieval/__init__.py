# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Retrieval across camera and lidar: how well an embedding tells places apart."""
