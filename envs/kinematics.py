"""Centroidal quantities, base and feet from (masses, qpos, qvel): pure JAX, whatever backend steps the physics.

This runs for every robot in every control step, so it does no more than the task needs. The tree is walked once, level
by level, for the bodies' frames; positions are relative to the base's origin, which keeps float32 exact far from the
world's. Velocities need no walk: the twist of every body about the base's origin is the constant joint-to-body
incidence matrix times the joints' twists, on a GPU one small matrix product for all robots. Contractions over three
axes are written as sums of products: they fuse, and keep full precision where matrix products would default to TF32.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int
from mujoco import mjx

from envs.capsules import capsule_gaps
from envs.physics import ModelParams
from envs.robots.robot import RobotModel


@struct.dataclass
class Kinematics:
    """What the task, the rewards and the controller read from a robot's state; feet are ordered (left, right)."""

    p_world_com: Float[Array, "*B 3"]  # m
    linear_momentum: Float[Array, "*B 3"]  # kg m/s, world: total mass times the velocity of the centre of mass
    angular_momentum: Float[Array, "*B 3"]  # kg m^2/s, world axes, about the centre of mass
    p_world_base: Float[Array, "*B 3"]  # m, origin of the base body
    R_world_base: Float[Array, "*B 3 3"]
    v_world_base: Float[Array, "*B 3"]  # m/s, velocity of the base's origin
    w_base: Float[Array, "*B 3"]  # rad/s, angular velocity in the base's axes (what the gyro reads)
    projected_gravity: Float[Array, "*B 3"]  # unit vector of gravity in the base frame; (0, 0, -1) when upright
    p_world_foot: Float[Array, "*B 2 3"]  # m, sole centres
    R_world_foot: Float[Array, "*B 2 3 3"]
    v_world_foot: Float[Array, "*B 2 3"]  # m/s, velocity of the sole centres
    yaw: Float[Array, "*B"]  # rad, heading of the base's x axis
    limb_gaps: Float[Array, "*B P"]  # m, between the capsules of `Robot.limb_pairs`; negative where they overlap


def kinematics(
    inertias: ModelParams | mjx.Model, robot: RobotModel, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]
) -> Kinematics:
    """Computes the robot's centroidal state, base and feet (one instance; `jax.vmap` for batches).

    Args:
        inertias: where the bodies' masses are, possibly randomized; nothing else of it is read.
        robot: the robot's geometry (static).
        qpos: generalized position.
        qvel: generalized velocity.

    Returns:
        The kinematic quantities at (qpos, qvel).
    """
    tree = _tree(robot)
    frames = _frames(robot, tree, qpos)
    angular, linear = _twists(robot, tree, frames, qvel)
    p_base, R_base = qpos[:3], frames.R[0]

    masses, inertia, offsets, R_inertia = _masses(inertias, robot, tree, frames)
    mass = masses.sum()
    com = (masses * offsets).sum(0) / mass
    momenta = masses * (linear + jnp.cross(angular, offsets))
    linear_momentum = momenta.sum(0)
    spin = _rotate(R_inertia, inertia * _rotate(R_inertia.mT, angular))
    orbit = jnp.cross(offsets - com, momenta - masses * (linear_momentum / mass))

    feet = tree.node_of_body[robot.foot_body_ids]
    model, sites = robot.mj_model, robot.foot_site_ids
    feet_offsets = frames.p[feet] + _rotate(frames.R[feet], model.site_pos[sites])
    return Kinematics(
        p_world_com=p_base + com,
        linear_momentum=linear_momentum,
        angular_momentum=(spin + orbit).sum(0),
        p_world_base=p_base,
        R_world_base=R_base,
        v_world_base=qvel[:3],
        w_base=qvel[3:6],
        projected_gravity=-R_base[2],
        p_world_foot=p_base + feet_offsets,
        R_world_foot=_product(frames.R[feet], _matrices(model.site_quat[sites])),
        v_world_foot=linear[feet] + jnp.cross(angular[feet], feet_offsets),
        yaw=jnp.arctan2(R_base[1, 0], R_base[0, 0]),
        limb_gaps=_limb_gaps(robot, tree, frames),
    )


