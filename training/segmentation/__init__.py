# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Finetuning and evaluation of segmentation models: frames with labels, training, metrics.

One file for each layout of a data set: `cityscapes`, `acdc`, `camvid`. A layout is a module with
`CLASSES`, `recognises(root)`, `splits(root)` and `frames(root, split)`; see `frames.LAYOUTS`.
"""
