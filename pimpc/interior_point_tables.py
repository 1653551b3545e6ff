"""What the passes of `pimpc.interior_point_warp` share: tables, and the bounds as sides C (u_k, x_{k+1}) ≤ limit.

All bounds are treated alike: the lower ones negated, the upper ones, the rows of G.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from pimpc.lanes import WARP, Cells, Lanes, Row, Table, add_scaled, load, store
from pimpc.riccati_warp import Outer


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes and settings known when the kernel is built."""

    nu: int
    bounded: int  # how many of the columns (u, x) have bounds
    max_iterations: int
    tolerance: float
    boundary: float
    blocks: tuple[tuple[int, int], ...] | None = None  # (rows, columns) of the blocks of G


class Sides(NamedTuple):
    """One number a side in each field, at one stage."""

    has: list[Array]
    s: Row
    z: Row
    delta: Row
    off: Row  # how far s is from the distance to the bound
    yields: Row  # 1 / (s + δ z)


class Tables(NamedTuple):
    """What the passes share, each (problems, stages, rows, columns)."""

    BA: Table  # nx rows of [B_k, A_k]
    cost: Table  # on (u_k, x_{k+1}): weight, reference, weight of the rates, 1 where an input is free
    G: Table  # its rows, those of different blocks side by side (see `unfold`)
    limit: Table  # of each side, infinite: none
    delta: Table
    slack: Table
    force: Table
    point: Table  # (u_{k−1}, x_k) in stage k
    at: Table  # G_k u_k
    status: Table  # one stage, `Status`
    T: Table  # swept Hessians
    t: Table  # swept linear terms of the predictor
    pulled: Table  # what the corrector adds to the gradient, for each unit of the centre and besides
    t_more: Table  # what it adds to t
    change: Table  # ds · dz of the predictor, then dz of the step
    move: Table  # (du_k, dx_{k+1})
    climb: Table  # G_k du_k
    size: Table  # one stage: the largest |G_k| |u_k| of each row


class Status(NamedTuple):
    """What the passes tell each other of a problem, in rows of the table `status`."""

    running: Array  # 1 while it iterates
    iterations: Array
    unbalanced: Array  # what the gradient of the Lagrangian may still cost
    count: Array  # of the bounds
    least: Array  # below it, the size of an input counts as this
    centre: Array  # what s z is aimed at
    step: Array


def read_status(of: Tables) -> Status:
    """The status of a warp's problems."""
    return Status(*(row[0] for row in load(of.status.lanes, of.status.all_rows(0))))


def write_status(status: Table, of: Status) -> None:
    """Writes it."""
    store(status.lanes, status.all_rows(0), [[v] for v in of])


def values(shape: Shape, lanes: Lanes, point: Row, at: Row) -> Row:
    """What the sides bound."""
    bounded = point[: lanes.chunks(shape.bounded)]
    return [-v for v in bounded] + bounded + at


def unfold(shape: Shape, lanes: Lanes, lines: list[Row]) -> list[Outer]:
    """The rows of G, zero outside of their blocks, with the columns that may be other than zero."""
    if shape.blocks is None:
        return [Outer(line, range(shape.nu)) for line in lines]
    rows, first = [], 0
    for count, columns in shape.blocks:
        touched = range(first, first + columns)
        chunks = range(lanes.chunks(touched.stop))
        here = [(lanes.column(c) >= touched.start) & (lanes.column(c) < touched.stop) for c in chunks]
        rows += [
            Outer([jnp.where(h, v, 0.0) for h, v in zip(here, line, strict=False)], touched) for line in lines[:count]
        ]
        first = touched.stop
    return rows


def barrier_cells(of: Tables, k: Any) -> list[Cells]:
    """Where what `sides` asks for is kept: limit, δ, slack and force."""
    return [of.limit.row(k), of.delta.row(k), of.slack.row(k), of.force.row(k)]


def pull(shape: Shape, lanes: Lanes, push: Row, G: list[Outer]) -> Row:
    """Cᵀ push on the columns (u, x), as far as any are pushed."""
    chunks = lanes.chunks(shape.bounded)
    pulled = [above - below for below, above in zip(push[:chunks], push[chunks : 2 * chunks], strict=True)]
    pulled += [jnp.zeros(WARP, jnp.float32)] * (lanes.chunks(shape.nu) - chunks)
    for r, row in enumerate(G):
        pulled = add_scaled(pulled, lanes.spread(push[2 * chunks :], r), row.row)
    return pulled


def sides(shape: Shape, lanes: Lanes, bounds: list[Row], pair: list[Row], point: Row, at: Row) -> Sides:
    """The sides of a stage, from (limit, δ), (s, z), the plan and the rows' values."""
    (limit, delta), (s, z) = bounds, pair
    has = [v < jnp.inf for v in limit]
    value = values(shape, lanes, point, at)
    off = [jnp.where(h, v - b + d, 0.0) for h, v, b, d in zip(has, value, limit, s, strict=True)]
    return Sides(has, s, z, delta, off, [1.0 / (a + d * b) for a, b, d in zip(s, z, delta, strict=True)])
