"""What the actor sees (proprioception, command, clock) and what the critic sees besides.

Source: arXiv 2606.05687, section IV-B. Planar vectors are turned into the base's yaw frame, so that an observation does
not depend on where the robot stands or which way it faces.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs.config import NoiseConfig
from envs.kinematics import Kinematics


def actor_layout(num_joints: int) -> dict[str, int]:
    """Names and sizes of the actor's observation, in order: what a deployed policy has to be fed."""
    return {
        "gyro": 3,
        "projected_gravity": 3,
        "joint_position": num_joints,
        "joint_velocity": num_joints,
        "last_action": num_joints,
        "command": 3,
        "phase_clock": 2,
    }


def privileged_layout(num_joints: int, guided: bool = True) -> dict[str, int]:
    """Names and sizes of the critic's observation, in order; without an MPC there is no plan to see."""
    only_simulated = {"velocity": 3, "height": 1, "foot_height": 2, "contact": 2, "foot_force": 6}
    plan = {"com": 3, "com_velocity": 3, "angular_momentum": 3} if guided else {}
    return actor_layout(num_joints) | only_simulated | plan


def yaw_rotation(yaw: Float[Array, ""]) -> Float[Array, "3 3"]:
    """R_world_yaw: from the base's yaw frame to the world."""
    c, s, zero, one = jnp.cos(yaw), jnp.sin(yaw), jnp.zeros_like(yaw), jnp.ones_like(yaw)
    return jnp.array([[c, -s, zero], [s, c, zero], [zero, zero, one]])


def actor(
    kin: Kinematics,
    q_offset: Float[Array, " nj"],
    qd: Float[Array, " nj"],
    last_action: Float[Array, " nj"],
    command: Float[Array, " 3"],
    phase: Float[Array, ""],
) -> Float[Array, " n"]:
    """The actor's observation without noise.

    Args:
        kin: kinematics of the robot.
        q_offset: measured joint positions minus the default pose [rad].
        qd: joint velocities [rad/s].
        last_action: the latest action.
        command: v_x, v_y [m/s], ω_z [rad/s].
        phase: gait phase [cycles].

    Returns:
        The vector that `actor_layout` describes.
    """
    angle = 2 * jnp.pi * phase
    clock = jnp.stack([jnp.sin(angle), jnp.cos(angle)])
    return jnp.concatenate([kin.w_base, kin.projected_gravity, q_offset, qd, last_action, command, clock])


def add_noise(key: PRNGKeyArray, config: NoiseConfig, observation: Float[Array, " n"]) -> Float[Array, " n"]:
    """Uniform sensor noise on gyro, gravity, joint positions and velocities; the rest is known exactly."""
    num_joints = (observation.shape[0] - 11) // 3
    widths = {"gyro": config.gyro, "projected_gravity": config.gravity}
    widths |= {"joint_position": config.joint_position, "joint_velocity": config.joint_velocity}
    scale = jnp.concatenate([jnp.full(n, widths.get(name, 0.0)) for name, n in actor_layout(num_joints).items()])
    return observation + scale * jax.random.uniform(key, observation.shape, minval=-1.0)


def privileged(
    noise_free: Float[Array, " n"],
    kin: Kinematics,
    contact: Float[Array, " 2"],
    f_world_foot: Float[Array, "2 3"],
    targets: Float[Array, " 9"] | None,
    mass: Float[Array, ""],
    ground: Float[Array, " 3"] | None = None,
) -> Float[Array, " m"]:
    """The critic's observation: the actor's without noise, and what only a simulator knows.

    Args:
        noise_free: the actor's observation.
        kin: kinematics of the robot.
        contact: foot contact flags.
        f_world_foot: contact forces [N].
        targets: the MPC's next [c, l, k] (world), if there is one.
        mass: of the robot [kg].
        ground: z of the ground under base, left and right sole, from which heights are measured [m]; zero by default.
    """
    ground = jnp.zeros(3) if ground is None else ground
    world_to_yaw = yaw_rotation(kin.yaw).T
    force = f_world_foot @ world_to_yaw.T
    seen = [
        noise_free,
        world_to_yaw @ kin.v_world_base,
        kin.p_world_base[2:] - ground[:1],
        kin.p_world_foot[:, 2] - ground[1:],
        contact,
        (jnp.sign(force) * jnp.log1p(jnp.abs(force))).reshape(-1),
    ]
    if targets is not None:
        seen += [
            world_to_yaw @ (targets[0:3] - kin.p_world_com),
            world_to_yaw @ targets[3:6] / mass,
            world_to_yaw @ targets[6:9],
        ]
    return jnp.concatenate(seen)
