"""Where velocity commands come from: a scripted profile, the keyboard or a gamepad; all are limited before use."""

from __future__ import annotations

import contextlib
import csv
import os
import select
import struct
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from jaxtyping import Float

from bridge.deployment import Deployment
from bridge.machine import Request
from bridge.viewer import Viewer

if TYPE_CHECKING:
    from bridge.loop import Operator

RATE = (1.5, 1.5, 3.0)  # m/s², m/s², rad/s²: how fast a command may change


class Limiter:
    """Keeps a command within what the policy was trained on, and its changes gradual."""

    def __init__(self, deployment: Deployment, rate: tuple[float, float, float] = RATE) -> None:
        """Starts at rest.

        Args:
            deployment: of the policy.
            rate: of change, largest [m/s², m/s², rad/s²].
        """
        self._low, self._high = deployment.command_ranges.T
        self._rate, self._last = np.array(rate), None
        self.command = np.zeros(3)

    def __call__(self, wanted: Float[np.ndarray, " 3"], now: float) -> Float[np.ndarray, " 3"]:
        """The command [m/s, m/s, rad/s] that is allowed at time `now` [s]; one that is not finite means standing."""
        elapsed = 0.0 if self._last is None else max(now - self._last, 0.0)
        self._last = now
        goal = np.clip(wanted, self._low, self._high) if np.isfinite(wanted).all() else np.zeros(3)
        step = self._rate * elapsed
        self.command += np.clip(goal - self.command, -step, step)
        return self.command


class Profile:
    """A scripted run: stands up, hands over to the policy, follows a table of commands, and ends.

    Time counts from the moment when the policy is asked to take over.
    """

    def __init__(
        self, table: Float[np.ndarray, "n 4"], deployment: Deployment, stand_seconds: float, settle: float = 0.5
    ) -> None:
        """Takes a table.

        Args:
            table: rows of time [s], v_x, v_y [m/s], ω_z [rad/s], each holding until the next; the last ends the run.
            deployment: of the policy.
            stand_seconds: of the stand-up.
            settle: s between the end of the stand-up and the policy.
        """
        self._table, self._limit = table, Limiter(deployment)
        self._wait = stand_seconds + settle
        self._begin: float | None = None
        self._asked: set[Request] = set()

    def poll(self, now: float) -> tuple[Float[np.ndarray, " 3"], Request]:
        """See `bridge.loop.Operator`."""
        self._begin = now if self._begin is None else self._begin
        t = now - self._begin - self._wait
        row = int(np.searchsorted(self._table[:, 0], t + 1e-9, side="right")) - 1
        wanted = self._table[row, 1:] if row >= 0 else np.zeros(3)
        due = Request.QUIT if t >= self._table[-1, 0] else Request.WALK if t >= 0 else Request.STAND
        request = Request.NONE if due in self._asked else due
        self._asked.add(due)
        return self._limit(wanted, now), request


