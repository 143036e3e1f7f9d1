# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Triangles on their way into an Embree scene, in one copy.

embreex reads every coordinate through a Python object of its own, 0.65 us a triangle: half of the
time that new surroundings took. Embree's C interface gives the address of a buffer to fill
instead. Scene and device are embreex's; where in its objects their handles lie is declared in the
.pxd files that it ships. Where anything is not as declared there, embreex does it its way: the
scenes are the same.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from embreex import rtcore, rtcore_scene
from embreex.mesh_construction import TriangleMesh

# embree4/rtcore_common.h and rtcore_geometry.h; the same in Embree 3.
_TRIANGLES = 0
_INDEX, _VERTEX = 0, 1
_UINT3, _FLOAT3 = 0x5003, 0x9003

_Head = ctypes.c_byte * object.__basicsize__


class _Device(ctypes.Structure):
    """`EmbreeDevice` as rtcore.pxd declares it."""

    _fields_ = (('head', _Head), ('handle', ctypes.c_void_p))


class _Scene(ctypes.Structure):
    """`EmbreeScene` as rtcore_scene.pxd declares it."""

    _fields_ = (
        ('head', _Head), ('handle', ctypes.c_void_p), ('is_committed', ctypes.c_int),
        ('device', ctypes.c_void_p),
    )  # fmt: skip


def add_triangles(
    scene: rtcore_scene.EmbreeScene, device: rtcore.EmbreeDevice, vertices: np.ndarray
) -> None:
    """Add triangles to a scene that no ray has been cast into yet.

    Args:
        scene: Of `device`.
        device: Embree's.
        vertices: (T, 3, 3) float32.
    """
    embree = _embree()
    if embree is None or not _as_declared(scene, device):
        TriangleMesh(scene, vertices)
        return
    count = len(vertices)
    geometry = embree.rtcNewGeometry(_Device.from_address(id(device)).handle, _TRIANGLES)
    corners = embree.rtcSetNewGeometryBuffer(geometry, _VERTEX, 0, _FLOAT3, 16, 3 * count)
    indices = embree.rtcSetNewGeometryBuffer(geometry, _INDEX, 0, _UINT3, 12, count)
    if not corners or not indices:
        raise MemoryError(f'Embree has no room for {count} triangles')
    _floats(corners, 12 * count).reshape(-1, 4)[:, :3] = vertices.reshape(-1, 3)
    _floats(indices, 3 * count).view(np.uint32)[:] = np.arange(3 * count, dtype=np.uint32)
    embree.rtcCommitGeometry(geometry)
    embree.rtcAttachGeometry(_Scene.from_address(id(scene)).handle, geometry)
    embree.rtcReleaseGeometry(geometry)


def _floats(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))


def _as_declared(scene: rtcore_scene.EmbreeScene, device: rtcore.EmbreeDevice) -> bool:
    """Whether the objects are as large as declared, and what can be known lies where it should."""
    if (type(scene).__basicsize__, type(device).__basicsize__) != (
        ctypes.sizeof(_Scene), ctypes.sizeof(_Device),
    ):  # fmt: skip
        return False
    seen = _Scene.from_address(id(scene))
    return seen.device == id(device) and seen.is_committed == scene.is_committed == 0


@functools.lru_cache(maxsize=1)
def _embree() -> ctypes.CDLL | None:
    """The Embree that embreex has loaded, None where its functions cannot be reached or differ."""
    try:
        library = ctypes.CDLL(rtcore_scene.__file__)
        handle, number, size = ctypes.c_void_p, ctypes.c_uint, ctypes.c_size_t
        for name, result, arguments in (
            ('rtcNewGeometry', handle, (handle, ctypes.c_int)),
            ('rtcSetNewGeometryBuffer', handle,
             (handle, ctypes.c_int, number, ctypes.c_int, size, size)),
            ('rtcCommitGeometry', None, (handle,)),
            ('rtcAttachGeometry', number, (handle, handle)),
            ('rtcReleaseGeometry', None, (handle,)),
        ):  # fmt: skip
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError, TypeError):
        return None
    return library
