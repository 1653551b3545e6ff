"""The control loop's side of the browser viewer: shows the newest state, and hears what the browser asks for.

The viewer is a process of its own (`bridge.viewer_page`), so that neither its work nor its death can hold up a control
loop. Both sides see one block of shared memory: the loop writes the newest view into it, the viewer its orders. Neither
ever waits for the other; a view that nobody has read is overwritten.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from bridge.histogram import Histogram

ADDRESS = "127.0.0.1:8080"
PERIOD = 1 / 30  # s, between two views
MAX_CONTACTS, MAX_KNOTS = 32, 512
BUTTONS = ("stop", "stand", "walk", "reset")
START_SECONDS = 60.0  # s, for the viewer to start
PATIENCE = 1.0  # s without a sign of life after which the viewer's process counts as dead
UNKNOWN = -1

ORDERS = np.dtype(
    [
        ("heartbeat", "<f8"),  # s, of time.monotonic: the viewer's process lives
        ("port", "<i4"),  # 0 until the viewer can be reached
        ("clients", "<i4"),  # browsers that look at it
        ("command", "<f8", (3,)),  # m/s, m/s, rad/s: the sliders
        ("paused", "<i4"),
        *((name, "<i8") for name in BUTTONS),  # how often each was pressed
    ]
)


def view_type(nq: int) -> np.dtype:
    """What is shown: world frame, SI units; a view need not fill all of it."""
    bins = len(Histogram().counts)
    return np.dtype(
        [
            ("sequence", "<u8"),  # odd while the view is being written
            ("time", "<f8"),
            ("qpos", "<f8", (nq,)),  # base position NaN where it is not known
            ("velocity", "<f8", (3,)),  # of the base, yaw frame [m/s, m/s, rad/s]; NaN where it is not known
            ("command", "<f8", (3,)),
            ("mode", "<i4"),  # of `bridge.machine.Mode`, or UNKNOWN
            ("fault", "<i4"),  # index in `bridge.safety.Fault`
            ("refused", "S160"),
            ("contacts", "<i4"),  # how many, or UNKNOWN
            ("contact_points", "<f8", (MAX_CONTACTS, 3)),
            ("contact_forces", "<f8", (MAX_CONTACTS, 3)),  # N, on the robot
            ("steps", "<i8", (bins,)),  # `Histogram.counts` of how long a step takes
            ("longest_step", "<f8"),
            ("overruns", "<i8"),
            ("knots", "<i4"),  # of the MPC's plan; UNKNOWN: there is no MPC
            ("com_path", "<f8", (MAX_KNOTS, 3)),
            ("landing", "<f8", (2, 3)),  # left, right
            ("landing_valid", "<i4", (2,)),
            ("foot", "<f8", (2, 3)),  # where the plan has the feet now
            ("force", "<f8", (2, 3)),  # N, that it gives them now
            ("plan_age", "<f8"),  # s
            ("solved", "<i4"),  # whether the latest solve succeeded
            ("failures", "<i8"),  # solves that did not
            ("solves", "<i8"),
        ]
    )


class Board:
    """The memory that both sides see."""

    def __init__(self, descriptor: int, nq: int) -> None:
        """Maps it.

        Args:
            descriptor: of a file in memory.
            nq: size of the robot's configuration.
        """
        kind = view_type(nq)
        size = kind.itemsize + ORDERS.itemsize
        os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self._view = np.frombuffer(self._memory, kind, 1)
        self.orders = np.frombuffer(self._memory, ORDERS, 1, kind.itemsize)  # (1,)

    def clear(self) -> None:
        """Nothing is known."""
        for name in ("mode", "contacts", "knots"):
            self._view[name] = UNKNOWN
        self._view["velocity"] = np.nan

    def publish(self, fields: dict[str, Any]) -> None:
        """Replaces what is shown; fields that are not given stay as they are."""
        view = self._view
        view["sequence"] += 1
        for name, value in fields.items():
            view[name][0] = value
        view["sequence"] += 1

    def newest(self) -> np.void | None:
        """A copy of what is shown now; None if nothing is, or if it was being replaced."""
        before = int(self._view["sequence"][0])
        copy = self._view.copy()[0]
        return copy if before and before % 2 == 0 and before == self._view["sequence"][0] else None


class Viewer:
    """A viewer that runs beside this process, until `close` or until this process ends, however it does."""

    def __init__(
        self,
        model: mujoco.MjModel,
        address: str = ADDRESS,
        *,
        title: str = "robot",
        buttons: tuple[str, ...] = (),
        pause: bool = False,
        ranges: Float[np.ndarray, "3 2"] | None = None,
        command: Float[np.ndarray, " 3"] | None = None,
        step_name: str = "policy step",
    ) -> None:
        """Starts it, prints where to look, and returns once a browser can connect.

        Args:
            model: the robot on its floor.
            address: host and port to listen on; a port that is taken is passed over for the next free one.
            title: of the page.
            buttons: which of `BUTTONS` the page has.
            pause: whether it has a switch for pausing.
            ranges: of the command sliders (lower, upper) [m/s, m/s, rad/s]; without them there are no sliders.
            command: where the sliders are at the beginning; by default at zero.
            step_name: what the histogram of steps is about.

        Raises:
            ValueError: the address is none, or viser is not installed.
            OSError: the viewer did not start.
        """
        if importlib.util.find_spec("viser") is None:
            raise ValueError("The viewer needs viser, which `uv sync --extra viewer` installs.")
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"'{address}' is no address; host:port is needed, like {ADDRESS}.")
        self._due = 0.0
        first = np.zeros(3) if command is None else command
        descriptor = os.memfd_create("viewer")
        self.board = Board(descriptor, model.nq)
        self.orders = self.board.orders
        self.board.clear()
        page = {"host": host, "port": int(port), "title": title, "buttons": buttons, "pause": pause}
        self.orders["command"][0] = first
        page |= {"ranges": None if ranges is None else ranges.tolist(), "step_name": step_name}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mjb"
            mujoco.mj_saveModel(model, str(path), None)
            # A session of its own: Ctrl-C in the terminal is for this process alone. It ends when its stdin does.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bridge.viewer_page", str(descriptor), str(path), json.dumps(page)],
                pass_fds=[descriptor],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            os.close(descriptor)
            self._wait()
        self.url = f"http://{host}:{int(self.orders['port'][0])}"

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self.orders["port"][0]:
            if self._process.poll() is not None or time.monotonic() > end:
                self.close()
                raise OSError("The viewer did not start.")
            time.sleep(0.02)

    def due(self) -> bool:
        """Whether it is time for another view."""
        now = time.perf_counter()
        if now < self._due:
            return False
        self._due = now + PERIOD
        return True

    def show(self, **fields: Any) -> None:
        """Shows some of `view_type` anew; never blocks."""
        self.board.publish(fields)

    @property
    def paused(self) -> bool:
        """Whether the browser asks for a pause, and lives."""
        return bool(self.orders["paused"][0]) and self.watched

    @property
    def alive(self) -> bool:
        """Whether the viewer's process lives."""
        return bool(time.monotonic() - self.orders["heartbeat"][0] < PATIENCE)

    @property
    def watched(self) -> bool:
        """Whether the viewer's process lives and a browser is connected to it."""
        return self.alive and bool(self.orders["clients"][0] > 0)

    def close(self) -> None:
        """Ends the viewer."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(3.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def contacts(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, Any]:
    """The fields of a view about contacts: where and with what force, world frame, the floor pushes the robot.

    Args:
        model: the robot on its floor.
        data: after a step.
    """
    count = min(data.ncon, MAX_CONTACTS)
    points, forces, wrench = np.zeros((MAX_CONTACTS, 3)), np.zeros((MAX_CONTACTS, 3)), np.zeros(6)
    for i in range(count):
        contact = data.contact[i]
        mujoco.mj_contactForce(model, data, i, wrench)  # on the second geom, in the contact's axes
        sign = -1.0 if model.geom_bodyid[contact.geom[1]] == 0 else 1.0
        points[i] = contact.pos
        forces[i] = sign * wrench[:3] @ contact.frame.reshape(3, 3)
    return {"contacts": count, "contact_points": points, "contact_forces": forces}


def base_velocity(qpos: Float[np.ndarray, " nq"], qvel: Float[np.ndarray, " nv"]) -> Float[np.ndarray, " 3"]:
    """Velocity of a free base in its yaw frame: forward, to the left [m/s], and the rate about the vertical [rad/s].

    Args:
        qpos: configuration, base first.
        qvel: velocity, MuJoCo's convention.
    """
    w, x, y, z = qpos[3:7]
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    cos, sin = np.cos(yaw), np.sin(yaw)
    vertical = np.array([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])  # base axes
    return np.array([cos * qvel[0] + sin * qvel[1], -sin * qvel[0] + cos * qvel[1], vertical @ qvel[3:6]])
