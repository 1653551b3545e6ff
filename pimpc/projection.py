"""Euclidean projection on the inputs that one stage allows: a polyhedron {u : lower ≤ C u ≤ upper}.

ADMM on min ½‖u − p‖² with unit-norm rows, the matrix inverted once. Warm-started multipliers make a few iterations
enough when p moves little, as inside an outer iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_HIGHEST = jax.lax.Precision.HIGHEST


class Polyhedron(NamedTuple):
    """The set {u : lower ≤ C u ≤ upper, u_j = anchor_j where not free}, prepared for projections."""

    C: Float[Array, "M nu"]  # unit rows on the free inputs, zero rows where a constraint cannot bind
    lower: Float[Array, " M"]
    upper: Float[Array, " M"]
    norm: Float[Array, " M"]  # of the rows before they were scaled; 0 where a constraint cannot bind
    inverse: Float[Array, "nu nu"]  # (I + CᵀC)⁻¹
    free: Bool[Array, " nu"]
    anchor: Float[Array, " nu"]


def make_polyhedron(
    C: Float[Array, "M nu"],
    lower: Float[Array, " M"],
    upper: Float[Array, " M"],
    free: Bool[Array, " nu"],
    anchor: Float[Array, " nu"],
) -> Polyhedron:
    """Prepares a set for projections.

    Args:
        C: Rows.
        lower: Lower bounds of the rows, −inf where there is none.
        upper: Upper bounds of the rows, +inf where there is none.
        free: Inputs that may move.
        anchor: Values of the inputs that may not.

    Returns:
        The prepared set.
    """
    anchor = jnp.where(free, 0, anchor)
    moved = C * free
    norm = jnp.sqrt(jnp.sum(moved**2, axis=1))
    live: Array = (norm > 0) & ((lower > -jnp.inf) | (upper < jnp.inf))
    norm = norm * live
    per = live / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    rows = moved * per[:, None]
    offset = jnp.matmul(C, anchor, precision=_HIGHEST)
    lower = jnp.where(live, (lower - offset) * per, -jnp.inf)
    upper = jnp.where(live, (upper - offset) * per, jnp.inf)
    normal = jnp.eye(C.shape[1], dtype=C.dtype) + jnp.matmul(rows.T, rows, precision=_HIGHEST)
    return Polyhedron(rows, lower, upper, norm, jnp.linalg.inv(normal), free, anchor)


def project(
    point: Float[Array, " nu"], on: Polyhedron, multiplier: Float[Array, " M"], iterations: int
) -> tuple[Float[Array, " nu"], Float[Array, " M"]]:
    """Projects a point.

    Args:
        point: The point p.
        on: The set.
        multiplier: Multipliers of the scaled rows to start from, zero if nothing is known.
        iterations: Number of iterations.

    Returns:
        The projection, and multipliers y of the scaled rows with p − projection = Cᵀ y on the free inputs.
    """
    target = jnp.where(on.free, point, 0)

    def iterate(_: Array | int, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        z, y = carry[1:]
        u = jnp.matmul(on.inverse, target + jnp.matmul(z - y, on.C, precision=_HIGHEST), precision=_HIGHEST)
        w = 1.6 * jnp.matmul(on.C, u, precision=_HIGHEST) - 0.6 * z
        z = jnp.clip(w + y, on.lower, on.upper)
        return u, z, y + w - z

    z = jnp.clip(
        jnp.matmul(on.C, target - jnp.matmul(multiplier, on.C, precision=_HIGHEST), precision=_HIGHEST),
        on.lower,
        on.upper,
    )
    u, _, y = jax.lax.fori_loop(0, iterations, iterate, (target, z, multiplier))
    return u * on.free + on.anchor, y
