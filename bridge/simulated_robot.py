"""A robot that is not there: a process that speaks a G1's DDS messages around C MuJoCo, in real time.

    python -m bridge robot-sim policy.onnx

It checks commands as a robot should (checksum, machine mode), and when they stop it damps by itself, until it is told
to damp: commands that were only late must not wake it up again. What a real G1 does then is not published; this is what
one would want.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time as wall
from pathlib import Path

import mujoco
import numpy as np

from bridge.controller import load
from bridge.dds import LOOPBACK, Network
from bridge.deployment import Deployment
from bridge.faults import FaultConfig, Line, Sensors
from bridge.loop import no_collection
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.priority import ask_for_real_time
from bridge.robot import PDTarget, damping
from bridge.truth import Truth
from bridge.unitree import ENABLED, G1_MOTORS, motor_indices
from bridge.unitree_messages import COMMAND_TOPIC, STATE_TOPIC
from bridge.unitree_packets import LOW_STATE, PackedLowCmd, PackedLowState, is_signed, sign

MACHINE = 5  # mode_machine, of no meaning here but that commands must repeat it
STEPS_PER_STATE = 2  # physics steps between two states: 2 ms
SLIP = 0.005  # s behind the wall clock, from which on simulated time is held back instead of catching up in a burst


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """Standard deviations of what the sensors add; without any, a robot at rest looks as if its sensors were frozen."""

    joint_position: float = 1e-4  # rad
    joint_velocity: float = 0.02  # rad/s
    gyro: float = 0.01  # rad/s


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """The simulated robot's process."""

    physics_dt: float = 0.001  # s, at which the joints' PD loops run too
    command_timeout: float = 0.010  # s without a valid command, after which the robot damps by itself
    seconds: float = math.inf  # s of simulated time, after which the process ends
    gantry_seconds: float = 4.0  # s for which a gantry holds the robot up once a joint is stiff; inf: for ever
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    faults: FaultConfig = dataclasses.field(default_factory=FaultConfig)


