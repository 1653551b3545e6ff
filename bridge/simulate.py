"""The control loop on C MuJoCo in this process: `bridge sim`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bridge.controller import Controller
from bridge.loop import Loop, LoopConfig
from bridge.machine import Mode
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.safety import SafetyConfig
from bridge.session import drive, succeeded
from bridge.viewer import ADDRESS


@dataclasses.dataclass(frozen=True)
class SimCommand:
    """Runs a policy's control loop on C MuJoCo. Exit code 0 if the policy walked and no fault ended it."""

    policy: Path = Path("policy.onnx")
    """What `export` wrote."""
    model: Path | None = None
    """The robot on its floor (MJCF, .zip or .mjb); by default what `export` wrote beside the policy."""
    profile: Path | None = None
    """CSV of commands: time, vx, vy, wz. Without it, the keyboard commands."""
    gamepad: bool = False
    """Commands by the first gamepad."""
    fast: bool = False
    """As fast as possible instead of in real time."""
    seconds: float = float("inf")
    """Simulated time after which the run ends."""
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


def run(command: SimCommand) -> int:
    """Runs it; a gantry holds the robot up until the policy takes over."""
    controller = Controller(command.policy)
    scene = command.model or command.policy.with_suffix(".zip")
    robot = MujocoRobot(load_model(scene), controller.deployment, real_time=not command.fast)
    robot.gantry = True

    def release(loop: Loop) -> None:
        robot.gantry = robot.gantry and loop.machine.mode is not Mode.POLICY

    config = LoopConfig(
        ticks_per_step=max(1, round(controller.deployment.control_dt / robot.model.opt.timestep)),
        stand_seconds=command.stand_seconds,
        seconds=command.seconds,
        seconds_after_fault=float("inf") if command.profile is None else 1.0,
        safety=command.safety,
    )
    options = {"profile": command.profile, "gamepad": command.gamepad, "log": command.log}
    options["viewer"] = command.viewer_address if command.viewer else None
    loop = drive(robot, controller, config, model=scene, on_tick=release, **options)
    return 0 if succeeded(loop) else 1
