"""What the quality gate found, for people and for programs: a table, a JSON file, a figure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from learning.gate import Bars, GateConfig, GateResult
from learning.record import write_json

STEM = "gate"  # of the names of what is written
JSON_FILE = f"{STEM}.json"
UNITS = {
    "episodes": "",
    "falls": "",
    "velocity_error": "m/s",
    "velocity_error_instantaneous": "m/s",
    "yaw_rate_error": "rad/s",
    "yaw_rate_error_instantaneous": "rad/s",
    "foot_slip": "m/s",
    "torque_rms": "N m",
    "power": "W",
    "cost_of_transport": "",
    "joint_jerk": "rad/s³",
    "torque_saturated": "of joints",
    "joint_limit_violated": "of time",
    "self_collision": "of time",
    "push_survival": "of episodes",
}
BLUE, RED, GREY, EMPTY = "#1f5fa8", "#b3541e", "0.45", "0.8"


def table(result: GateResult) -> str:
    """The bars, the survival of kicks, and every metric with and without noise."""
    lines = [f"{'bar':32}{'measured':>12}{'bar':>12}"]
    for v in result.verdicts:
        measured, bar = f"{v.value:.4g}", f"{v.relation} {v.bar:g}"
        lines.append(f"{v.name:32}{measured:>12}{bar:>12}  {UNITS[v.name]:12}{'pass' if v.passed else 'FAIL'}")
    lines += ["", f"{'kick [m/s]':32}" + "".join(f"{strength:>12g}" for strength in result.survival)]
    lines += [f"{'survived':32}" + "".join(f"{share:>12.1%}" for share in result.survival.values())]
    lines += ["", f"{'without kicks':32}" + "".join(f"{name.replace('_', ' '):>14}" for name in result.summary)]
    for name in (name for name in UNITS if name in result.summary["all"]):
        figures = "".join(f"{group[name]:>14.4g}" for group in result.summary.values())
        lines.append(f"{name:32}{figures}  {UNITS[name]}".rstrip())
    return "\n".join([*lines, "", f"The policy {'passes' if result.passed else 'FAILS'} the gate."])


def to_record(result: GateResult, config: GateConfig, bars: Bars, facts: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON-serializable data; a figure that could not be measured is None.

    Args:
        result: of the gate.
        config: its episodes.
        bars: what passes.
        facts: what else belongs to the record: robot, training, versions; they come first.
    """
    groups = dict(result.summary)
    push_survival = next(v.value for v in result.verdicts if v.name == "push_survival")
    record = {
        **facts,
        "passed": result.passed,
        **groups.pop("all"),
        "push_survival": push_survival,
        "push_survival_by_strength": {f"{strength:g}": share for strength, share in result.survival.items()},
        **groups,
        "bars": vars(bars),
        "gate": vars(config),
    }
    return _measured(record)


