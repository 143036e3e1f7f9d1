# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Places and the parts of them that stand around the ego vehicle, kept between frames."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.simulation.agents import Population
from training.simulation.country import CountryBlock
from training.simulation.layout import Block, BlockBuilder, Place, Standing
from training.simulation.mesh import Mesh, concatenate, turned
from training.simulation.motorway import MotorwayBlock
from training.simulation.roads import Route
from training.simulation.signals import BLOCK
from training.simulation.soup import Soup
from training.simulation.terrain import terrain
from training.simulation.town import TownBlock

_BUILDERS: dict[str, type[BlockBuilder]] = {
    'town': TownBlock, 'country': CountryBlock, 'motorway': MotorwayBlock,
}  # fmt: skip
_BLOCKS = {'town': (2, 3), 'country': (2, 6), 'motorway': (2, 7)}
"""Blocks that exist behind and before the ego vehicle's own."""

_STRIDE = {'town': 1, 'country': 2, 'motorway': 3}
"""The surroundings are built anew every so many blocks: the faster the drive the more."""


@dataclass(frozen=True)
class World:
    """A place with everybody in it."""

    place: Place
    population: Population

    @property
    def route(self) -> Route:
        """Its road."""
        return self.place.route


@functools.lru_cache(maxsize=6)
def load_world(seed: int, number: int, environment: str) -> World:
    """A place with everybody in it; kept, since consecutive frames share it."""
    route = Route(seed, number, environment)
    return World(Place(route), Population(route))


@functools.lru_cache(maxsize=24)
def block(seed: int, number: int, environment: str, index: int) -> Block:
    """Block `index` of a place."""
    place = load_world(seed, number, environment).place
    return _BUILDERS[environment](place, index).build()


@dataclass(frozen=True)
class Surroundings:
    """What stands around an ego vehicle in one block.

    Attributes:
        origin: (3,) float64 world position that the soup is relative to. Not the world's own:
            float32 is coarse kilometres away from its origin.
        turn: (3, 3) float64 rotation from the soup's frame into the world's. Its x axis is along
            the road: around upright walls and kerbs that follow its axes Embree's boxes are tight,
            and rays are cast in three quarters of the time.
        soup: The geometry.
        lamps: (L, 3) float64 world positions.
        objects: Parked vehicles.
    """

    origin: np.ndarray
    turn: np.ndarray
    soup: Soup
    lamps: np.ndarray
    objects: tuple[Standing, ...]


def surroundings(seed: int, number: int, environment: str, ego_s: float) -> Surroundings:
    """What stands around an ego vehicle `ego_s` metres along the road."""
    stride = _STRIDE[environment]
    return _surroundings(seed, number, environment, int(ego_s // (BLOCK * stride)) * stride)


@functools.lru_cache(maxsize=2)
def _surroundings(seed: int, number: int, environment: str, index: int) -> Surroundings:
    """What stands around block `index` and its `_STRIDE`; all frames there share it."""
    world = load_world(seed, number, environment)
    behind, ahead = _BLOCKS[environment]
    last = index + _STRIDE[environment] - 1
    blocks = {
        i: block(seed, number, environment, i) for i in range(index - behind, last + ahead + 1)
    }
    origin = blocks[index].origin
    parts: list[Mesh] = []
    for i, b in blocks.items():
        close = b.near if index - 1 <= i <= last + 1 else b.far
        parts += [m.shifted(b.origin - origin) for m in (b.mesh, close)]
    parts.append(terrain(world.place, BLOCK * (index + last + 1) / 2, origin))
    turn = world.route.pose(BLOCK * (index + last + 1) / 2, 0.0, upright=True)[:3, :3]
    mesh = concatenate(parts)
    return Surroundings(
        origin,
        turn,
        Soup(mesh.at(turned(mesh.vertices, turn))),
        np.concatenate([b.lamps for b in blocks.values()]),
        tuple(o for b in blocks.values() for o in b.objects),
    )
