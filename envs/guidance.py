"""The MPC's place in an environment: its state, its plan, and the landmarks it leaves for the future.

Each solve at time t predicts the centroidal state at t + δ_ℓ for a few offsets δ_ℓ. A prediction is written into the
slot of the time it speaks of, and read when that time has come: the reward then compares the realised motion with what
earlier solves expected of it (arXiv 2606.05687, section II-C). Offsets are rounded to control steps, so that no
prediction has to be shifted in time afterwards.

The look-ahead schedule of the authors' release instead compares the present with the *future* landmarks of the latest
plan; it is kept for ablation.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

import pimpc
from pimpc.centroidal import CentroidalConfig, build_problem, input_at, reference_plan, to_plan, weight_share
from pimpc.gait import GaitConfig
from pimpc.plan import CentroidalModel, CentroidalState, ContactPlan, Plan, where_plan
from rewards import Guidance

WEIGHTS = {
    "tapered": (0.5, 0.25, 0.15, 0.07, 0.03),  # prediction-confidence weighting, eq. (14)
    "uniform": (0.2, 0.2, 0.2, 0.2, 0.2),
    "next_step": (1.0, 0.0, 0.0, 0.0, 0.0),
}


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """How the MPC is solved during training, and how its plan becomes landmarks."""

    enabled: bool = True  # False: no plan is made, and the critic sees none (base-RL)
    every: int = 1  # control steps between solves
    centroidal: CentroidalConfig = dataclasses.field(default_factory=CentroidalConfig)
    max_iterations: int = 12  # of the solver
    tolerance: float = 1e-3  # relative residual at which a solve is done
    admm_iterations: int = 0  # if not 0: so many of PiADMM instead, followed wherever they end, as the release does
    weights: Literal["tapered", "uniform", "next_step"] = "tapered"  # α of eq. (14)
    schedule: Literal["buffer", "look_ahead"] = "buffer"  # predictions for now, or the released look-ahead
    optimize: bool = True  # False: the plan is the command-integrated reference, without any MPC
    sees_randomization: bool = True  # the MPC knows each robot's mass and friction; of inertia, the published one

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"GuidanceConfig.every = {self.every}: it counts control steps, so at least 1.")
        if self.admm_iterations < 0:
            raise ValueError(f"GuidanceConfig.admm_iterations = {self.admm_iterations}: a number of iterations, or 0.")

    def offsets(self, dt: float) -> tuple[int, ...]:
        """δ_ℓ in control steps of `dt` seconds: from one MPC step to the end of the horizon, evenly spread."""
        last = self.centroidal.horizon * self.centroidal.dt
        count = len(WEIGHTS[self.weights])
        seconds = [self.centroidal.dt + (last - self.centroidal.dt) * i / (count - 1) for i in range(count)]
        return tuple(max(1, int(s / dt + 1e-6)) for s in seconds)

    def starts_warm(self, dt: float) -> bool:
        """Whether a solve starts from the one before: a stage later or more, that would save nothing."""
        by_interior_point = self.optimize and not self.admm_iterations
        return by_interior_point and self.every * dt <= self.centroidal.dt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidanceState:
    """What one robot's MPC remembers between control steps."""

    plan: Plan  # the latest plan
    age: Int[Array, ""]  # control steps since it was made
    solved: Bool[Array, ""]  # the last solve succeeded, and `plan` is its answer
    iterations: Int[Array, ""]  # that the last solve took
    slots: Float[Array, "D L 12"]  # predictions [c, l, k, k̇], by the time they speak of
    slots_valid: Bool[Array, "D L"]
    answer: pimpc.WarmStart | None = None  # of the solve that made the plan; None: every solve starts from nothing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlanInputs:
    """What one solve is given."""

    model: CentroidalModel
    state: CentroidalState
    phase: Float[Array, ""]  # gait phase [cycles]
    command: Float[Array, " 3"]
    moving: Bool[Array, ""]


def predict(plan: Plan, seconds: Float[Array, " L"], dt: float) -> tuple[Float[Array, "L 12"], Bool[Array, " L"]]:
    """The plan at some times after it was made.

    Args:
        plan: knots every `dt` seconds.
        seconds: times after the solve [s].
        dt: knot spacing [s].

    Returns:
        [c, l, k, k̇] interpolated linearly (k̇: the slope), and whether the time lies within the horizon.
    """
    x = jnp.concatenate([plan.p_world_com, plan.linear_momentum, plan.angular_momentum], axis=-1)
    last = x.shape[0] - 1
    knot = seconds / dt
    i = jnp.clip(jnp.floor(knot + 1e-4).astype(jnp.int32), 0, last - 1)
    fraction = jnp.clip(knot - i, 0.0, 1.0)[:, None]
    slope = (x[i + 1, 6:9] - x[i, 6:9]) / dt
    return jnp.concatenate([(1 - fraction) * x[i] + fraction * x[i + 1], slope], axis=-1), knot <= last + 1e-4


def _pose(
    config: GuidanceConfig, gait: GaitConfig, inputs: PlanInputs, u_prev: Float[Array, " 12"]
) -> tuple[pimpc.LTVProblem, ContactPlan]:
    return build_problem(
        config.centroidal, gait, inputs.model, inputs.state, inputs.phase, inputs.command, inputs.moving, u_prev
    )


def init(config: GuidanceConfig, gait: GaitConfig, inputs: PlanInputs, dt: float) -> GuidanceState:
    """A fresh episode: the plan is the command-integrated reference until the first solve; no predictions yet."""
    problem, contacts = _pose(config, gait, inputs, weight_share(inputs.model, jnp.ones(2, bool)))
    offsets = config.offsets(dt)
    return GuidanceState(
        plan=reference_plan(problem, contacts),
        age=jnp.zeros((), jnp.int32),
        solved=jnp.zeros((), bool),
        iterations=jnp.zeros((), jnp.int32),
        slots=jnp.zeros((max(offsets) + 1, len(offsets), 12)),
        slots_valid=jnp.zeros((max(offsets) + 1, len(offsets)), bool),
        answer=pimpc.InteriorPoint().cold_start(problem) if config.starts_warm(dt) else None,
    )


