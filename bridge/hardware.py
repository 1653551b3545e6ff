"""The control loop on a Unitree G1 over DDS, real or simulated in another process: `bridge robot`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bridge.controller import Controller
from bridge.dds import LOOPBACK, Network
from bridge.keeper import PATIENCE, Keeper
from bridge.loop import Loop, LoopConfig
from bridge.priority import ask_for_real_time
from bridge.safety import SafetyConfig
from bridge.session import drive, succeeded
from bridge.unitree import UnitreeG1
from bridge.viewer import ADDRESS

WAIT_SECONDS = 10.0  # s for the robot's first state


@dataclasses.dataclass(frozen=True)
class RobotCommand:
    """Runs a policy's control loop on a G1 over DDS. Exit code 0 if the policy walked and no fault ended it."""

    policy: Path = Path("policy.onnx")
    """What `export` wrote."""
    interface: str = LOOPBACK
    """Network interface towards the robot; "lo" for `bridge robot-sim` on this machine."""
    domain: int = 0
    """DDS domain; a robot's is 0."""
    keeper_seconds: float = PATIENCE
    """How long this process may hang until a second one damps the robot (s); 0 for no second process."""
    profile: Path | None = None
    """CSV of commands: time, vx, vy, wz. Without it, the keyboard commands."""
    gamepad: bool = False
    """Commands by the first gamepad."""
    seconds: float = float("inf")
    """Time after which the run ends (s)."""
    stand_seconds: float = 3.0
    """Duration of the stand-up (s)."""
    log: Path | None = None
    """A new folder for the log of the run."""
    viewer: bool = False
    """Show the robot in a browser, whose page commands unless a profile or a gamepad does."""
    viewer_address: str = ADDRESS
    """Host and port of its page; host 0.0.0.0 lets every machine of the network in, and command the robot."""
    safety: SafetyConfig = dataclasses.field(default_factory=SafetyConfig)
    """Limits."""


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
        config = LoopConfig(
            stand_seconds=command.stand_seconds,
            seconds=command.seconds,
            seconds_after_fault=float("inf") if command.profile is None else 1.0,
            safety=command.safety,
        )
        options = {"profile": command.profile, "gamepad": command.gamepad, "log": command.log}
        options["viewer"] = command.viewer_address if command.viewer else None
        return drive(robot, controller, config, model=command.policy.with_suffix(".zip"), **options), robot
    finally:
        robot.close()


def run(command: RobotCommand) -> int:
    """Runs it, and says what came and went; raises what `walk` does."""
    loop, robot = walk(command)
    print(f"messages: {robot.statistics}")
    return 0 if succeeded(loop) else 1
