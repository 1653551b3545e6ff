"""What the bridge and a robot say to each other, whether the robot is C MuJoCo, another process, or made of metal.

The bridge tells joints where to go and how stiffly; the robot closes the PD loop on each joint at its own, higher rate:

    tau_cmd = kp (q_target - q) + kd (qd_target - qd) + tau,    clipped to the joint's torque limit.

Joints are always in the policy's order, angles in rad, and time is that of the robot's own clock: a simulator's is
simulated time, so that it may run faster than the wall's and give the same result every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

NO_SENSOR = 25.0  # degrees C, what a backend without thermometers reads


class RobotError(Exception):
    """A robot, or the way to it, does not let a run go on; the message is for the operator."""


@dataclass(frozen=True, eq=False)
class RobotState:
    """One reading of all sensors. The arrays belong to the reader: a robot never writes into one that it gave out."""

    time: float  # s, when it was received, on the clock of `Robot.now`
    q: Float[np.ndarray, " nj"]  # rad
    qd: Float[np.ndarray, " nj"]  # rad/s
    tau: Float[np.ndarray, " nj"]  # N m, measured or estimated
    quaternion: Float[np.ndarray, " 4"]  # w x y z, of R_world_base at the IMU
    gyro: Float[np.ndarray, " 3"]  # rad/s, angular velocity in the base's axes
    temperature: Float[np.ndarray, " nj"]  # degrees C, of the motors


@dataclass(frozen=True, eq=False)
class PDTarget:
    """What the joints are told; see the module's docstring for the torque that follows from it."""

    q: Float[np.ndarray, " nj"]  # rad
    qd: Float[np.ndarray, " nj"]  # rad/s
    kp: Float[np.ndarray, " nj"]  # N m/rad
    kd: Float[np.ndarray, " nj"]  # N m s/rad
    tau: Float[np.ndarray, " nj"]  # N m, added as it is


class Robot(Protocol):
    """A robot as the loop sees it."""

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints, in the policy's order."""
        ...

    def read(self) -> RobotState | None:
        """The newest state, the same one again if no newer has come; None before the first. Blocks a few ms at most.

        A packet that fails its checksum is dropped here: the state then ages until the watchdog sees it.
        """
        ...

    def send(self, target: PDTarget) -> None:
        """Tells the joints. The loop repeats the latest target at every tick, so that silence means that it died."""
        ...

    def now(self) -> float:
        """The clock of `RobotState.time` [s]: `time.monotonic()`, or simulated time."""
        ...

    def sleep_until(self, time: float) -> None:
        """Returns when `now()` has reached `time` [s]; a simulator steps its physics until then."""
        ...

    def close(self) -> None:
        """Leaves the robot in damping and lets go of it. May be called twice."""
        ...


def damping(kd: Float[np.ndarray, " nj"]) -> PDTarget:
    """No stiffness, no target: joints only resist motion, with `kd` > 0 [N m s/rad]; the state that always ends a run.

    Args:
        kd: damping gains.
    """
    zero = np.zeros_like(kd)
    return PDTarget(q=zero, qd=zero, kp=zero, kd=kd, tau=zero)
