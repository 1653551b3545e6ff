"""Robots as data: one MJCF, one `Robot`, and everything else measured from the compiled model.

A `Robot` names things (bodies, sites, geoms, joint patterns) and gives the few numbers that an MJCF does not hold: gains, efforts,
the nominal pose, the gait. `compile_robot` turns it into a `RobotModel`: the MuJoCo model with floor, actuators and contact sensors,
and the quantities that the task and the controller need (mass, inertia, sole extents, nominal heights), all read off that model.

Feet are always ordered (left, right); joints and actuators always follow the model's joint order.
"""

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class JointGroup:
    """Actuator figures shared by all joints whose name fully matches `pattern` (first matching group wins)."""

    pattern: str  # regular expression, full match against the joint's name
    kp: float  # N m/rad, proportional gain
    kd: float  # N m s/rad, derivative gain
    effort: float  # N m, torque limit
    armature: float  # kg m^2, rotor inertia seen at the joint


@dataclass(frozen=True)
class PoseStd:
    """Widths of the pose reward for all joints whose name fully matches `pattern` (first match wins)."""

    pattern: str  # regular expression, full match against the joint's name
    standing: float  # rad
    walking: float  # rad


@dataclass(frozen=True)
class Robot:
    """A biped as plain data.

    The MJCF holds one free-floating base, hinge joints, and per foot a site at the sole's centre (z up, x forward, on the sole's
    plane) and small spheres under the sole. It needs no floor, actuators, sensors or lights: `compile_robot` adds them.
    """

    name: str
    mjcf: Path  # path of the robot's MJCF
    base_body: str  # the body that carries the free joint
    imu_site: str  # a site of the base; its frame is the frame of the gyro
    foot_sites: tuple[str, str]  # (left, right), at the centre of each sole
    foot_geoms: tuple[tuple[str, ...], tuple[str, ...]]  # (left, right), the spheres that touch the floor
    joint_groups: tuple[JointGroup, ...]
    default_pose: tuple[tuple[str, float], ...]  # (joint pattern, rad), first match wins; joints without a match stay at zero
    pose_std: tuple[PoseStd, ...]
    gait_period: float = 0.8  # s
    gait_duty_factor: float = 0.6  # stance fraction of the period, each foot
    foot_friction: float = 0.6  # sliding friction of the feet on the floor
    action_scale_factor: float = 0.25  # joint target per unit action, as a fraction of effort / kp
    soft_limit_factor: float = 0.9  # fraction of each joint's range inside its soft limits
    termination_height_factor: float = 0.5  # a base lower than this fraction of its nominal height has fallen


@dataclass(frozen=True, eq=False)
class RobotModel:
    """A compiled robot: the MuJoCo model and what is measured from it. Host-side NumPy; static under `jax.jit`.

    "Nominal" is the default pose with the base upright and both soles on the floor. `nu` is the number of actuated joints, in the model's joint order.
    """

    robot: Robot
    mj_model: mujoco.MjModel  # nq = 7 + nu, nv = 6 + nu; floor, actuators, foot contact sensors included
    mass: float  # kg
    joint_names: tuple[str, ...]  # (nu,)
    joint_ids: Int[np.ndarray, " nu"]
    qpos_adr: Int[np.ndarray, " nu"]  # address of each joint in qpos
    dof_adr: Int[np.ndarray, " nu"]  # address of each joint in qvel
    default_qpos: Float[np.ndarray, " nq"]  # nominal configuration
    default_joint_pos: Float[np.ndarray, " nu"]  # rad
    joint_limits: Float[np.ndarray, "nu 2"]  # rad (lower, upper)
    soft_limits: Float[np.ndarray, "nu 2"]  # rad (lower, upper)
    kp: Float[np.ndarray, " nu"]  # N m/rad
    kd: Float[np.ndarray, " nu"]  # N m s/rad
    effort: Float[np.ndarray, " nu"]  # N m
    armature: Float[np.ndarray, " nu"]  # kg m^2
    action_scale: Float[np.ndarray, " nu"]  # rad per unit action
    pose_std_standing: Float[np.ndarray, " nu"]  # rad
    pose_std_walking: Float[np.ndarray, " nu"]  # rad
    base_body_id: int
    imu_site_id: int
    foot_body_ids: Int[np.ndarray, " 2"]  # (left, right)
    foot_site_ids: Int[np.ndarray, " 2"]  # (left, right)
    foot_geom_ids: tuple[Int[np.ndarray, " n_left"], Int[np.ndarray, " n_right"]]
    floor_geom_id: int
    sole: Float[np.ndarray, " 3"]  # m, (toe, heel, half_width): distances from the sole's centre to the sole's edges
    base_height: float  # m, nominal height of the base's origin over the floor
    com_height: float  # m, nominal height of the centre of mass over the floor
    hip_offset_base: Float[np.ndarray, "2 3"]  # m, nominal p_foot - p_base, base yaw frame
    foot_offset_com: Float[np.ndarray, "2 3"]  # m, nominal p_foot - p_com, base yaw frame
    inertia: Float[np.ndarray, "3 3"]  # kg m^2, whole body about its centre of mass at the nominal pose, world axes
    termination_height: float  # m, base heights below it count as a fall

    @property
    def num_joints(self) -> int:
        """Number of actuated joints (nu)."""
        return len(self.joint_names)


def compile_robot(robot: Robot, *, timestep: float = 0.005, iterations: int = 3, ls_iterations: int = 5) -> RobotModel:
    """Compiles a robot on a flat floor, with position actuators, and measures it.

    Args:
        robot: the robot's data.
        timestep: physics step, s.
        iterations: Newton iterations of the contact solver per physics step.
        ls_iterations: line-search iterations per Newton iteration.

    Returns:
        The compiled robot.

    Raises:
        FileNotFoundError: the MJCF does not exist.
        ValueError: the MJCF and the robot's data do not fit together (one sentence says which name or pattern).
    """
    raise NotImplementedError