def _measured(value: Any) -> Any:
    """The same without NaN, which is no JSON, and without digits that mean nothing."""
    if isinstance(value, dict):
        return {name: _measured(item) for name, item in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def stem_for(directory: Path, episodes: int) -> str:
    """The name under which a gate replaces none of more episodes: "gate", or, say, "gate_16" beside one of 256.

    Args:
        directory: that it is to be written to.
        episodes: of the gate.
    """
    path = directory / JSON_FILE
    recorded = json.loads(path.read_text()).get("episodes", 0) if path.is_file() else 0
    return STEM if episodes >= recorded else f"{STEM}_{episodes}"


def write(result: GateResult, record: dict[str, Any], directory: Path, stem: str = STEM) -> None:
    """Writes `gate.json` and `gate.png`, or the like under another stem."""
    write_json(directory / f"{stem}.json", record)
    title = (
        f"{record['robot']}: {'passes' if result.passed else 'fails'} the gate in C MuJoCo, {record['falls']} falls in "
    )
    draw(result, title + f"{record['episodes']} episodes", directory / f"{stem}.png")


def draw(result: GateResult, heading: str, path: Path) -> None:
    """Draws errors over the commands, survival over kicks, and what walking costs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imports in a second, which only a run should pay
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16.0, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    figures, bars = result.per_episode, {v.name: v.bar for v in result.verdicts}
    forward, sideways, turning = result.command.T
    for axis, name, y, y_label in (
        (axes[0, 0], "velocity_error", sideways, "leftward command [m/s]"),
        (axes[0, 1], "yaw_rate_error", turning, "turning command [rad/s]"),
    ):
        _heat(axis, forward, y, figures[name], bars[name])
        title = f"{name.replace('_', ' ')} [{UNITS[name]}]; white: the bar, {bars[name]:g}"
        axis.set(xlabel="forward command [m/s]", ylabel=y_label, title=title)
    _achieved(axes[1, 0], forward, figures["v_x"], "forward velocity", "m/s")
    _achieved(axes[1, 1], turning, figures["yaw_rate"], "turning rate", "rad/s")
    _survival(axes[0, 2], result.survival, bars["push_survival"])
    speed = np.hypot(forward, sideways)
    for axis, name in ((axes[0, 3], "torque_rms"), (axes[1, 2], "foot_slip"), (axes[1, 3], "power")):
        _dots(axis, speed, figures[name])
        axis.set(xlabel="commanded speed [m/s]", ylabel=f"{name.replace('_', ' ')} [{UNITS[name]}]")
        axis.set_ylim(bottom=0.0)
    for axis in (*axes[0, 2:], *axes[1]):
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(heading)
    figure.savefig(path, dpi=110)


def _dots(axis: Any, x: Float[np.ndarray, " B"], y: Float[np.ndarray, " B"]) -> None:
    """One dot an episode."""
    axis.plot(x, y, ".", color=BLUE, alpha=0.5, markersize=5)


def _heat(
    axis: Any, x: Float[np.ndarray, " B"], y: Float[np.ndarray, " B"], error: Float[np.ndarray, " B"], bar: float
) -> None:
    """Mean errors over two of the three commanded velocities; white is the bar, grey what was not measured."""
    columns, rows = np.unique(x), np.unique(y)
    means = np.full((rows.size, columns.size), np.nan)
    for i, j in np.ndindex(means.shape):
        here = (x == columns[j]) & (y == rows[i]) & np.isfinite(error)
        means[i, j] = error[here].mean() if here.any() else np.nan
    axis.set_facecolor(EMPTY)
    axis.imshow(means, origin="lower", aspect="auto", cmap="RdBu_r", vmin=0.0, vmax=2.0 * bar)
    axis.set_xticks(range(columns.size), [f"{v:.3g}" for v in columns])
    axis.set_yticks(range(rows.size), [f"{v:.3g}" for v in rows])
    for i, j in np.argwhere(np.isfinite(means)):
        shade = "white" if abs(means[i, j] - bar) > 0.6 * bar else "black"
        axis.text(j, i, f"{means[i, j]:.2f}", ha="center", va="center", fontsize=9, color=shade)


def _survival(axis: Any, survival: dict[float, float], bar: float) -> None:
    axis.plot(list(survival), list(survival.values()), "o-", color=BLUE)
    axis.axhline(bar, color=RED, linewidth=1.2, linestyle="--")
    axis.annotate(f"{bar:.0%}", (0.0, bar), xytext=(4, -11), textcoords="offset points", color=RED, fontsize=9)
    axis.set(xlabel="kick [m/s]", ylabel="share of episodes survived")
    axis.set(xlim=(0.0, 1.05 * max(survival)), ylim=(0.0, 1.03))


def _achieved(axis: Any, command: Float[np.ndarray, " B"], mean: Float[np.ndarray, " B"], what: str, unit: str) -> None:
    ends = [command.min(), command.max()]
    axis.plot(ends, ends, color=GREY, linewidth=1.0)
    _dots(axis, command, mean)
    axis.set(xlabel=f"{what} commanded [{unit}]", ylabel=f"achieved, mean [{unit}]")
