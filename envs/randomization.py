"""Domain randomization: robots that differ in friction, masses, gains and sensors, and are kicked now and then."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs.config import PushConfig, RandomizationConfig
from envs.physics import ModelParams


def randomize(
    key: PRNGKeyArray, config: RandomizationConfig, nominal: ModelParams, base_body: int
) -> tuple[ModelParams, Float[Array, " nu"]]:
    """Draws one robot.

    Args:
        key: random key.
        config: ranges.
        nominal: the robot as published.
        base_body: id of the floating base, whose CoM is shifted.

    Returns:
        Its physical parameters, and its joint encoders' bias [rad].
    """
    keys = jax.random.split(key, 7)

    def factor(key: PRNGKeyArray, bounds: tuple[float, float], like: Array) -> Array:
        return like * jax.random.uniform(key, like.shape, minval=bounds[0], maxval=bounds[1])

    mass_factor = factor(keys[0], config.mass, jnp.ones_like(nominal.body_mass))
    shift = jax.random.uniform(keys[1], (3,), minval=-1.0) * jnp.array(config.base_com)
    params = nominal.replace(
        foot_friction=jax.random.uniform(keys[2], minval=config.friction[0], maxval=config.friction[1]),
        body_mass=nominal.body_mass * mass_factor,
        body_inertia=nominal.body_inertia * mass_factor[:, None],
        body_ipos=nominal.body_ipos.at[base_body].add(shift),
        kp=factor(keys[3], config.kp, nominal.kp),
        kd=factor(keys[4], config.kd, nominal.kd),
        armature=factor(keys[5], config.armature, nominal.armature),
    )
    bias = config.encoder_bias * jax.random.uniform(keys[6], nominal.kp.shape, minval=-1.0)
    return params, bias


def kick(key: PRNGKeyArray, config: PushConfig) -> Float[Array, " 6"]:
    """A change of the base's velocity: linear [m/s], world frame, then angular [rad/s], base frame."""
    c = config
    half_widths = jnp.array([c.horizontal, c.horizontal, c.vertical, c.roll_pitch, c.roll_pitch, c.yaw])
    return half_widths * jax.random.uniform(key, (6,), minval=-1.0)
