"""The control loop on C MuJoCo in this process: `bridge sim`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bridge.controller import Controller
from bridge.loop import Loop
from bridge.machine import Mode
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.session import RunOptions, drive, succeeded


@dataclasses.dataclass(frozen=True)
class SimCommand(RunOptions):
    """Runs a policy's control loop on C MuJoCo. Exit code 0 if the policy walked and no fault ended it."""

    model: Path | None = None
    """The robot on its floor (MJCF, .zip or .mjb); by default what `export` wrote beside the policy."""
    fast: bool = False
    """As fast as possible instead of in real time."""


def run(command: SimCommand) -> int:
    """Runs it; a gantry holds the robot up until the policy takes over."""
    controller = Controller(command.policy)
    scene = command.model or command.policy.with_suffix(".zip")
    robot = MujocoRobot(load_model(scene), controller.deployment, real_time=not command.fast)
    robot.gantry = True

    def release(loop: Loop) -> None:
        robot.gantry = robot.gantry and loop.machine.mode is not Mode.POLICY

    ticks_per_step = max(1, round(controller.deployment.control_dt / robot.model.opt.timestep))
    return 0 if succeeded(drive(robot, controller, command, ticks_per_step, scene, release)) else 1
