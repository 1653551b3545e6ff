"""Figures of merit of walking, from recorded signals: pure NumPy functions, time first, episodes second.

A walking base sways with every step, whatever it is told: its velocity is compared with the command as a mean over one
gait cycle, the shortest time over which a command can be met. The error of the momentary velocity, sway included, is
reported beside it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from learning.closed_loop import Signals


def moving_average(x: Float[np.ndarray, "T ..."], window: int) -> Float[np.ndarray, "W ..."]:
    """Means over `window` successive entries: entry i is of x[i : i + window], W = T - window + 1.

    Raises:
        ValueError: there are fewer entries than a window has.
    """
    if len(x) < window:
        raise ValueError(f"{len(x)} control steps are fewer than the {window} of a gait cycle.")
    return np.lib.stride_tricks.sliding_window_view(x, window, axis=0).mean(axis=-1, dtype=float)


def masked_mean(x: Float[np.ndarray, "T ..."], mask: Bool[np.ndarray, "T ..."]) -> Float[np.ndarray, "..."]:
    """Means over time of the entries in the mask; NaN where there are none."""
    count = mask.sum(axis=0)
    return np.where(count > 0, np.where(mask, x, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def tracking(
    signals: Signals, command: Float[np.ndarray, "B 3"], settle: int, cycle: int
) -> dict[str, Float[np.ndarray, " B"]]:
    """How well each episode's velocity follows its command, once the robot has had time to follow.

    Args:
        signals: of the episodes.
        command: v_x, v_y [m/s], ω_z [rad/s], constant.
        settle: control steps from the start that do not count.
        cycle: control steps of a gait cycle.

    Returns:
        `velocity_error`: mean over time of ‖v̄ - v_command‖ [m/s], v̄ the base's horizontal velocity in its yaw frame,
        averaged over a gait cycle; `yaw_rate_error`: the same of |ω̄ - ω_command| [rad/s];
        `velocity_error_instantaneous` and `yaw_rate_error_instantaneous`: without the average; `v_x`, `v_y` and
        `yaw_rate`: what was achieved, mean over time. The time up to a fall counts; NaN if it fell before.
    """
    alive = signals.alive[settle:]
    velocity, rate = signals.velocity[settle:], signals.yaw_rate[settle:]
    whole = alive[cycle - 1 :]  # a robot that stands at the end of a cycle stood all through it
    v_error = np.linalg.norm(moving_average(velocity, cycle) - command[:, :2], axis=-1)
    w_error = np.abs(moving_average(rate, cycle) - command[:, 2])
    return {
        "velocity_error": masked_mean(v_error, whole),
        "yaw_rate_error": masked_mean(w_error, whole),
        "velocity_error_instantaneous": masked_mean(np.linalg.norm(velocity - command[:, :2], axis=-1), alive),
        "yaw_rate_error_instantaneous": masked_mean(np.abs(rate - command[:, 2]), alive),
        "v_x": masked_mean(velocity[..., 0], alive),
        "v_y": masked_mean(velocity[..., 1], alive),
        "yaw_rate": masked_mean(rate, alive),
    }


def foot_slip(signals: Signals) -> Float[np.ndarray, " B"]:
    """Mean horizontal speed [m/s] of the soles' centres while feet are on the floor; rolling over an edge counts."""
    contact = signals.contact & signals.alive[..., None]
    count = contact.sum(axis=(0, 2))
    return np.where(count > 0, np.where(contact, signals.slip, 0.0).sum(axis=(0, 2)) / np.maximum(count, 1), np.nan)


def joint_jerk(signals: Signals, dt: float) -> Float[np.ndarray, " B"]:
    """Root mean square, over joints and time, of the third difference of the joint targets [rad/s³]."""
    jerk = np.diff(signals.target.astype(float), n=3, axis=0) / dt**3
    return np.sqrt(masked_mean(np.mean(jerk**2, axis=-1), signals.alive[3:]))


def cost_of_transport(energy: float, weight: float, distance: float) -> float:
    """Energy [J] per weight [N] and distance [m], dimensionless; NaN for a robot that has not moved."""
    return energy / (weight * distance) if distance > 0 else float("nan")


def transport(
    signals: Signals, command: Float[np.ndarray, "B 3"], settle: int, cycle: int, dt: float
) -> dict[str, Float[np.ndarray, " B"]]:
    """What each episode that commands a horizontal velocity spends to get ahead, once settled; zero for the others.

    Distance is that of the base's path, averaged over a gait cycle so that sway is no progress. Energy is Σ |τ q̇|: a
    joint that brakes gives nothing back.

    Returns:
        `energy` [J] and `distance` [m].
    """
    walking = np.linalg.norm(command[:, :2], axis=1) > 0
    whole = signals.alive[settle + cycle - 1 :] & walking
    speed = np.linalg.norm(moving_average(signals.velocity[settle:], cycle), axis=-1)
    power = moving_average(signals.power[settle:], cycle)
    return {
        "energy": dt * np.where(whole, power, 0.0).sum(axis=0),
        "distance": dt * np.where(whole, speed, 0.0).sum(axis=0),
    }


def effort(signals: Signals, dt: float) -> dict[str, Float[np.ndarray, " B"]]:
    """What each episode costs the robot, and which bounds it meets, up to a fall.

    The servos clip at the torque limit and the contacts obey their friction cone: `torque_saturated` says how often the
    one is met, `foot_slip` how much the feet slide at the other.

    Returns:
        `torque_rms` [N m], over joints; `power` [W], mechanical; `foot_slip` [m/s]; `joint_jerk` [rad/s³]; and the
        shares of time `torque_saturated` (mean over joints), `joint_limit_violated` (any joint beyond its range),
        `self_collision` (any pair of limbs that must keep clear).
    """
    alive = signals.alive
    return {
        "torque_rms": np.sqrt(masked_mean(signals.torque_squared, alive)),
        "power": masked_mean(signals.power, alive),
        "foot_slip": foot_slip(signals),
        "joint_jerk": joint_jerk(signals, dt),
        "torque_saturated": masked_mean(signals.saturated, alive),
        "joint_limit_violated": masked_mean(signals.limit_excess > 0, alive),
        "self_collision": masked_mean(signals.overlap, alive),
    }
