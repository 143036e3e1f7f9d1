# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fits what the shift monitor knows: from frames of the training domain to the bundle's part."""
