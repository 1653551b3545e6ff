"""What really happened to a simulated robot: its path, when it went limp and why, and how well the line worked."""

from __future__ import annotations

import json
import time as wall
from pathlib import Path
from typing import Any

import numpy as np

from bridge.mujoco_robot import MujocoRobot
from bridge.safety import uprightness

SAMPLE_SECONDS = 0.02  # s, between two samples of the path
FALLEN_HEIGHT = 0.5  # of the standing height of the base, below which the robot has fallen


class Truth:
    """A log of ground truth, on the robot's own clock.

    Attributes:
        events: (time [s], what), in order: "stiff" when a joint gets a gain for position, "damping" when the last one
            loses it, "fall", and what others add.
        counts: of commands and of what was wrong with them, and of slips against the wall clock.
        round_trips: s, from sending a state to the first command that was made of it.
        slipped: s by which simulated time was held back behind the wall clock.
    """

    def __init__(self, robot: MujocoRobot) -> None:
        """Of a robot in damping."""
        self._robot = robot
        self._samples: list[np.ndarray] = []
        self._stiff = self._fallen = False
        self._next = 0.0
        self.events: list[tuple[float, str]] = []
        self.counts = dict.fromkeys(("commands", "checksum_errors", "refused", "slips"), 0)
        self.round_trips: list[float] = []
        self.slipped = 0.0

    def event(self, what: str) -> None:
        """Notes that something happened now."""
        self.events.append((self._robot.now(), what))

    def step(self) -> None:
        """Looks at the robot after a physics step."""
        stiff = bool(self._robot.model.actuator_gainprm[:, 0].any())
        if stiff != self._stiff:
            self._stiff = stiff
            self.event("stiff" if stiff else "damping")
        if self._robot.now() < self._next - 1e-9:
            return
        self._next += SAMPLE_SECONDS
        data = self._robot.data
        standing = self._robot.deployment.base_height
        fallen = data.qpos[2] < FALLEN_HEIGHT * standing or uprightness(data.qpos[3:7]) < 0.5
        if fallen and not self._fallen:
            self.event("fall")
        self._fallen = self._fallen or bool(fallen)
        self._samples.append(np.concatenate([[data.time, wall.monotonic()], data.qpos[:7], data.qvel[:6], [stiff]]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The path, one entry a sample: see `save`."""
        table = np.array(self._samples).reshape(-1, 16)
        return {
            "time": table[:, 0],
            "wall": table[:, 1],
            "position": table[:, 2:5],
            "quaternion": table[:, 5:9],
            "velocity": table[:, 9:12],
            "angular_velocity": table[:, 12:15],
            "stiff": table[:, 15] > 0,
            "round_trips": np.array(self.round_trips),
        }

    def summary(self) -> str:
        """Events and counts, as one line of JSON."""
        times = np.array(self.round_trips)
        times = times[np.isfinite(times)]
        quantiles = {f"p{q:g}": float(np.percentile(times, q)) for q in (50, 99, 99.9)} if times.size else {}
        result: dict[str, Any] = {
            "seconds": self._robot.now(),
            "events": self.events,
            **self.counts,
            "slipped_seconds": self.slipped,
            "round_trips": int(times.size),
            "round_trip_seconds": quantiles,
        }
        return json.dumps(result)

    def save(self, path: Path) -> None:
        """Writes all of it to an .npz.

        Time and wall clock [s]; the base's position [m] and quaternion (w x y z) in the world, its velocity in world
        axes [m/s], its angular velocity in its own [rad/s]; whether any joint was stiff; round trips [s]; the summary.
        """
        np.savez_compressed(path, summary=np.array(self.summary()), **self.arrays())  # type: ignore[arg-type]
