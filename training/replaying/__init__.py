# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a replay writes and what it is compared with: MCAP, table, labels, lidar, other cameras."""
