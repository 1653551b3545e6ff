"""One robot's part of the velocity task: everything in a control step but the physics and the MPC's solve.

All methods are for a single robot; `envs.velocity` maps them over the batch.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs import guidance as mpc
from envs import observations
from envs.commands import sample, sample_interval
from envs.config import VelocityConfig
from envs.guidance import PlanInputs
from envs.kinematics import Kinematics
from envs.kinematics import kinematics as body_kinematics
from envs.physics import Contacts, ModelParams, Physics, PhysicsState
from envs.randomization import kick
from envs.robots import RobotModel
from envs.state import Observation
from envs.task import TaskState, average_error, has_fallen, reward_context, stand_at
from envs.terrain import Terrain, Walk, ground_heights, log_walk
from pimpc.gait import GaitConfig, advance, is_moving
from pimpc.plan import CentroidalModel, CentroidalState
from rewards import evaluate
from rewards.terms import ang_vel, lin_vel


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """What happens to one robot; holds no state of its own."""

    config: VelocityConfig
    robot: RobotModel
    physics: Physics
    gait: GaitConfig
    terrain: Terrain | None = None  # None: a flat floor at z = 0

    def kinematics(self, params: ModelParams, physics: PhysicsState) -> Kinematics:
        """Where the robot is and how it moves, with its own masses."""
        return body_kinematics(params, self.robot, physics.qpos, physics.qvel)

    def at_home(self) -> PhysicsState:
        """The default pose at rest at the world's origin."""
        qpos = jnp.asarray(self.robot.default_qpos, jnp.float32)
        return self.physics.init(qpos, jnp.zeros(self.robot.mj_model.nv))

    def ground(self, kin: Kinematics) -> Float[Array, " 3"]:
        """Heights (z) of the ground under base, left and right sole [m]."""
        return ground_heights(self.terrain, jnp.concatenate([kin.p_world_base[None, :2], kin.p_world_foot[:, :2]]))

    def stand(self, key: PRNGKeyArray, home: Kinematics, walk: Walk | None = None) -> tuple[PhysicsState, Kinematics]:
        """The default pose at rest, somewhere on the plane, or on a tile of the walk's level, over the ground."""
        start = self.config.start
        xy_key, z_key, yaw_key = jax.random.split(key, 3)
        xy = start.position * jax.random.uniform(xy_key, (2,), minval=-1.0)
        z = jax.random.uniform(z_key, (1,), minval=start.height[0], maxval=start.height[1])
        yaw = start.yaw * jax.random.uniform(yaw_key, minval=-1.0)
        shift = jnp.concatenate([xy, z])
        zero = jnp.zeros(())
        quaternion = jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)])
        at_home = self.at_home()
        if self.terrain is not None and walk is not None:
            lane = jax.random.randint(jax.random.fold_in(key, 1), (), 0, self.terrain.config.lanes)
            shift = shift.at[:2].add(self.terrain.origin(walk.level, lane))
            shift = shift.at[2].add(jnp.max(self.terrain.height(self._sole_corners(stand_at(home, shift, yaw)))))
        qpos = at_home.qpos.at[:3].add(shift).at[3:7].set(quaternion)
        return at_home.replace(qpos=qpos), stand_at(home, shift, yaw)

    def _sole_corners(self, kin: Kinematics) -> Float[Array, "2 4 2"]:
        toe, heel, half_width = self.robot.sole
        corners = np.array([[x, y, 0.0] for x in (toe, -heel) for y in (half_width, -half_width)])
        return (kin.p_world_foot[:, None] + jnp.einsum("fij,cj->fci", kin.R_world_foot, corners))[..., :2]

    def start(
        self,
        key: PRNGKeyArray,
        params: ModelParams,
        bias: Float[Array, " nj"],
        home: Kinematics,
        kin: Kinematics,
        walk: Walk | None = None,
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
            command_wait=sample_interval(wait_key, self.config.command.resample, self.config.dt),
            push_wait=sample_interval(push_key, self.config.push.interval, self.config.dt),
            phase=phase,
            moving=jnp.zeros((), bool),
            last_action=jnp.zeros(self.robot.num_joints),
            mean_error=jnp.zeros(3),
            angular_momentum=kin.angular_momentum,
            contact=jnp.ones(2, bool),
            peak_height=jnp.zeros(2),
            guidance=self._first_plan(params, kin, phase, command),
            walk=walk,
        )

    def _first_plan(
        self, params: ModelParams, kin: Kinematics, phase: Float[Array, ""], command: Float[Array, " 3"]
    ) -> mpc.GuidanceState | None:
        if not self.config.guidance.enabled:
            return None
        return mpc.init(self.config.guidance, self.gait, self.plan_inputs(params, kin, phase, command), self.config.dt)

    def renew(self, task: TaskState, physics: PhysicsState) -> tuple[TaskState, PhysicsState]:
        """Counts down to the next kick and to the next command, and applies those that are due."""
        key, kick_key, push_key, command_key, wait_key = jax.random.split(task.key, 5)
        push = task.push_wait <= 1
        qvel = physics.qvel.at[:6].add(jnp.where(push, kick(kick_key, self.config.push), 0.0))
        push_wait = jnp.where(
            push, sample_interval(push_key, self.config.push.interval, self.config.dt), task.push_wait - 1
        )
        renew = task.command_wait <= 1
        command = jnp.where(renew, sample(command_key, self.config.command), task.command)
        command_wait = jnp.where(
            renew, sample_interval(wait_key, self.config.command.resample, self.config.dt), task.command_wait - 1
        )
        task = task.replace(key=key, push_wait=push_wait, command=command, command_wait=command_wait)
        return task, physics.replace(qvel=qvel)

    # --- What a deployed policy needs, whatever moves the robot ------------------------------------------------------

    def clock(
        self, phase: Float[Array, ""], was_moving: Bool[Array, ""], command: Float[Array, " 3"]
    ) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """The gait phase [cycles] one control step later, and whether the command asks for steps."""
        moving = is_moving(command, self.gait)
        return advance(phase, self.gait, self.config.dt, moving, was_moving, command), moving

    def proprioception(
        self,
        kin: Kinematics,
        physics: PhysicsState,
        bias: Float[Array, " nj"],
        last_action: Float[Array, " nj"],
        command: Float[Array, " 3"],
        phase: Float[Array, ""],
    ) -> Float[Array, " n"]:
        """The actor's observation without noise, of joints whose encoders are off by `bias` [rad]."""
        q = physics.qpos[self.robot.qpos_adr] + bias - self.robot.default_joint_pos
        qd = physics.qvel[self.robot.dof_adr]
        return observations.actor(kin, q, qd, last_action, command, phase)

    def joint_targets(self, action: Float[Array, " nj"], bias: Float[Array, " nj"]) -> Float[Array, " nj"]:
        """What the position servos are told [rad]: the action around the default pose, as biased encoders have it."""
        return jnp.asarray(self.robot.default_joint_pos) + self.robot.action_scale * action - bias

    # --- How episodes end --------------------------------------------------------------------------------------------

    def fallen(self, kin: Kinematics) -> Bool[Array, ""]:
        """Whether the robot has fallen."""
        return has_fallen(self.robot, kin, self.config.tilt_limit, self.ground(kin)[0])

    def off_terrain(self, kin: Kinematics) -> Bool[Array, ""]:
        """Whether the robot has left the terrain: never on flat ground."""
        return jnp.zeros((), bool) if self.terrain is None else self.terrain.outside(kin.p_world_base[:2])

    def first_walk(self, key: PRNGKeyArray) -> Walk | None:
        """Where a robot's curriculum begins; None on flat ground."""
        return None if self.terrain is None else self.terrain.first_walk(jax.random.fold_in(key, 2))

    def next_walk(self, key: PRNGKeyArray, task: TaskState, fallen: Bool[Array, ""]) -> Walk | None:
        """Where it goes on after an episode that ended; None on flat ground."""
        if self.terrain is None or task.walk is None:
            return None
        seconds = self.config.episode_seconds - self.config.dt * task.steps
        rest = jnp.linalg.norm(task.command[:2]) * jnp.maximum(seconds, 0.0)
        return self.terrain.next_walk(jax.random.fold_in(key, 2), task.walk, fallen, rest)

    # --- What only training needs ------------------------------------------------------------------------------------

    def score(
        self,
        task: TaskState,
        kin: Kinematics,
        physics: PhysicsState,
        contacts: Contacts,
        action: Float[Array, " nj"],
        tick: Int[Array, ""],
    ) -> tuple[TaskState, Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The reward of the step that led here, and the episode's memory brought up to date."""
        phase, moving = self.clock(task.phase, task.moving, task.command)
        mean_error = average_error(task, kin, self.gait, self.config.dt)
        task = task.replace(phase=phase, moving=moving, steps=task.steps + 1, mean_error=mean_error)
        landmarks = mpc.silence()
        if task.guidance is not None:
            aged = dataclasses.replace(task.guidance, age=task.guidance.age + 1)
            task, landmarks = task.replace(guidance=aged), mpc.recall(self.config.guidance, aged, tick, self.config.dt)
        ground, dt = self.ground(kin), self.config.dt
        ctx = reward_context(self.robot, self.gait, task, kin, physics, contacts, action, landmarks, dt, ground)
        reward, parts = evaluate(self.config.rewards, ctx, self.config.dt)
        metrics = {f"reward/{name}": value for name, value in parts.items()}
        # as the paper scores tracking, whatever the reward has in it
        metrics["score/lin_vel"], metrics["score/ang_vel"] = lin_vel(ctx), ang_vel(ctx)
        metrics["velocity_error"] = jnp.linalg.norm(ctx.command[:2] - ctx.v_base[:2])
        metrics["yaw_rate_error"] = jnp.abs(ctx.command[2] - ctx.w_base[2])
        metrics["mean_velocity_error"] = jnp.linalg.norm(mean_error[:2])
        metrics["mean_yaw_rate_error"] = jnp.abs(mean_error[2])
        if self.config.guidance.enabled:
            metrics["mpc/landmarks"] = jnp.sum(landmarks.weight > 0).astype(jnp.float32)
        task = task.replace(
            last_action=action,
            angular_momentum=kin.angular_momentum,
            contact=contacts.in_contact,
            peak_height=jnp.where(contacts.in_contact, 0.0, ctx.peak_height),
            walk=None if task.walk is None else log_walk(task.walk, task.command, ctx.v_base, dt),
        )
        return task, reward, metrics

    def observe(
        self, task: TaskState, kin: Kinematics, physics: PhysicsState, contacts: Contacts
    ) -> tuple[TaskState, Observation]:
        """What actor and critic see now; uses up one random key."""
        key, noise_key = jax.random.split(task.key)
        noise_free = self.proprioception(kin, physics, task.encoder_bias, task.last_action, task.command, task.phase)
        mass = task.params.body_mass.sum()
        plan = task.guidance
        targets = None if plan is None else mpc.next_targets(self.config.guidance, plan, self.config.dt)
        critic = observations.privileged(
            noise_free,
            kin,
            contacts.in_contact.astype(noise_free.dtype),
            contacts.force_world,
            targets,
            mass,
            self.ground(kin),
        )
        actor = observations.add_noise(noise_key, self.config.noise, noise_free)
        return task.replace(key=key), {"state": actor, "privileged_state": critic}

    def plan_inputs(
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
            ground_height=self.ground(kin)[0],
        )
        return PlanInputs(model, state, phase, command, is_moving(command, self.gait))
