# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Triangles for Embree, handed over in one piece.

embreex copies a mesh number by number through Python objects, which takes four times as long as
Embree needs to build its tree. Here Embree's own functions get the same numbers as blocks of
memory, so that rays meet exactly the same. They are those of the library that embreex has
loaded; what embreex does not tell is which scene is meant. That is read from its object, only
where the layout is beyond doubt; otherwise embreex copies.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from embreex import rtcore, rtcore_scene
from embreex.mesh_construction import TriangleMesh

# embree4/rtcore_common.h, rtcore_geometry.h and rtcore_buffer.h; the same in Embree 3.
_TRIANGLES = 0
_INDEX, _VERTEX = 0, 1
_UINT3, _FLOAT3 = 0x5003, 0x9003

_POINTER = ctypes.sizeof(ctypes.c_void_p)


def attach(
    scene: rtcore_scene.EmbreeScene, device: rtcore.EmbreeDevice, vertices: np.ndarray
) -> Any:
    """Add triangles to a scene.

    Args:
        scene: Of embreex; nothing has been cast into it.
        device: Its device.
        vertices: (T, 3, 3) float32, contiguous; T > 0.

    Returns:
        What has to live as long as the scene.
    """
    library, handle = _library(), _handle(scene, device)
    if library is None or handle is None:
        return TriangleMesh(scene, vertices)
    owner = library.rtcGetSceneDevice(handle)
    geometry = library.rtcNewGeometry(owner, _TRIANGLES)
    library.rtcReleaseDevice(owner)
    count = len(vertices)
    for kind, form, numbers in (
        (_VERTEX, _FLOAT3, vertices.reshape(3 * count, 3)),
        (_INDEX, _UINT3, _corners(1 << (count - 1).bit_length())[:count]),
    ):
        stride = numbers.strides[0]
        room = library.rtcSetNewGeometryBuffer(geometry, kind, 0, form, stride, len(numbers))
        if not room:
            raise MemoryError(f'Embree has no room for {count} triangles')
        ctypes.memmove(room, numbers.ctypes.data, numbers.nbytes)
    library.rtcCommitGeometry(geometry)
    library.rtcAttachGeometry(handle, geometry)
    library.rtcReleaseGeometry(geometry)
    return None


@functools.lru_cache(maxsize=4)
def _corners(count: int) -> np.ndarray:
    """(count, 3) uint32: no two triangles share a vertex."""
    return np.arange(3 * count, dtype=np.uint32).reshape(count, 3)


@functools.lru_cache(maxsize=1)
def _library() -> Any:
    """Embree as embreex has loaded it; None where its functions are not found."""
    void, number, size = ctypes.c_void_p, ctypes.c_uint, ctypes.c_size_t
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        'rtcGetSceneDevice': (void, (void,)),
        'rtcReleaseDevice': (None, (void,)),
        'rtcNewGeometry': (void, (void, ctypes.c_int)),
        'rtcSetNewGeometryBuffer': (void, (void, ctypes.c_int, number, ctypes.c_int, size, size)),
        'rtcCommitGeometry': (None, (void,)),
        'rtcAttachGeometry': (number, (void, void)),
        'rtcReleaseGeometry': (None, (void,)),
    }
    try:
        # A symbol is looked for in a library and in those that it has been linked with.
        library = ctypes.CDLL(rtcore_scene.__file__)
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


def _handle(scene: rtcore_scene.EmbreeScene, device: rtcore.EmbreeDevice) -> int | None:
    """The RTCScene in an EmbreeScene; None if its layout is not the known one.

    That is: the object's head, RTCScene scene_i, int is_committed, EmbreeDevice device.
    """
    begin = object.__basicsize__
    if type(scene).__basicsize__ != begin + 3 * _POINTER:
        return None
    words = (ctypes.c_void_p * 3).from_address(id(scene) + begin)
    committed = ctypes.c_int.from_address(id(scene) + begin + _POINTER).value
    if words[2] != id(device) or committed != scene.is_committed or not words[0]:
        return None
    return int(words[0])
