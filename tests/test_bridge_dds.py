"""The way to a Unitree G1: messages, checksum, motor order, and both ends of the line in processes of their own.

Times of reaction are differences on the simulated robot's clock, which counts physics steps: a busy machine does not
make it run ahead. A run in which the robot damped before its fault came shows nothing, and is repeated.
"""

import ast
import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bridge.__main__ import main
from bridge.controller import Controller, load
from bridge.dds import MAX_DOMAIN, Network
from bridge.export import export
from bridge.faults import FaultConfig
from bridge.keeper import PATIENCE, Keeper, TakenOverError
from bridge.loop import Loop, LoopConfig
from bridge.mujoco_robot import load_model
from bridge.robot import PDTarget
from bridge.robot import damping as limp
from bridge.safety import Fault
from bridge.simulated_robot import SimulatedRobot, SimulationConfig
from bridge.unitree import (
    G1_MOTORS,
    AnotherCommanderError,
    MachineChangedError,
    RemoteStopError,
    UnitreeG1,
    motor_indices,
)
from bridge.unitree_messages import COMMAND_TOPIC, STATE_TOPIC, IMUState_, LowCmd_, LowState_, MotorCmd_, MotorState_
from bridge.unitree_packets import (
    LOW_CMD,
    LOW_STATE,
    PackedLowCmd,
    PackedLowState,
    crc32,
    is_signed,
    sign,
)
from envs.robots import G1, compile_robot
from tests.bridge_driver import Operator
from tests.bridge_robots import SHIPPED, write_still_policy

ROOT = Path(__file__).parent.parent
MESSAGES = ((LowCmd_, LOW_CMD, PackedLowCmd), (LowState_, LOW_STATE, PackedLowState))
PARTS = {"motor_cmd": MotorCmd_, "motor_state": MotorState_, "imu_state": IMUState_}
# Each run has a DDS domain of its own; another test session on the machine most likely takes others.
DOMAINS = iter(random.Random(os.urandom(8)).sample(range(1, MAX_DOMAIN + 1), MAX_DOMAIN))
FOREVER_HELD = SimulationConfig(gantry_seconds=1e9)
REACTION = 0.020  # s, from a fault to damping


@pytest.fixture(scope="module")
def g1():
    return compile_robot(G1)


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A policy that only stands."""
    return write_still_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def domain():
    return next(DOMAINS)


def randomize(record, rng):
    """Fills every field of a record, in place, with random values."""
    for name in record.dtype.names:
        part = record[name]
        if part.dtype.names:
            randomize(part, rng)
        elif name != "pad":
            part[...] = (
                rng.standard_normal(part.shape)
                if part.dtype.kind == "f"
                else rng.integers(np.iinfo(part.dtype).min, np.iinfo(part.dtype).max, part.shape, endpoint=True)
            )
    return record


def plain(message, record):
    """The record as the object that the DDS library itself would make."""
    values = {}
    for field in dataclasses.fields(message):
        value = record[field.name]
        if field.name not in PARTS:
            values[field.name] = value.tolist()
        elif value.shape:
            values[field.name] = [plain(PARTS[field.name], one) for one in value]
        else:
            values[field.name] = plain(PARTS[field.name], value)
    return message(**values)


def bitwise_crc(data, crc=0xFFFFFFFF):
    """CRC-32/MPEG-2, one bit at a time."""
    for byte in data:
        for bit in range(7, -1, -1):
            feedback = (crc >> 31) ^ (byte >> bit & 1)
            crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if feedback else 0)
    return crc


def test_checksum_is_the_makers():
    assert bitwise_crc(b"123456789") == 0x0376E6E7  # the published check value of CRC-32/MPEG-2
    rng = np.random.default_rng(0)
    for words in (1, 2, 250, 522):
        data = rng.bytes(4 * words)
        assert crc32(data) == bitwise_crc(np.frombuffer(data, "<u4").astype(">u4").tobytes())


@pytest.mark.parametrize("message, dtype, packed", MESSAGES)
def test_packets_are_those_of_the_dds_library(message, dtype, packed):
    record = randomize(np.zeros((), dtype), np.random.default_rng(1))
    data = plain(message, record).serialize()
    assert packed(record).serialize() == data
    assert packed.deserialize(data).record.tobytes() == record.tobytes()
    for type_ in (message, packed):
        type_.__idl__.populate()
        type_.__idl__.fill_type_data()
    assert packed.__idl__._xt_bytedata == message.__idl__._xt_bytedata  # what other participants are told of the type
    for wrong in (data[:-8], b"\0\0" + data[2:], b"\0\7" + data[2:]):
        with pytest.raises(ValueError):
            packed.deserialize(wrong)


@pytest.mark.parametrize("message, dtype, packed", MESSAGES)
def test_any_wrong_bit_is_seen(message, dtype, packed):
    record = randomize(np.zeros((), dtype), np.random.default_rng(2))
    sign(record)
    assert is_signed(packed.deserialize(packed(record).serialize()).record)
    data = record.tobytes()
    for bit in range(0, 8 * len(data), 37):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert not is_signed(np.frombuffer(changed, dtype, count=1).reshape(()))


ECHO = """
import sys, time
from bridge.controller import Controller, load
from bridge.dds import MAX_DOMAIN, Network
from bridge.unitree_messages import COMMAND_TOPIC, STATE_TOPIC, LowCmd_, LowState_
network = Network(domain=int(sys.argv[1]))
ends = [(network.reader(topic, message), network.writer(topic + "_echo", message))
        for topic, message in ((COMMAND_TOPIC, LowCmd_), (STATE_TOPIC, LowState_))]
