"""A Unitree G1 behind the `Robot` protocol: states in and commands out, over DDS.

The robot's motors close their PD loops; this side sends targets and gains whenever the loop does, and nothing by
itself: a process that is stuck or dead is silent. Order of motors, topics and modes are the maker's (unitree_sdk2 and
unitree_sdk2_python, example/g1/low_level, BSD-3-Clause). Needs the extra `robot`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time as wall

import numpy as np
from jaxtyping import Float, Int

from bridge.dds import LOOPBACK, Network
from bridge.keeper import KEEP_SECONDS, Keeper, TakenOverError
from bridge.robot import PDTarget, RobotError, RobotState, damping
from bridge.unitree_messages import COMMAND_TOPIC, STATE_TOPIC
from bridge.unitree_packets import LOW_CMD, PackedLowCmd, PackedLowState, is_signed, sign

_LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw")
# Joint of each motor of a G1 with 29 motors, by the motor's index in the messages.
G1_MOTORS = tuple(
    f"{name}_joint"
    for name in (
        *(f"left_{joint}" for joint in _LEG),
        *(f"right_{joint}" for joint in _LEG),
        *("waist_yaw", "waist_roll", "waist_pitch"),
        *(f"left_{joint}" for joint in _ARM),
        *(f"right_{joint}" for joint in _ARM),
    )
)
PITCH_ROLL = 0  # mode_pr: ankles and waist are commanded by pitch and roll, and the robot does the linkage
ENABLED = 1  # mode of a motor
IDLE_DAMPING = 2.0  # N m s/rad, of motors that the policy does not move
FAREWELL_SECONDS = 0.1  # s, for which the last command, damping, is repeated
TICK = 0.002  # s, between its repetitions
LISTEN_SECONDS = 0.2  # s, for which one listens whether somebody else commands the robot
STOP_KEY = 1 << 3  # "select" in the remote control's keys


class RemoteStopError(RobotError):
    """Somebody pressed "select" on the robot's remote control."""


class AnotherCommanderError(RobotError):
    """Another program commands the robot."""


class MachineChangedError(RobotError):
    """The robot's variant, which commands must repeat, is another one than before."""


@dataclasses.dataclass
class LinkStatistics:
    """What came and went."""

    sent: int = 0
    received: int = 0  # states that were taken from the network; only the newest at each reading is
    checksum_errors: int = 0  # of these, dropped for their CRC
    out_of_order: int = 0  # dropped because they were older than the one before
    malformed: int = 0  # packets that were no state at all
    motor_errors: int = 0  # states in which a motor reported an error code


def motor_indices(joint_names: tuple[str, ...]) -> Int[np.ndarray, " nj"]:
    """The motor that moves each joint.

    Args:
        joint_names: (nj,)

    Returns:
        Indices into the messages' arrays of motors, (nj,).

    Raises:
        ValueError: a G1 has no such joint, or one is named twice.
    """
    unknown = [name for name in joint_names if name not in G1_MOTORS]
    if unknown or len(set(joint_names)) < len(joint_names):
        raise ValueError(f"Joints that a G1 does not have, or that are named twice: {unknown or joint_names}.")
    return np.array([G1_MOTORS.index(name) for name in joint_names])


