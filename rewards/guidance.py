"""Reward terms that follow the MPC's plan (arXiv 2606.05687, section II-C and the MPC block of the table in IV-C).

An MPC term is zero when no successful solve speaks of the present: its instance then earns no guidance, and loses none
of the other terms.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from rewards.context import Context

Scalar = Float[Array, ""]


def _landmark_sum(ctx: Context, squared_error: Float[Array, " L"]) -> Scalar:
    """Σ_ℓ α_ℓ e_ℓ² over the landmarks at hand, eq. (13)."""
    return jnp.sum(ctx.guidance.weight * squared_error)


def _where_guided(ctx: Context, value: Scalar) -> Scalar:
    return jnp.where(ctx.guidance.has_landmark, value, 0.0)


def _spin(inertia: Float[Array, "3 3"], angular_momentum: Float[Array, "L 3"]) -> Float[Array, "L 3"]:
    """I⁻¹ k by Cramer's rule: a batch of tiny factorizations takes a GPU ten kernels."""
    a, b, c = inertia
    adjugate = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return jnp.sum(adjugate * angular_momentum[:, None], axis=-1) / jnp.sum(a * adjugate[:, 0])


def mpc_com(ctx: Context, scale: float) -> Scalar:
    """exp(−scale Σ α ‖c − ĉ‖²), eq. (13); scale = 1/σ² [1/m²]."""
    error = jnp.sum((ctx.p_world_com - ctx.guidance.p_world_com) ** 2, axis=-1)
    return _where_guided(ctx, jnp.exp(-scale * _landmark_sum(ctx, error)))


def mpc_lin_vel(ctx: Context, scale: float) -> Scalar:
    """exp(−scale Σ α ‖(l − l̂)/m‖²): velocity of the CoM; scale [s²/m²]."""
    error = jnp.sum((ctx.linear_momentum - ctx.guidance.linear_momentum) ** 2, axis=-1) / ctx.mass**2
    return _where_guided(ctx, jnp.exp(-scale * _landmark_sum(ctx, error)))


def mpc_ang_vel(ctx: Context, scale: float) -> Scalar:
    """exp(−scale Σ α ‖ω − I⁻¹k̂‖²): base rates against the plan's momentum, world frame; scale [s²/rad²].

    In the authors' release, not in the paper's table.
    """
    w_plan = _spin(ctx.inertia, ctx.guidance.angular_momentum)
    error = jnp.sum((ctx.w_world - w_plan) ** 2, axis=-1)
    return _where_guided(ctx, jnp.exp(-scale * _landmark_sum(ctx, error)))


def mpc_ang_mom(ctx: Context) -> Scalar:
    """Σ α (‖k − k̂‖² + 0.01 ‖k̇ − k̇̂‖²_W), W = diag(0.1, 0.1, 0.05): a cost [kg² m⁴/s²]."""
    error = jnp.sum((ctx.angular_momentum - ctx.guidance.angular_momentum) ** 2, axis=-1)
    rate = (ctx.angular_momentum_rate - ctx.guidance.angular_momentum_rate) ** 2 @ jnp.array([0.1, 0.1, 0.05])
    return _where_guided(ctx, _landmark_sum(ctx, error + 0.01 * rate))


def mpc_foot(ctx: Context, sigma: float) -> Scalar:
    """Mean over swing feet with a target of exp(−‖r_xy − r*_xy‖²/σ²); 1 if there is none; σ [m].

    A swing foot is one that the clock says should swing: a foot that stays down then misses its target.
    """
    error = jnp.sum((ctx.p_world_foot[:, :2] - ctx.guidance.p_world_landing[:, :2]) ** 2, axis=-1)
    counted = ctx.guidance.landing_valid & ~ctx.scheduled_stance & ctx.moving
    count = jnp.sum(counted)
    mean = jnp.sum(jnp.where(counted, jnp.exp(-error / sigma**2), 0.0)) / jnp.maximum(count, 1)
    return jnp.where(ctx.guidance.solved, jnp.where(count > 0, mean, 1.0), 0.0)


def mpc_grf(ctx: Context) -> Scalar:
    """Root mean square of measured minus planned foot forces, six components: a cost [N]."""
    error = jnp.sqrt(jnp.mean((ctx.f_world_foot - ctx.guidance.f_world_foot) ** 2))
    return jnp.where(ctx.guidance.solved, error, 0.0)
