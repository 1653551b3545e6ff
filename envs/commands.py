"""Velocity commands: what the operator's stick says, and how it is drawn in training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class CommandConfig:
    """Ranges that commands are drawn from, uniformly: those of MPC-RL's release, where v_y reaches 0.75 m/s."""

    v_x: tuple[float, float] = (-0.5, 1.0)  # m/s, forward
    v_y: tuple[float, float] = (-0.4, 0.4)  # m/s, to the left
    w_z: tuple[float, float] = (-1.0, 1.0)  # rad/s, counter-clockwise
    standing: float = 0.1  # share of commands that are zero
    turning: float = 0.1  # share that turn on the spot
    overshoot: float = 0.0  # share of a range by which draws may pass its ends, to be cut back: more of the extremes
    resample: tuple[float, float] = (3.0, 8.0)  # s between commands

    def __post_init__(self) -> None:
        for name in ("v_x", "v_y", "w_z", "resample"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"CommandConfig.{name} = ({low}, {high}): the lower bound comes first.")
        if self.overshoot < 0:
            raise ValueError(f"CommandConfig.overshoot = {self.overshoot}: a share of the range, at least 0.")
        if self.standing < 0 or self.turning < 0 or self.standing + self.turning > 1:
            raise ValueError("CommandConfig.standing and .turning are shares: each ≥ 0, together at most 1.")


def constant(command: tuple[float, float, float]) -> CommandConfig:
    """The same command always: (v_x, v_y [m/s], ω_z [rad/s])."""
    v_x, v_y, w_z = command
    return CommandConfig(v_x=(v_x, v_x), v_y=(v_y, v_y), w_z=(w_z, w_z), standing=0.0, turning=0.0)


def sample(key: PRNGKeyArray, config: CommandConfig) -> Float[Array, " 3"]:
    """One command (v_x, v_y [m/s], ω_z [rad/s]) in the base yaw frame."""
    velocity_key, kind_key = jax.random.split(key)
    low, high = jnp.array([config.v_x, config.v_y, config.w_z]).T
    beyond = config.overshoot * (high - low)
    command = jax.random.uniform(velocity_key, (3,), minval=low - beyond, maxval=high + beyond).clip(low, high)
    kind = jax.random.uniform(kind_key)
    turn = jnp.array([0.0, 0.0, 1.0])
    command = jnp.where(kind < config.standing + config.turning, command * turn, command)
    return jnp.where(kind < config.standing, jnp.zeros(3), command)


def sample_interval(key: PRNGKeyArray, seconds: tuple[float, float], dt: float) -> Float[Array, ""]:
    """A uniform waiting time in whole control steps (as a float, at least one)."""
    wait = jax.random.uniform(key, minval=seconds[0], maxval=seconds[1])
    return jnp.maximum(jnp.round(wait / dt), 1.0)