end = time.monotonic() + 20
print("ready", flush=True)
while time.monotonic() < end:
    for reader, writer in ends:
        sample = reader.take()
        if sample is not None:
            writer.write(sample)
    time.sleep(0.001)
"""


def test_all_fields_survive_the_way_to_another_process_and_back(domain):
    """The other process knows the messages as the DDS library's own objects only."""
    echo = subprocess.Popen([sys.executable, "-c", ECHO, str(domain)], cwd=ROOT, stdout=subprocess.PIPE)
    network = Network(domain=domain)
    try:
        for topic, (_, dtype, packed) in zip((COMMAND_TOPIC, STATE_TOPIC), MESSAGES, strict=True):
            record = randomize(np.zeros((), dtype), np.random.default_rng(3))
            writer, reader = network.writer(topic, packed), network.reader(topic + "_echo", packed)
            answer, end = None, time.monotonic() + 15
            while answer is None and time.monotonic() < end:
                writer.write(packed(record))
                time.sleep(0.01)
                answer = reader.take()
            assert answer is not None
            assert answer.record.tobytes() == record.tobytes()
            del writer, reader
    finally:
        echo.kill()
        echo.communicate()
        network.close()


# The maker's enumeration G1JointIndex (unitree_sdk2, example/g1/low_level), in the order of its values.
MAKERS_JOINTS = (
    *("LeftHipPitch", "LeftHipRoll", "LeftHipYaw", "LeftKnee", "LeftAnklePitch", "LeftAnkleRoll"),
    *("RightHipPitch", "RightHipRoll", "RightHipYaw", "RightKnee", "RightAnklePitch", "RightAnkleRoll"),
    *("WaistYaw", "WaistRoll", "WaistPitch", "LeftShoulderPitch", "LeftShoulderRoll", "LeftShoulderYaw"),
    *("LeftElbow", "LeftWristRoll", "LeftWristPitch", "LeftWristYaw"),
    *("RightShoulderPitch", "RightShoulderRoll", "RightShoulderYaw"),
    *("RightElbow", "RightWristRoll", "RightWristPitch", "RightWristYaw"),
)


def test_motors_are_the_makers(g1):
    snake = [re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() + "_joint" for name in MAKERS_JOINTS]
    assert tuple(snake) == G1_MOTORS
    assert set(G1_MOTORS) == set(g1.joint_names)
    shuffled = tuple(np.random.default_rng(0).permutation(g1.joint_names))
    assert [G1_MOTORS[motor] for motor in motor_indices(shuffled)] == list(shuffled)
    with pytest.raises(ValueError, match="tail"):
        motor_indices((*g1.joint_names, "tail"))
    with pytest.raises(ValueError, match="twice"):
        motor_indices(("left_knee_joint", "left_knee_joint"))