def keep_slots(fresh: GuidanceState, ended: GuidanceState) -> GuidanceState:
    """A fresh episode's memory in the place of an ended one's, whose landmarks stay where they are, marked as invalid.

    To clear them would write the slots of all robots in every step, for the few whose episode ends.
    """
    return dataclasses.replace(fresh, slots=ended.slots)


def solve(
    config: GuidanceConfig, gait: GaitConfig, inputs: PlanInputs, previous: GuidanceState, dt: float
) -> GuidanceState:
    """Plans anew from the present state; a solve that fails keeps the previous plan and says so in `solved`."""
    u_prev = input_at(previous.plan, previous.age * dt, config.centroidal.dt)
    problem, contacts = _pose(config, gait, inputs, u_prev)
    answer = previous.answer
    if config.optimize:
        stages = previous.age * dt / config.centroidal.dt
        start = None if answer is None else pimpc.shift(answer, stages, problem)
        solution, solved = _optimize(config, problem, start)
        iterations = solution.iterations
        plan = to_plan(solution.x, solution.u, contacts)
        if answer is not None:
            answer = jax.tree.map(partial(jnp.where, solved), solution.warm_start, answer)
    else:
        solved, iterations = jnp.ones((), bool), jnp.zeros((), jnp.int32)
        plan = reference_plan(problem, contacts)
    return dataclasses.replace(
        previous,
        plan=where_plan(solved, plan, previous.plan),
        age=jnp.where(solved, 0, previous.age),
        solved=solved,
        iterations=iterations,
        answer=answer,
    )


def _optimize(
    config: GuidanceConfig, problem: pimpc.LTVProblem, start: pimpc.WarmStart | None
) -> tuple[pimpc.Solution, Bool[Array, ""]]:
    """The solution, and whether it is to be followed."""
    if config.admm_iterations:
        solution = pimpc.solve(problem, pimpc.PiADMM(max_iterations=config.admm_iterations, early_stop=False))
        return solution, solution.status <= pimpc.Status.MAX_ITERATIONS
    method = pimpc.InteriorPoint(max_iterations=config.max_iterations, tolerance=config.tolerance)
    solution = pimpc.solve(problem, method, start)
    return solution, solution.status <= pimpc.Status.SOLVED_INACCURATE


def remember(config: GuidanceConfig, state: GuidanceState, tick: Int[Array, ""], dt: float) -> GuidanceState:
    """Writes what the latest plan predicts into the slots of the times it speaks of.

    Args:
        config: the landmarks.
        state: with its plan of `age` control steps.
        tick: the present time in control steps.
        dt: the control period [s].
    """
    offsets = jnp.array(config.offsets(dt))
    values, within = predict(state.plan, (state.age + offsets) * dt, config.centroidal.dt)
    slot = (tick + offsets) % state.slots.shape[0]
    landmark = jnp.arange(offsets.shape[0])
    return dataclasses.replace(
        state,
        slots=state.slots.at[slot, landmark].set(values),
        slots_valid=state.slots_valid.at[slot, landmark].set(within & state.solved),
    )


def recall(config: GuidanceConfig, state: GuidanceState, tick: Int[Array, ""], dt: float) -> Guidance:
    """What the MPC has to say about the present time, `tick`, for the reward."""
    if config.schedule == "buffer":
        slot = tick % state.slots.shape[0]
        values, valid = state.slots[slot], state.slots_valid[slot]
    else:
        offsets = jnp.array(config.offsets(dt))
        values, valid = predict(state.plan, offsets * dt, config.centroidal.dt)
        valid = valid & state.solved
    alpha = jnp.array(WEIGHTS[config.weights]) * valid
    # An omitted landmark's stale numbers must not reach the sum, not even times zero.
    values = jnp.where(valid[:, None], values, 0.0)
    stage = jnp.clip((state.age * dt / config.centroidal.dt).astype(jnp.int32), 0, state.plan.force.shape[0] - 1)
    return Guidance(
        p_world_com=values[:, 0:3],
        linear_momentum=values[:, 3:6],
        angular_momentum=values[:, 6:9],
        angular_momentum_rate=values[:, 9:12],
        weight=alpha / jnp.maximum(alpha.sum(), 1e-6),
        p_world_landing=state.plan.landing,
        landing_valid=state.plan.landing_valid,
        f_world_foot=state.plan.force[stage],
        solved=state.solved,
    )


def silence() -> Guidance:
    """What a robot without an MPC has to say about the present: no landmark, and no plan behind it."""
    return Guidance(
        p_world_com=jnp.zeros((0, 3)),
        linear_momentum=jnp.zeros((0, 3)),
        angular_momentum=jnp.zeros((0, 3)),
        angular_momentum_rate=jnp.zeros((0, 3)),
        weight=jnp.zeros(0),
        p_world_landing=jnp.zeros((2, 3)),
        landing_valid=jnp.zeros(2, bool),
        f_world_foot=jnp.zeros((2, 3)),
        solved=jnp.zeros((), bool),
    )


def next_targets(config: GuidanceConfig, state: GuidanceState, dt: float) -> Float[Array, " 9"]:
    """[c, l, k] that the latest plan expects one MPC step from now: the critic's view of the plan."""
    seconds = state.age * dt + config.centroidal.dt
    return predict(state.plan, seconds[None], config.centroidal.dt)[0][0, :9]
