"""A centroidal robot that walks under its own MPC, without physics or policy: problems as a controller meets them.

The robot follows the centroidal dynamics exactly, feet land where and when the plan says. Figures are those of the
Unitree G1 as `envs.robots` measures them, rounded, so that nothing has to be compiled.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import pimpc
from pimpc import gait as clock
from pimpc.centroidal import CentroidalConfig, build_problem, discretise, weight_share
from pimpc.interior_point import WarmStart
from pimpc.plan import CentroidalModel, CentroidalState
from pimpc.residuals import Multipliers

CONTROL = 0.02  # s, between solves
CONFIG, GAIT = CentroidalConfig(), pimpc.GaitConfig()
SHIFT = CONTROL / CONFIG.dt  # stages between solves
HALF_STANCE = 0.12  # m


class Walker(NamedTuple):
    """One robot between two solves."""

    state: CentroidalState
    phase: Float[Array, ""]  # cycles
    u_prev: Float[Array, " 12"]  # the input under which it came here
    answer: WarmStart  # of the solve before


def model() -> CentroidalModel:
    """The robot, as its MPC knows it."""
    figures = {
        "mass": 33.34,
        "friction": 0.6,
        "sole": (0.12, 0.05, 0.03),
        "foot_offset": ((0.0, HALF_STANCE), (0.0, -HALF_STANCE)),
        "com_height": 0.69,
        "inertia_zz": 0.6,
    }
    return CentroidalModel(**{name: jnp.asarray(value, jnp.float32) for name, value in figures.items()})


def start(phase: Float[Array, ""], config: CentroidalConfig = CONFIG) -> Walker:
    """At rest on both feet, at some phase of the gait, with nothing solved before."""
    robot = model()
    state = CentroidalState(
        p_world_com=jnp.array([0.0, 0.0, 1.0]) * robot.com_height,
        linear_momentum=jnp.zeros(3),
        angular_momentum=jnp.zeros(3),
        p_world_foot=jnp.array([[0.0, HALF_STANCE, 0.0], [0.0, -HALF_STANCE, 0.0]]),
        R_world_foot=jnp.broadcast_to(jnp.eye(3), (2, 3, 3)),
        yaw=jnp.zeros(()),
        ground_height=jnp.zeros(()),
    )
    answer = WarmStart(jnp.zeros((config.horizon, 12)), Multipliers(jnp.zeros((config.horizon, 24))))
    return Walker(state, phase, weight_share(robot, jnp.ones(2, bool)), answer)


def random_commands(rng: np.random.Generator, *shape: int) -> Float[Array, "*shape 3"]:
    """Velocities v_x, v_y [m/s] and ω_z [rad/s] to be walked at."""
    return jnp.asarray(rng.uniform([-0.5, -0.3, -0.7], [1.0, 0.3, 0.7], (*shape, 3)), jnp.float32)


def problem(walker: Walker, command: Float[Array, " 3"], config: CentroidalConfig = CONFIG) -> pimpc.LTVProblem:
    """What the robot's MPC has to solve now."""
    return build_problem(config, GAIT, model(), walker.state, walker.phase, command, True, walker.u_prev)[0]


def advance(
    walker: Walker,
    command: Float[Array, " 3"],
    push: Float[Array, " 3"],
    answer: pimpc.Solution,
    config: CentroidalConfig = CONFIG,
) -> Walker:
    """The robot one control period later.

    Args:
        walker: the robot now.
        command: v_x, v_y [m/s], ω_z [rad/s].
        push: an impulse on the CoM at the end of the period [N s].
        answer: the solution of `problem(walker, command, config)`.
        config: of the MPC.
    """
    state, robot = walker.state, model()
    _, contacts = build_problem(config, GAIT, robot, state, walker.phase, command, True, walker.u_prev)
    arm = state.p_world_foot - state.p_world_com
    A, B, e = discretise(robot.mass, CONTROL, arm[None], contacts.stance[:1])
    x = (A[0] @ answer.x[0] + B[0] @ answer.u[0] + e[0]).at[3:6].add(push)
    yaw = state.yaw + CONTROL * command[2]
    swings = ~contacts.stance[0]
    R = jnp.where(swings[:, None, None], pimpc.footholds.rotation_z(yaw), state.R_world_foot)
    foot = jnp.where(swings[:, None], contacts.landing, state.p_world_foot)
    state = replace(
        state,
        p_world_com=x[:3],
        linear_momentum=x[3:6],
        angular_momentum=x[6:],
        p_world_foot=foot,
        R_world_foot=R,
        yaw=yaw,
    )
    phase = clock.advance(walker.phase, GAIT, CONTROL, True, True, command)
    return Walker(state, phase, answer.u[0], answer.warm_start)


@partial(jax.jit, static_argnames="method")
def walk(
    walkers: Walker, commands: Float[Array, "T B 3"], pushes: Float[Array, "T B 3"], method: pimpc.InteriorPoint
) -> tuple[Walker, pimpc.Solution, pimpc.Solution]:
    """T control periods of B robots, which live by their warm-started solves.

    Returns:
        The robots at the end, and the solutions (leading axes T, B) from cold starts and from the last answers.
    """

    def tick(walker: Walker, told: tuple[Array, Array]) -> tuple[Walker, tuple[pimpc.Solution, pimpc.Solution]]:
        command, push = told
        now = problem(walker, command)
        cold = pimpc.solve(now, method)
        warm = pimpc.solve(now, method, pimpc.shift(walker.answer, SHIFT, now))
        return advance(walker, command, push, warm), (cold, warm)

    walkers, (cold, warm) = jax.lax.scan(jax.vmap(tick), walkers, (commands, pushes))
    return walkers, cold, warm
