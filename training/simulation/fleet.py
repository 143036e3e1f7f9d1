# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The vehicles and people of a town: each made once, then placed many times."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.simulation import people, vehicles
from training.simulation.mesh import Mesh
from training.simulation.vehicles import ID

VARIANTS = {
    'car': 16, 'truck': 5, 'lorry': 3, 'bus': 3, 'motorcycle': 4, 'bicycle': 6, 'person': 14,
    'tram': 1, 'train': 1,
}  # fmt: skip
STEPS = 8
"""Meshes of one stride."""

CATEGORY = {
    'car': ID['car'], 'truck': ID['truck'], 'lorry': ID['truck'], 'bus': ID['bus'],
    'motorcycle': ID['motorcycle'], 'bicycle': ID['bicycle'], 'person': ID['person'],
    'tram': ID['train'], 'train': ID['train'],
}  # fmt: skip
KINDS = tuple(VARIANTS)

SECTION = {'tram': 9.4, 'train': 20.4}
"""Metres between the middles of two sections."""

SECTIONS = {'tram': 2, 'train': 5}


@dataclass(frozen=True)
class Model:
    """One kind of thing that moves.

    Attributes:
        mesh: About its middle on the ground, lamps on.
        parked: The same with its lamps off.
        braking: The same with its brake lights on.
        size: Length, width and height in metres.
        coarse: The mesh from afar, if it has another one.
        coarse_braking: The same with its brake lights on.
    """

    mesh: Mesh
    parked: Mesh
    braking: Mesh
    size: tuple[float, float, float]
    coarse: Mesh | None = None
    coarse_braking: Mesh | None = None


@functools.lru_cache(maxsize=600)
def model(seed: int, number: int, kind: str, variant: int, part: int = 0) -> Model:
    """A model of town `number`.

    Args:
        seed: Seed of the simulation.
        number: Of the town.
        kind: One of `KINDS`, 'parked bicycle' or 'parked motorcycle'.
        variant: Which of them.
        part: Step of somebody walking (`STEPS` stands), or section of a train (1, 0, -1).
    """
    bare = kind.removeprefix('parked ')
    key = [seed, number, 77, KINDS.index(bare), variant]
    rng, again = np.random.default_rng(key), np.random.default_rng(key)
    coarse = None
    if kind == 'person':
        who = people.looks(rng)
        phase, stride = (part / STEPS, 0.3) if part < STEPS else (0.1, 0.05)
        mesh = people.person(who, phase, stride)
        coarse = people.figure(who, phase, stride)
    elif kind in ('truck', 'lorry'):
        mesh = vehicles.truck(rng, kind == 'lorry')
        coarse = vehicles.truck(again, kind == 'lorry', fine=False)
    elif kind == 'tram':
        mesh = vehicles.tram(rng, part)
    elif kind == 'train':
        mesh = vehicles.railcar(rng, part)
    elif bare == 'bicycle':
        mesh = people.bicycle(rng, kind == bare)
        coarse = people.bicycle(again, kind == bare, fine=False)
    elif bare == 'motorcycle':
        mesh = people.motorcycle(rng, kind == bare)
        coarse = people.motorcycle(again, kind == bare, fine=False)
    else:
        make = {'car': vehicles.car, 'bus': vehicles.bus}[kind]
        mesh, coarse = make(rng), make(again, fine=False)
    low, high = mesh.size
    long, wide, tall = (float(v) for v in high - low * (1, 1, 0))
    return Model(
        mesh,
        vehicles.unlit(mesh),
        vehicles.braking(mesh),
        (long, wide, tall),
        coarse,
        coarse and vehicles.braking(coarse),
    )


def length(seed: int, number: int, kind: str, variant: int) -> float:
    """Length over all in metres."""
    if kind in SECTION:
        return SECTION[kind] * SECTIONS[kind] + 0.4
    return model(seed, number, kind, variant).size[0]
