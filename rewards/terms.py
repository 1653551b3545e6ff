"""Reward terms without the MPC: velocity tracking (the base-RL table) and the regularization shared by both tables.

Each is a pure function of one `Context`, bounded in [0, 1] if it is a reward and non-negative if it is a cost (the
tables give costs a negative weight). Source: arXiv 2606.05687, table of section IV-C, with the expressions and scales
of the authors' release.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from rewards.context import Context

Scalar = Float[Array, ""]


def lin_vel(ctx: Context, scale: float = 4.0) -> Scalar:
    """exp(−scale (‖v_cmd − v_xy‖² + v_z²)): tracking of the commanded velocity, base yaw frame; scale [s²/m²]."""
    error = jnp.sum((ctx.command[:2] - ctx.v_base[:2]) ** 2) + ctx.v_base[2] ** 2
    return jnp.exp(-scale * error)


def ang_vel(ctx: Context, scale: float = 2.0) -> Scalar:
    """exp(−scale ((ω_cmd − ω_z)² + ‖ω_xy‖²)): tracking of the commanded turning rate; scale [s²/rad²]."""
    error = (ctx.command[2] - ctx.w_base[2]) ** 2 + jnp.sum(ctx.w_base[:2] ** 2)
    return jnp.exp(-scale * error)


def ang_vel_reg(ctx: Context) -> Scalar:
    """‖ω_xy‖²: rolling and pitching of the base [rad²/s²]."""
    return jnp.sum(ctx.w_base[:2] ** 2)


def ang_mom_reg(ctx: Context) -> Scalar:
    """‖k‖²: whole-body angular momentum about the CoM [kg² m⁴/s²]."""
    return jnp.sum(ctx.angular_momentum**2)


def foot_slip(ctx: Context) -> Scalar:
    """Σ ‖v_foot,xy‖² of the feet in contact [m²/s²]."""
    return jnp.sum(jnp.sum(ctx.v_world_foot[:, :2] ** 2, axis=-1) * ctx.contact)


def upright(ctx: Context) -> Scalar:
    """exp(−‖g_xy‖²/0.2), g the gravity direction in the base frame."""
    return jnp.exp(-jnp.sum(ctx.gravity_base[:2] ** 2) / 0.2)


def pose(ctx: Context) -> Scalar:
    """exp(−mean_j ((q − q₀)/s)²), s the joint's tolerance at this speed."""
    return jnp.exp(-jnp.mean(((ctx.q - ctx.q_default) / ctx.q_std) ** 2))


def gait(ctx: Context) -> Scalar:
    """Share of feet whose contact agrees with the phase clock; 0 when standing."""
    agree = jnp.mean(ctx.scheduled_stance == ctx.contact, dtype=ctx.q.dtype)
    return jnp.where(ctx.moving, agree, 0.0)


def foot_flat(ctx: Context) -> Scalar:
    """Mean over feet of exp(−sin²θ/0.3), θ the tilt of the sole.

    For small tilts this is the released exp(−2(q_x² + q_y²)/0.15) without its dependence on the foot's yaw.
    """
    return jnp.mean(jnp.exp(-(ctx.tilt_foot**2) / 0.3))


def foot_clear(ctx: Context, target: float = 0.15) -> Scalar:
    """Σ |z − target|·‖v_xy‖ of the feet: a foot that travels should travel at height [m²/s]; 0 when standing."""
    speed = jnp.linalg.norm(ctx.v_world_foot[:, :2], axis=-1)
    cost = jnp.sum(jnp.abs(ctx.foot_height - target) * speed)
    return jnp.where(ctx.moving, cost, 0.0)


def foot_height(ctx: Context, target: float = 0.1) -> Scalar:
    """Σ (peak/target − 1)² at touchdown: each swing should have reached `target` [m]; 0 when standing."""
    cost = jnp.sum((ctx.peak_height / target - 1.0) ** 2 * ctx.touchdown)
    return jnp.where(ctx.moving, cost, 0.0)


def foot_swing(ctx: Context, height: float = 0.1, sigma: float = 0.07) -> Scalar:
    """Mean over feet of exp(−(z − z*)²/σ²), z* = height · sin²(π s) over the swing s: feet lift when it is time [m].

    Not in the papers. `gait` says only that a foot should be up, which a robot that stands finds hard to discover; this
    has a slope from the first millimetre. 0 when standing.
    """
    target = height * jnp.sin(jnp.pi * ctx.swing_fraction) ** 2
    near = jnp.exp(-(((ctx.foot_height - target) / sigma) ** 2))
    return jnp.where(ctx.moving, jnp.mean(near), 0.0)


def mean_lin_vel(ctx: Context, sigma: float = 0.15) -> Scalar:
    """1/(1 + ‖ē‖²/σ²), ē the mean velocity error over about a gait cycle: steady tracking [m/s].

    Not in the papers. The sway of a gait moves the momentary velocity by more than a command should be missed by; the
    mean leaves it out, so its kernel can be narrow. The tails still have a slope where exp(−e²/σ²) has none.
    """
    return 1.0 / (1.0 + jnp.sum(ctx.mean_error[:2] ** 2) / sigma**2)


def mean_ang_vel(ctx: Context, sigma: float = 0.25) -> Scalar:
    """1/(1 + ē²/σ²), ē the mean yaw-rate error over about a gait cycle [rad/s]; not in the papers."""
    return 1.0 / (1.0 + ctx.mean_error[2] ** 2 / sigma**2)


def stand_still(ctx: Context) -> Scalar:
    """Σ (q − q₀)² when the command is to stand [rad²]."""
    return jnp.where(ctx.moving, 0.0, jnp.sum((ctx.q - ctx.q_default) ** 2))


def action_rate(ctx: Context) -> Scalar:
    """‖a_t − a_{t−1}‖²."""
    return jnp.sum((ctx.action - ctx.last_action) ** 2)


def joint_lim(ctx: Context) -> Scalar:
    """Overshoot of the soft joint limits, L1 [rad]."""
    return jnp.sum(jnp.maximum(ctx.q_lower - ctx.q, 0.0) + jnp.maximum(ctx.q - ctx.q_upper, 0.0))


def soft_land(ctx: Context) -> Scalar:
    """Σ ‖f‖ of the feet that touch down in this step [N]; 0 when standing."""
    cost = jnp.sum(jnp.linalg.norm(ctx.f_world_foot, axis=-1) * ctx.touchdown)
    return jnp.where(ctx.moving, cost, 0.0)


def feet_near(ctx: Context, minimum: float = 0.15) -> Scalar:
    """max(0, minimum − horizontal distance of the feet) [m]."""
    distance = jnp.linalg.norm(ctx.p_world_foot[0, :2] - ctx.p_world_foot[1, :2])
    return jnp.maximum(0.0, minimum - distance)


def self_coll(ctx: Context) -> Scalar:
    """Number of pairs of limbs that overlap."""
    return jnp.sum(ctx.limb_gaps < 0.0, dtype=ctx.q.dtype)