def centroidal_inertia(
    inertias: ModelParams | mjx.Model, robot: RobotModel, qpos: Float[Array, " nq"]
) -> Float[Array, "3 3"]:
    """Rotational inertia of the whole body about its centre of mass, joints locked.

    Args:
        inertias: where the bodies' masses are, possibly randomized; nothing else of it is read.
        robot: the robot's geometry (static).
        qpos: generalized position.

    Returns:
        The inertia in world axes, kg m^2.
    """
    tree = _tree(robot)
    masses, inertia, offsets, R = _masses(inertias, robot, tree, _frames(robot, tree, qpos))
    r = offsets - (masses * offsets).sum(0) / masses.sum()
    own = _product(R * inertia[:, None, :], R.mT)
    steiner = (r**2).sum(-1)[:, None, None] * jnp.eye(3) - r[:, :, None] * r[:, None, :]
    return (own + masses[:, :, None] * steiner).sum(0)


@dataclass(frozen=True)
class _Tree:
    """The bodies of the robot as nodes, level by level from the base, each with at most `slots` joints."""

    bodies: Int[np.ndarray, " n"]  # body of each node
    node_of_body: Int[np.ndarray, " nbody"]
    parents: Int[np.ndarray, " n"]  # parent node; the base is its own
    levels: tuple[slice, ...]  # the nodes of each level under the base
    joints: Int[np.ndarray, "slots n"]  # joint of each node and slot; `nu` where there is none
    moved_by: Float[np.ndarray, "n m"]  # 1 where joint m (slots by nodes) moves node n


@dataclass(frozen=True)
class _Frames:
    """World orientations of the nodes and joint axes; positions relative to the base's origin, world axes."""

    R: Float[Array, "n 3 3"]
    p: Float[Array, "n 3"]
    axes: Float[Array, "m 3"]
    anchors: Float[Array, "m 3"]


def _tree(robot: RobotModel) -> _Tree:
    model = robot.mj_model
    bodies, levels = [robot.base_body_id], []
    level = bodies
    while True:
        level = [body for body in range(model.nbody) if body != 0 and model.body_parentid[body] in level]
        if not level:
            break
        levels.append(slice(len(bodies), len(bodies) + len(level)))
        bodies = bodies + level
    node_of_body = np.zeros(model.nbody, int)
    node_of_body[bodies] = np.arange(len(bodies))
    of_node = [np.flatnonzero(model.jnt_bodyid[robot.joint_ids] == body) for body in bodies]
    slots = max(len(joints) for joints in of_node)
    joints = np.full((slots, len(bodies)), robot.num_joints)
    for node, found in enumerate(of_node):
        joints[: len(found), node] = found
    parents = node_of_body[model.body_parentid[bodies]]
    moved_by = np.eye(len(bodies))
    for node in range(1, len(bodies)):
        moved_by[node] += moved_by[parents[node]]
    return _Tree(np.array(bodies), node_of_body, parents, tuple(levels), joints, np.tile(moved_by, slots))


def _frames(robot: RobotModel, tree: _Tree, qpos: Float[Array, " nq"]) -> _Frames:
    model = robot.mj_model
    # Each node's frame in its parent's, all at once: its fixed offset, then its joints one after the other.
    zero = jnp.zeros(1, qpos.dtype)
    angles = jnp.concatenate([qpos[robot.qpos_adr] - model.qpos0[robot.qpos_adr], zero])
    axis_of = np.concatenate([model.jnt_axis[robot.joint_ids], np.zeros((1, 3))])
    anchor_of = np.concatenate([model.jnt_pos[robot.joint_ids], np.zeros((1, 3))])
    R_parent, p_parent = jnp.asarray(_matrices(model.body_quat[tree.bodies])), jnp.asarray(model.body_pos[tree.bodies])
    axes, anchors = [], []
    for joints in tree.joints:
        axes.append(_rotate(R_parent, axis_of[joints]))
        anchors.append(p_parent + _rotate(R_parent, anchor_of[joints]))
        R_parent = _product(R_parent, _rotations(axis_of[joints], angles[joints]))
        p_parent = anchors[-1] - _rotate(R_parent, anchor_of[joints])

    quaternion = qpos[3:7] / jnp.linalg.norm(qpos[3:7])
    R, p = [_base_rotation(quaternion)[None]], [jnp.zeros((1, 3), qpos.dtype)]
    first = 0  # node number of the first of the level above
    for level in tree.levels:
        above = tree.parents[level] - first
        R_above = R[-1][above]
        p.append(p[-1][above] + _rotate(R_above, p_parent[level]))
        R.append(_product(R_above, R_parent[level]))
        first = level.start
    R_nodes, p_nodes = jnp.concatenate(R), jnp.concatenate(p)
    R_above, p_above = R_nodes[tree.parents], p_nodes[tree.parents]
    return _Frames(
        R=R_nodes,
        p=p_nodes,
        axes=jnp.concatenate([_rotate(R_above, axis) for axis in axes]),
        anchors=jnp.concatenate([p_above + _rotate(R_above, anchor) for anchor in anchors]),
    )


