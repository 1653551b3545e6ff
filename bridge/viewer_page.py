"""The viewer's own process: a web page with the robot and a panel, fed from shared memory; see `bridge.viewer`.

python -m bridge.viewer_page DESCRIPTOR MODEL.mjb PAGE      (started by `Viewer`)
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import viser

from bridge.histogram import Histogram
from bridge.machine import Mode
from bridge.safety import Fault
from bridge.viewer import PERIOD, UNKNOWN, Board
from bridge.viewer_scene import COLORS, Scene

TEXT_PERIOD = 0.2  # s, between two changes of the panel's text
LABELS = {
    "stop": ("STOP (go limp)", "red", "The emergency stop: the robot is told to damp at once."),
    "stand": ("Stand up", None, "To the standing pose."),
    "walk": ("Policy", "green", "Hands over to the policy, once the robot has stood up."),
    "reset": ("Reset", None, "The robot as at the start."),
}
_MODE_COLORS = {Mode.DAMPING: "#8a8f98", Mode.STAND_UP: "#d08700", Mode.POLICY: "#2da44e"}
_STYLE = "display:inline-block;color:white;border-radius:4px;padding:2px 10px;font-weight:600;background:"


class Panel:
    """The side panel: what to press, and what there is to read."""

    def __init__(self, server: viser.ViserServer, board: Board, scene: Scene, page: dict[str, Any]) -> None:
        """Builds it.

        Args:
            server: to show it in.
            board: takes the orders.
            scene: whose options it switches.
            page: see `bridge.viewer.Viewer`.
        """
        self._orders, self._page, gui = board.orders, page, server.gui
        gui.configure_theme(show_logo=False, show_share_button=False)
        gui.main_panel.dock_right()
        gui.set_panel_label(page["title"])
        self._status = gui.add_html("")
        for name in page["buttons"]:
            label, color, hint = LABELS[name]
            gui.add_button(label, color=color, hint=hint).on_click(self._press(name))
        if page["pause"]:
            pause = gui.add_checkbox("Pause", False)
            pause.on_update(lambda _: self._orders["paused"].__setitem__(0, int(pause.value)))
        if page["ranges"] is not None:
            self._add_sliders(server, page["ranges"])
        self._numbers = gui.add_html("")
        with gui.add_folder("Show"):
            for name, hint in (
                ("velocities", "Where the command and the base's velocity lead in a second"),
                ("contacts", "Forces of the floor on the robot, 1 m for 1000 N"),
                ("plan", "The MPC's CoM path, landings and forces; grey: the last solve failed"),
                ("follow", "Keep the robot before the camera"),
            ):
                box = gui.add_checkbox(name.capitalize(), True, hint=hint)
                box.on_update(lambda event, name=name: scene.options.__setitem__(name, event.target.value))

    def _press(self, name: str) -> Callable[[Any], None]:
        def pressed(_: Any) -> None:
            self._orders[name] += 1

        return pressed

    def _add_sliders(self, server: viser.ViserServer, ranges: list[list[float]]) -> None:
        sliders = []
        with server.gui.add_folder("Command"):
            names, first = ("forward m/s", "left m/s", "turn rad/s"), self._orders["command"][0]
            for name, (low, high), value in zip(names, ranges, first, strict=True):
                low, high = np.ceil(low / 0.05 - 1e-6) * 0.05, np.floor(high / 0.05 + 1e-6) * 0.05
                value = float(np.clip(value, low, high))
                sliders.append(server.gui.add_slider(name, float(low), float(high), 0.05, value))
            halt = server.gui.add_button("Halt", hint="All three to zero.")

        def moved(_: Any) -> None:
            self._orders["command"][0] = [slider.value for slider in sliders]

        @halt.on_click
        def _(_: Any) -> None:
            for slider in sliders:
                slider.value = 0.0
            moved(None)

        for slider in sliders:
            slider.on_update(moved)

    def update(self, view: np.void) -> None:
        """Writes what a view says."""
        status, numbers = self.status(view), self.numbers(view)
        if self._status.content != status:
            self._status.content = status
        if self._numbers.content != numbers:
            self._numbers.content = numbers

    def status(self, view: np.void) -> str:
        """Mode, fault, and why a request was refused."""
        lines, badges = [], []
        if view["mode"] != UNKNOWN:
            mode = Mode(int(view["mode"]))
            badges.append(f'<span style="{_STYLE}{_MODE_COLORS[mode]}">{mode.name}</span>')
        fault = list(Fault)[int(view["fault"])]
        if fault is not Fault.NONE:
            lines.append(f'<b style="color:#cf222e">{fault.value}</b>')
        refused = view["refused"].decode(errors="replace")
        lines += [html.escape(refused)] if refused else []
        if view["knots"] != UNKNOWN and view["solves"] > 0:
            color, text = ("#2da44e", "solved") if view["solved"] else ("#cf222e", "FAILED")
            badges.append(f'<span style="{_STYLE}{color}">MPC {text}</span>')
        if self._orders["paused"][0]:
            lines.append("<b>paused</b>")
        text = "<br>".join([" ".join(badges), *lines])
        return f'<div style="padding:0.5em 1em;line-height:1.9">{text}</div>'

    def numbers(self, view: np.void) -> str:
        """Time, velocities, forces, how long steps take, how the MPC fares."""

        def vector(values: np.ndarray) -> str:
            return " ".join("&nbsp;&nbsp;–&nbsp;&nbsp;" if np.isnan(v) else f"{v:+.2f}" for v in values)

        def colored(name: str, text: str) -> str:
            return f'<span style="color:rgb{COLORS[name]}">■</span> {text}'

        rows = [("time", f"{view['time']:.1f} s")]
        rows.append((colored("command", "command"), vector(view["command"])))
        rows.append((colored("velocity", "velocity"), vector(view["velocity"])))
        if view["contacts"] != UNKNOWN:
            force = view["contact_forces"][: view["contacts"], 2].sum()
            rows.append((colored("contact", "contact"), f"{force:.0f} N in {view['contacts']} points"))
        steps = Histogram()
        steps.counts, steps.largest = view["steps"], float(view["longest_step"])
        if steps.counts.any():
            quantiles = ", ".join(f"{1e3 * steps.quantile(share):.2f}" for share in (0.5, 0.99))
            rows.append((self._page["step_name"], f"{quantiles}, {1e3 * steps.largest:.2f} ms"))
            rows.append(("&nbsp;", "<small>median, p99, longest</small>"))
            rows.append(("late ticks", str(view["overruns"])))
        if view["knots"] != UNKNOWN:
            rows.append((colored("com", "plan's age"), f"{view['plan_age']:.2f} s"))
            rows.append(("MPC failures", f"{view['failures']} of {view['solves']}"))
        cells = "".join(f'<tr><td style="padding-right:1em">{a}</td><td>{b}</td></tr>' for a, b in rows)
        return f'<table style="margin:0.3em 1em;font-size:0.85em;font-variant-numeric:tabular-nums">{cells}</table>'


def be_modest() -> None:
    """Gives way to the control loop, whose real-time scheduling a process that it starts would inherit."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(10)


