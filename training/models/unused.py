# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters that nothing depends on, such as the last stage of a ResNet read at stride 16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.models.image_encoder import ImageEncoder


def freeze_without_gradient(parameters: Sequence[nn.Parameter], outputs: Sequence[Tensor]) -> None:
    """Freeze what outputs do not depend on.

    It would get no gradient, for which processes that train together would wait, and it is saved
    as it was.

    Args:
        parameters: Which are trained; there may be none.
        outputs: What is read of the network, with their graph.
    """
    if not parameters:
        return
    total = torch.stack([output.sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def freeze_unused(encoder: ImageEncoder, size: int) -> None:
    """Freeze what the features do not depend on, such as the last stage of a ResNet.

    Args:
        encoder: The encoder; whatever is frozen stays so.
        size: Side of its images.
    """
    training = encoder.training
    output = encoder.eval()(torch.rand(1, 3, size, size))
    trained = [p for p in encoder.parameters() if p.requires_grad]
    freeze_without_gradient(trained, [output.grid, output.pooled])
    encoder.train(training)
