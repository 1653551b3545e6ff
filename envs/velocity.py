"""The velocity task: a biped follows a commanded velocity, with an MPC planning for every robot inside the step.

The environment is batched: `reset` and `step` work on all robots at once, because the physics backend and the MPC are
batched operations and the MPC's update rate is one decision for the whole batch. Everything else is written for one
robot and mapped. Episodes that end are replaced by fresh ones within the same step.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs import guidance as mpc
from envs.config import VelocityConfig
from envs.episode import Episode
from envs.kinematics import Kinematics
from envs.physics import Contacts, Physics, PhysicsState, make_physics, nominal_params
from envs.randomization import randomize
from envs.replay import c_model
from envs.robots import RobotModel, compile_robot, get_robot
from envs.state import State
from envs.symmetry import Mirror, mirror
from envs.task import TaskState
from envs.terrain import TerrainConfig, make_terrain
from pimpc.gait import GaitConfig
from rewards import weighted_terms

T = TypeVar("T")
TRACKING_METRICS = (
    "score/lin_vel",
    "score/ang_vel",
    "velocity_error",
    "yaw_rate_error",
    "mean_velocity_error",
    "mean_yaw_rate_error",
)
MPC_METRICS = ("mpc/failed", "mpc/iterations", "mpc/landmarks")


@dataclasses.dataclass(frozen=True, eq=False)
class VelocityEnv:
    """A batch of robots that follow velocity commands; see the module's docstring. Made by `make`."""

    config: VelocityConfig
    robot: RobotModel
    physics: Physics
    gait: GaitConfig
    one: Episode  # the part of the task that concerns a single robot

    # --- Sizes ---------------------------------------------------------------------------------------------------

    @property
    def dt(self) -> float:
        """Control period [s]."""
        return self.config.dt

    @property
    def max_steps(self) -> int:
        """Control steps of a full episode."""
        return round(self.config.episode_seconds / self.dt)

    @property
    def action_size(self) -> int:
        """Joint targets."""
        return self.robot.num_joints

    @property
    def observation_size(self) -> dict[str, int]:
        """Lengths of the actor's and the critic's observation."""
        shapes = jax.eval_shape(self.reset, jax.ShapeDtypeStruct((1, 2), jnp.uint32)).obs
        return {name: shape.shape[-1] for name, shape in shapes.items()}

    @property
    def mirror(self) -> Mirror:
        """How actions and observations are reflected.

        Raises:
            ValueError: the robot is not its own mirror image.
        """
        return mirror(self.robot, self.config.guidance.enabled)

    @property
    def failure_metrics(self) -> tuple[str, ...]:
        """Metrics that say in how many of its steps a robot's solver or physics failed: 0 or 1 in each."""
        return ("mpc/failed", "episode/diverged") if self.config.guidance.enabled else ("episode/diverged",)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys of `State.metrics`: weighted reward terms per second, tracking errors, falls, and the MPC's health."""
        terms = tuple(f"reward/{name}" for name in weighted_terms(self.config.rewards))
        health = MPC_METRICS if self.config.guidance.enabled else ()
        level = () if self.one.terrain is None else ("terrain/level",)
        return (*terms, *TRACKING_METRICS, "episode/fallen", "episode/diverged", *health, *level)

    # --- Brax's functional shape -----------------------------------------------------------------------------------

    @jax.default_matmul_precision("highest")  # geometry in metres: TF32, the default on some GPUs, is too coarse
    def reset(self, keys: PRNGKeyArray) -> State:
        """Fresh episodes, by default at random times of their length.

        Args:
            keys: one random key per robot, (B, 2).
        """
        batch = keys.shape[0]
        keys = jax.vmap(partial(jax.random.split, num=4))(keys)
        nominal = nominal_params(self.robot)
        params, bias = jax.vmap(
            lambda key: randomize(key, self.config.randomization, nominal, self.robot.base_body_id)
        )(keys[:, 0])
        home = jax.vmap(lambda p: self.one.kinematics(p, self.one.at_home()))(params)
        walk = jax.vmap(self.one.first_walk)(keys[:, 1])
        physics, kin = jax.vmap(self.one.stand)(keys[:, 1], home, walk)
        task = jax.vmap(self.one.start)(keys[:, 2], params, bias, home, kin, walk)
        latest = self.max_steps if self.config.start.random_phase else 1
        steps = jax.vmap(lambda key: jax.random.randint(key, (), 0, latest))(keys[:, 3])
        task = task.replace(steps=steps)
        contacts = Contacts(jnp.zeros((batch, 2, 3)), jnp.zeros((batch, 2), bool))
        task, obs = jax.vmap(self.one.observe)(task, kin, physics, contacts)
        zeros = jnp.zeros(batch)
        tick = jnp.full(batch, -1, jnp.int32)  # the first step is the MPC's first
        info = {"task": task, "tick": tick, "truncation": zeros, "final_obs": obs}
        return State(physics, obs, zeros, zeros, dict.fromkeys(self.metric_names, zeros), info)

    @jax.default_matmul_precision("highest")
    def step(self, state: State, action: Float[Array, "B nj"]) -> State:
        """One control step of all robots: physics, reward, resets, and the MPC when it is due.

        Args:
            state: from `reset` or `step`.
            action: joint targets around the default pose, in units of the robot's action scale.
        """
        tick = state.info["tick"] + 1
        now = tick[0]  # one clock for all robots: the MPC is solved for the whole batch or not at all
        task, physics = jax.vmap(self.one.renew)(state.info["task"], state.pipeline_state)
        target = jax.vmap(self.one.joint_targets)(action, task.encoder_bias)
        stepped, contacts = self.physics.step(task.params, physics, target, self.config.decimation)
        finite = jax.vmap(_is_finite)(stepped)
        # A diverged robot is judged at home and earns nothing: its numbers must reach neither reward nor statistics.
        physics = _select(finite, stepped, self.one.at_home())
        contacts = _select(finite, contacts, jax.tree.map(jnp.zeros_like, contacts))
        kin = jax.vmap(self.one.kinematics)(task.params, physics)
        task, reward, metrics = jax.vmap(self.one.score, in_axes=(0, 0, 0, 0, 0, None))(
            task, kin, physics, contacts, action, now
        )
        reward, metrics = _select(finite, (reward, metrics), jax.tree.map(jnp.zeros_like, (reward, metrics)))

        fallen = jax.vmap(self.one.fallen)(kin) | ~finite
        timed_out = ((task.steps >= self.max_steps) | jax.vmap(self.one.off_terrain)(kin)) & ~fallen
        done = fallen | timed_out
        final_obs = jax.vmap(self.one.observe)(task, kin, physics, contacts)[1]

        task, physics, kin, contacts = self._replace_ended(done, fallen, task, physics, kin, contacts)
        task = self._plan(task, kin, now)
        waiting = task.steps < now % self.config.guidance.every  # for its first solve: it has failed at nothing
        task, obs = jax.vmap(self.one.observe)(task, kin, physics, contacts)
        metrics |= {
            "episode/fallen": fallen.astype(jnp.float32),
            "episode/diverged": (~finite).astype(jnp.float32),
        }
        if task.guidance is not None:
            metrics["mpc/failed"] = (~task.guidance.solved & ~waiting).astype(jnp.float32)
            metrics["mpc/iterations"] = task.guidance.iterations.astype(jnp.float32)
        if task.walk is not None:
            metrics["terrain/level"] = task.walk.level.astype(jnp.float32)
        keep = {name: jnp.where(done[:, None], value, obs[name]) for name, value in final_obs.items()}
        info = {"task": task, "tick": tick, "truncation": timed_out.astype(jnp.float32), "final_obs": keep}
        return State(physics, obs, reward, done.astype(jnp.float32), metrics, info)

    def snapshot(self, state: State, index: int = 0) -> dict[str, Array]:
        """What a picture of one robot and its plan needs: see `learning.video`."""
        physics, task = jax.tree.map(lambda leaf: leaf[index], (state.pipeline_state, state.info["task"]))
        if task.guidance is None:  # nothing to draw
            feet = jnp.zeros((2, 3))
            drawn = {"landing": feet, "landing_valid": jnp.zeros(2, bool), "foot": feet, "force": feet}
            return {"qpos": physics.qpos, "com_path": jnp.zeros((0, 3)), **drawn}
        plan = task.guidance.plan
        return {
            "qpos": physics.qpos,
            "com_path": plan.p_world_com,
            "landing": plan.landing,
            "landing_valid": plan.landing_valid,
            "foot": plan.p_world_foothold[0],
            "force": plan.force[0],
        }

    def replay_inputs(self, state: State, action: Float[Array, "1 nj"]) -> tuple[mujoco.MjModel, int, dict[str, Any]]:
        """What physics is about to do to one robot, for C MuJoCo: see `learning.replay`.

        Args:
            state: a batch of one, before the step.
            action: of the step.

        Returns:
            The robot's own model, the physics steps of a control step, and the state and joint targets they begin with.
        """
        before = state.info["task"], state.pipeline_state, action
        task, physics, action = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], before)  # also of numpy's arrays
        task, physics = self.one.renew(task, physics)
        inputs = {"qpos": physics.qpos, "qvel": physics.qvel, "qacc_warmstart": physics.qacc_warmstart}
        inputs["ctrl"] = self.one.joint_targets(action, task.encoder_bias)
        return c_model(self.robot, task.params), self.config.decimation, jax.device_get(inputs)

    # --- Parts ----------------------------------------------------------------------------------------------------

    def _replace_ended(
        self,
        done: Bool[Array, " B"],
        fallen: Bool[Array, " B"],
        task: TaskState,
        physics: PhysicsState,
        kin: Kinematics,
        contacts: Contacts,
    ) -> tuple[TaskState, PhysicsState, Kinematics, Contacts]:
        """Fresh episodes in place of those that are done; a robot keeps its body."""
        keys = jax.vmap(partial(jax.random.split, num=3))(task.key)
        walk = jax.vmap(self.one.next_walk)(keys[:, 0], task, fallen)
        fresh_physics, fresh_kin = jax.vmap(self.one.stand)(keys[:, 0], task.home, walk)
        fresh_task = jax.vmap(self.one.start)(keys[:, 1], task.params, task.encoder_bias, task.home, fresh_kin, walk)
        fresh_contacts = jax.tree.map(jnp.zeros_like, contacts)
        if task.guidance is not None and fresh_task.guidance is not None:
            fresh_task = fresh_task.replace(guidance=mpc.keep_slots(fresh_task.guidance, task.guidance))
        old = (task.replace(key=keys[:, 2]), physics, kin, contacts)
        return _select(done, (fresh_task, fresh_physics, fresh_kin, fresh_contacts), old)

    def _plan(self, task: TaskState, kin: Kinematics, tick: Int[Array, ""]) -> TaskState:
        """Solves the MPC for all robots when it is due, and files what the plans predict."""
        config = self.config.guidance
        if task.guidance is None:
            return task

        def solve_all(guidance: mpc.GuidanceState) -> mpc.GuidanceState:
            inputs = jax.vmap(self.one.plan_inputs)(task.params, kin, task.phase, task.command)
            return jax.vmap(partial(mpc.solve, config, self.gait, dt=self.dt))(inputs, guidance)

        if config.every == 1:  # a condition would be there all the same, and a GPU's host wait for it
            guidance = solve_all(task.guidance)
        else:
            guidance = jax.lax.cond(tick % config.every == 0, solve_all, lambda g: g, task.guidance)
        guidance = jax.vmap(partial(mpc.remember, config, dt=self.dt), in_axes=(0, None))(guidance, tick)
        return task.replace(guidance=guidance)


def make(config: VelocityConfig) -> VelocityEnv:
    """Builds the task: compiles the robot on its ground and puts it on its physics backend."""
    terrain = make_terrain(config.terrain)
    robot = compile_robot(
        get_robot(config.robot),
        timestep=config.physics_dt,
        iterations=config.solver_iterations,
        terrain=terrain,
    )
    gait = GaitConfig(period=robot.robot.gait_period, duty_factor=robot.robot.gait_duty_factor)
    physics = make_physics(robot, config.backend)
    return VelocityEnv(config, robot, physics, gait, Episode(config, robot, physics, gait, terrain))


def on_flat_ground(env: VelocityEnv) -> VelocityEnv:
    """The same task on a flat floor: the task itself, if it is on one."""
    if env.one.terrain is None:
        return env
    return make(dataclasses.replace(env.config, terrain=TerrainConfig()))


def _is_finite(physics: PhysicsState) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(physics.qpos)) & jnp.all(jnp.isfinite(physics.qvel))


def _select(condition: Bool[Array, " B"], on_true: T, on_false: T) -> T:
    """Leaf by leaf, robot by robot."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, on_true, on_false)
