"""What is known of the constraints, as flat rows, before an iterative method starts (see `pimpc.constraints`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import riccati_xla
from pimpc.constraints import bounds, flatten, unflatten
from pimpc.problem import LTVProblem, as_matrices, weigh
from pimpc.residuals import Multipliers, fixed_inputs, zero_multipliers

_HIGHEST = jax.lax.Precision.HIGHEST


class Rows(NamedTuple):
    """What is known of the M rows before the first iteration."""

    lower: Float[Array, " M"]
    upper: Float[Array, " M"]
    compliance: Float[Array, " M"]  # C_i W C_iᵀ; 0 if no free input moves the row
    below: Bool[Array, " M"]  # has a finite lower bound that may bind
    above: Bool[Array, " M"]
    equal: Bool[Array, " M"]  # both bounds coincide: neither `below` nor `above`
    count: Float[Array, ""]  # of the finite bounds, at least 1


def measure(problem: LTVProblem) -> Rows:
    """The bounds of all rows and how far a unit of force moves each."""
    free = ~fixed_inputs(problem)
    stiffness = as_matrices(problem.R) + as_matrices(problem.S)
    stiffness = stiffness.at[:-1].add(as_matrices(problem.S)[1:])
    weighed = jax.vmap(weigh, in_axes=(None, 2), out_axes=2)(problem.Q, problem.B)
    tracking = jnp.einsum("kij,kil->kjl", problem.B, weighed, precision=_HIGHEST)
    W = jax.vmap(riccati_xla.inverse)(stiffness + tracking, free)

    def spread(P: Array, stage: tuple[Array, ...]) -> tuple[Array, Array]:
        A, B, W = stage
        P = _sandwich(A, P) + _sandwich(B, W)
        return P, jnp.diagonal(P)

    rows = None
    if problem.G is not None:
        rows = jnp.sum(jnp.einsum("kij,kjl->kil", problem.G, W, precision=_HIGHEST) * problem.G, axis=2)
    start = jnp.zeros_like(problem.A[0])
    unit = zero_multipliers(problem)
    compliance = flatten(
        problem,
        Multipliers(
            rows,
            None if unit.inputs is None else jax.vmap(jnp.diagonal)(W),
            None if unit.states is None else jax.lax.scan(spread, start, (problem.A, problem.B, W))[1],
        ),
    )
    lower, upper = bounds(problem)
    equal = (compliance > 0) & (lower == upper)
    below = (compliance > 0) & (lower > -jnp.inf) & ~equal
    above = (compliance > 0) & (upper < jnp.inf) & ~equal
    count = jnp.sum(below, dtype=lower.dtype) + jnp.sum(above, dtype=lower.dtype)
    return Rows(lower, upper, compliance, below, above, equal, jnp.maximum(count, 1))


def _sandwich(C: Array, W: Array) -> Array:
    return jnp.matmul(C, jnp.matmul(W, C.T, precision=_HIGHEST), precision=_HIGHEST)


def pull(problem: LTVProblem, push: Float[Array, " M"]) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"]]:
    """Cᵀ push, the dynamics not eliminated: on the states x_1 … x_N and on the inputs."""
    by = unflatten(problem, push)
    l_u = jnp.zeros_like(problem.u_ref) if by.inputs is None else by.inputs
    if by.rows is not None and problem.G is not None:
        l_u = l_u + jnp.einsum("kij,ki->kj", problem.G, by.rows, precision=_HIGHEST)
    return (jnp.zeros_like(problem.x_ref) if by.states is None else by.states), l_u
