"""The figure of the first page: MPC-RL beside base-RL, over the time that a training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.study_curves import COLD, COLOURS, band, calm

NAMES = {"mpc": "MPC-RL", "base": "base-RL"}
PANELS = {  # metrics that mean the same for both, as the total reward does not
    "score/lin_vel": (
        "Reward for the commanded velocity, scored alike for both",
        r"$\exp(-4\,(\|\mathrm{error}\|^2 + v_z^2))$",
    ),
    "mean_velocity_error": ("Velocity error in training, mean over half a gait cycle", "m/s"),
}
DOT = {"marker": "o", "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
GREY = "0.3"


def headline(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draws it.

    Args:
        found: the runs by variant, as `study_curves.load` reads them and `start_cold` sets their clocks; of others than
            `mpc` and `base` nothing is drawn.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    shown = {name: found[name] for name in NAMES if found.get(name)}
    figure = Figure(figsize=(11.0, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.08), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(PANELS))
    for axis, (key, (title, unit)) in zip(axes, PANELS.items(), strict=True):
        for colour, runs in zip(COLOURS, shown.values(), strict=False):
            band(axis, runs, COLD, key, colour, DOT)
        axis.set_title(title, loc="left", fontsize=12, pad=10)
        axis.set_ylabel(unit, color=GREY)
        axis.set_xlabel("wall-clock time, compilation included [min]", color=GREY)
        axis.set_xlim(left=0.0)
        calm(axis)
    axes[0].set_ylim(0.0, 1.0)
    axes[1].set_ylim(bottom=0.0)
    lines = [
        Line2D([], [], color=colour, linewidth=2.4, label=f"{NAMES[name]}: {_passed(runs)}")
        for colour, (name, runs) in zip(COLOURS, shown.items(), strict=False)
    ]
    axes[0].legend(handles=lines, loc="upper left", frameon=False, fontsize=11)
    _crossings(axes[0], shown)
    figure.savefig(path, dpi=150)


def _crossings(axis: Any, shown: dict[str, list[dict[str, Any]]]) -> None:
    """When the seeds first passed, a row a variant under the curves, where they do not hide one another."""
    for i, (colour, runs) in enumerate(zip(COLOURS, shown.values(), strict=False)):
        times = [run["crossing"][COLD] for run in runs if run["crossing"] and run["crossing"].get(COLD) is not None]
        axis.plot(
            times, [0.13 - 0.07 * i] * len(times), color=colour, alpha=0.7, **DOT, transform=axis.get_xaxis_transform()
        )
    axis.text(
        0.03, 0.09, "first policy through the gate, a dot a seed", color=GREY, va="center", transform=axis.transAxes
    )


def _passed(runs: list[dict[str, Any]]) -> str:
    judged = [run["gate"]["passed"] for run in runs if run["gate"]]
    return f"{sum(judged)} of {len(judged)} seeds pass the gate" if judged else "not judged"
