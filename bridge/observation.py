"""What the policy sees, built from a robot's reading: the environment's observation and phase clock without JAX."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from bridge.deployment import Deployment
from bridge.robot import RobotState

RESOLUTION = np.float32(1e-5)  # cycles, by which a clock in float32 may be short of a touchdown
f32 = np.float32


def layout(num_joints: int) -> dict[str, int]:
    """Names and sizes of the blocks of the observation, in order: the only layout that `observe` can build."""
    return {
        "gyro": 3,
        "projected_gravity": 3,
        "joint_position": num_joints,
        "joint_velocity": num_joints,
        "last_action": num_joints,
        "command": 3,
        "phase_clock": 2,
    }


def observe(
    state: RobotState,
    default_joint_pos: Float[np.ndarray, " nj"],
    last_action: Float[np.ndarray, " nj"],
    command: Float[np.ndarray, " 3"],
    phase: float | np.floating,
    out: Float[np.ndarray, "1 n"],
) -> None:
    """Writes the observation that `layout` describes, without noise.

    Args:
        state: a reading.
        default_joint_pos: rad.
        last_action: the latest action.
        command: v_x, v_y [m/s], ω_z [rad/s], base yaw frame.
        phase: of the gait [cycles].
        out: where to.
    """
    nj = len(state.q)
    row = out[0]
    row[0:3] = state.gyro
    row[3:6] = projected_gravity(state.quaternion)
    np.subtract(state.q, default_joint_pos, out=row[6 : 6 + nj], casting="same_kind")
    row[6 + nj : 6 + 2 * nj] = state.qd
    row[6 + 2 * nj : 6 + 3 * nj] = last_action
    row[6 + 3 * nj : 9 + 3 * nj] = command
    angle = 2 * np.pi * float(phase)
    row[9 + 3 * nj], row[10 + 3 * nj] = np.sin(angle), np.cos(angle)


def projected_gravity(quaternion: Float[np.ndarray, " 4"]) -> tuple[float, float, float]:
    """The unit vector of gravity in the base frame, (0, 0, -1) when upright.

    Args:
        quaternion: w x y z, R_world_base, of any length but zero.
    """
    w, x, y, z = (float(v) for v in quaternion)
    scale = -1.0 / (w * w + x * x + y * y + z * z)
    return 2 * scale * (x * z - w * y), 2 * scale * (y * z + w * x), scale * (w * w - x * x - y * y + z * z)


class GaitClock:
    """The gait's phase, which runs while the command asks for steps and stops with both feet down.

    The rules are those of `pimpc.gait`, in float32 as there, so that a clock here and one there never disagree on which
    step a foot lands.
    """

    def __init__(self, deployment: Deployment) -> None:
        """A clock at phase 0, at rest."""
        self.phase, self.moving = f32(0.0), False
        self._period, self._duty = f32(deployment.gait_period), f32(deployment.gait_duty_factor)
        self._dt, self._deadband = f32(deployment.control_dt), f32(deployment.gait_deadband)
        self._offsets = tuple(f32(offset) for offset in deployment.gait_offsets)

    def reset(self) -> None:
        """Back to phase 0, at rest."""
        self.phase, self.moving = f32(0.0), False

    def advance(self, command: Float[np.ndarray, " 3"]) -> None:
        """One control step later.

        Args:
            command: v_x, v_y [m/s], ω_z [rad/s] during this step.
        """
        told = [f32(c) for c in command]
        moving = told[0] * told[0] + told[1] * told[1] + told[2] * told[2] > self._deadband * self._deadband
        if moving and not self.moving and self._time_to_stand(self.phase) == 0:
            self.phase = self._start(told)
        to_stand = self._time_to_stand(self.phase)
        ahead = _wrap(self.phase + (self._dt if moving else min(self._dt, to_stand)) / self._period)
        if not moving and to_stand <= self._dt:
            left, right = self._fractions(ahead)
            ahead = _wrap(-self._offsets[0 if left <= right else 1])
        self.phase, self.moving = ahead, bool(moving)

    def _fractions(self, phase: np.float32) -> tuple[np.float32, np.float32]:
        """Share of the cycle since the last touchdown of each foot."""
        left, right = (_wrap(phase + offset + RESOLUTION) for offset in self._offsets)
        return left, right

    def _time_to_stand(self, phase: np.float32) -> np.float32:
        """Seconds until both feet are down if told to stop."""
        left, right = self._fractions(phase)
        if (left < self._duty and right < self._duty) or min(left, right) < 2 * RESOLUTION:
            return f32(0.0)
        return min(1 - left, 1 - right) * self._period

    def _start(self, command: list[np.float32]) -> np.float32:
        """Where to start walking: with the foot first on whose side the command points."""
        sideways = next((c for c in command[1:] if abs(c) > self._deadband), f32(0.0))
        if sideways == 0:
            return self.phase
        return _wrap(-self._offsets[1 if sideways > 0 else 0])


def _wrap(phase: np.float32) -> np.float32:
    return phase - np.floor(phase)
