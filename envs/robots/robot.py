"""Robots as data: one MJCF, one `Robot`, and everything else measured from the compiled model.

A `Robot` names things (bodies, sites, geoms, joint patterns) and gives the few numbers that an MJCF does not hold:
gains, efforts, the nominal pose, the gait. `compile_robot` turns it into a `RobotModel`: the MuJoCo model with floor,
actuators and contact sensors, and the quantities that the task and the controller need (mass, inertia, sole extents,
nominal heights), all read off that model.

Feet are always ordered (left, right); joints and actuators always follow the model's joint order.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import mujoco
import numpy as np
from jaxtyping import Float, Int

from envs.robots import checks, gains, measure, scene
from envs.terrain import Terrain


@dataclass(frozen=True)
class JointGroup:
    """Actuator figures shared by all joints whose name fully matches `pattern` (first matching group wins).

    Gains are given either as they are, `kp` and `kd`, or by `frequency` and `damping_ratio`, from which
    `envs.robots.gains` finds those of each joint.
    """

    pattern: str  # regular expression, full match against the joint's name
    kp: float | None = None  # N m/rad, proportional gain
    kd: float | None = None  # N m s/rad, derivative gain
    effort: float = field(kw_only=True)  # N m, torque limit
    armature: float = field(kw_only=True)  # kg m^2, rotor inertia seen at the joint
    frequency: float | None = None  # rad/s, natural frequency of the joint under its PD loop
    damping_ratio: float | None = None  # of the same
    inertia: gains.Inertia = "effective"  # what frequency and damping ratio are of: the rotor, or all that it moves
    velocity: float = math.inf  # rad/s, speed limit; nothing in the simulation holds to it, the bridge watches it

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.kp, self.kd, self.frequency, self.damping_ratio)]
        if given not in ([True, True, False, False], [False, False, True, True]):
            raise ValueError(f"Joint group {self.pattern!r}: give either kp and kd, or frequency and damping_ratio.")


@dataclass(frozen=True)
class PoseStd:
    """Widths of the pose reward for all joints whose name fully matches `pattern` (first match wins)."""

    pattern: str  # regular expression, full match against the joint's name
    standing: float  # rad
    walking: float  # rad


@dataclass(frozen=True)
class Robot:
    """A biped as plain data.

    The MJCF holds one free-floating base, hinge joints, and per foot a site at the sole's centre (z up, x forward, on
    the sole's plane) and small spheres under the sole; capsules may stand for limbs that must keep clear of each other.
    It needs no floor, actuators, sensors or lights: `compile_robot` adds them.
    """

    name: str
    mjcf: Path  # path of the robot's MJCF
    base_body: str  # the body that carries the free joint
    imu_site: str  # a site of the base with the base's axes: there the gyro reads the base's angular velocity
    foot_sites: tuple[str, str]  # (left, right), at the centre of each sole
    foot_geoms: tuple[tuple[str, ...], tuple[str, ...]]  # (left, right), the spheres that touch the floor
    joint_groups: tuple[JointGroup, ...]
    default_pose: tuple[tuple[str, float], ...]  # (joint pattern, rad), first match wins, else zero
    pose_std: tuple[PoseStd, ...]
    limb_pairs: tuple[tuple[str, str], ...] = ()  # capsule geoms that must not overlap; the reward watches them
    gait_period: float = 0.8  # s
    gait_duty_factor: float = 0.6  # stance fraction of the period, each foot
    foot_friction: float = 0.6  # sliding friction of the feet on the floor
    action_scale_factor: float = 0.25  # joint target per unit action, as a fraction of effort / kp
    soft_limit_factor: float = 0.9  # fraction of each joint's range inside its soft limits
    termination_height_factor: float = 0.5  # a base lower than this fraction of its nominal height has fallen


@dataclass(frozen=True, eq=False)
class RobotModel:
    """A compiled robot: the MuJoCo model and what is measured from it. Host-side NumPy; static under `jax.jit`.

    "Nominal" is the default pose with the base upright and the soles on the floor. There are `nu` actuated joints, in
    the model's order.
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
    velocity_limit: Float[np.ndarray, " nu"]  # rad/s, inf where none is known
    action_scale: Float[np.ndarray, " nu"]  # rad per unit action
    pose_std_standing: Float[np.ndarray, " nu"]  # rad
    pose_std_walking: Float[np.ndarray, " nu"]  # rad
    base_body_id: int
    imu_site_id: int
    foot_body_ids: Int[np.ndarray, " 2"]  # (left, right)
    foot_site_ids: Int[np.ndarray, " 2"]  # (left, right)
    foot_geom_ids: tuple[Int[np.ndarray, " n_left"], Int[np.ndarray, " n_right"]]
    limb_geom_ids: Int[np.ndarray, "P 2"]  # of the pairs of limbs that must not overlap
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


