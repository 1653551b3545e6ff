"""What is known of the constraints, as flat rows, before an iterative method starts (see `pimpc.constraints`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import riccati
from pimpc.choice import Kernels
from pimpc.constraints import bounds, flatten, unflatten
from pimpc.problem import LTVProblem, as_matrices, curvature
from pimpc.residuals import Multipliers, fixed_inputs, zero_multipliers

_HIGHEST = jax.lax.Precision.HIGHEST


class Rows(NamedTuple):
    """What is known of the M rows before the first iteration."""

    lower: Float[Array, " M"]
    upper: Float[Array, " M"]
    compliance: Float[Array, " M"]  # C_i W C_iᵀ, W diagonal; 0 if no free input moves the row
    below: Bool[Array, " M"]  # has a finite lower bound that may bind
    above: Bool[Array, " M"]
    equal: Bool[Array, " M"]  # both bounds coincide: neither `below` nor `above`
    count: Float[Array, ""]  # of the finite bounds, at least 1


def measure(problem: LTVProblem) -> Rows:
    """The bounds of all rows and how far a unit of force moves each, inputs yielding as the Hessian's diagonal says."""
    give = jnp.where(fixed_inputs(problem), 0, 1 / curvature(problem))

    def spread(P: Array, stage: tuple[Array, ...]) -> tuple[Array, Array]:
        A, B, give = stage
        P = jnp.matmul(A, jnp.matmul(P, A.T, precision=_HIGHEST), precision=_HIGHEST)
        P += jnp.matmul(B * give, B.T, precision=_HIGHEST)
        return P, jnp.diagonal(P)

    rows = None if problem.G is None else jnp.einsum("kij,kj->ki", problem.G**2, give, precision=_HIGHEST)
    start = jnp.zeros_like(problem.A[0])
    unit = zero_multipliers(problem)
    compliance = flatten(
        problem,
        Multipliers(
            rows,
            None if unit.inputs is None else give,
            None if unit.states is None else jax.lax.scan(spread, start, (problem.A, problem.B, give))[1],
        ),
    )
    lower, upper = bounds(problem)
    equal = (compliance > 0) & (lower == upper)
    below = (compliance > 0) & (lower > -jnp.inf) & ~equal
    above = (compliance > 0) & (upper < jnp.inf) & ~equal
    count = jnp.sum(below, dtype=lower.dtype) + jnp.sum(above, dtype=lower.dtype)
    return Rows(lower, upper, compliance, below, above, equal, jnp.maximum(count, 1))


def pull(problem: LTVProblem, push: Float[Array, " M"]) -> tuple[Float[Array, "N nx"], Float[Array, "N nu"]]:
    """Cᵀ push, the dynamics not eliminated: on the states x_1 … x_N and on the inputs."""
    by = unflatten(problem, push)
    l_u = jnp.zeros_like(problem.u_ref) if by.inputs is None else by.inputs
    if by.rows is not None and problem.G is not None:
        l_u = l_u + jnp.einsum("kij,ki->kj", problem.G, by.rows, precision=_HIGHEST)
    return (jnp.zeros_like(problem.x_ref) if by.states is None else by.states), l_u


def factorize(problem: LTVProblem, D: Float[Array, " M"], kernels: Kernels = "xla") -> riccati.Factors:
    """Factorizes the Hessian + Cᵀ D C."""
    Q, R = as_matrices(problem.Q), as_matrices(problem.R)
    on = unflatten(problem, D)
    if on.rows is not None and problem.G is not None:
        R = R + jnp.einsum("kij,kil->kjl", problem.G, on.rows[:, :, None] * problem.G, precision=_HIGHEST)
    R = R if on.inputs is None else R + jax.vmap(jnp.diag)(on.inputs)
    Q = Q if on.states is None else Q + jax.vmap(jnp.diag)(on.states)
    free = ~fixed_inputs(problem)
    return riccati.factorize(problem.A, problem.B, Q, R, problem.S, free, kernels)