def _twists(
    robot: RobotModel, tree: _Tree, frames: _Frames, qvel: Float[Array, " nv"]
) -> tuple[Float[Array, "n 3"], Float[Array, "n 3"]]:
    """Angular velocity of each node, and velocity of its point that is now at the base's origin; world axes."""
    speeds = jnp.concatenate([qvel[robot.dof_adr], jnp.zeros(1, qvel.dtype)])[tree.joints.reshape(-1)]
    joint_twists = jnp.concatenate([frames.axes, jnp.cross(frames.anchors, frames.axes)], axis=1) * speeds[:, None]
    moved_by = jnp.asarray(tree.moved_by, qvel.dtype)
    twists = jnp.matmul(moved_by, joint_twists, precision=jax.lax.Precision.HIGHEST)
    return twists[:, :3] + _rotate(frames.R[0], qvel[3:6]), twists[:, 3:] + qvel[:3]


def _masses(
    inertias: ModelParams | mjx.Model, robot: RobotModel, tree: _Tree, frames: _Frames
) -> tuple[Float[Array, "n 1"], Float[Array, "n 3"], Float[Array, "n 3"], Float[Array, "n 3 3"]]:
    """Masses, principal inertias, centres of mass relative to the base, and principal axes, of the nodes."""
    R_inertia = _product(frames.R, _matrices(robot.mj_model.body_iquat[tree.bodies]))
    offsets = frames.p + _rotate(frames.R, inertias.body_ipos[tree.bodies])
    return inertias.body_mass[tree.bodies, None], inertias.body_inertia[tree.bodies], offsets, R_inertia


def _limb_gaps(robot: RobotModel, tree: _Tree, frames: _Frames) -> Float[Array, " P"]:
    model, geoms = robot.mj_model, robot.limb_geom_ids.reshape(-1)
    nodes = tree.node_of_body[model.geom_bodyid[geoms]]
    half = _matrices(model.geom_quat[geoms])[:, :, 2] * model.geom_size[geoms, 1:2]  # along a capsule's own z
    ends = [frames.p[nodes] + _rotate(frames.R[nodes], model.geom_pos[geoms] + end) for end in (-half, half)]
    return capsule_gaps(
        jnp.stack(ends, axis=1).reshape(-1, 2, 2, 3), jnp.asarray(model.geom_size[geoms, 0].reshape(-1, 2))
    )


def _matrices(quaternions: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 3 3"]:
    R = np.zeros((len(quaternions), 9))
    for matrix, quaternion in zip(R, quaternions, strict=True):
        mujoco.mju_quat2Mat(matrix, quaternion)
    return R.reshape(-1, 3, 3)


def _base_rotation(quaternion: Float[Array, " 4"]) -> Float[Array, "3 3"]:
    w, x, y, z = quaternion
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _rotations(axes: Float[np.ndarray, "n 3"], angles: Float[Array, " n"]) -> Float[Array, "n 3 3"]:
    """Rotations about unit axes (Rodrigues); the identity for a zero angle, whatever the axis."""
    s, c = jnp.sin(angles)[:, None, None], jnp.cos(angles)[:, None, None]
    cross = np.cross(np.eye(3), axes[:, None, :])  # row i is e_i x axis, so cross @ v = axis x v
    return jnp.eye(3) * c + s * cross + (1 - c) * (axes[:, :, None] * axes[:, None, :])


def _rotate(R: Float[Array, "*n 3 3"], x: Float[Array, "*n 3"] | Float[np.ndarray, "*n 3"]) -> Float[Array, "*n 3"]:
    return (R * x[..., None, :]).sum(-1)


def _product(
    A: Float[Array, "*n 3 3"], B: Float[Array, "*n 3 3"] | Float[np.ndarray, "*n 3 3"]
) -> Float[Array, "*n 3 3"]:
    return (A[..., :, :, None] * B[..., None, :, :]).sum(-2)
