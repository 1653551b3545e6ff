"""What the viewer is told of a run, at the end of a tick: the robot has been told what to do by then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from bridge.deployment import Deployment
from bridge.loop import Loop
from bridge.mujoco_robot import MujocoRobot, load_model
from bridge.robot import Robot
from bridge.safety import Fault
from bridge.viewer import Viewer, base_velocity, contacts


class Feed:
    """Shows a loop in a viewer, and lets the viewer pause and reset a simulation; to be called at each tick's end."""

    def __init__(self, viewer: Viewer, robot: Robot, model: mujoco.MjModel) -> None:
        """Prepares.

        Args:
            viewer: that runs.
            robot: that the loop moves; of a `MujocoRobot` all is shown, of others what their sensors say.
            model: the robot on its floor.
        """
        self._viewer, self._simulated = viewer, robot if isinstance(robot, MujocoRobot) else None
        self._qpos_adr = np.array([model.joint(name).qposadr[0] for name in robot.joint_names])
        self._qpos = model.qpos0.copy()
        self._faults = {fault: i for i, fault in enumerate(Fault)}
        self._resets = int(viewer.orders["reset"][0])

    def __call__(self, loop: Loop) -> None:
        """See `bridge.loop.Loop`."""
        if self._viewer.due():
            self._viewer.show(**self._fields(loop))
        if self._simulated is not None:
            self._steer(loop, self._simulated)

    def _steer(self, loop: Loop, robot: MujocoRobot) -> None:
        """Reset and pause, as the browser asks."""
        orders = self._viewer.orders
        if orders["reset"][0] != self._resets:
            self._resets = int(orders["reset"][0])
            robot.restart()
            loop.rest()
            self._viewer.show(**self._fields(loop))
        if orders["paused"][0]:
            stops = int(orders["stop"][0])  # a stop must reach the loop
            robot.hold(lambda: self._viewer.paused and not loop.signalled and orders["stop"][0] == stops)

    def _fields(self, loop: Loop) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": loop.now,
            "command": loop.command,
            "mode": int(loop.machine.mode),
            "fault": self._faults[loop.machine.fault],
            "refused": loop.machine.refused.encode(),
            "steps": loop.latency.counts,
            "longest_step": loop.latency.largest,
            "overruns": loop.overruns,
        }
        if self._simulated is not None:
            model, data = self._simulated.model, self._simulated.data
            fields |= {"qpos": data.qpos, "velocity": base_velocity(data.qpos, data.qvel)} | contacts(model, data)
        elif loop.state is not None:
            state, qpos = loop.state, self._qpos
            qpos[:3], qpos[3:7], qpos[self._qpos_adr] = np.nan, state.quaternion, state.q
            turning = base_velocity(qpos, np.concatenate([np.zeros(3), state.gyro]))[2]
            fields |= {"qpos": qpos, "velocity": np.array([np.nan, np.nan, turning])}
        return fields


def open_viewer(
    robot: Robot, deployment: Deployment, model: Path | None, address: str, steers: bool
) -> tuple[Viewer, mujoco.MjModel]:
    """Starts a viewer of a run.

    Args:
        robot: that will move.
        deployment: of the policy.
        model: the robot on its floor, for a robot that has no model of its own.
        address: host and port.
        steers: whether the page commands, or has only the emergency stop.

    Returns:
        The viewer, and the model that it draws.

    Raises:
        ValueError, FileNotFoundError: there is no model, the address is none, or viser is not installed.
        OSError: the viewer did not start.
    """
    simulated = isinstance(robot, MujocoRobot)
    if not simulated and model is None:
        raise ValueError("The viewer needs a model of the robot; `bridge export` leaves it beside the policy.")
    mj_model = robot.model if isinstance(robot, MujocoRobot) else load_model(model or Path())
    buttons = ("stop", "stand", "walk") if steers else ("stop",)
    viewer = Viewer(
        mj_model,
        address,
        title=deployment.robot,
        buttons=(*buttons, "reset") if steers and simulated else buttons,
        pause=simulated,
        ranges=deployment.command_ranges if steers else None,
    )
    return viewer, mj_model