def compile_robot(
    robot: Robot,
    *,
    timestep: float = 0.005,
    iterations: int = 6,
    ls_iterations: int = 6,
    terrain: Terrain | None = None,
) -> RobotModel:
    """Compiles a robot on a floor, with position actuators, and measures it.

    Only the feet collide, and only with the floor. The robot's own actuators, if its MJCF has any, are replaced.

    Args:
        robot: the robot's data.
        timestep: physics step, s.
        iterations: Newton iterations of the contact solver per physics step.
        ls_iterations: line-search iterations per Newton iteration.
        terrain: the floor's heights; None for a flat floor.

    Returns:
        The compiled robot.

    Raises:
        FileNotFoundError: the MJCF does not exist.
        ValueError: MuJoCo refuses the MJCF, or the robot's data do not fit to it (one sentence says which name or why).
    """
    spec, joint_names = robot_spec(
        robot, timestep=timestep, iterations=iterations, ls_iterations=ls_iterations, terrain=terrain
    )
    groups = _first_match(robot, joint_names, [(g.pattern, g) for g in robot.joint_groups], "joint group")
    stds = _first_match(robot, joint_names, [(s.pattern, s) for s in robot.pose_std], "pose std")
    with checks.mjcf_named(robot):
        model = spec.compile()
    return _measure(robot, model, joint_names, groups, stds, np.array(_default_pose(robot, joint_names)))


def robot_spec(
    robot: Robot,
    *,
    timestep: float = 0.005,
    iterations: int = 6,
    ls_iterations: int = 6,
    terrain: Terrain | None = None,
) -> tuple[mujoco.MjSpec, tuple[str, ...]]:
    """What `compile_robot` compiles, still editable, and the names of its joints; arguments and errors are the same."""
    if not Path(robot.mjcf).is_file():
        raise FileNotFoundError(f"Robot {robot.name!r}: there is no MJCF at {str(robot.mjcf)!r}.")
    with checks.mjcf_named(robot):
        spec = mujoco.MjSpec.from_file(str(robot.mjcf))
    joint_names = checks.hinge_names(robot, spec)
    checks.check_parts(robot, spec)
    checks.check_limbs(robot, spec)
    groups = _first_match(robot, joint_names, [(g.pattern, g) for g in robot.joint_groups], "joint group")
    pose = _default_pose(robot, joint_names)

    with checks.mjcf_named(robot):  # some of it compiles
        scene.set_solver(spec, timestep=timestep, iterations=iterations, ls_iterations=ls_iterations)
        scene.add_surroundings(spec, robot.base_body, terrain)
        scene.set_contacts(spec, [name for foot in robot.foot_geoms for name in foot], robot.foot_friction)
        if terrain is not None:
            scene.round_feet(spec, robot.foot_sites, robot.foot_geoms)
        scene.set_rotors(spec, joint_names, [g.armature for g in groups])
        scene.set_actuators(spec, joint_names, *_gains(groups, spec, joint_names, pose), [g.effort for g in groups])
    return spec, joint_names


def _default_pose(robot: Robot, joint_names: Sequence[str]) -> list[float]:
    return _first_match(robot, joint_names, [*robot.default_pose, (".*", 0.0)], "default pose")


def _gains(
    groups: Sequence[JointGroup], spec: mujoco.MjSpec, joint_names: Sequence[str], pose: Sequence[float]
) -> tuple[Float[np.ndarray, " nu"], Float[np.ndarray, " nu"]]:
    """Gains kp and kd of each joint, from its group; `spec` has its armatures already."""
    inertia = np.array([g.armature for g in groups])
    effective = np.array([g.frequency is not None and g.inertia == "effective" for g in groups])
    if effective.any():
        model = spec.compile()
        joints = [model.joint(name) for name in joint_names]
        qpos = model.qpos0.copy()
        qpos[[joint.qposadr[0] for joint in joints]] = pose
        moved = gains.effective_inertia(model, qpos, np.array([joint.dofadr[0] for joint in joints]))
        inertia = np.where(effective, moved, inertia)
    kp = [
        g.kp if g.frequency is None else gains.stiffness(J, g.frequency) for g, J in zip(groups, inertia, strict=True)
    ]
    kd = [
        g.kd if g.frequency is None else gains.damping(J, g.frequency, g.damping_ratio or 0.0)
        for g, J in zip(groups, inertia, strict=True)
    ]
    return np.array(kp, float), np.array(kd, float)