def read_profile(path: Path) -> Float[np.ndarray, "n 4"]:
    """Reads a CSV with the columns time, vx, vy, wz [s, m/s, m/s, rad/s].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other columns, no rows, or its times do not grow.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    columns = ("time", "vx", "vy", "wz")
    if not rows or set(rows[0]) != set(columns):
        raise ValueError(f"'{path}' is no velocity profile: a CSV with the columns {', '.join(columns)} is needed.")
    try:
        table = np.array([[float(row[name]) for name in columns] for row in rows])
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{path}' holds something that is not a number: {error}.") from error
    if not np.isfinite(table).all() or np.any(np.diff(table[:, 0]) <= 0) or table[0, 0] < 0:
        raise ValueError(f"The times in '{path}' must be finite, not negative, and grow from row to row.")
    return table


KEYS_HELP = "1 stand up, 2 policy, space STOP (go limp), q quit; w/s forward, a/d left, j/l turn, x halt"
_REQUESTS = {"1": Request.STAND, "2": Request.WALK, " ": Request.STOP, "\x1b": Request.STOP, "q": Request.QUIT}
_STEPS = {"w": (0, 0.1), "s": (0, -0.1), "a": (1, 0.1), "d": (1, -0.1), "j": (2, 0.2), "l": (2, -0.2)}


class Keyboard:
    """Commands by single keys of a terminal; see `KEYS_HELP`. A stop typed among other keys wins."""

    def __init__(self, deployment: Deployment, stream: TextIO | int | None = None) -> None:
        """Switches a terminal to single keys; `close` switches it back.

        Args:
            deployment: of the policy.
            stream: a terminal, or anything else that can be read without blocking; by default the standard input.
        """
        source = sys.stdin if stream is None else stream
        self._fd = source if isinstance(source, int) else source.fileno()
        self._before = termios.tcgetattr(self._fd) if os.isatty(self._fd) else None
        if self._before is not None:
            tty.setcbreak(self._fd)
        self._limit, self._wanted = Limiter(deployment), np.zeros(3)
        self._low, self._high = deployment.command_ranges.T

    def poll(self, now: float) -> tuple[Float[np.ndarray, " 3"], Request]:
        """See `bridge.loop.Operator`."""
        request = Request.NONE
        while select.select([self._fd], [], [], 0.0)[0]:
            text = os.read(self._fd, 64).decode(errors="ignore")
            if not text:  # the terminal is gone, and with it the operator's stop
                request = request if request is Request.QUIT else Request.STOP
                break
            for key in text:
                request = self._press(key, request)
        return self._limit(self._wanted, now), request

    def _press(self, key: str, request: Request) -> Request:
        if key in _STEPS:
            axis, change = _STEPS[key]
            self._wanted[axis] = np.clip(self._wanted[axis] + change, self._low[axis], self._high[axis])
        asked = _REQUESTS.get(key, Request.NONE)
        if key == "x" or asked is not Request.NONE:
            self._wanted[:] = 0.0
        last = (Request.STOP, Request.QUIT)
        return request if request in last or asked is Request.NONE else asked

    def close(self) -> None:
        """Gives the terminal back as it was."""
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


# An event of Linux's joystick interface: time [ms], value, type, number.
_EVENT = struct.Struct("IhBB")
_BUTTON, _AXIS, _INITIAL = 0x01, 0x02, 0x80
GAMEPAD_HELP = "Y stand up, A policy, B STOP (go limp), back quit; left stick walks, right stick turns"
_BUTTONS = {0: Request.WALK, 1: Request.STOP, 3: Request.STAND, 6: Request.QUIT}  # as xpad numbers them
_FORWARD, _LEFT, _TURN = 1, 0, 3  # axes; a stick pushed forward or to the left reads negative
DEAD_ZONE = 0.1  # of a stick's travel


class Gamepad:
    """Commands by a gamepad through Linux's joystick interface, without any library. If it is unplugged: go limp."""

    def __init__(self, deployment: Deployment, device: Path = Path("/dev/input/js0")) -> None:
        """Opens a gamepad.

        Raises:
            FileNotFoundError: there is none.
        """
        self._fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        self._limit = Limiter(deployment)
        self._low, self._high = deployment.command_ranges.T
        self._axes = {_FORWARD: 0.0, _LEFT: 0.0, _TURN: 0.0}

    def poll(self, now: float) -> tuple[Float[np.ndarray, " 3"], Request]:
        """See `bridge.loop.Operator`."""
        request = Request.NONE
        while True:
            try:
                data = os.read(self._fd, _EVENT.size)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if len(data) < _EVENT.size:
                request = Request.STOP
                break
            _, value, kind, number = _EVENT.unpack(data)
            if kind & ~_INITIAL == _AXIS and number in self._axes:
                self._axes[number] = value / 32767.0
            elif kind == _BUTTON and value and request not in (Request.STOP, Request.QUIT):
                request = _BUTTONS.get(number, request)
        sticks = -np.array([self._axes[_FORWARD], self._axes[_LEFT], self._axes[_TURN]])
        sticks = np.where(np.abs(sticks) < DEAD_ZONE, 0.0, sticks)
        return self._limit(np.where(sticks > 0, sticks * self._high, -sticks * self._low), now), request

    def close(self) -> None:
        """Closes the device."""
        os.close(self._fd)


class Browser:
    """Commands by the sliders and buttons of a viewer's page. If the last browser is closed: go limp.

    Above another operator it is only the emergency stop, and its closing means nothing.
    """

    def __init__(self, viewer: Viewer, deployment: Deployment, below: Operator | None = None) -> None:
        """Listens to a viewer.

        Args:
            viewer: that runs.
            deployment: of the policy.
            below: who commands, if not the sliders.
        """
        self._viewer, self._below, self._limit = viewer, below, Limiter(deployment)
        self._seen = {name: int(viewer.orders[name][0]) for name in _PRESSED}
        self._watched = False

    def poll(self, now: float) -> tuple[Float[np.ndarray, " 3"], Request]:
        """See `bridge.loop.Operator`."""
        asked = Request.NONE
        for name, request in _PRESSED.items():  # the last one is the strongest
            count = int(self._viewer.orders[name][0])
            asked = asked if count == self._seen[name] else request
            self._seen[name] = count
        if self._below is not None:
            command, request = self._below.poll(now)
            return command, Request.STOP if asked is Request.STOP else request
        watched = self._viewer.watched
        self._watched |= watched
        lost = self._watched and not watched
        return self._limit(self._viewer.orders["command"][0], now), Request.STOP if lost else asked


_PRESSED = {"stand": Request.STAND, "walk": Request.WALK, "stop": Request.STOP}
