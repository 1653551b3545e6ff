"""The runs of a study as curves: read, smoothed, put on one clock, drawn with the range of their seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.study_runs import CROSSING
from learning import record
from learning.gate_report import JSON_FILE

COLOURS = ("#1f5fa8", "#b3541e", "#2e8b57", "#8a4f9e", "#c2388a", "#6b6b6b", "#b8860b", "#17a2b8")
COLD = "cold_minutes"


def load(run_dir: Path) -> dict[str, Any] | None:
    """One run: its curve, what the gate found, when it first passed; None if there is no curve yet."""
    rows = record.read_metrics(run_dir)
    if not rows:
        return None
    gate, crossed = ((run_dir / name) for name in (JSON_FILE, CROSSING))
    return {
        "name": run_dir.name,
        "curve": rows,
        "facts": record.training_facts(run_dir),
        "gate": json.loads(gate.read_text()) if gate.exists() else None,
        "crossing": json.loads(crossed.read_text()) if crossed.exists() else None,
    }


def start_cold(runs: list[dict[str, Any]]) -> None:
    """Adds `cold_minutes` to every row and crossing: the time if every seed had started as slowly as the slowest.

    The first seed of a variant compiles; the others find that in a cache. Its time until the first row, put in place of
    theirs, makes seeds comparable, and is what a single training would take.
    """
    slowest = max((run["curve"][0]["minutes"] for run in runs), default=0.0)
    for run in runs:
        late = slowest - run["curve"][0]["minutes"]
        for point in (*run["curve"], run["crossing"] or {}):
            if point.get("minutes") is not None:
                point[COLD] = point["minutes"] + late


def smooth(curve: list[dict[str, Any]], x: str, key: str) -> Float[np.ndarray, "n 2"]:
    """One metric over another, each a running mean over a hundredth of the rows; rows without either are left out."""
    pairs = [(row[x], row[key]) for row in curve if row.get(x) is not None and row.get(key) is not None]
    points = np.array(pairs, float).reshape(-1, 2)
    width = max(1, len(points) // 100)
    if not len(points):
        return points
    return np.stack([np.convolve(column, np.full(width, 1.0 / width), "valid") for column in points.T], axis=1)


def settled(points: Float[np.ndarray, "n 2"], below: float) -> float | None:
    """From where on a smoothed curve stays below a value; None if it ends above it."""
    above = np.flatnonzero(points[:, 1] >= below)
    first = above[-1] + 1 if len(above) else 0
    return float(points[first, 0]) if first < len(points) else None


def band(axis: Any, runs: list[dict[str, Any]], x: str, key: str, colour: str, mark: dict[str, Any]) -> None:
    """The mean over the seeds as far as all of them go, their range, and where each first passed the gate.

    Args:
        axis: to draw on.
        runs: of one variant, one a seed.
        x: `env_steps`, drawn in millions, or a time.
        key: metric.
        colour: of the variant.
        mark: of a first policy through the gate, as `Axes.plot` takes it.
    """
    scale = 1e-6 if x == "env_steps" else 1.0
    curves = [smooth(run["curve"], x, key) for run in runs]
    known = [curve for curve in curves if len(curve)]
    if not known:
        return
    grid = np.linspace(max(curve[0, 0] for curve in known), min(curve[-1, 0] for curve in known), 300)
    values = np.array([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in known])
    axis.fill_between(scale * grid, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
    axis.plot(scale * grid, values.mean(0), color=colour, linewidth=1.8)
    for run, curve in zip(runs, curves, strict=True):
        crossed = (run["crossing"] or {}).get(x)
        if crossed is not None and len(curve):
            axis.plot(scale * crossed, np.interp(crossed, curve[:, 0], curve[:, 1]), color=colour, **mark)


def calm(axis: Any) -> None:
    """A faint grid, and no frame where there is no scale."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
