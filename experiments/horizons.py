"""What a longer horizon buys the MPC, and what it costs: one program for all horizons, on recorded states.

The problem is built once, for the longest horizon; a shorter one masks the stages behind it (`LTVProblem.horizon`) and
has its terminal weight on its own last stage. Plans are compared with the longest one: its cost when the first stage
has to be as the shorter plan has it says what that plan's short sight costs. Times are of programs compiled for one
horizon each, as a masked problem takes as long as the longest.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

import pimpc
from experiments.recorded_states import RecordedStates
from pimpc import CentroidalConfig, GaitConfig, LTVProblem, Solution
from pimpc.centroidal import build_problem
from pimpc.problem import given_fields

WINDOW = 0.7  # s, over which the beginnings of plans are compared; the horizon of the default configuration


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ablation:
    """What the plans of H horizons from B states are like; rows are states."""

    status: Int[Array, "B H"]  # `pimpc.Status`
    iterations: Int[Array, "B H"]
    residual: Float[Array, "B H"]  # the greater of the two relative ones
    cost: Float[Array, "B H"]  # of the plan over its own horizon, without units
    short_sight: Float[Array, "B H"]  # relative extra cost of the longest plan that begins with this one's first stage
    first_force_change: Float[Array, "B H"]  # N, both feet's forces in the first stage against the longest plan's
    com_change: Float[Array, "B H"]  # m, greatest distance of the CoM to the longest plan's, up to WINDOW
    velocity_error: Float[Array, "B H"]  # m/s, mean horizontal CoM velocity up to WINDOW against the command's
    end_velocity_error: Float[Array, "B H"]  # m/s, horizontal CoM velocity at the plan's end against the command's
    height_error: Float[Array, "B H"]  # m, greatest |CoM height − nominal| up to WINDOW


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Timing:
    """How long the problems of all states take, with a program for one horizon."""

    horizon: int  # stages
    batch: int  # problems
    seconds: float  # median of the repeats
    fastest: float  # s, of the repeats; far from the median, the machine had other things to do
    compile_seconds: float
    iterations: float  # mean
    residual: float  # worst relative residual of all problems
    unsolved: int  # problems that are not SOLVED


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None))
def build(states: RecordedStates, config: CentroidalConfig, gait: GaitConfig) -> LTVProblem:
    """The problems of recorded states, for the configuration's horizon."""
    i = states.inputs
    return build_problem(config, gait, i.model, i.state, i.phase, i.command, i.moving, states.u_prev)[0]


def with_horizon(problem: LTVProblem, n: Int[Array, ""], terminal: Float[Array, ""] | float) -> LTVProblem:
    """One problem of N stages with its stages from n on masked, and the terminal weight on stage n − 1.

    For a robot that walks it is the problem that `build_problem` makes for n stages. One that stands with a foot in the
    air is also told where it will stand, even if the foot lands after the horizon.
    """
    last = jnp.arange(problem.Q.shape[0]) == n - 1
    plain = problem.Q.at[-1].divide(terminal)
    return dataclasses.replace(problem, Q=jnp.where(last[:, None], terminal, 1.0) * plain, horizon=n)


def cut(problem: LTVProblem, n: int, terminal: float) -> LTVProblem:
    """The first n stages of a batch of problems, as problems of n stages."""
    short = jax.vmap(lambda p: with_horizon(p, jnp.asarray(n), terminal))(problem)
    whole = {"x0", "u_prev", "horizon"}
    staged = {k: v[:, :n] for k, v in given_fields(short).items() if k not in whole}
    return dataclasses.replace(short, **staged, horizon=None)


def with_first_input(problem: LTVProblem, u: Float[Array, " nu"], pinned: Bool[Array, ""]) -> LTVProblem:
    """The problem whose first input is u, if `pinned`, and of which only the rest is left to decide."""
    assert problem.u_min is not None and problem.u_max is not None and problem.h is not None
    lower, upper = jnp.where(pinned, u, problem.u_min[0]), jnp.where(pinned, u, problem.u_max[0])
    return dataclasses.replace(
        problem,
        u_min=problem.u_min.at[0].set(lower),
        u_max=problem.u_max.at[0].set(upper),
        h=problem.h.at[0].set(jnp.where(pinned, jnp.inf, problem.h[0])),  # u may be outside by the tolerance
    )


@jax.jit
def solve_horizons(
    problems: LTVProblem,
    horizons: Int[Array, " H"],
    first_inputs: Float[Array, "B H nu"],
    pinned: Bool[Array, ""],
    terminal: Float[Array, ""] | float,
) -> Solution:
    """Solves every problem for every horizon, in one program.

    Args:
        problems: a batch of B, built for the longest horizon.
        horizons: stages that count, at most those of the problems.
        first_inputs: read only if `pinned`.
        pinned: whether the first inputs are given.
        terminal: factor on the weights of the last state.

    Returns:
        Solutions with the leading axes (B, H).
    """

    def one(problem: LTVProblem, n: Array, u: Array) -> Solution:
        return pimpc.solve(with_first_input(with_horizon(problem, n, terminal), u, pinned))

    over_horizons = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(over_horizons, in_axes=(0, None, 0))(problems, horizons, first_inputs)


