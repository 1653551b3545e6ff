"""When a robot must be told to go limp: checks of its state, as pure functions, and the limits they compare with.

Every check works on one reading; what needs a past (frozen sensors, sustained torque) keeps it in `History`. The first
fault found is reported, the ones that make the others meaningless first.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from jaxtyping import Float

from bridge.deployment import Deployment
from bridge.robot import RobotState


class Fault(enum.Enum):
    """Why the robot was told to go limp; the value is the sentence for the operator."""

    NONE = "No fault."
    NO_STATE = "The robot has sent no state."
    STALE = "The robot's state is too old: packets are lost or late."
    NOT_FINITE = "The robot's state holds a number that is not finite."
    FROZEN = "The sensors repeat the same reading bit by bit: they are frozen."
    POSITION = "A joint is outside its range."
    VELOCITY = "A joint turns faster than it may."
    TORQUE = "A joint's torque is beyond its limit, or has been at it for too long."
    TEMPERATURE = "A motor is too hot."
    TILT = "The base leans too far."
    ACTION = "The policy's action is not finite."
    OVERRUN = "The control loop was late by more than it may be."
    SIGNAL = "The process was asked to end by a signal."
    EMERGENCY_STOP = "The operator pressed the emergency stop."
    EXCEPTION = "The control loop failed with an exception."


@dataclasses.dataclass(frozen=True)
class SafetyConfig:
    """How far a robot may go. Limits of joints are relative to the robot's own, which travel with the policy."""

    position_margin: float = 0.15  # rad, beyond a joint's range: a foot that lands pushes joints against their stops
    velocity_factor: float = 1.0  # of the joint's speed limit
    torque_factor: float = 1.2  # of the joint's torque limit: beyond it at once is a fault
    saturation: float = 0.98  # of the joint's torque limit: staying above it is a fault
    saturation_seconds: float = 0.5  # s
    temperature: float = 85.0  # degrees C
    tilt: float = 50.0  # degrees between the base's z axis and the vertical
    stale_seconds: float = 0.010  # s, age of the newest state
    frozen_seconds: float = 0.010  # s, with the same reading
    overrun_seconds: float = 0.020  # s, by which a tick of the loop may be late

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if np.isnan(value) or (value <= 0 and field.name != "position_margin"):
                raise ValueError(f"SafetyConfig.{field.name} = {value} must be positive.")


@dataclasses.dataclass(frozen=True, eq=False)
class Limits:
    """What the checks compare with, per joint."""

    lower: Float[np.ndarray, " nj"]  # rad
    upper: Float[np.ndarray, " nj"]  # rad
    velocity: Float[np.ndarray, " nj"]  # rad/s
    torque: Float[np.ndarray, " nj"]  # N m, at once
    saturated: Float[np.ndarray, " nj"]  # N m, for `SafetyConfig.saturation_seconds`
    target_lower: Float[np.ndarray, " nj"]  # rad
    target_upper: Float[np.ndarray, " nj"]  # rad
    upright: float  # least cosine of the tilt


def limits(deployment: Deployment, config: SafetyConfig) -> Limits:
    """The limits of a robot.

    A target further out than torque limit over kp beyond a joint's range asks for more than full torque even with the
    joint at its stop; nearer ones are left alone, as policies of soft robots aim well beyond the range to push hard.
    """
    lower, upper = deployment.position_limits.T
    reach = deployment.effort / deployment.kp
    return Limits(
        lower=lower - config.position_margin,
        upper=upper + config.position_margin,
        velocity=config.velocity_factor * deployment.velocity_limit,
        torque=config.torque_factor * deployment.effort,
        saturated=config.saturation * deployment.effort,
        target_lower=lower - reach,
        target_upper=upper + reach,
        upright=float(np.cos(np.deg2rad(config.tilt))),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """What the checks remember; made by `watch`."""

    state: RobotState  # the newest one
    changed: float  # s, since when the sensors have read as they do now
    unsaturated: Float[np.ndarray, " nj"]  # s, when each joint's torque was last below its limit


def watch(history: History | None, state: RobotState, limits: Limits) -> History:
    """The history with one more reading; the same reading again changes nothing."""
    if history is None:
        return History(state, state.time, np.full(len(state.q), state.time))
    if state.time == history.state.time:
        return history
    changed = history.changed if same_reading(state, history.state) else state.time
    free = np.abs(state.tau) < limits.saturated
    return History(state, changed, np.where(free, state.time, history.unsaturated))


def same_reading(a: RobotState, b: RobotState) -> bool:
    """Whether the IMU, or all joints, read the same bit by bit; noise makes that impossible in working sensors.

    They come over different wires: one may be frozen while the others go on.
    """
    imu = np.array_equal(a.gyro, b.gyro) and np.array_equal(a.quaternion, b.quaternion)
    return imu or (np.array_equal(a.q, b.q) and np.array_equal(a.qd, b.qd))


def link_fault(history: History | None, now: float, config: SafetyConfig) -> Fault:
    """Whether the state can be relied upon at all.

    Args:
        history: with the newest reading.
        now: the robot's clock [s].
        config: limits.
    """
    if history is None:
        return Fault.NO_STATE
    state = history.state
    if not now - state.time <= config.stale_seconds:
        return Fault.STALE
    readings = (state.q, state.qd, state.tau, state.quaternion, state.gyro, state.temperature)
    if not all(np.isfinite(x).all() for x in readings) or not np.any(state.quaternion):
        return Fault.NOT_FINITE
    return Fault.FROZEN if state.time - history.changed > config.frozen_seconds else Fault.NONE


def body_fault(history: History, limits: Limits, config: SafetyConfig) -> Fault:
    """Whether the robot is where, and does what, it may; of a state that `link_fault` found nothing wrong with."""
    state = history.state
    if np.any(state.q < limits.lower) or np.any(state.q > limits.upper):
        return Fault.POSITION
    if np.any(np.abs(state.qd) > limits.velocity):
        return Fault.VELOCITY
    sustained = state.time - history.unsaturated > config.saturation_seconds
    if np.any(np.abs(state.tau) > limits.torque) or np.any(sustained):
        return Fault.TORQUE
    if np.any(state.temperature > config.temperature):
        return Fault.TEMPERATURE
    return Fault.TILT if uprightness(state.quaternion) < limits.upright else Fault.NONE


def uprightness(quaternion: Float[np.ndarray, " 4"]) -> float:
    """Cosine of the angle between the base's z axis and the vertical.

    Args:
        quaternion: w x y z, of any length but zero.
    """
    w, x, y, z = quaternion
    return float((w * w - x * x - y * y + z * z) / (w * w + x * x + y * y + z * z))


def clip_target(target: Float[np.ndarray, " nj"], limits: Limits, out: Float[np.ndarray, " nj"]) -> bool:
    """Writes the joint targets, kept within bounds, to `out` [rad], and says whether any had to be changed."""
    np.clip(target, limits.target_lower, limits.target_upper, out=out)
    return not np.array_equal(out, target)
