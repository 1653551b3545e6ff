"""Centroidal quantities, base and feet from (model, qpos, qvel): pure JAX, whatever backend steps the physics.

Positions come from `mjx.kinematics`. Velocities do not need MJX's walks down the tree: the twist of every body about
the base's origin is one product of the constant joint-to-body incidence matrix with the joints' twists, on a GPU one
small matrix product for all robots. Contractions over three axes are written as sums of products: they fuse, and keep
full precision where matrix products would default to TF32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float
from mujoco import mjx

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


def kinematics(model: mjx.Model, robot: RobotModel, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> Kinematics:
    """Computes the robot's centroidal state, base and feet (one instance; `jax.vmap` for batches).

    Args:
        model: JAX-backend model, possibly with randomized masses (see `envs.physics.apply_params`).
        robot: names and addresses of the robot's parts (static).
        qpos: generalized position.
        qvel: generalized velocity.

    Returns:
        The kinematic quantities at (qpos, qvel).
    """
    data = _positions(model, robot, qpos)
    p_base, R_base = data.xpos[robot.base_body_id], data.xmat[robot.base_body_id]
    w_bodies, v_bodies = _body_twists(robot, data, p_base, R_base, qvel)

    masses, p_bodies_com = model.body_mass[:, None], data.xipos
    v_bodies_com = v_bodies + jnp.cross(w_bodies, p_bodies_com - p_base)
    mass = masses.sum()
    p_com = _centre_of_mass(model, data, p_base)
    linear_momentum = (masses * v_bodies_com).sum(0)
    spin = _rotate(data.ximat, model.body_inertia * _rotate(data.ximat.mT, w_bodies))
    orbit = jnp.cross(p_bodies_com - p_com, masses * (v_bodies_com - linear_momentum / mass))

    feet, foot_bodies = robot.foot_site_ids, robot.foot_body_ids
    p_feet = data.site_xpos[feet]
    return Kinematics(
        p_world_com=p_com,
        linear_momentum=linear_momentum,
        angular_momentum=(spin + orbit).sum(0),
        p_world_base=p_base,
        R_world_base=R_base,
        v_world_base=qvel[:3],
        w_base=qvel[3:6],
        projected_gravity=-R_base[2],
        p_world_foot=p_feet,
        R_world_foot=data.site_xmat[feet],
        v_world_foot=v_bodies[foot_bodies] + jnp.cross(w_bodies[foot_bodies], p_feet - p_base),
        yaw=jnp.arctan2(R_base[1, 0], R_base[0, 0]),
    )


def centroidal_inertia(model: mjx.Model, robot: RobotModel, qpos: Float[Array, " nq"]) -> Float[Array, "3 3"]:
    """Rotational inertia of the whole body about its centre of mass, joints locked.

    Args:
        model: JAX-backend model, possibly with randomized masses.
        robot: names and addresses of the robot's parts (static).
        qpos: generalized position.

    Returns:
        The inertia in world axes, kg m^2.
    """
    data = _positions(model, robot, qpos)
    r = data.xipos - _centre_of_mass(model, data, data.xpos[robot.base_body_id])
    R, I = data.ximat, model.body_inertia
    own = ((R * I[:, None, :])[:, :, None, :] * R[:, None, :, :]).sum(-1)
    steiner = (r**2).sum(-1)[:, None, None] * jnp.eye(3) - r[:, :, None] * r[:, None, :]
    return (own + model.body_mass[:, None, None] * steiner).sum(0)


def _positions(model: mjx.Model, robot: RobotModel, qpos: Float[Array, " nq"]) -> mjx.Data:
    """Frames of all bodies, joints and sites. All other fields of the data are unset."""
    return mjx.kinematics(model, mjx.make_data(robot.mj_model, impl="jax").replace(qpos=qpos))


def _centre_of_mass(model: mjx.Model, data: mjx.Data, p_base: Float[Array, "3"]) -> Float[Array, "3"]:
    # Relative to the base, so that float32 keeps its digits far from the world's origin.
    masses = model.body_mass[:, None]
    return p_base + (masses * (data.xipos - p_base)).sum(0) / masses.sum()


def _body_twists(
    robot: RobotModel, data: mjx.Data, p_base: Float[Array, "3"], R_base: Float[Array, "3 3"], qvel: Float[Array, " nv"]
) -> tuple[Float[Array, "nbody 3"], Float[Array, "nbody 3"]]:
    """Angular velocity of each body, and velocity of its point that is now at the base's origin; world axes."""
    axes, anchors = data.xaxis[robot.joint_ids], data.xanchor[robot.joint_ids]
    joint_twists = jnp.concatenate([axes, jnp.cross(axes, p_base - anchors)], axis=1) * qvel[robot.dof_adr, None]
    moved = jnp.asarray(_moved_bodies(robot), joint_twists.dtype)
    twists = jnp.matmul(moved, joint_twists, precision=jax.lax.Precision.HIGHEST)
    return twists[:, :3] + _rotate(R_base, qvel[3:6]), twists[:, 3:] + qvel[:3]


def _moved_bodies(robot: RobotModel) -> Bool[np.ndarray, "nbody nu"]:
    """Entry (b, j): does joint j move body b."""
    model = robot.mj_model
    moved = np.zeros((model.nbody, robot.num_joints), bool)
    for body in range(1, model.nbody):  # parents come before their children
        moved[body] = moved[model.body_parentid[body]]
        moved[body] |= model.jnt_bodyid[robot.joint_ids] == body
    return moved


def _rotate(R: Float[Array, "*n 3 3"], x: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    return (R * x[..., None, :]).sum(-1)