class Lockstep(UnitreeG1):
    """The driver's clock is the simulated robot's, which it steps itself: neither end waits for the other's process."""

    simulated: SimulatedRobot

    def now(self):
        return self.simulated.robot.now()

    def sleep_until(self, due):
        while self.now() < due - 1e-9:
            time.sleep(0.0003)  # for the network
            self.simulated.tick()


@contextlib.contextmanager
def both_ends(deployment, plant, simulation, kind=UnitreeG1, patience=None):
    """A simulated robot and what drives it, in this process; they meet on the network all the same."""
    network = Network(domain=next(DOMAINS))
    simulated = SimulatedRobot(plant, deployment, network, simulation)
    keeper = None if patience is None else Keeper(network, patience)
    robot = kind(deployment.joint_names, deployment.kd, network, keeper)
    if isinstance(robot, Lockstep):
        robot.simulated = simulated
    try:
        yield simulated, robot
    finally:
        robot.close()
        simulated.close()


@pytest.fixture
def pair(standing):
    """Both ends, with joints in another order than motors, and no loop."""
    _, deployment = load(standing)
    order = np.random.default_rng(5).permutation(deployment.num_joints)
    changes = {"joint_names": tuple(deployment.joint_names[i] for i in order)}
    for name in ("default_joint_pos", "action_scale", "kp", "kd", "velocity_limit", "effort", "position_limits"):
        changes[name] = getattr(deployment, name)[order]
    deployment = dataclasses.replace(deployment, **changes)
    with both_ends(deployment, load_model(standing.with_suffix(".zip")), FOREVER_HELD) as (simulated, robot):
        yield simulated, robot, deployment


def exchange(simulated, robot, target=None, ticks=40):
    """Lets both ends talk; returns the last state."""
    for _ in range(ticks):
        if target is not None:
            robot.send(target)
            time.sleep(0.0005)
        simulated.tick()
    time.sleep(0.02)
    return robot.read()


def test_one_line_of_state_and_command(pair):
    simulated, robot, deployment = pair
    nj = deployment.num_joints
    target = PDTarget(*(np.zeros(nj) for _ in range(5)))
    robot.send(target)  # nothing is known of the robot yet
    assert robot.read() is None and robot.statistics.sent == 0
    state = exchange(simulated, robot)
    assert state is not None
    truth = simulated.robot.read()
    for mine, true, tolerance in ((state.q, truth.q, 1e-3), (state.qd, truth.qd, 0.2), (state.gyro, truth.gyro, 0.1)):
        np.testing.assert_allclose(mine, true, atol=tolerance)
    np.testing.assert_allclose(state.quaternion, truth.quaternion, atol=1e-6)

    # A stiff target arrives joint by joint, whatever the order of motors.
    rng = np.random.default_rng(6)
    kp, kd = deployment.kp * rng.uniform(1, 2, nj), deployment.kd * rng.uniform(1, 2, nj)
    target = PDTarget(deployment.default_joint_pos + 0.1 * rng.standard_normal(nj), 0.1 * kd, kp, kd, 0.01 * kp)
    exchange(simulated, robot, target)
    got = simulated.robot.sent
    for name in ("q", "qd", "kp", "kd", "tau"):
        np.testing.assert_allclose(getattr(got, name), getattr(target, name), rtol=1e-6)
    assert simulated.truth.counts["checksum_errors"] == simulated.truth.counts["refused"] == 0

    with pytest.raises(ValueError, match="kp is not finite"):
        robot.send(dataclasses.replace(target, kp=np.full(nj, np.nan)))
    exchange(simulated, robot, ticks=20)  # silence
    assert not simulated.robot.sent.kp.any()
    exchange(simulated, robot, target)  # too late
    assert not simulated.robot.sent.kp.any()
    exchange(simulated, robot, dataclasses.replace(target, kp=np.zeros(nj)))
    exchange(simulated, robot, target)
    assert simulated.robot.sent.kp.any()


