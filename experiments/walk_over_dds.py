"""The bridge's acceptance run: the policy that ships walks for a minute under changing commands, over DDS.

    uv run --extra bridge --extra robot experiments/walk_over_dds.py

This process drives, as on a robot; the robot is simulated in another process, and DDS on loopback is between them. It
walks twice: over a line without faults, and over one that loses packets and delays the others. Figures, table and plot
go to experiments/results/bridge/.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bridge.benchmark import cpu_model
from bridge.hardware import RobotCommand, walk
from bridge.loop import Loop
from bridge.machine import Mode
from bridge.recorder import read_log
from bridge.safety import Fault
from bridge.unitree import UnitreeG1

# s, m/s, m/s, rad/s: from then on. Every axis alone, together, to the ends of what was trained, standing in between.
COMMANDS = (
    (0.0, 0.0, 0.0, 0.0),
    (3.0, 0.4, 0.0, 0.0),
    (9.0, 0.8, 0.0, 0.0),
    (15.0, 0.8, 0.0, 0.4),
    (21.0, 0.3, 0.0, -0.6),
    (27.0, 0.0, 0.3, 0.0),
    (33.0, 0.0, 0.0, 0.0),
    (38.0, -0.3, 0.0, 0.0),
    (44.0, 0.0, -0.3, 0.5),
    (50.0, 0.5, 0.2, -0.3),
    (56.0, 0.0, 0.0, 0.0),
    (60.0, 0.0, 0.0, 0.0),
)
SETTLE_SECONDS = 2.0  # s after a change of command that do not count as tracking, as in the gate
VELOCITY_ERROR, YAW_RATE_ERROR = 0.1, 0.15  # m/s and rad/s, at most: the gate's bars
LINES = {
    "clean": [],
    "faulty": [
        *("--simulation.faults.after", "4", "--simulation.faults.delay", "0", "0.003"),
        *("--simulation.faults.state-loss", "0.02", "--simulation.faults.command-loss", "0.02"),
    ],
}
OUT = Path(__file__).parent / "results" / "bridge"


@dataclasses.dataclass(frozen=True, eq=False)
class Walk:
    """One minute, on the robot's ground truth; T samples 20 ms apart, of the time under the policy."""

    figures: dict[str, Any]
    time: Float[np.ndarray, " T"]  # s, since the policy took over
    command: Float[np.ndarray, "T 3"]  # m/s, m/s, rad/s
    velocity: Float[np.ndarray, "T 3"]  # of the base in its yaw frame and about its z axis, mean over a gait cycle
    position: Float[np.ndarray, "T 2"]  # m, of the base
    round_trips: Float[np.ndarray, " n"]  # s


