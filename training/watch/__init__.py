# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is watched while an encoder is pretrained, and when that is a reason to warn."""
