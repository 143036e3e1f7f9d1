# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What runs on a workstation: the commands from recordings to a bundle, and what they are made of."""