class UnitreeG1:
    """A G1 on a network; real, or simulated by `bridge.simulated_robot`."""

    def __init__(
        self, joint_names: tuple[str, ...], kd: Float[np.ndarray, " nj"], network: Network, keeper: Keeper | None = None
    ) -> None:
        """Listens. Nothing is sent before a state has come, for commands must repeat its machine mode.

        Args:
            joint_names: of the policy, in its order, (nj,).
            kd: damping gains in which the robot is left [N m s/rad], (nj,).
            network: of the robot, in whose domain 0 it is; left when the robot is closed.
            keeper: damps the robot if this process dies or gets stuck. Nothing is sent before it is ready.

        Raises:
            ValueError: a G1 has no such joint.
        """
        self.joint_names = joint_names
        self._motors, self._kd = motor_indices(joint_names), kd
        self._echo = network.interface == LOOPBACK
        self._network, self._closed = network, False
        self._keeper, self._kept = keeper, keeper is None
        self._reader = network.reader(STATE_TOPIC, PackedLowState)
        self._writer = network.writer(COMMAND_TOPIC, PackedLowCmd)
        self._state: RobotState | None = None
        self._tick = 0
        self.statistics = LinkStatistics()
        self._command = np.zeros((), LOW_CMD)
        self._command["mode_pr"] = PITCH_ROLL
        self._command["motor_cmd"]["mode"][: len(G1_MOTORS)] = ENABLED
        self._command["motor_cmd"]["kd"][: len(G1_MOTORS)] = IDLE_DAMPING

    def wait(self, seconds: float) -> None:
        """Waits for the first state, and for the keeper to be ready; listens whether the robot is free.

        Raises:
            TimeoutError: for longer than `seconds`.
            AnotherCommanderError: somebody else commands the robot.
        """
        end = self.now() + seconds
        while self.read() is None or not self._ready():
            if self.now() > end:
                raise TimeoutError(
                    f"No robot is heard on network interface {self._network.interface!r}, domain "
                    f"{self._network.domain}, after {seconds:g} s ({self.statistics})."
                    if self._state is None
                    else "The robot does not listen to commands."
                )
            self.sleep_until(self.now() + TICK)
        # Not earlier: the keeper would take this reader for the robot's. Nothing of our own is heard, nothing was sent.
        others = self._network.reader(COMMAND_TOPIC, PackedLowCmd)
        end = self.now() + LISTEN_SECONDS
        while self.now() < end:
            self.sleep_until(self.now() + TICK)
            self.read()
            if others.take() is not None:
                raise AnotherCommanderError(
                    "Another program commands the robot: end it first. If it was a run that has just been killed, its "
                    f"keeper goes on for {KEEP_SECONDS:g} s."
                )

    def read(self) -> RobotState | None:
        """The newest state that has come whole and in order; see `Robot`. Its time is that of the reading.

        Raises:
            RemoteStopError: the stop key of the remote control is pressed.
            MachineChangedError: the robot has become another one since the first command.
        """
        sample = self._reader.take()
        self.statistics.malformed = self._reader.malformed
        if sample is not None:
            self._accept(sample.record)
        return self._state

    def _accept(self, record: np.ndarray) -> None:
        statistics = self.statistics
        statistics.received += 1
        if not is_signed(record):
            statistics.checksum_errors += 1
            return
        tick = int(record["tick"])
        if self._state is not None and (tick - self._tick) & 0xFFFFFFFF > 1 << 31:
            statistics.out_of_order += 1
            return
        self._tick = tick
        changed = bool(statistics.sent) and record["mode_machine"] != self._command["mode_machine"]
        self._command["mode_machine"] = record["mode_machine"]
        if changed:  # what the keeper holds for the robot would not be obeyed any more
            raise MachineChangedError("The robot's variant (mode_machine) changed during the run.")
        remote = record["wireless_remote"]
        if (int(remote[2]) | int(remote[3]) << 8) & STOP_KEY:
            raise RemoteStopError('Somebody pressed "select" on the remote control.')
        motors, imu = record["motor_state"][self._motors], record["imu_state"]
        statistics.motor_errors += bool(motors["motorstate"].any())
        self._state = RobotState(
            time=self.now(),
            q=motors["q"].astype(float),
            qd=motors["dq"].astype(float),
            tau=motors["tau_est"].astype(float),
            quaternion=imu["quaternion"].astype(float),
            gyro=imu["gyroscope"].astype(float),
            temperature=motors["temperature"].max(axis=1).astype(float),
        )

    def send(self, target: PDTarget) -> None:
        """Publishes one command, if the robot has been heard yet.

        Raises:
            ValueError: the target is not finite; nothing was sent.
            TakenOverError: the keeper commands the robot, or is dead; damping was sent.
        """
        if self._state is None or self._closed or not self._ready():
            return
        if self._keeper is not None:
            try:
                self._keeper.alive(self._damping())
            except TakenOverError:
                self._publish(damping(self._kd))  # if the keeper is dead, nobody else says it
                raise
        self._publish(target)

    def _publish(self, target: PDTarget) -> None:
        self._fill(target)
        if self._echo:  # lets a simulated robot measure round trips; a real one gets nothing in reserved fields
            self._command["reserve"][0] = self._tick
        sign(self._command)
        self._writer.write(PackedLowCmd(self._command))
        self.statistics.sent += 1

    def _ready(self) -> bool:
        self._kept = self._kept or self._keeper is None or self._keeper.ready()
        return self._kept

    def _damping(self) -> np.ndarray:
        """The command that the keeper needs, once; afterwards it is no more looked at."""
        if not self.statistics.sent:
            self._fill(damping(self._kd))
            sign(self._command)
        return self._command

    def _fill(self, target: PDTarget) -> None:
        motors, mine = self._command["motor_cmd"], self._motors
        for field, value in (
            ("q", target.q),
            ("dq", target.qd),
            ("kp", target.kp),
            ("kd", target.kd),
            ("tau", target.tau),
        ):
            if not np.isfinite(value).all():
                raise ValueError(f"The target's {field} is not finite: {value}.")
            motors[field][mine] = value

    def now(self) -> float:
        """`time.monotonic()` [s]."""
        return wall.monotonic()

    def sleep_until(self, time: float) -> None:
        """Sleeps until `now()` is `time` [s]."""
        remaining = time - wall.monotonic()
        if remaining > 0:
            wall.sleep(remaining)

    def close(self) -> None:
        """Repeats damping for a moment and leaves the network; a robot that was told nothing is left as it was."""
        if self._closed:
            return
        left = not self.statistics.sent  # whether the keeper is not needed any more
        try:
            end = self.now() + FAREWELL_SECONDS
            while self.statistics.sent and self.now() < end:
                with contextlib.suppress(Exception):  # the next one may get through
                    self.send(damping(self._kd))
                    left = True
                self.sleep_until(self.now() + TICK)
        finally:
            if self._keeper is not None:
                self._keeper.close(goodbye=left)
            del self._reader, self._writer
            self._network.close()
            self._closed = True
