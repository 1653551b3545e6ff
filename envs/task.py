"""What one robot's episode remembers besides its physics, and how a control step changes it. All single-instance."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs.guidance import GuidanceState
from envs.kinematics import Kinematics
from envs.observations import yaw_rotation
from envs.physics import Contacts, ModelParams, PhysicsState
from envs.robots import RobotModel
from envs.terrain import Walk
from pimpc.gait import GaitConfig, stance, swing_fraction
from rewards import Context, Guidance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskState:
    """One robot's episode. Feet are ordered (left, right)."""

    key: PRNGKeyArray
    params: ModelParams  # the randomized robot
    encoder_bias: Float[Array, " nj"]  # rad
    home: Kinematics  # of this robot at rest in the default pose, at the world's origin
    steps: Int[Array, ""]  # control steps of this episode
    command: Float[Array, " 3"]  # v_x, v_y [m/s], ω_z [rad/s], base yaw frame
    command_wait: Float[Array, ""]  # control steps until the next command
    push_wait: Float[Array, ""]  # control steps until the next kick
    phase: Float[Array, ""]  # gait phase [cycles]
    moving: Bool[Array, ""]  # the command asks for more than a stand
    last_action: Float[Array, " nj"]
    mean_error: Float[Array, " 3"]  # of v_x, v_y [m/s], ω_z [rad/s], base yaw frame; see `average_error`
    angular_momentum: Float[Array, " 3"]  # at the previous step [kg m²/s]
    contact: Bool[Array, " 2"]
    peak_height: Float[Array, " 2"]  # of each sole over the ground since lift-off [m]
    guidance: GuidanceState | None  # None: there is no MPC
    walk: Walk | None = None  # on rough ground only

    def replace(self, **changes: object) -> TaskState:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def stand_at(home: Kinematics, shift: Float[Array, " 3"], yaw: Float[Array, ""]) -> Kinematics:
    """The kinematics of a robot at rest, moved on the plane: what `kinematics` would find, without its cost.

    Args:
        home: at rest, base over the world's origin, heading along x.
        shift: of the base [m].
        yaw: heading [rad].
    """
    R = yaw_rotation(yaw)
    return home.replace(
        p_world_com=R @ home.p_world_com + shift,
        p_world_base=R @ home.p_world_base + shift,
        R_world_base=R @ home.R_world_base,
        p_world_foot=home.p_world_foot @ R.T + shift,
        R_world_foot=R @ home.R_world_foot,
        yaw=home.yaw + yaw,
    )


def base_velocity(kin: Kinematics) -> Float[Array, " 3"]:
    """Linear velocity of the base in its yaw frame [m/s]."""
    return yaw_rotation(kin.yaw).T @ kin.v_world_base


def average_error(task: TaskState, kin: Kinematics, gait: GaitConfig, dt: float) -> Float[Array, " 3"]:
    """The mean of velocity minus command, brought up to date: exponential, over half a gait period."""
    velocity = base_velocity(kin).at[2].set(kin.w_base[2])
    share = min(1.0, 2.0 * dt / gait.period)
    return task.mean_error + share * (velocity - task.command - task.mean_error)


def reward_context(
    robot: RobotModel,
    gait: GaitConfig,
    task: TaskState,
    kin: Kinematics,
    physics: PhysicsState,
    contacts: Contacts,
    action: Float[Array, " nj"],
    guidance: Guidance,
    dt: float,
    ground: Float[Array, " 3"],
) -> Context:
    """Collects what the reward terms look at, after a control step.

    Args:
        robot: the compiled robot.
        gait: the phase clock's numbers.
        task: the episode; `last_action`, `contact`, `angular_momentum` are those before the step, the rest is present.
        kin: kinematics after the step.
        physics: joint state after the step.
        contacts: foot contacts of the step.
        action: that was applied.
        guidance: the MPC's landmarks for now.
        dt: control period [s].
        ground: z of the ground under base, left and right sole [m].
    """
    foot_height = kin.p_world_foot[:, 2] - ground[1:]
    R = kin.R_world_base
    return Context(
        command=task.command,
        moving=task.moving,
        scheduled_stance=stance(task.phase, gait, task.moving),
        swing_fraction=swing_fraction(task.phase, gait, task.moving),
        v_base=base_velocity(kin),
        w_base=kin.w_base,
        w_world=R @ kin.w_base,
        mean_error=task.mean_error,
        gravity_base=kin.projected_gravity,
        **_joints(robot, physics, task.moving),
        action=action,
        last_action=task.last_action,
        mass=task.params.body_mass.sum(),
        inertia=R @ jnp.asarray(robot.inertia, R.dtype) @ R.T,
        p_world_com=kin.p_world_com,
        linear_momentum=kin.linear_momentum,
        angular_momentum=kin.angular_momentum,
        angular_momentum_rate=(kin.angular_momentum - task.angular_momentum) / dt,
        p_world_foot=kin.p_world_foot,
        foot_height=foot_height,
        v_world_foot=kin.v_world_foot,
        tilt_foot=jnp.linalg.norm(kin.R_world_foot[:, :2, 2], axis=-1),
        contact=contacts.in_contact,
        touchdown=contacts.in_contact & ~task.contact,
        peak_height=jnp.maximum(task.peak_height, foot_height),
        f_world_foot=contacts.force_world,
        limb_gaps=kin.limb_gaps,
        guidance=guidance,
    )


def _joints(robot: RobotModel, physics: PhysicsState, moving: Bool[Array, ""]) -> dict[str, Float[Array, " nj"]]:
    """The context's entries about joints [rad]: where they are, should be, may stray to, and must not go."""
    q = physics.qpos[robot.qpos_adr]
    return {
        "q": q,
        "q_default": jnp.asarray(robot.default_joint_pos, q.dtype),
        "q_std": jnp.where(moving, robot.pose_std_walking, robot.pose_std_standing),
        "q_lower": jnp.asarray(robot.soft_limits[:, 0], q.dtype),
        "q_upper": jnp.asarray(robot.soft_limits[:, 1], q.dtype),
    }


def has_fallen(
    robot: RobotModel, kin: Kinematics, tilt_limit: float, ground: Float[Array, ""] | float = 0.0
) -> Bool[Array, ""]:
    """Whether the base leans more than `tilt_limit` degrees or has sunk below the termination height over `ground`."""
    leaning = kin.projected_gravity[2] > -jnp.cos(jnp.deg2rad(tilt_limit))
    return leaning | (kin.p_world_base[2] - ground < robot.termination_height)
