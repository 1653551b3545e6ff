"""Centroidal quantities, base and feet from (model, qpos, qvel): pure JAX, whatever backend steps the physics."""

from flax import struct
from jaxtyping import Array, Float
from mujoco import mjx

from envs.robots.robot import RobotModel


@struct.dataclass
class Kinematics:
    """What the task, the rewards and the controller read from one robot's state. Feet are ordered (left, right)."""

    p_world_com: Float[Array, "3"]  # m
    linear_momentum: Float[Array, "3"]  # kg m/s, world: total mass times the velocity of the centre of mass
    angular_momentum: Float[Array, "3"]  # kg m^2/s, world axes, about the centre of mass
    p_world_base: Float[Array, "3"]  # m, origin of the base body
    R_world_base: Float[Array, "3 3"]
    v_world_base: Float[Array, "3"]  # m/s, velocity of the base's origin
    w_base: Float[Array, "3"]  # rad/s, angular velocity in the IMU site's axes (what the gyro reads)
    projected_gravity: Float[Array, "3"]  # unit vector of gravity in the base frame; (0, 0, -1) when upright
    p_world_foot: Float[Array, "2 3"]  # m, sole centres
    R_world_foot: Float[Array, "2 3 3"]
    v_world_foot: Float[Array, "2 3"]  # m/s, velocity of the sole centres
    yaw: Float[Array, ""]  # rad, heading of the base's x axis


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
    raise NotImplementedError


def centroidal_inertia(
    model: mjx.Model, robot: RobotModel, qpos: Float[Array, " nq"]
) -> Float[Array, "3 3"]:
    """Rotational inertia of the whole body about its centre of mass, world axes, kg m^2 (joints locked)."""
    raise NotImplementedError