_T = TypeVar("_T")


def _first_match(robot: Robot, names: Sequence[str], table: Sequence[tuple[str, _T]], what: str) -> list[_T]:
    """The table's value of each name: its first row whose pattern matches. Every pattern must match and be matched."""
    for pattern, _ in table:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(f"Robot {robot.name!r}: the {what} pattern {pattern!r} matches no joint.")
    values = []
    for name in names:
        found = [value for pattern, value in table if re.fullmatch(pattern, name)]
        if not found:
            raise ValueError(f"Robot {robot.name!r}: the joint {name!r} is matched by no {what} pattern.")
        values.append(found[0])
    return values


def _measure(
    robot: Robot,
    model: mujoco.MjModel,
    joint_names: tuple[str, ...],
    groups: Sequence[JointGroup],
    stds: Sequence[PoseStd],
    default_joint_pos: Float[np.ndarray, " nu"],
) -> RobotModel:
    if not np.allclose(model.site(robot.imu_site).quat, (1, 0, 0, 0)):
        raise ValueError(f"Robot {robot.name!r}: site {robot.imu_site!r} (imu_site) must have the axes of the base.")
    joint_ids = np.array([model.joint(name).id for name in joint_names])
    limits = np.where(model.jnt_limited[joint_ids, None] > 0, model.jnt_range[joint_ids], [-np.inf, np.inf])
    left, right = (np.array([model.geom(name).id for name in foot]) for foot in robot.foot_geoms)
    foot_geom_ids = (left, right)
    foot_site_ids = np.array([model.site(name).id for name in robot.foot_sites])
    base_body_id = model.body(robot.base_body).id
    actuators = [model.actuator(name) for name in joint_names]
    kp, kd = np.array([[a.gainprm[0], -a.biasprm[2]] for a in actuators]).T
    effort = np.array([g.effort for g in groups])
    data = measure.nominal_data(model, joint_ids, default_joint_pos, np.concatenate(foot_geom_ids))
    p_com, p_feet, p_base = data.subtree_com[base_body_id], data.site_xpos[foot_site_ids], data.xpos[base_body_id]
    return RobotModel(
        robot=robot,
        mj_model=model,
        mass=float(model.body_mass.sum()),
        joint_names=joint_names,
        joint_ids=joint_ids,
        qpos_adr=model.jnt_qposadr[joint_ids],
        dof_adr=model.jnt_dofadr[joint_ids],
        default_qpos=data.qpos.copy(),
        default_joint_pos=default_joint_pos,
        joint_limits=limits,
        soft_limits=measure.shrink(limits, robot.soft_limit_factor),
        kp=kp,
        kd=kd,
        effort=effort,
        armature=np.array([g.armature for g in groups]),
        velocity_limit=np.array([g.velocity for g in groups]),
        action_scale=robot.action_scale_factor * effort / kp,
        pose_std_standing=np.array([s.standing for s in stds]),
        pose_std_walking=np.array([s.walking for s in stds]),
        base_body_id=base_body_id,
        imu_site_id=model.site(robot.imu_site).id,
        foot_body_ids=model.site_bodyid[foot_site_ids],
        foot_site_ids=foot_site_ids,
        foot_geom_ids=foot_geom_ids,
        limb_geom_ids=np.array([model.geom(name).id for pair in robot.limb_pairs for name in pair], int).reshape(-1, 2),
        floor_geom_id=model.geom(scene.FLOOR).id,
        sole=measure.sole(data, foot_site_ids, foot_geom_ids),
        base_height=float(p_base[2]),
        com_height=float(p_com[2]),
        hip_offset_base=p_feet - p_base,
        foot_offset_com=p_feet - p_com,
        inertia=measure.inertia_about_com(model, data, p_com),
        termination_height=robot.termination_height_factor * float(p_base[2]),
    )