def ablate(
    states: RecordedStates,
    horizons: Sequence[int],
    config: CentroidalConfig | None = None,
    gait: GaitConfig | None = None,
) -> Ablation:
    """Plans from recorded states with several horizons.

    Args:
        states: where the robots are.
        horizons: stages, ascending; the last one is the yardstick of the others.
        config: weights and stage length of the MPC; its own horizon is not used.
        gait: the gait.

    Raises:
        ValueError: `horizons` do not ascend from at least 1.
    """
    if list(horizons) != sorted(set(horizons)) or horizons[0] < 1:
        raise ValueError(f"horizons = {tuple(horizons)}: whole numbers from 1 on, ascending.")
    config = dataclasses.replace(config or CentroidalConfig(), horizon=horizons[-1])
    problems, stages = build(states, config, gait or GaitConfig()), jnp.array(horizons)
    none = jnp.zeros((len(states.u_prev), len(horizons), problems.u_ref.shape[-1]))
    plans = solve_horizons(problems, stages, none, jnp.asarray(False), config.terminal)
    longest = jnp.full_like(stages, horizons[-1])
    bound = solve_horizons(problems, longest, plans.u[:, :, 0], jnp.asarray(True), config.terminal)
    return compare(problems, states, stages, plans, bound, config.dt)


@functools.partial(jax.jit, static_argnums=5)
def compare(
    problems: LTVProblem,
    states: RecordedStates,
    horizons: Int[Array, " H"],
    plans: Solution,
    bound: Solution,
    dt: float,
) -> Ablation:
    """Measures plans, of which the last horizon's is the yardstick.

    Args:
        problems: a batch of B, built for the longest horizon.
        states: those they were built from.
        horizons: stages.
        plans: (B, H), of these horizons.
        bound: (B, H), of the longest horizon, each with the first input of the plan in its place.
        dt: stage length [s].
    """
    N = problems.x_ref.shape[1]
    mass = states.inputs.model.mass[:, None]
    soon = jnp.minimum(horizons, round(WINDOW / dt))
    knots = jnp.arange(N + 1)
    within = (knots >= 1) & (knots <= soon[:, None])  # (H, N + 1)
    com, best = plans.x[..., :3], plans.x[:, -1:, :, :3]
    start, nominal = problems.x0[:, None], problems.x_ref[:, :, 2].mean(1)[:, None, None]
    reference = jnp.concatenate([problems.x0[:, None], problems.x_ref], axis=1)

    # What the command adds up to, starting where the robot is: references of standing robots lie elsewhere.
    momentum = jnp.cumsum(problems.x_ref[:, :, 3:5], axis=1)[:, soon - 1] / soon[:, None]
    mean_velocity = (jnp.take_along_axis(com, soon[None, :, None, None], axis=2)[:, :, 0] - start[..., :3]) / (
        soon * dt
    )[:, None]
    end = jnp.take_along_axis(plans.x, horizons[None, :, None, None], axis=2)[:, :, 0]
    norm = functools.partial(jnp.linalg.norm, axis=-1)
    force = plans.u[:, :, 0].reshape(*plans.status.shape, 2, 2, 3)[..., 0, :]
    return Ablation(
        status=plans.status,
        iterations=plans.iterations,
        residual=jnp.maximum(plans.primal_residual, plans.dual_residual),
        cost=plans.cost,
        short_sight=bound.cost / plans.cost[:, -1:] - 1,
        first_force_change=jnp.sqrt(jnp.sum((force - force[:, -1:]) ** 2, axis=(-1, -2))),
        com_change=jnp.max(norm(com - best), axis=-1, where=within, initial=0.0),
        velocity_error=norm(mean_velocity[..., :2] - momentum / mass[..., None]),
        end_velocity_error=norm((end[..., 3:5] - reference[:, horizons, 3:5]) / mass[..., None]),
        height_error=jnp.max(jnp.abs(com[..., 2] - nominal), axis=-1, where=within, initial=0.0),
    )


def time_horizon(problems: LTVProblem, n: int, terminal: float, repeats: int = 5) -> Timing:
    """Times a program for problems of n stages; compiling is timed apart, and the first run counts nowhere.

    Args:
        problems: a batch of problems of at least n stages.
        n: the horizon.
        terminal: factor on the weights of the last state.
        repeats: runs, of which the median is returned.
    """
    short = cut(problems, n, terminal)
    started = time.perf_counter()
    program = jax.jit(jax.vmap(pimpc.solve)).lower(short).compile()
    compile_seconds = time.perf_counter() - started
    solution, times = jax.device_get(program(short)), []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(program(short))
        times.append(time.perf_counter() - started)
    residual = np.maximum(solution.primal_residual, solution.dual_residual)
    return Timing(
        horizon=n,
        batch=len(solution.status),
        seconds=float(np.median(times)),
        fastest=min(times),
        compile_seconds=compile_seconds,
        iterations=float(solution.iterations.mean()),
        residual=float(residual.max()),
        unsolved=int(np.sum(solution.status != pimpc.Status.SOLVED)),
    )