class SimulatedRobot:
    """A G1 in C MuJoCo on a network: `tick` is one physics step."""

    def __init__(
        self, model: mujoco.MjModel, deployment: Deployment, network: Network, config: SimulationConfig
    ) -> None:
        """Hangs the robot on its gantry, in damping.

        Args:
            model: of a G1 on its floor.
            deployment: of the policy that is to drive it; of it the simulation uses the standing pose and the torque
                limits.
            network: where it is heard; it leaves it when it is closed.
            config: see there.

        Raises:
            ValueError: the robot has joints that a G1 does not have.
        """
        model.opt.timestep = config.physics_dt
        # Of the two watchdogs, only the one here holds the robot in damping.
        self.config, self.robot = config, MujocoRobot(model, deployment, command_timeout=math.inf)
        self.robot.gantry = True
        self._motors = motor_indices(deployment.joint_names)
        self._network = network
        self._reader = network.reader(COMMAND_TOPIC, PackedLowCmd)
        self._writer = network.writer(STATE_TOPIC, PackedLowState)
        self._sensors = Sensors(config.faults)
        self._to_robot = Line(config.faults, config.faults.command_loss, 0)
        self._from_robot = Line(config.faults, config.faults.state_loss, 1)
        self._rng = np.random.default_rng((config.faults.seed, 2))
        self._record = np.zeros((), LOW_STATE)
        self._record["mode_machine"] = MACHINE
        self._record["motor_state"]["mode"][: len(G1_MOTORS)] = ENABLED
        self._published = np.full(1 << 12, np.nan)  # s of wall clock, when the state of each of the last ticks left
        self._echoed = -1
        self._steps = 0
        self._limp = self._target = damping(deployment.kd)
        self._heard = self._stiffened = 0.0  # s, when the latest valid command came, and the latest stiff one
        self._deserted = False  # commands have stopped, and none to damp has come since
        self.first_stiff: float | None = None  # s, when a joint was first told to be stiff
        self.truth = Truth(self.robot)

    def tick(self) -> None:
        """Hears commands, steps the physics, and every `STEPS_PER_STATE` times says what the sensors read."""
        now = self.robot.now()
        sample = self._reader.take()
        if sample is not None:
            self._to_robot.push(now, sample.record)
        for record in self._to_robot.pop(now):
            self._obey(record)
        if now - self._heard > self.config.command_timeout + 1e-9 and self._target.kp.any():
            self._deserted = True
            self._aim(self._limp)
        self.robot.step()
        self._steps += 1
        self._progress()
        if self._steps % STEPS_PER_STATE == 0:
            self._from_robot.push(self.robot.now(), self._sense())
        for record in self._from_robot.pop(self.robot.now()):
            self._writer.write(PackedLowState(record))
            self._published[int(record["tick"]) % len(self._published)] = wall.monotonic()
        self.truth.step()

    def _obey(self, record: np.ndarray) -> None:
        counts = self.truth.counts
        counts["commands"] += 1
        if not is_signed(record):
            counts["checksum_errors"] += 1
            return
        motors = record["motor_cmd"][self._motors]
        target = PDTarget(*(motors[name].astype(float) for name in ("q", "dq", "kp", "kd", "tau")))
        finite = all(np.isfinite(value).all() for value in vars(target).values())
        if record["mode_machine"] != MACHINE or not finite or not (motors["mode"] == ENABLED).all():
            counts["refused"] += 1
            return
        echo = int(record["reserve"][0])
        if echo != self._echoed:
            self._echoed = echo
            self.truth.round_trips.append(wall.monotonic() - self._published[echo % len(self._published)])
        self._heard = self.robot.now()
        self._deserted = self._deserted and bool(target.kp.any())
        if not self._deserted:
            self._aim(target)

    def _aim(self, target: PDTarget) -> None:
        if target.kp.any():
            self._stiffened = self.robot.now()
        elif self._target.kp.any():
            self.truth.events.append((self._stiffened, "last stiff command"))
        self._target = target
        self.robot.send(target)

    def _progress(self) -> None:
        """Lets faults begin and the gantry go when it is time."""
        now, config = self.robot.now(), self.config
        if self.first_stiff is None:
            if self._target.kp.any():
                self.first_stiff = now
            return
        since = now - self.first_stiff
        if since >= config.faults.after and not self._sensors.broken:
            self._sensors.broken = self._to_robot.broken = self._from_robot.broken = True
            self.truth.event("fault")
        if since >= config.gantry_seconds and self.robot.gantry:
            self.robot.gantry = False
            self.truth.event("gantry released")

    def _sense(self) -> np.ndarray:
        """The signed record of the present state."""
        state, noise, rng = self.robot.read(), self.config.noise, self._rng
        record, mine = self._record.copy(), self._motors
        motors, imu = record["motor_state"], record["imu_state"]
        motors["q"][mine] = state.q + noise.joint_position * rng.standard_normal(len(mine))
        motors["dq"][mine] = state.qd + noise.joint_velocity * rng.standard_normal(len(mine))
        motors["tau_est"][mine] = state.tau
        motors["temperature"][mine] = np.round(state.temperature)[:, None]
        imu["quaternion"] = state.quaternion
        imu["gyroscope"] = state.gyro + noise.gyro * rng.standard_normal(3)
        record["tick"] = round(1000.0 * state.time)
        record = self._sensors.read(record)
        sign(record)
        return record

    def run(self, stopped: list[int]) -> None:
        """Ticks in real time until `stopped` holds something or `SimulationConfig.seconds` are over."""
        with no_collection():
            due = wall.monotonic()
            while not stopped and self.robot.now() < self.config.seconds:
                self.tick()
                due += self.config.physics_dt
                late = wall.monotonic() - due
                if late < 0:
                    wall.sleep(-late)
                elif late > SLIP:
                    self.truth.counts["slips"] += 1
                    self.truth.slipped += late
                    due += late

    def close(self) -> None:
        """Leaves the network."""
        del self._reader, self._writer
        self._network.close()


@dataclasses.dataclass(frozen=True)
class RobotSimCommand:
    """A simulated G1 on a network, until Ctrl-C, SIGTERM or the end of its time."""

    policy: Path = Path("policy.onnx")
    """The exported policy that is to drive it, for its robot's standing pose and torque limits."""
    model: Path | None = None
    """The robot on its floor (MJCF, .zip or .mjb); by default what `export` wrote beside the policy."""
    interface: str = LOOPBACK
    """Network interface."""
    domain: int = 0
    """DDS domain."""
    log: Path | None = None
    """Where to write what really happened (.npz)."""
    simulation: SimulationConfig = dataclasses.field(default_factory=SimulationConfig)


def run(command: RobotSimCommand) -> int:
    """Runs it, and prints a summary of what happened as its last line."""
    _, deployment = load(command.policy)
    plant = load_model(command.model or command.policy.with_suffix(".zip"))
    ask_for_real_time()
    robot = SimulatedRobot(plant, deployment, Network(command.interface, command.domain), command.simulation)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stopped.append(received))
    print("A simulated robot hangs on its gantry.", flush=True)
    robot.run(stopped)
    robot.close()
    if command.log is not None:
        robot.truth.save(command.log)
    print(robot.truth.summary(), flush=True)
    return 0
