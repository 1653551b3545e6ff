"""The centroidal model walking in closed loop under its own MPC, with horizons and kicks side by side in one program.

Every stage the MPC is solved anew and its first wrenches are applied to the centroidal dynamics, with the true lever
arms; a foot in the air is where the foothold rule wants it. Nothing limits legs, joints or swing speeds: this shows
what the horizon does to the controller, not what a robot survives.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

import pimpc
from experiments.horizons import with_horizon
from pimpc import CentroidalConfig, CentroidalModel, CentroidalState, GaitConfig
from pimpc import gait as clock
from pimpc.centroidal import build_problem, discretise, pack_state, weight_share
from pimpc.footholds import rotation_z


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Walk:
    """H horizons times K kicks; T stages. The command is along x, and the world's frame is the robot's at the start."""

    p_world_com: Float[Array, "H K T 3"]  # m
    v_world_com: Float[Array, "H K T 3"]  # m/s
    p_world_foot: Float[Array, "H K T 2 3"]  # m
    stance: Bool[Array, "H K T 2"]
    solved: Bool[Array, "H K T"]  # the answer of the stage was SOLVED or SOLVED_INACCURATE


def at_rest(model: CentroidalModel) -> CentroidalState:
    """The robot in its nominal stand at the origin."""
    foot = jnp.concatenate([model.foot_offset, jnp.zeros((2, 1))], axis=1)
    return CentroidalState(
        p_world_com=jnp.zeros(3).at[2].set(model.com_height),
        linear_momentum=jnp.zeros(3),
        angular_momentum=jnp.zeros(3),
        p_world_foot=foot,
        R_world_foot=jnp.broadcast_to(jnp.eye(3), (2, 3, 3)),
        yaw=jnp.zeros(()),
        ground_height=jnp.zeros(()),
    )


def apply(
    config: CentroidalConfig,
    model: CentroidalModel,
    state: CentroidalState,
    contacts: pimpc.ContactPlan,
    u: Float[Array, " 12"],
) -> CentroidalState:
    """The state one stage later, under constant wrenches; feet in the air are put at their next touchdown."""
    stance = contacts.stance[:1]

    def advance(p_world_com: Float[Array, " 3"]) -> Float[Array, " 9"]:
        arm = state.p_world_foot - p_world_com
        A, B, e = discretise(model.mass, config.dt, arm[None], stance)
        return A[0] @ pack_state(state) + B[0] @ u + e[0]

    # The path does not depend on the lever arms, so a first pass finds where the CoM is half-way.
    x = advance((state.p_world_com + advance(state.p_world_com)[:3]) / 2)
    return dataclasses.replace(
        state,
        p_world_com=x[:3],
        linear_momentum=x[3:6],
        angular_momentum=x[6:],
        p_world_foot=jnp.where(stance[0, :, None], state.p_world_foot, contacts.landing),
        R_world_foot=jnp.where(stance[0, :, None, None], state.R_world_foot, rotation_z(state.yaw)),
    )


def walk(
    model: CentroidalModel,
    horizons: Sequence[int],
    kicks: Float[Array, "K 3"],
    kick_stage: int,
    stages: int,
    speed: float = 0.5,
    config: CentroidalConfig | None = None,
    gait: GaitConfig | None = None,
) -> Walk:
    """Walks straight on from a stand, gets a kick, and walks on.

    Args:
        model: the robot.
        horizons: stages of the MPC, ascending.
        kicks: change of the CoM's velocity [m/s, world].
        kick_stage: stage before which the kick comes.
        stages: length of the walk.
        speed: commanded forward velocity [m/s].
        config: of the MPC; its own horizon is not used.
        gait: the gait.
    """
    config = dataclasses.replace(config or CentroidalConfig(), horizon=max(horizons))
    command = jnp.array([speed, 0.0, 0.0])
    return _walk(model, jnp.array(horizons), kicks, kick_stage, stages, command, config, gait or GaitConfig())


@functools.partial(jax.jit, static_argnums=4)
def _walk(
    model: CentroidalModel,
    horizons: Array,
    kicks: Array,
    kick_stage: int,
    stages: int,
    command: Array,
    config: CentroidalConfig,
    gait: GaitConfig,
) -> Walk:
    def stage(n: Array, kick: Array, carry: tuple, k: Array) -> tuple[tuple, Walk]:
        state, phase, u_prev = carry
        pushed = state.linear_momentum + jnp.where(k == kick_stage, model.mass * kick, 0.0)
        state = dataclasses.replace(state, linear_momentum=pushed)
        problem, contacts = build_problem(config, gait, model, state, phase, command, True, u_prev)
        solution = pimpc.solve(with_horizon(problem, n, config.terminal))
        solved = solution.status <= pimpc.Status.SOLVED_INACCURATE
        seen = Walk(
            p_world_com=state.p_world_com,
            v_world_com=state.linear_momentum / model.mass,
            p_world_foot=state.p_world_foot,
            stance=contacts.stance[0],
            solved=solved,
        )
        # Without an answer there is the last one, as far as the feet that stand now can carry it out.
        u = jnp.asarray(jnp.where(solved, solution.u[0], jnp.repeat(contacts.stance[0], 6) * u_prev))
        after = apply(config, model, state, contacts, u)
        phase = clock.advance(phase, gait, config.dt, True, True, command)
        return (after, phase, u), seen

    def one(n: Array, kick: Array) -> Walk:
        start = at_rest(model), jnp.zeros(()), weight_share(model, jnp.ones(2, bool))
        return jax.lax.scan(functools.partial(stage, n, kick), start, jnp.arange(stages))[1]

    return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(horizons, kicks)
