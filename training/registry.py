# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Registries that are folders: adding a reader or an encoder is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any


def found_in(package: str, path: Iterable[str], attribute: str) -> dict[str, Any]:
    """Import the modules of a package and collect what they offer.

    Args:
        package: Its name.
        path: Its `__path__`.
        attribute: Name of a module-level object with a `name`.

    Returns:
        The objects by their `name`; modules without one are passed over.
    """
    modules = (importlib.import_module(f'{package}.{i.name}') for i in pkgutil.iter_modules(path))
    offered = (getattr(module, attribute, None) for module in modules)
    return {entry.name: entry for entry in offered if entry is not None}