def run_line(policy: Path, flags: list[str], directory: Path, domain: int) -> Walk:
    """Walks once.

    Args:
        policy: exported.
        flags: of the simulated robot.
        directory: for its files.
        domain: DDS domain.

    Raises:
        RuntimeError: the simulated robot ended with an error.
    """
    directory.mkdir()
    with (directory / "profile.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("time", "vx", "vy", "wz"), *COMMANDS])
    truth = directory / "truth.npz"
    arguments = [str(policy), "--domain", str(domain), "--log", str(truth), *flags]
    robot = subprocess.Popen([sys.executable, "-m", "bridge", "robot-sim", *arguments])
    try:
        command = RobotCommand(policy=policy, domain=domain, profile=directory / "profile.csv", log=directory / "log")
        loop, link = walk(command)
    finally:
        robot.send_signal(signal.SIGTERM)
        if robot.wait(30):
            raise RuntimeError("The simulated robot ended with an error; its output is above.")
    _, rows = read_log(directory / "log")
    with np.load(truth) as arrays:
        return judge(dict(arrays), rows, loop, link)


def judge(truth: dict[str, np.ndarray], rows: np.ndarray, loop: Loop, link: UnitreeG1) -> Walk:
    """What happened under the policy."""
    rows = rows[rows["mode"] == Mode.POLICY]
    inside = (truth["wall"] >= rows["time"][0]) & (truth["wall"] <= rows["time"][-1])
    truth = {name: values[inside] if values.shape[:1] == inside.shape else values for name, values in truth.items()}
    clock = truth["wall"] - rows["time"][0]
    command = rows["command"][np.searchsorted(rows["time"], truth["wall"], side="right") - 1].astype(float)
    cycle = round(loop.controller.deployment.gait_period / np.diff(truth["time"]).mean())
    velocity = cycle_mean(base_velocity(truth), cycle)
    counts = settled(clock)
    errors = velocity - command
    robot = json.loads(str(truth["summary"]))
    end = max((when for when, what in robot["events"] if what == "last stiff command"), default=np.inf)
    figures = {
        "seconds_under_policy": float(rows["time"][-1] - rows["time"][0]),
        "falls": sum(what == "fall" and when <= end for when, what in robot["events"]),
        "faults": [fault.name for _, _, fault in loop.events if fault not in (Fault.NONE, Fault.EMERGENCY_STOP)],
        "distance_m": float(np.linalg.norm(np.diff(truth["position"][:, :2], axis=0), axis=1).sum()),
        "velocity_error": float(np.nanmean(np.linalg.norm(errors[counts, :2], axis=1))),
        "yaw_rate_error": float(np.nanmean(np.abs(errors[counts, 2]))),
        "policy_step_ms": quantiles(loop.latency.quantile),
        "tick_late_ms": quantiles(loop.lateness.quantile),
        "overruns": int(loop.overruns),
        "clipped_targets": int(loop.clipped),
        "driver": dataclasses.asdict(link.statistics),
        "robot": {key: value for key, value in robot.items() if key not in ("events", "round_trip_seconds")},
        "round_trip_ms": quantiles(lambda share: float(np.nanquantile(truth["round_trips"], share))),
    }
    return Walk(figures, clock, command, velocity, truth["position"][:, :2], truth["round_trips"])


def base_velocity(truth: dict[str, np.ndarray]) -> Float[np.ndarray, "T 3"]:
    """v_x, v_y in the base's yaw frame [m/s] and ω_z about its own axis [rad/s]."""
    w, x, y, z = truth["quaternion"].T
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    v = truth["velocity"]
    ahead, aside = np.cos(yaw) * v[:, 0] + np.sin(yaw) * v[:, 1], np.cos(yaw) * v[:, 1] - np.sin(yaw) * v[:, 0]
    return np.stack([ahead, aside, truth["angular_velocity"][:, 2]], axis=1)


def cycle_mean(x: Float[np.ndarray, "T n"], window: int) -> Float[np.ndarray, "T n"]:
    """Means over the last `window` samples; NaN where there are fewer."""
    sums = np.cumsum(np.concatenate([np.zeros((1, x.shape[1])), x]), axis=0)
    means = np.full_like(x, np.nan)
    means[window - 1 :] = (sums[window:] - sums[:-window]) / window
    return means


def settled(clock: Float[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """Which samples come long enough after a change of command."""
    changes = np.array([row[0] for row in COMMANDS])
    return clock - changes[np.searchsorted(changes, clock, side="right") - 1] > SETTLE_SECONDS


def quantiles(of: Any) -> dict[str, float]:
    """Median, 99 % and 99.9 % quantiles in ms, of a function from a share to s."""
    return {name: round(1e3 * of(q), 4) for name, q in (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999))}


def passed(figures: dict[str, Any]) -> bool:
    """A minute without falls and faults, with the command followed as the gate asks, and no damaged packet."""
    return (
        figures["seconds_under_policy"] > COMMANDS[-1][0] - 0.1
        and not figures["falls"]
        and not figures["faults"]
        and figures["velocity_error"] <= VELOCITY_ERROR
        and figures["yaw_rate_error"] <= YAW_RATE_ERROR
        and figures["driver"]["checksum_errors"] == figures["robot"]["checksum_errors"] == 0
    )


def plot(walks: dict[str, Walk], path: Path) -> None:
    """Commands and velocities, the path, and the round trips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["v_x", "path"], ["v_y", "path"], ["yaw rate", "round trips"]], figsize=(12, 7), width_ratios=(2, 1)
    )
    colors = dict(zip(walks, ("#1f5fa8", "#b3541e"), strict=True))
    for column, (name, unit) in enumerate((("v_x", "m/s"), ("v_y", "m/s"), ("yaw rate", "rad/s"))):
        first = next(iter(walks.values()))
        axes[name].plot(first.time, first.command[:, column], color="black", lw=1, label="command")
        for line, walked in walks.items():
            axes[name].plot(walked.time, walked.velocity[:, column], color=colors[line], lw=1, label=f"{line} line")
        axes[name].set_ylabel(f"{name} [{unit}]")
    axes["v_x"].set_title("Mean over a gait cycle")
    axes["v_x"].legend(loc="upper right", fontsize=8)
    axes["yaw rate"].set_xlabel("time under the policy [s]")
    bins = np.linspace(0, 10, 101).tolist()
    for line, walked in walks.items():
        axes["path"].plot(*walked.position.T, color=colors[line])
        axes["round trips"].hist(1e3 * walked.round_trips, bins, color=colors[line], histtype="step")
    axes["path"].set(title="Path of the base [m]", aspect="equal")
    axes["round trips"].set(xlabel="state sent to command received [ms]", ylabel="round trips", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Exports, walks, writes; exit code 0 if all bars hold."""
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        policy = directory / "policy.onnx"
        # In a process of its own, so that this one drives without JAX.
        subprocess.run([sys.executable, "-m", "bridge", "export", "--out", str(policy)], check=True)
        walks = {
            line: run_line(policy, flags, directory / line, domain)
            for domain, (line, flags) in enumerate(LINES.items(), start=1)
        }
    verdicts = {line: passed(walked.figures) for line, walked in walks.items()}
    packages = ("numpy", "mujoco", "onnxruntime", "cyclonedds")
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "real_time_scheduling": os.sched_getscheduler(0) == os.SCHED_FIFO,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commands": COMMANDS,
        "faults": LINES,
        "passed": verdicts,
        "walks": {line: walked.figures for line, walked in walks.items()},
    }
    (OUT / "walk_over_dds.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(walks, OUT / "walk_over_dds.png")
    print(json.dumps(record["walks"], indent=1), verdicts, sep="\n")
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
