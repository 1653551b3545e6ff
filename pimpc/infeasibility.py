"""Proofs that no inputs satisfy the constraints."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.constraints import values
from pimpc.problem import LTVProblem
from pimpc.residuals import costates, fixed_inputs
from pimpc.rows import Rows, pull

_HIGHEST = jax.lax.Precision.HIGHEST


def contradicts(problem: LTVProblem, rows: Rows, at: Array, reach: Array, tolerance: float) -> Bool[Array, ""]:
    """Whether bounds exclude each other, or what no free input moves."""
    short, over = (jnp.where(jnp.isfinite(b), jnp.abs(b), 0) for b in (rows.lower, rows.upper))
    above, below = at - rows.upper - tolerance * (reach + over), rows.lower - at - tolerance * (reach + short)
    return jnp.any((rows.lower > rows.upper) | ((jnp.maximum(above, below) > 0) & (rows.compliance <= 0)))


def certifies(
    problem: LTVProblem,
    rows: Rows,
    x: Float[Array, "T nx"],
    u: Float[Array, "N nu"],
    step: Float[Array, " M"],
    natural: Float[Array, " nu"],
) -> Bool[Array, ""]:
    """Whether a step of the multipliers proves that no inputs of comparable size are feasible (Farkas' lemma).

    Every feasible correction δ of the inputs has stepᵀ C δ ≤ support(step); if the support is negative and Cᵀ step
    vanishes, there is none. With Cᵀ step merely small, there is none within a thousand times `natural`, the size
    of the inputs at the start, or the inputs' own size.
    """
    at = values(problem, x, u)
    ahead = jnp.where(step > 0, rows.upper - at, at - rows.lower)
    # What points at an infinite bound proves nothing, but the rest of the step may still prove something.
    live = (step != 0) & (rows.below | rows.above | rows.equal) & jnp.isfinite(ahead)
    step, ahead = jnp.where(live, step, 0), jnp.where(live, ahead, 0)
    support = jnp.sum(jnp.abs(step) * ahead)
    size = jnp.sum(jnp.abs(step) * jnp.maximum(jnp.abs(at), jnp.abs(ahead)))
    l_x, pulled = pull(problem, step)
    if problem.x_min is not None or problem.x_max is not None:
        pulled = pulled + jnp.einsum("kij,ki->kj", problem.B, costates(problem.A, l_x), precision=_HIGHEST)
    radius = 1e3 * jnp.maximum(jnp.max(jnp.abs(u), axis=0), natural)
    reach = jnp.sum(jnp.where(fixed_inputs(problem), 0, jnp.abs(pulled)) * radius)
    return (support < 0) & (-support > reach) & (-support > 1e-3 * size)
