"""A study's figure, table and JSON, made of whatever runs there are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.study_runs import CROSSING
from learning import record
from learning.gate_report import JSON_FILE

CURVES = {  # metrics of the training that mean the same for every variant
    "score/lin_vel": "velocity score [-]",
    "mean_velocity_error": "mean velocity error [m/s]",
    "mean_yaw_rate_error": "mean yaw-rate error [rad/s]",
}
FIGURES = {  # of the gate, and how much worse a point is drawn
    "velocity_error": "velocity error [m/s]",
    "yaw_rate_error": "yaw-rate error [rad/s]",
    "push_survival": "kicks of 0.5 m/s survived",
    "joint_limit_violated": "joint beyond its range [of time]",
}
COLOURS = ("#1f5fa8", "#b3541e", "#2e8b57", "#8a4f9e", "#c2388a", "#6b6b6b", "#b8860b")


def report(study: str, names: tuple[str, ...], seeds: tuple[int, ...], runs: Path, out: Path) -> str:
    """Writes `<study>.json` and `<study>.png`.

    Args:
        study: its name.
        names: of its variants.
        seeds: of its runs.
        runs: directory of the runs.
        out: where to write.

    Returns:
        The table.
    """
    found = {name: [run for seed in seeds if (run := load(runs / f"{name}_seed{seed}"))] for name in names}
    found = {name: several for name, several in found.items() if several}
    out.mkdir(parents=True, exist_ok=True)
    rows = [summary(name, several) for name, several in found.items()]
    record.write_json(out / f"{study}.json", {"study": study, "seeds": list(seeds), "variants": rows})
    draw(study, found, out / f"{study}.png")
    return f"{table(rows)}\n{out / f'{study}.json'}, {out / f'{study}.png'}"


def load(run_dir: Path) -> dict[str, Any] | None:
    """One run: its curve, what the gate found, when it first passed; None if there is no curve yet."""
    rows = record.read_metrics(run_dir)
    if not rows:
        return None
    gate, crossed = ((run_dir / name) for name in (JSON_FILE, CROSSING))
    return {
        "curve": rows,
        "facts": record.training_facts(run_dir),
        "gate": json.loads(gate.read_text()) if gate.exists() else None,
        "crossing": json.loads(crossed.read_text()) if crossed.exists() else None,
    }


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, least and greatest over the seeds of everything that the table shows; None where nothing was measured."""
    last = [run["curve"][-1] for run in runs]
    values: dict[str, list[Any]] = {
        "env_steps": [row["env_steps"] for row in last],
        "minutes": [row["minutes"] for row in last],
        "steps_per_second": [row.get("perf/env_steps_per_second") for row in last],
        **{key: [row.get(key) for row in last] for key in CURVES},
    }
    gates = [run["gate"] for run in runs if run["gate"]]
    for key in ("falls", *FIGURES, "power", "foot_slip", "self_collision"):
        values[f"gate/{key}"] = [gate.get(key) for gate in gates]
    values["gate/passed_after_minutes"] = [run["crossing"]["minutes"] for run in runs if run["crossing"]]
    facts = runs[0]["facts"]
    return {
        "variant": name,
        "runs": len(runs),
        "gpu": facts["gpu"],
        "versions": facts["train_versions"],
        "passed": [gate["passed"] for gate in gates],
        **{key: _spread(found) for key, found in values.items()},
    }


def _spread(values: list[Any]) -> dict[str, float] | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return {"mean": float(np.mean(known)), "min": min(known), "max": max(known)} if known else None


def table(rows: list[dict[str, Any]]) -> str:
    """A line a variant: means over its seeds, with the range."""
    columns = {
        "env_steps": ("samples [M]", 1e-6),
        "minutes": ("minutes", 1.0),
        "gate/passed_after_minutes": ("passes after [min]", 1.0),
        "gate/falls": ("falls", 1.0),
        "gate/velocity_error": ("velocity error [m/s]", 1.0),
        "gate/yaw_rate_error": ("yaw-rate error [rad/s]", 1.0),
        "gate/push_survival": ("kicks survived [%]", 100.0),
    }
    lines = [
        "| variant | seeds | " + " | ".join(title for title, _ in columns.values()) + " |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    for row in rows:
        cells = " | ".join(_cell(row[key], scale) for key, (_, scale) in columns.items())
        lines.append(f"| {row['variant']} | {row['runs']} | {cells} |")
    return "\n".join(lines)


def _cell(spread: dict[str, float] | None, scale: float) -> str:
    if spread is None:
        return "–"
    low, mean, high = (scale * spread[key] for key in ("min", "mean", "max"))
    return f"{mean:.3g}" if low == high else f"{mean:.3g} ({low:.3g}…{high:.3g})"


def draw(study: str, found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Curves over samples and over time with the range of the seeds, and the gate's figures, a point a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(4.2 * len(FIGURES), 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = np.ravel(np.array(figure.subfigures(2, 1, height_ratios=(2, 1))))
    axes = upper.subplots(2, len(CURVES), squeeze=False, sharey="col")
    for axis_row, (x, label) in zip(
        axes, (("env_steps", "samples [million]"), ("minutes", "wall-clock time [min]")), strict=True
    ):
        for axis, (key, title) in zip(axis_row, CURVES.items(), strict=True):
            for colour, runs in zip(COLOURS, found.values(), strict=False):
                _band(axis, runs, x, key, colour)
            axis.set(xlabel=label, ylabel=title)
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
    lines = [Line2D([], [], color=colour, label=name) for colour, name in zip(COLOURS, found, strict=False)]
    axes[0][0].legend(handles=lines, frameon=False)
    for axis, (key, title) in zip(lower.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
        for i, (colour, runs) in enumerate(zip(COLOURS, found.values(), strict=False)):
            values = [run["gate"][key] for run in runs if run["gate"] and run["gate"][key] is not None]
            axis.plot(values, [i] * len(values), "o", color=colour, alpha=0.8)
        axis.set_yticks(range(len(found)), list(found))
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.set(xlabel=title)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    seeds = max((len(runs) for runs in found.values()), default=0)
    plural = "s" if seeds != 1 else ""
    upper.suptitle(f"{study}: {seeds} seed{plural}, band: their range; cross: first policy through the gate")
    lower.suptitle("the last policies in C MuJoCo, a point a seed")
    figure.savefig(path, dpi=130)


def _band(axis: Any, runs: list[dict[str, Any]], x: str, key: str, colour: str) -> None:
    """The mean over the seeds as far as all of them go, their range, and where each first passed the gate."""
    scale = 1e-6 if x == "env_steps" else 1.0
    curves = [_points(run["curve"], x, key) for run in runs]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return
    grid = np.linspace(max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves), 200)
    values = np.array([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in curves])
    axis.plot(scale * grid, values.mean(0), color=colour, linewidth=1.6)
    axis.fill_between(scale * grid, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    for run in runs:
        crossed = (run["crossing"] or {}).get(x)
        if crossed is not None:
            axis.plot(scale * crossed, np.interp(crossed, grid, values.mean(0)), "x", color=colour, markersize=9)


def _points(curve: list[dict[str, Any]], x: str, key: str) -> Float[np.ndarray, "n 2"]:
    pairs = [(row[x], row[key]) for row in curve if row.get(x) is not None and row.get(key) is not None]
    return np.array(pairs, float).reshape(-1, 2)