def test_states_that_are_not_to_be_trusted(pair):
    simulated, robot, _ = pair
    before = exchange(simulated, robot)
    writer = simulated._writer

    def tell(**fields):
        record = simulated._sense()
        for name, value in fields.items():
            record[name] = value
        if "crc" not in fields:
            sign(record)
        writer.write(PackedLowState(record))
        time.sleep(0.02)
        return robot.read()

    assert tell(crc=1) is before and robot.statistics.checksum_errors == 1
    assert tell(tick=1) is before and robot.statistics.out_of_order == 1
    assert tell() is not before and robot.statistics.motor_errors == 0

    motors = simulated._sense()["motor_state"]
    motors["temperature"][3], motors["motorstate"][3] = (40, 71), 2  # the left knee's two thermometers and its errors
    state = tell(motor_state=motors)
    assert state.temperature[robot.joint_names.index("left_knee_joint")] == state.temperature.max() == 71
    assert robot.statistics.motor_errors == 1

    remote = np.zeros(40, np.uint8)
    remote[2] = 0b1000  # "select"
    with pytest.raises(RemoteStopError):
        tell(wireless_remote=remote)


def test_a_robot_that_becomes_another_variant_ends_the_run(pair):
    """What the keeper would send repeats the variant of the start, and the robot would not obey it."""
    simulated, robot, deployment = pair
    simulated._record["mode_machine"] = 1
    exchange(simulated, robot)
    simulated._record["mode_machine"] = 5  # nothing has been commanded yet
    assert exchange(simulated, robot) is not None
    exchange(simulated, robot, limp(deployment.kd))
    assert simulated.truth.counts["commands"] > simulated.truth.counts["refused"] == 0
    simulated._record["mode_machine"] = 6
    with pytest.raises(MachineChangedError):
        exchange(simulated, robot)
    assert robot._command["mode_machine"] == 6  # damping is for the robot as it is now


def test_a_robot_that_somebody_else_commands_is_left_alone(standing):
    _, deployment = load(standing)
    plant = load_model(standing.with_suffix(".zip"))
    with both_ends(deployment, plant, FOREVER_HELD, Lockstep) as (simulated, robot):
        simulated.tick, tick = lambda: (other.write(PackedLowCmd(np.zeros((), LOW_CMD))), tick()), simulated.tick
        other = robot._network.writer(COMMAND_TOPIC, PackedLowCmd)
        with pytest.raises(AnotherCommanderError):
            robot.wait(2.0)
        robot.close()
        assert robot.statistics.sent == 0


@pytest.mark.parametrize("dead", ["keeper", "line"])
def test_robot_damps_when_its_keeper_is_dead_or_its_driver_cannot_speak(dead, standing, monkeypatch):
    """The simulated robot's own watchdog is off. A driver that is in good health has to speak, else the keeper."""
    _, deployment = load(standing)
    zero = np.zeros(deployment.num_joints)
    stiff = PDTarget(deployment.default_joint_pos, zero, deployment.kp, deployment.kd, zero)
    simulation = dataclasses.replace(FOREVER_HELD, command_timeout=1e9)
    plant = load_model(standing.with_suffix(".zip"))
    with both_ends(deployment, plant, simulation, patience=1.0) as (simulated, robot):
        end = time.monotonic() + 15
        while not (robot.read() and robot._ready()) and time.monotonic() < end:
            exchange(simulated, robot, ticks=4)
        exchange(simulated, robot, stiff)
        assert simulated.robot.sent.kp.any()
        if dead == "keeper":
            robot._keeper._process.kill()
            robot._keeper._process.wait()
            with pytest.raises(TakenOverError):
                robot.send(stiff)
        else:

            class Broken:
                def write(self, sample):
                    raise RuntimeError("injected")

            robot._writer = Broken()
        exchange(simulated, robot, ticks=4)
        assert simulated.robot.sent.kp.any() == (dead == "line")  # before any farewell
        keeper = robot._keeper
        monkeypatch.setattr(robot._network, "close", lambda: None)  # it is the simulated robot's too
        robot.close()
        end = time.monotonic() + 2
        while simulated.robot.sent.kp.any() and time.monotonic() < end:
            simulated.tick()
        assert not simulated.robot.sent.kp.any()
        keeper._process.kill()
        keeper._process.wait()


