"""A study's figure, table and JSON, made of whatever runs there are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.headline import headline
from experiments.study_curves import COLD, COLOURS, band, calm, load, settled, smooth, start_cold
from learning import record
from learning.gate import Bars

CURVES = {  # metrics of the training that mean the same for every variant
    "score/lin_vel": "velocity score [-]",
    "mean_velocity_error": "mean velocity error [m/s]",
    "mean_yaw_rate_error": "mean yaw-rate error [rad/s]",
}
TRACKED, TRACKS = "mean_velocity_error", 0.2  # m/s: below it a robot follows its commands
CLOCKS = {"env_steps": "samples [million]", COLD: "wall-clock time, compilation included [min]"}
FIGURES = {  # of the gate: what is drawn
    "velocity_error": "velocity error [m/s]",
    "yaw_rate_error": "yaw-rate error [rad/s]",
    "push_survival": "kicks of 0.5 m/s survived",
    "cost_of_transport": "cost of transport",
    "foot_slip": "slip of the soles [m/s]",
    "joint_limit_violated": "joint beyond its range [of time]",
}
MARK = {"marker": "x", "markersize": 9, "markeredgewidth": 2.0}
FACTS = {  # of the table: title, by what a value is multiplied, digits
    "env_steps": ("samples [million]", 1e-6, 0),
    "steps_per_second": ("samples/s, median over iterations [k]", 1e-3, 0),
    "minutes": ("minutes in all", 1.0, 2),
    "first_row_minutes": ("of them until the first iteration was over", 1.0, 2),
    TRACKED: ("mean velocity error in training, at the end [m/s]", 1.0, 3),
    "tracks_after_env_steps": (f"below {TRACKS} m/s after [million samples]", 1e-6, 1),
    f"tracks_after_{COLD}": (f"below {TRACKS} m/s after [min], had it compiled", 1.0, 2),
    "gate/passed_after_env_steps": ("first policy through the gate after [million samples]", 1e-6, 1),
    "gate/passed_after_minutes": ("first policy through the gate after [min]", 1.0, 2),
    f"gate/passed_after_{COLD}": ("first policy through the gate after [min], had it compiled", 1.0, 2),
    "gate/episodes": ("episodes of the gate", 1.0, 0),
    "gate/falls": ("falls", 1.0, 0),
    "gate/velocity_error": ("velocity error [m/s]", 1.0, 3),
    "gate/yaw_rate_error": ("yaw-rate error [rad/s]", 1.0, 3),
    "gate/push_survival": ("kicks of 0.5 m/s survived [%]", 100.0, 1),
    "gate/push_survival_1": ("kicks of 1 m/s survived [%]", 100.0, 1),
    "gate/velocity_error_instantaneous": ("error of the momentary velocity [m/s]", 1.0, 3),
    "gate/power": ("mechanical power [W]", 1.0, 0),
    "gate/cost_of_transport": ("cost of transport", 1.0, 2),
    "gate/foot_slip": ("slip of the soles [m/s]", 1.0, 3),
    "gate/joint_limit_violated": ("a joint beyond its range [% of time]", 100.0, 2),
    "gate/self_collision": ("self-collision [% of time]", 100.0, 3),
}


def report(study: str, names: tuple[str, ...], seeds: tuple[int, ...], runs: Path, out: Path) -> str:
    """Writes `<study>.json` and `<study>.png`, and for the study `guidance` the figure of the first page.

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
    for several in found.values():
        start_cold(several)
    out.mkdir(parents=True, exist_ok=True)
    rows = [summary(name, several) for name, several in found.items()]
    written = [out / f"{study}.json", out / f"{study}.png"]
    record.write_json(written[0], {"study": study, "seeds": list(seeds), "variants": rows})
    draw(study, found, written[1])
    if study == "guidance":
        written.append(out / f"{study}_headline.png")
        headline(found, written[-1])
    return f"{table(rows)}\n{', '.join(map(str, written))}"


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that the table shows, of each seed and over the seeds; None where nothing was measured."""
    curves = [run["curve"] for run in runs]
    gates, crossings = ([run[what] or {} for run in runs] for what in ("gate", "crossing"))
    values: dict[str, list[Any]] = {
        **{key: [curve[-1].get(key) for curve in curves] for key in ("env_steps", "minutes")},
        **{key: [_last(smooth(curve, "env_steps", key)) for curve in curves] for key in CURVES},
        "first_row_minutes": [curve[0].get("minutes") for curve in curves],
        "steps_per_second": [_median(curve, "perf/env_steps_per_second") for curve in curves],
    }
    for key in CLOCKS:
        values[f"tracks_after_{key}"] = [settled(smooth(curve, key, TRACKED), TRACKS) for curve in curves]
    for key in ("env_steps", "minutes", COLD):
        values[f"gate/passed_after_{key}"] = [crossing.get(key) for crossing in crossings]
    for key in ("episodes", "falls", *FIGURES, "velocity_error_instantaneous", "power", "self_collision"):
        values[f"gate/{key}"] = [gate.get(key) for gate in gates]
    values["gate/push_survival_1"] = [gate.get("push_survival_by_strength", {}).get("1") for gate in gates]
    facts = [run["facts"] for run in runs]
    return {
        "variant": name,
        "runs": [run["name"] for run in runs],
        "gpu": [known["gpu"] for known in facts],
        "versions": [known["train_versions"] for known in facts],
        "passed": [gate.get("passed") for gate in gates],
        **{key: _spread(found) for key, found in values.items()},
    }


def _last(points: Float[np.ndarray, "n 2"]) -> float | None:
    return float(points[-1, 1]) if len(points) else None


def _median(curve: list[dict[str, Any]], key: str) -> float | None:
    known = [row[key] for row in curve if row.get(key) is not None]
    return float(np.median(known)) if known else None


def _spread(values: list[Any]) -> dict[str, Any] | None:
    each = [float(value) if value is not None and math.isfinite(value) else None for value in values]
    known = [value for value in each if value is not None]
    return {"mean": float(np.mean(known)), "min": min(known), "max": max(known), "each": each} if known else None


def table(rows: list[dict[str, Any]]) -> str:
    """A column a variant: the mean over its seeds, unless one has none, and in brackets each seed."""
    verdicts = {None: "–", True: "passed", False: "failed"}
    lines = [
        "| | " + " | ".join(row["variant"] for row in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
        "| gate | " + " | ".join(", ".join(verdicts[passed] for passed in row["passed"]) for row in rows) + " |",
    ]
    for key, (title, scale, digits) in FACTS.items():
        lines.append(f"| {title} | " + " | ".join(_cell(row[key], scale, digits) for row in rows) + " |")
    return "\n".join(lines)


def _cell(spread: dict[str, Any] | None, scale: float, digits: int) -> str:
    if spread is None:
        return "–"
    each = ["–" if value is None else f"{scale * value:.{digits}f}" for value in spread["each"]]
    if None in spread["each"]:  # a mean over those that passed would flatter
        return ", ".join(each)
    return each[0] if len(set(each)) == 1 else f"{scale * spread['mean']:.{digits}f} ({', '.join(each)})"


def draw(study: str, found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Curves over samples and over time with the range of the seeds, and the gate's figures, a point a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(14.0, 12.0), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    upper, lower = np.ravel(np.array(figure.subfigures(2, 1, height_ratios=(3, 2))))
    axes = upper.subplots(2, len(CURVES), sharey="col")
    for axis_row, (x, label) in zip(axes, CLOCKS.items(), strict=True):
        for axis, (key, title) in zip(axis_row, CURVES.items(), strict=True):
            for colour, runs in zip(COLOURS, found.values(), strict=False):
                band(axis, runs, x, key, colour, MARK)
            axis.set(xlabel=label, ylabel=title)
            axis.set_xlim(left=0.0)
            axis.set_ylim(bottom=0.0)
            calm(axis)
    for axis, (key, title) in zip(np.ravel(lower.subplots(2, 3)), FIGURES.items(), strict=True):
        _points(axis, found, key)
        axis.set(xlabel=title)
    seeds = {name: f"{len(runs)} seed{'s' if len(runs) != 1 else ''}" for name, runs in found.items()}
    alike = len(set(seeds.values())) == 1
    labels = [name if alike else f"{name}, {count}" for name, count in seeds.items()]
    names = [Line2D([], [], color=colour, label=label) for colour, label in zip(COLOURS, labels, strict=False)]
    cross = Line2D([], [], color="0.4", linestyle="none", label="first policy through the gate", **MARK)
    axes[0][0].legend(handles=[*names, cross], loc="lower right", frameon=False)
    upper.suptitle(f"{study}: mean and range of {next(iter(seeds.values())) if alike else 'the seeds'}", fontsize=13)
    lower.suptitle("the last policies in C MuJoCo, a point a seed; dashed: the gate's bar", fontsize=13)
    figure.savefig(path, dpi=110)


def _points(axis: Any, found: dict[str, list[dict[str, Any]]], key: str) -> None:
    """One of the gate's figures: a row a variant, a point a seed, a line for the bar if there is one."""
    for i, (colour, runs) in enumerate(zip(COLOURS, found.values(), strict=False)):
        values = [run["gate"][key] for run in runs if run["gate"] and run["gate"].get(key) is not None]
        if not values:  # an empty line without a clip has no extent, and undoes the layout
            continue
        axis.plot(values, [i] * len(values), "o", color=colour, alpha=0.75, markersize=8, clip_on=False)
    bar = vars(Bars()).get(key)
    if bar is not None:
        axis.axvline(bar, color="0.3", linewidth=1.0, linestyle="--")
    axis.set_yticks(range(len(found)), list(found))
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlim((0.9, 1.0) if key == "push_survival" and axis.get_xlim()[0] > 0.9 else (0.0, None))
    axis.locator_params(axis="x", nbins=5)
    calm(axis)
