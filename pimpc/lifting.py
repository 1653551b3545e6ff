"""The velocity form of a problem, scaled, with the matrices that πⁿMPC inverts once (see `pimpc.pi_admm`).

Scaled units make the weights of the first stage one: x̂ = Q_0^½ x, û = R_0^½ u (diagonals; a zero weight scales by one).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pimpc.constraints import bounds, make_rows
from pimpc.problem import LTVProblem, as_matrices
from pimpc.projection import Polyhedron, make_polyhedron
from pimpc.residuals import fixed_inputs

_HIGHEST = jax.lax.Precision.HIGHEST


class Lifted(NamedTuple):
    """The problem in velocity form and scaled units, with what every iteration reuses."""

    A: Float[Array, "N nx nx"]
    B: Float[Array, "N nx nu"]
    e: Float[Array, "N nx"]
    start: Float[Array, " nz"]  # x̄_0
    linear: Float[Array, "N nz"]  # q̄
    gain: Float[Array, "N nu nz"]  # (S/ρ + B̄ᵀB̄)⁻¹ B̄ᵀ
    inverse: Float[Array, "N nz nz"]  # (Q̄ + ρI + ρĀᵀĀ)⁻¹ of x̄_1 … x̄_N
    lower: Float[Array, "N nz"]
    upper: Float[Array, "N nz"]
    cones: Polyhedron | None
    unit: Float[Array, " nz"]  # scaled units per unit of the problem


def lift(problem: LTVProblem, penalty: float) -> Lifted:
    """Scales a problem by the weights of its first stage, lifts it and factorizes what the iterations reuse.

    Args:
        problem: One problem without a `horizon`.
        penalty: The penalty ρ, in scaled units.

    Returns:
        The lifted problem.
    """
    N, nx, nu = problem.B.shape
    Q, R, S = as_matrices(problem.Q), as_matrices(problem.R), as_matrices(problem.S)
    weight = jnp.concatenate([jnp.diagonal(Q[0]), jnp.diagonal(R[0])])
    unit = jnp.sqrt(jnp.where(weight > 0, weight, 1))
    tx, tu = unit[:nx], unit[nx:]
    A, B = problem.A * tx[:, None] / tx, problem.B * tx[:, None] / tu
    eye, rho = jnp.eye(nx + nu, dtype=A.dtype), penalty
    weights = jax.vmap(jax.scipy.linalg.block_diag)(Q, R) / (unit[:, None] * unit)
    reference = jnp.concatenate([problem.x_ref, problem.u_ref], axis=1) * unit
    drift = jax.vmap(lambda a, b: jnp.block([[a, b], [jnp.zeros((nu, nx), a.dtype), jnp.eye(nu, dtype=a.dtype)]]))(A, B)
    follow = jnp.concatenate([drift[1:], jnp.zeros_like(drift[:1])])  # nothing follows x̄_N
    normal = weights + rho * (eye + jnp.einsum("kji,kjl->kil", follow, follow, precision=_HIGHEST))
    push = jnp.einsum("kji,kjl->kil", B, B, precision=_HIGHEST) + jnp.eye(nu, dtype=A.dtype)
    push += S / (tu[:, None] * tu) / rho
    drive = jnp.concatenate([B.transpose(0, 2, 1), jnp.broadcast_to(jnp.eye(nu, dtype=A.dtype), (N, nu, nu))], axis=2)
    lower, upper = _boxes(problem, unit)
    return Lifted(
        A,
        B,
        problem.e * tx,
        jnp.concatenate([problem.x0, problem.u_prev]) * unit,
        jnp.einsum("kij,kj->ki", weights, reference, precision=_HIGHEST),
        jnp.linalg.solve(push, drive),
        jnp.linalg.inv(normal),
        lower,
        upper,
        _cones(problem, tu),
        unit,
    )


def _boxes(problem: LTVProblem, unit: Float[Array, " nz"]) -> tuple[Float[Array, "N nz"], Float[Array, "N nz"]]:
    """The bounds of x̄_1 … x̄_N in scaled units."""

    def side(states: Array | None, inputs: Array | None, missing: float) -> Array:
        states = jnp.full_like(problem.x_ref, missing) if states is None else states
        inputs = jnp.full_like(problem.u_ref, missing) if inputs is None else inputs
        return jnp.concatenate([states, inputs], axis=1) * unit

    return side(problem.x_min, problem.u_min, -jnp.inf), side(problem.x_max, problem.u_max, jnp.inf)


def _cones(problem: LTVProblem, tu: Float[Array, " nu"]) -> Polyhedron | None:
    """The inputs that each stage allows, in scaled units; None if boxes say it all."""
    if problem.G is None:
        return None
    N, _, nu = problem.B.shape
    stage = make_rows(problem, jnp.ones((N, nu), bool)).stage
    lower, upper = (side[: stage.shape[0] * stage.shape[1]].reshape(stage.shape[:2]) for side in bounds(problem))
    anchor = jnp.zeros_like(problem.u_ref) if problem.u_min is None else problem.u_min * tu
    return jax.vmap(make_polyhedron)(stage / tu, lower, upper, ~fixed_inputs(problem), anchor)
