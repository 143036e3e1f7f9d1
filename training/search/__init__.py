# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Finding hyperparameters of pretraining: a range of learning rates, a grid of anything."""
