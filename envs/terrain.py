"""Rough ground: one heightfield whose rows of tiles grow harder, and the level at which each robot starts on it.

All robots of a batch share one model and hence one field. Along x lie the levels, along y tiles of equal difficulty.
A robot starts on a tile of its level; the level rises when it has walked as far as it was asked to, and falls when it
fell well short (the game-inspired curriculum of Rudin et al., CoRL 2021, here by progress along the command). Flat
ground is no terrain at all: `make_terrain` gives None for it, and every function here takes that for a floor at z = 0.

Heights are interpolated on the two triangles of each cell that MuJoCo collides with: the diagonal runs from the cell's
corner of least x and y to that of greatest.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class TerrainConfig:
    """The ground, and how robots get to harder ground."""

    kind: Literal["flat", "rough"] = "flat"  # a plane, without any of what follows; or rows of growing roughness
    levels: int = 8  # rows of tiles: from flat ground to the roughest
    lanes: int = 4  # tiles of the same level, side by side
    tile: float = 6.0  # m, edge of a tile
    border: float = 2.0  # m, ground beyond the outermost tiles; a robot that leaves the tiles starts anew
    cell: float = 0.25  # m, between grid points, each of which has a random height
    roughness: float = 0.05  # m, of the hardest level: heights within ± this
    seed: int = 0  # of the heights
    start_levels: int = 3  # first episodes start on one of so many easiest levels
    promote: float = 0.75  # share of the commanded way that an episode must have covered to rise a level
    demote: float = 0.5  # share below which it falls one; what a fall cuts off counts as commanded and not walked

    def __post_init__(self) -> None:
        if self.kind not in ("flat", "rough"):
            raise ValueError(f"TerrainConfig.kind = {self.kind!r}: there are 'flat' and 'rough'.")
        if self.levels < 2 or self.lanes < 1 or not 1 <= self.start_levels <= self.levels:
            raise ValueError("TerrainConfig needs two levels, a lane, and start_levels from 1 to all of them.")
        if not (0 < self.cell <= self.tile) or self.border < self.cell:
            raise ValueError("TerrainConfig needs 0 < cell ≤ tile, and a border of at least a cell.")
        if self.roughness <= 0:
            raise ValueError(f"TerrainConfig.roughness = {self.roughness}: a rough field has heights.")
        if not 0 <= self.demote <= self.promote:
            raise ValueError("TerrainConfig needs 0 ≤ demote ≤ promote.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Walk:
    """One robot's place in the curriculum, and how this episode goes."""

    level: Int[Array, ""]  # on which the episode started
    asked: Float[Array, ""]  # m, way that was commanded so far
    walked: Float[Array, ""]  # m, way along the command


@dataclasses.dataclass(frozen=True, eq=False)
class Terrain:
    """A heightfield centred on the world's origin; made by `make_terrain`."""

    config: TerrainConfig
    heights: Float[np.ndarray, "nrow ncol"]  # m; rows along y, columns along x, both from the least coordinate

    @property
    def half_size(self) -> Float[np.ndarray, " 2"]:
        """Half the extent of the grid in x and y [m]."""
        return 0.5 * self.config.cell * (np.array(self.heights.shape[::-1]) - 1)

    @property
    def half_tiles(self) -> Float[np.ndarray, " 2"]:
        """Half the extent of all tiles in x and y [m]."""
        return 0.5 * self.config.tile * np.array([self.config.levels, self.config.lanes])

    def height(self, xy: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
        """Heights (z) of the ground at world points; beyond the grid, that of its edge."""
        last = np.array(self.heights.shape[::-1]) - 1
        at = jnp.clip((xy + self.half_size) / self.config.cell, 0, last)
        i = jnp.minimum(at.astype(jnp.int32), last - 1)
        x, y = at[..., 0] - i[..., 0], at[..., 1] - i[..., 1]
        column, row = i[..., 0], i[..., 1]
        flat = jnp.asarray(self.heights.reshape(-1), jnp.float32)
        z00, z10, z01, z11 = (
            flat[(row + r) * self.heights.shape[1] + column + c] for r, c in ((0, 0), (0, 1), (1, 0), (1, 1))
        )
        above = z00 + x * (z11 - z01) + y * (z01 - z00)
        below = z00 + x * (z10 - z00) + y * (z11 - z10)
        return jnp.where(y > x, above, below)

    def origin(self, level: Int[Array, "*n"], lane: Int[Array, "*n"]) -> Float[Array, "*n 2"]:
        """Centres of tiles in the plane [m]."""
        tile = jnp.stack([level, lane], axis=-1) + 0.5
        return self.config.tile * tile - self.half_tiles

    def first_walk(self, key: PRNGKeyArray) -> Walk:
        """The first episode of a robot."""
        return Walk(jax.random.randint(key, (), 0, self.config.start_levels), jnp.zeros(()), jnp.zeros(()))

    def next_walk(self, key: PRNGKeyArray, walk: Walk, fallen: Bool[Array, ""], rest: Float[Array, ""]) -> Walk:
        """The episode after one that ended.

        Args:
            key: for the level of a robot that has mastered the hardest: any, so that it forgets none.
            walk: of the episode that ended.
            fallen: it ended in a fall.
            rest: m, way that the command would have asked for in the time that was left.
        """
        config = self.config
        due = walk.asked + jnp.where(fallen, rest, 0.0)
        tells = due >= config.tile / 4  # a robot that was told to stand has shown nothing
        rises = tells & ~fallen & (walk.walked >= config.promote * walk.asked)
        falls = tells & ~rises & (walk.walked < config.demote * due)
        level = walk.level + rises - falls
        anywhere = jax.random.randint(key, (), 0, config.levels)
        level = jnp.where(level >= config.levels, anywhere, jnp.maximum(level, 0))
        return Walk(level.astype(jnp.int32), jnp.zeros(()), jnp.zeros(()))

    def outside(self, xy: Float[Array, "*n 2"]) -> Bool[Array, "*n"]:
        """Whether points are beyond the tiles."""
        return jnp.any(jnp.abs(xy) > self.half_tiles, axis=-1)


def make_terrain(config: TerrainConfig) -> Terrain | None:
    """The terrain of a configuration, always the same for the same configuration; None for flat ground."""
    if config.kind == "flat":
        return None
    tiles = np.array([config.levels, config.lanes])
    ncol, nrow = np.ceil((tiles * config.tile + 2 * config.border) / config.cell).astype(int) + 1
    x = config.cell * (np.arange(ncol) - 0.5 * (ncol - 1))
    level = np.clip(np.floor(x / config.tile + 0.5 * config.levels), 0, config.levels - 1)
    amplitude = config.roughness * level / (config.levels - 1)
    return Terrain(config, amplitude * np.random.default_rng(config.seed).uniform(-1, 1, (nrow, ncol)))


def ground_heights(terrain: Terrain | None, xy: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    """Heights (z) of the ground at world points [m]."""
    return jnp.zeros(xy.shape[:-1]) if terrain is None else terrain.height(xy)


def log_walk(walk: Walk, command: Float[Array, " 3"], v_base: Float[Array, " 3"], dt: float) -> Walk:
    """The walk after one more control step.

    Args:
        walk: before.
        command: v_x, v_y [m/s], ω_z, base yaw frame.
        v_base: velocity of the base in its yaw frame [m/s].
        dt: control period [s].
    """
    speed = jnp.linalg.norm(command[:2])
    along = jnp.where(speed > 0, command[:2] @ v_base[:2] / jnp.maximum(speed, 1e-6), 0.0)
    return dataclasses.replace(walk, asked=walk.asked + dt * speed, walked=walk.walked + dt * along)
