"""The velocity task: a biped follows a commanded velocity, with an MPC planning for every robot inside the step.

The environment is batched: `reset` and `step` work on all robots at once, because the physics backend and the MPC are
batched operations and the MPC's update rate is one decision for the whole batch. Everything else is written for one
robot and mapped. Episodes that end are replaced by fresh ones within the same step.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs import guidance as mpc
from envs import observations
from envs.commands import sample, sample_interval
from envs.config import VelocityConfig
from envs.guidance import PlanInputs
from envs.kinematics import Kinematics, kinematics
from envs.physics import Contacts, ModelParams, Physics, PhysicsState, make_physics, nominal_params
from envs.randomization import kick, randomize
from envs.robots import RobotModel, compile_robot, get_robot
from envs.state import Observation, State
from envs.task import TaskState, has_fallen, reward_context, stand_at
from pimpc.gait import GaitConfig, advance, is_moving
from pimpc.plan import CentroidalModel, CentroidalState
from rewards import evaluate, weighted_terms

MPC_METRICS = ("mpc/failed", "mpc/iterations", "mpc/landmarks")


@dataclasses.dataclass(frozen=True, eq=False)
class VelocityEnv:
    """A batch of robots that follow velocity commands; see the module's docstring. Made by `make`."""

    config: VelocityConfig
    robot: RobotModel
    physics: Physics
    gait: GaitConfig

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
    def metric_names(self) -> tuple[str, ...]:
        """Keys of `State.metrics`: weighted reward terms per second, tracking errors, falls, and the MPC's health."""
        terms = tuple(f"reward/{name}" for name in weighted_terms(self.config.rewards))
        return (*terms, "velocity_error", "yaw_rate_error", "episode/fallen", "episode/diverged", *MPC_METRICS)

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
        home = jax.vmap(lambda p: self._kinematics(p, self._at_home()))(params)
        physics, kin = jax.vmap(self._stand)(keys[:, 1], home)
        task = jax.vmap(self._start)(keys[:, 2], params, bias, home, kin)
        latest = self.max_steps if self.config.start.random_phase else 1
        steps = jax.vmap(lambda key: jax.random.randint(key, (), 0, latest))(keys[:, 3])
        task = task.replace(steps=steps)
        contacts = Contacts(jnp.zeros((batch, 2, 3)), jnp.zeros((batch, 2), bool))
        task, obs = jax.vmap(self._observe)(task, kin, physics, contacts)
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
        task, physics = jax.vmap(self._push)(state.info["task"], state.pipeline_state)
        target = self.robot.default_joint_pos + self.robot.action_scale * action - task.encoder_bias
        stepped, contacts = self.physics.step(task.params, physics, target, self.config.decimation)
        finite = jax.vmap(_is_finite)(stepped)
        # A diverged robot is judged at home and earns nothing: its numbers must reach neither reward nor statistics.
        physics = _select(finite, stepped, self._at_home())
        contacts = _select(finite, contacts, jax.tree.map(jnp.zeros_like, contacts))
        kin = jax.vmap(self._kinematics)(task.params, physics)
        task, reward, metrics = jax.vmap(self._score, in_axes=(0, 0, 0, 0, 0, None))(
            task, kin, physics, contacts, action, now
        )
        reward, metrics = _select(finite, (reward, metrics), jax.tree.map(jnp.zeros_like, (reward, metrics)))

        fallen = jax.vmap(lambda k: has_fallen(self.robot, k, self.config.tilt_limit))(kin) | ~finite
        timed_out = (task.steps >= self.max_steps) & ~fallen
        done = fallen | timed_out
        final_obs = jax.vmap(self._observe)(task, kin, physics, contacts)[1]

        task, physics, kin, contacts = self._replace_ended(done, task, physics, kin, contacts)
        task = self._plan(task, kin, now)
        task, obs = jax.vmap(self._observe)(task, kin, physics, contacts)
        metrics |= {
            "episode/fallen": fallen.astype(jnp.float32),
            "episode/diverged": (~finite).astype(jnp.float32),
            "mpc/failed": (~task.guidance.solved).astype(jnp.float32),
            "mpc/iterations": task.guidance.iterations.astype(jnp.float32),
        }
        keep = {name: jnp.where(done[:, None], value, obs[name]) for name, value in final_obs.items()}
        info = {"task": task, "tick": tick, "truncation": timed_out.astype(jnp.float32), "final_obs": keep}
        return State(physics, obs, reward, done.astype(jnp.float32), metrics, info)

    def snapshot(self, state: State, index: int = 0) -> dict[str, Array]:
        """What a picture of one robot and its plan needs: see `learning.video`."""
        physics, task = jax.tree.map(lambda leaf: leaf[index], (state.pipeline_state, state.info["task"]))
        plan = task.guidance.plan
        return {
            "qpos": physics.qpos,
            "com_path": plan.p_world_com,
            "landing": plan.landing,
            "landing_valid": plan.landing_valid,
            "foot": plan.p_world_foothold[0],
            "force": plan.force[0],
            "command": task.command,
            "done": state.done[index],
        }

    # --- Parts, for one robot --------------------------------------------------------------------------------------

    def _kinematics(self, params: ModelParams, physics: PhysicsState) -> Kinematics:
        return kinematics(params, self.robot, physics.qpos, physics.qvel)

    def _at_home(self) -> PhysicsState:
        """The default pose at rest at the world's origin."""
        qpos = jnp.asarray(self.robot.default_qpos, jnp.float32)
        return self.physics.init(qpos, jnp.zeros(self.robot.mj_model.nv))

    def _stand(self, key: PRNGKeyArray, home: Kinematics) -> tuple[PhysicsState, Kinematics]:
        """The default pose at rest, somewhere on the plane."""
        start = self.config.start
        xy_key, z_key, yaw_key = jax.random.split(key, 3)
        xy = start.position * jax.random.uniform(xy_key, (2,), minval=-1.0)
        z = jax.random.uniform(z_key, (1,), minval=start.height[0], maxval=start.height[1])
        yaw = start.yaw * jax.random.uniform(yaw_key, minval=-1.0)
        shift = jnp.concatenate([xy, z])
        zero = jnp.zeros(())
        quaternion = jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)])
        at_home = self._at_home()
        qpos = at_home.qpos.at[:3].add(shift).at[3:7].set(quaternion)
        return at_home.replace(qpos=qpos), stand_at(home, shift, yaw)

    def _start(
        self,
        key: PRNGKeyArray,
        params: ModelParams,
        bias: Float[Array, " nj"],
        home: Kinematics,
        kin: Kinematics,
    ) -> TaskState:
        """A fresh episode of a robot that stands where `kin` says."""
        key, command_key, wait_key, push_key = jax.random.split(key, 4)
        command = sample(command_key, self.config.command)
        phase = jnp.zeros(())
        return TaskState(
            key=key,
            params=params,
            encoder_bias=bias,
            home=home,
            steps=jnp.zeros((), jnp.int32),
            command=command,
            command_wait=sample_interval(wait_key, self.config.command.resample, self.dt),
            push_wait=sample_interval(push_key, self.config.push.interval, self.dt),
            phase=phase,
            moving=jnp.zeros((), bool),
            last_action=jnp.zeros(self.action_size),
            angular_momentum=kin.angular_momentum,
            contact=jnp.ones(2, bool),
            peak_height=jnp.zeros(2),
            guidance=mpc.init(self.config.guidance, self.gait, self._plan_inputs(params, kin, phase, command), self.dt),
        )

    def _push(self, task: TaskState, physics: PhysicsState) -> tuple[TaskState, PhysicsState]:
        """Counts down to the next kick and to the next command, and applies those that are due."""
        key, kick_key, push_key, command_key, wait_key = jax.random.split(task.key, 5)
        push = task.push_wait <= 1
        qvel = physics.qvel.at[:6].add(jnp.where(push, kick(kick_key, self.config.push), 0.0))
        push_wait = jnp.where(push, sample_interval(push_key, self.config.push.interval, self.dt), task.push_wait - 1)
        renew = task.command_wait <= 1
        command = jnp.where(renew, sample(command_key, self.config.command), task.command)
        command_wait = jnp.where(
            renew, sample_interval(wait_key, self.config.command.resample, self.dt), task.command_wait - 1
        )
        task = task.replace(key=key, push_wait=push_wait, command=command, command_wait=command_wait)
        return task, physics.replace(qvel=qvel)

    def _score(
        self,
        task: TaskState,
        kin: Kinematics,
        physics: PhysicsState,
        contacts: Contacts,
        action: Float[Array, " nj"],
        tick: Int[Array, ""],
    ) -> tuple[TaskState, Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The reward of the step that led here, and the episode's memory brought up to date."""
        moving = is_moving(task.command, self.gait)
        phase = advance(task.phase, self.gait, self.dt, moving, task.moving, task.command)
        aged = dataclasses.replace(task.guidance, age=task.guidance.age + 1)
        task = task.replace(phase=phase, moving=moving, steps=task.steps + 1, guidance=aged)
        landmarks = mpc.recall(self.config.guidance, aged, tick, self.dt)
        ctx = reward_context(self.robot, self.gait, task, kin, physics, contacts, action, landmarks, self.dt)
        reward, parts = evaluate(self.config.rewards, ctx, self.dt)
        metrics = {f"reward/{name}": value for name, value in parts.items()}
        metrics["velocity_error"] = jnp.linalg.norm(ctx.command[:2] - ctx.v_base[:2])
        metrics["yaw_rate_error"] = jnp.abs(ctx.command[2] - ctx.w_base[2])
        metrics["mpc/landmarks"] = jnp.sum(landmarks.weight > 0).astype(jnp.float32)
        task = task.replace(
            last_action=action,
            angular_momentum=kin.angular_momentum,
            contact=contacts.in_contact,
            peak_height=jnp.where(contacts.in_contact, 0.0, ctx.peak_height),
        )
        return task, reward, metrics

    def _observe(
        self, task: TaskState, kin: Kinematics, physics: PhysicsState, contacts: Contacts
    ) -> tuple[TaskState, Observation]:
        """What actor and critic see now; uses up one random key."""
        key, noise_key = jax.random.split(task.key)
        q = physics.qpos[self.robot.qpos_adr] + task.encoder_bias - self.robot.default_joint_pos
        qd = physics.qvel[self.robot.dof_adr]
        noise_free = observations.actor(kin, q, qd, task.last_action, task.command, task.phase)
        mass = task.params.body_mass.sum()
        targets = mpc.next_targets(self.config.guidance, task.guidance, self.dt)
        critic = observations.privileged(
            noise_free, kin, contacts.in_contact.astype(q.dtype), contacts.force_world, targets, mass
        )
        actor = observations.add_noise(noise_key, self.config.noise, noise_free)
        return task.replace(key=key), {"state": actor, "privileged_state": critic}

    def _plan_inputs(
        self, params: ModelParams, kin: Kinematics, phase: Float[Array, ""], command: Float[Array, " 3"]
    ) -> PlanInputs:
        """What the MPC is told: the true centroidal state, and the robot as it is or as it is published."""
        robot = self.robot
        sees = self.config.guidance.sees_randomization
        model = CentroidalModel(
            mass=params.body_mass.sum() if sees else jnp.asarray(robot.mass, jnp.float32),
            friction=params.foot_friction if sees else jnp.asarray(robot.robot.foot_friction, jnp.float32),
            sole=jnp.asarray(robot.sole, jnp.float32),
            foot_offset=jnp.asarray(robot.foot_offset_com[:, :2], jnp.float32),
            com_height=jnp.asarray(robot.com_height, jnp.float32),
            inertia_zz=jnp.asarray(robot.inertia[2, 2], jnp.float32),
        )
        state = CentroidalState(
            p_world_com=kin.p_world_com,
            linear_momentum=kin.linear_momentum,
            angular_momentum=kin.angular_momentum,
            p_world_foot=kin.p_world_foot,
            R_world_foot=kin.R_world_foot,
            yaw=kin.yaw,
            ground_height=jnp.zeros(()),
        )
        return PlanInputs(model, state, phase, command, is_moving(command, self.gait))

    # --- Parts, for all robots -------------------------------------------------------------------------------------

    def _replace_ended(
        self, done: Bool[Array, " B"], task: TaskState, physics: PhysicsState, kin: Kinematics, contacts: Contacts
    ) -> tuple[TaskState, PhysicsState, Kinematics, Contacts]:
        """Fresh episodes in place of those that are done; a robot keeps its body."""
        keys = jax.vmap(partial(jax.random.split, num=3))(task.key)
        fresh_physics, fresh_kin = jax.vmap(self._stand)(keys[:, 0], task.home)
        fresh_task = jax.vmap(self._start)(keys[:, 1], task.params, task.encoder_bias, task.home, fresh_kin)
        fresh_contacts = jax.tree.map(jnp.zeros_like, contacts)
        old = (task.replace(key=keys[:, 2]), physics, kin, contacts)
        return _select(done, (fresh_task, fresh_physics, fresh_kin, fresh_contacts), old)

    def _plan(self, task: TaskState, kin: Kinematics, tick: Int[Array, ""]) -> TaskState:
        """Solves the MPC for all robots when it is due, and files what the plans predict."""
        config = self.config.guidance

        def solve_all(guidance: mpc.GuidanceState) -> mpc.GuidanceState:
            inputs = jax.vmap(self._plan_inputs)(task.params, kin, task.phase, task.command)
            return jax.vmap(partial(mpc.solve, config, self.gait, dt=self.dt))(inputs, guidance)

        guidance = jax.lax.cond(tick % config.every == 0, solve_all, lambda g: g, task.guidance)
        guidance = jax.vmap(partial(mpc.remember, config, dt=self.dt), in_axes=(0, None))(guidance, tick)
        return task.replace(guidance=guidance)


def make(config: VelocityConfig) -> VelocityEnv:
    """Builds the task: compiles the robot and puts it on its physics backend."""
    robot = compile_robot(get_robot(config.robot), timestep=config.physics_dt, iterations=config.solver_iterations)
    gait = GaitConfig(period=robot.robot.gait_period, duty_factor=robot.robot.gait_duty_factor)
    return VelocityEnv(config, robot, make_physics(robot, config.backend), gait)


def _is_finite(physics: PhysicsState) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(physics.qpos)) & jnp.all(jnp.isfinite(physics.qvel))


def _select(condition: Bool[Array, " B"], on_true: object, on_false: object) -> object:
    """Leaf by leaf, robot by robot."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, on_true, on_false)