def where(host: str, port: int) -> str:
    """Where to look, also from elsewhere."""
    here = f"Viewer: http://{host}:{port}"
    name = socket.gethostname()
    far = f"on another machine, ssh -L {port}:127.0.0.1:{port} {name}, then http://127.0.0.1:{port}"
    return f"{here} ({far})"


def main(descriptor: int, model: Path, page: dict[str, Any]) -> None:
    """Serves the page until stdin ends."""
    be_modest()
    mj_model = mujoco.MjModel.from_binary_path(str(model))
    board = Board(descriptor, mj_model.nq)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints an address of its own
        server = viser.ViserServer(page["host"], page["port"], label=page["title"], verbose=False)
    scene = Scene(server, mj_model)
    panel = Panel(server, board, scene, page)
    print(where(page["host"], server.get_port()), flush=True)
    due, redrawn, text_due = time.monotonic(), None, 0.0
    while True:
        board.orders["heartbeat"], board.orders["clients"] = time.monotonic(), len(server.get_clients())
        board.orders["port"] = server.get_port()
        view = board.newest()
        if view is not None:
            with server.atomic():
                if redrawn != (drawn := (int(view["sequence"]), *scene.options.values())):
                    scene.update(view)
                    redrawn = drawn
                if time.monotonic() >= text_due:
                    panel.update(view)
                    text_due = time.monotonic() + TEXT_PERIOD
        due = max(due + PERIOD, time.monotonic())
        if select.select([sys.stdin], [], [], max(due - time.monotonic(), 0.0))[0]:
            return  # viser's threads are left to die with the process


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    os._exit(0)