FAULTS = {
    "NOT_FINITE": FaultConfig(after=0.1, nan=True),
    "FROZEN": FaultConfig(after=0.1, frozen=True),
    "STALE": FaultConfig(after=0.1, state_loss=1.0),
    "lost commands": FaultConfig(after=0.1, command_loss=1.0),
    "late packets": FaultConfig(after=0.1, delay=(0.03, 0.04)),
    "wrong bits": FaultConfig(after=0.1, damage=1.0),
    "wrong bits now and then": FaultConfig(after=0.1, damage=0.2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_robot_damps_within_20_ms_of_a_fault(fault, standing):
    """On the robot's clock, which both ends share here: a slow machine slows them down together."""

    def attempt():
        controller = Controller(standing)
        operator = Operator(np.zeros(3), 1.0)
        simulation = dataclasses.replace(FOREVER_HELD, faults=FAULTS[fault])
        plant = load_model(standing.with_suffix(".zip"))
        with both_ends(controller.deployment, plant, simulation, Lockstep) as (simulated, robot):
            robot.wait(1.0)
            operator.loop = loop = Loop(robot, controller, operator, LoopConfig(stand_seconds=1.0, seconds=0.2))
            loop.run()
            times = first_times(simulated.truth.events)
            stands = times.get("damping", np.inf) > times.get("fault", -np.inf)
            return (times, loop, robot.statistics, simulated.truth) if stands else None

    times, loop, statistics, truth = conclusive(attempt)
    if fault == "wrong bits now and then":  # what is damaged is dropped, and the rest is enough
        assert loop.events[-1][2] is Fault.NONE
        assert times["damping"] - times["fault"] > 0.05
    else:
        assert 0 <= times["damping"] - times["fault"] <= REACTION, truth.events
        assert [what for _, what in truth.events].count("stiff") == 1, "the robot got stiff again"
    if fault in ("NOT_FINITE", "FROZEN", "STALE"):
        assert loop.events[-1][2] is Fault[fault]
    damaged = fault.startswith("wrong bits")
    assert (statistics.checksum_errors > 0) == (truth.counts["checksum_errors"] > 0) == damaged


def first_times(events):
    """When each thing happened first."""
    return {what: when for when, what in reversed(events)}


def conclusive(attempt, tries=4, otherwise=pytest.fail):
    """The first run of `attempt` in which the robot was still stiff when its fault came."""
    for _ in range(tries):
        result = attempt()
        if result is not None:
            return result
    otherwise("The machine is too busy: the robot never stayed stiff until its fault came.")


def start_robot(policy, domain, *flags):
    arguments = [str(policy), "--domain", str(domain), *flags]
    command = [sys.executable, "-m", "bridge", "robot-sim", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def start_driver(policy, domain, seconds, stand_seconds=1.0, command=(0, 0, 0), keeper_seconds=0.0, patient=False):
    options = {"stand_seconds": stand_seconds, "command": command, "patient": patient}
    options["keeper_seconds"] = keeper_seconds
    values = [str(policy), str(domain), str(seconds), json.dumps(options)]
    arguments = [sys.executable, "-m", "tests.bridge_driver", *values]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def last_line(process):
    return json.loads(process.communicate(timeout=30)[0].splitlines()[-1])


def end(process):
    """Asks a process to end and returns what it reports."""
    process.send_signal(signal.SIGTERM)
    return last_line(process)


@pytest.mark.parametrize("guard, end_of_driver", [("robot", "KILL"), ("keeper", "KILL"), ("keeper", "STOP")])
def test_robot_damps_within_20_ms_of_the_death_of_its_driver(guard, end_of_driver, standing):
    """By the simulated robot's own watchdog, or with that off by the keeper, which a driver that only hangs has too.

    The robot's clock does not wait for the keeper, and without real-time scheduling nobody promises that it wakes up in
    time: one run out of three has to be. A killed driver is found by its broken connection, at once and however patient
    the keeper is; one that hangs only by its silence, and a machine that holds the driver up for as long says nothing.
    """
    hangs = end_of_driver == "STOP"
    keeper_seconds = {"robot": 0.0, "keeper": PATIENCE if hangs else 0.3}[guard]

    def attempt():
        domain = next(DOMAINS)
        timeout = SimulationConfig().command_timeout if guard == "robot" else 1e9
        robot = start_robot(standing, domain, "--simulation.command-timeout", str(timeout))
        driver = start_driver(standing, domain, 30, keeper_seconds=keeper_seconds)
        driver.stdout.readline()  # the stand-up has begun
        time.sleep(0.3)
        driver.send_signal(signal.Signals[f"SIG{end_of_driver}"])
        time.sleep(0.1)
        for number in (signal.SIGCONT, signal.SIGKILL):
            time.sleep(0.2)  # a driver that goes on must not be obeyed
            driver.send_signal(number)
        driver.communicate()
        truth = end(robot)
        times = {what: when for when, what in truth["events"]}
        taken.append(times["damping"] - times["last stiff command"])
        late = guard == "keeper" and taken[-1] > REACTION and len(taken) < 3
        return None if late or times["damping"] - times["stiff"] < 0.25 else truth

    taken = []
    truth = conclusive(attempt, otherwise=pytest.skip if hangs else pytest.fail)
    assert 0 < taken[-1] <= REACTION, truth["events"]
    assert [what for _, what in truth["events"]].count("stiff") == 1, "the robot got stiff again"


def test_shipped_policy_walks_over_dds(tmp_path):
    """Limits of lateness are those of a busy machine here: what is tested is the numbers' way, not their haste."""
    policy, _, _ = export(SHIPPED, tmp_path / "policy.onnx")

    def attempt():
        domain = next(DOMAINS)
        flags = ("--simulation.gantry-seconds", "0.8", "--simulation.command-timeout", "0.1")
        robot = start_robot(policy, domain, *flags, "--log", str(tmp_path / "truth.npz"))
        told = last_line(start_driver(policy, domain, 3.5, 0.5, (0.5, 0, 0), patient=True))
        truth = end(robot)
        late = told["events"][-1][1] in ("STALE", "OVERRUN") or truth["slipped_seconds"] > 0.2
        return None if late else (told, truth)

    told, truth = conclusive(attempt)
    assert [mode for mode, _ in told["events"]] == ["STAND_UP", "POLICY"], told
    times = {what: when for when, what in truth["events"]}
    assert times.get("fall", np.inf) > times["damping"], truth["events"]
    assert truth["checksum_errors"] == truth["refused"] == told["checksum_errors"] == told["malformed"] == 0
    with np.load(tmp_path / "truth.npz") as arrays:
        walked = arrays["time"] <= times["damping"]
        assert arrays["position"][walked][-1, 0] > 0.7, "the robot did not walk ahead"


@pytest.mark.parametrize("command", ["robot", "robot-sim"])
def test_an_interface_that_is_not_there_is_one_sentence(command, standing, capsys):
    assert main([command, str(standing), "--interface", "nope0", "--domain", str(next(DOMAINS))]) == 2
    assert "'nope0'" in capsys.readouterr().err


def test_only_what_speaks_dds_needs_it():
    """A robot without DDS, and the bridge's tools, do without the extra `robot`."""
    speakers = {"dds", "unitree_messages", "unitree_packets", "unitree", "keeper", "hardware", "simulated_robot"}
    needed = {"cyclonedds", *(f"bridge.{name}" for name in speakers)}
    for path in (ROOT / "bridge").glob("*.py"):
        top = {
            name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        speaks = any(name == one or name.startswith(f"{one}.") for name in top for one in needed)
        assert speaks <= (path.stem in speakers), path
