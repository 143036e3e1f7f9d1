# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Who computes a convolution: PyTorch, or a library that is installed.

Every backend takes the same features, kernels (torchsparse's layout) and maps, and returns rows
in the same order.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Protocol

from torch import Tensor

from clcp_ros.errors import ModelError
from training.sparse.kernel_map import KernelMap

BACKENDS = ('auto', 'torch', 'torchsparse', 'spconv')
_HINTS = {
    'spconv': 'pip install spconv (CPU) or spconv-cu126 (CUDA)',
    'torchsparse': 'build it from source, https://github.com/mit-han-lab/torchsparse',
}


class Backend(Protocol):
    """A library that convolves."""

    def convolve(self, features: Tensor, kernel: Tensor, pairs: KernelMap) -> Tensor:
        """Convolve with autograd.

        Args:
            features: (n_sources, C_in).
            kernel: (offsets, C_in, C_out), torchsparse's layout.
            pairs: Made by a `SparseGrid`.

        Returns:
            (n_targets, C_out).
        """


def find_backend(backend: str | Backend, device: str) -> Backend | None:
    """Find the backend for a device.

    Args:
        backend: One of `BACKENDS`, or a backend. `auto` is PyTorch on a CPU, where it is the
            fastest, and on a GPU spconv where that is installed.
        device: Kind of device, such as `cuda`.

    Returns:
        The backend; None for plain PyTorch.

    Raises:
        ModelError: Unknown, or not installed.
    """
    if not isinstance(backend, str):
        return backend
    if backend == 'torch' or (backend == 'auto' and device != 'cuda'):
        return None
    if backend == 'auto':
        found = _load('spconv')
        return None if isinstance(found, str) else found
    if backend not in BACKENDS:
        raise ModelError(f'unknown sparse backend {backend!r}; known: {", ".join(BACKENDS)}')
    found = _load(backend)
    if isinstance(found, str):
        raise ModelError(
            f'the sparse backend {backend} does not load ({found}); {_HINTS[backend]}'
        )
    return found


@lru_cache(maxsize=4)
def _load(name: str) -> Backend | str:
    """A backend, or why there is none."""
    try:
        return import_module(f'training.sparse.backends.{name}_backend').load()
    except Exception as error:  # torchsparse asserts a GPU on import; others fail to link
        return f'{type(error).__name__}: {error}'.splitlines()[0][:200]
