"""The weighted tables of arXiv 2606.05687: base-RL, MPC guidance, and the regularization both share.

A table is a dataclass of weights, one field a term, so that every weight is a flag of the command line. Rewards carry a
positive weight, costs a negative one; a term whose weight is zero is not computed. The defaults are the authors'
released figures but where a comment gives another reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from rewards import guidance, terms
from rewards.context import Context

Term = Callable[[Context], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class BaseWeights:
    """Velocity tracking without the MPC (the base-RL block)."""

    lin_vel: float = 0.0
    ang_vel: float = 0.0
    ang_vel_reg: float = 0.0
    ang_mom_reg: float = 0.0
    foot_slip: float = 0.0
    lin_vel_scale: float = 4.0  # s²/m²
    ang_vel_scale: float = 2.0  # s²/rad²


BASE_RL = BaseWeights(lin_vel=2.0, ang_vel=2.0, ang_vel_reg=-0.05, ang_mom_reg=-0.02, foot_slip=-0.1)
NO_BASE = BaseWeights()


@dataclasses.dataclass(frozen=True)
class GuidanceWeights:
    """The MPC block, and the widths of its kernels."""

    mpc_com: float = 2.0
    mpc_lin_vel: float = 2.0
    mpc_ang_vel: float = 4.0
    mpc_ang_mom: float = -0.05
    mpc_foot: float = 1.0
    mpc_grf: float = -0.002
    com_scale: float = 1.0  # 1/m²
    lin_vel_scale: float = 4.0  # s²/m²
    ang_vel_scale: float = 2.0  # s²/rad²
    foot_sigma: float = 0.2  # m


MPC_GUIDANCE = GuidanceWeights()
NO_GUIDANCE = GuidanceWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class RegularizationWeights:
    """The block that is identical with and without the MPC."""

    upright: float = 1.0
    pose: float = 1.0
    gait: float = 1.0
    foot_flat: float = 1.0
    foot_clear: float = -4.0
    foot_height: float = -0.25
    foot_swing: float = 0.0  # ours
    mean_lin_vel: float = 0.0  # ours
    mean_ang_vel: float = 0.0  # ours
    stand_still: float = -4.0
    action_rate: float = -0.25
    joint_lim: float = -1.0
    soft_land: float = -1e-5
    feet_near: float = -0.5
    self_coll: float = -4.0  # released: −1 for each of the four physics steps in which a pair presses


@dataclasses.dataclass(frozen=True)
class Tables:
    """All weights of a task; the reward is their sum times the control period, so a weight is a rate per second."""

    base: BaseWeights = NO_BASE
    mpc: GuidanceWeights = MPC_GUIDANCE
    regularization: RegularizationWeights = RegularizationWeights()


def weighted_terms(tables: Tables) -> dict[str, tuple[float, Term]]:
    """Every term with a weight that is not zero, by name."""
    base, mpc = tables.base, tables.mpc
    functions: dict[str, Term] = {
        "lin_vel": partial(terms.lin_vel, scale=base.lin_vel_scale),
        "ang_vel": partial(terms.ang_vel, scale=base.ang_vel_scale),
        "ang_vel_reg": terms.ang_vel_reg,
        "ang_mom_reg": terms.ang_mom_reg,
        "foot_slip": terms.foot_slip,
        **{f.name: getattr(terms, f.name) for f in dataclasses.fields(RegularizationWeights)},
        "mpc_com": partial(guidance.mpc_com, scale=mpc.com_scale),
        "mpc_lin_vel": partial(guidance.mpc_lin_vel, scale=mpc.lin_vel_scale),
        "mpc_ang_vel": partial(guidance.mpc_ang_vel, scale=mpc.ang_vel_scale),
        "mpc_ang_mom": guidance.mpc_ang_mom,
        "mpc_foot": partial(guidance.mpc_foot, sigma=mpc.foot_sigma),
        "mpc_grf": guidance.mpc_grf,
    }
    weights: dict[str, float] = {}
    for block in (tables.base, tables.mpc, tables.regularization):
        weights |= {name: w for name, w in dataclasses.asdict(block).items() if name in functions}
    return {name: (w, functions[name]) for name, w in weights.items() if w != 0.0}


def guidance_terms(tables: Tables) -> tuple[str, ...]:
    """Names of the terms with a weight that follow the MPC's plan."""
    return tuple(name for name, weight in dataclasses.asdict(tables.mpc).items() if name[:4] == "mpc_" and weight != 0)


def evaluate(tables: Tables, ctx: Context, dt: float) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The reward of one control step.

    Args:
        tables: the weights.
        ctx: one robot's context.
        dt: the control period [s].

    Returns:
        The reward, Σ weight · term · dt, and each weighted term (per second, so that terms compare across rates).
    """
    parts = {name: weight * term(ctx) for name, (weight, term) in weighted_terms(tables).items()}
    total = sum(parts.values(), jnp.zeros(()))
    return total * dt, parts
