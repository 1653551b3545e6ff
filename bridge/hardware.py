"""The control loop on a Unitree G1 over DDS, real or simulated in another process: `bridge robot`."""

from __future__ import annotations

import dataclasses

from bridge.controller import Controller
from bridge.dds import LOOPBACK, Network
from bridge.keeper import PATIENCE, Keeper
from bridge.loop import Loop
from bridge.priority import ask_for_real_time
from bridge.session import RunOptions, drive, succeeded
from bridge.unitree import UnitreeG1

WAIT_SECONDS = 10.0  # s for the robot's first state
PERIOD = 0.002  # s, between two ticks of the loop: the rate at which a G1 sends its state


@dataclasses.dataclass(frozen=True)
class RobotCommand(RunOptions):
    """Runs a policy's control loop on a G1 over DDS. Exit code 0 if the policy walked and no fault ended it."""

    interface: str = LOOPBACK
    """Network interface towards the robot; "lo" for `bridge robot-sim` on this machine."""
    domain: int = 0
    """DDS domain; a robot's is 0."""
    keeper_seconds: float = PATIENCE
    """How long this process may hang until a second one damps the robot (s); 0 for no second process."""


def walk(command: RobotCommand) -> tuple[Loop, UnitreeG1]:
    """Waits for the robot and runs the loop.

    Returns:
        The loop and the robot, when it is over.

    Raises:
        TimeoutError: no robot is heard.
        ValueError, FileNotFoundError: something that was given cannot be used.
    """
    controller = Controller(command.policy)
    deployment = controller.deployment
    if not ask_for_real_time():
        print("The kernel gives no real-time scheduling: a busy machine may be late and so end the run.")
    network = Network(command.interface, command.domain)
    keeper = Keeper(network, command.keeper_seconds) if command.keeper_seconds > 0 else None
    robot = UnitreeG1(deployment.joint_names, deployment.kd, network, keeper)
    try:
        robot.wait(WAIT_SECONDS)
        ticks_per_step = round(deployment.control_dt / PERIOD)
        return drive(robot, controller, command, ticks_per_step, command.policy.with_suffix(".zip")), robot
    finally:
        robot.close()


def run(command: RobotCommand) -> int:
    """Runs it, and says what came and went; raises what `walk` does."""
    loop, robot = walk(command)
    print(f"messages: {robot.statistics}")
    return 0 if succeeded(loop) else 1
