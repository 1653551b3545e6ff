"""The figure of the solver benchmark: time against accuracy by batch size, and time against the horizon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.solver_records import (
    ACCURATE,
    Point,
    accurate,
    grouped,
    load_points,
    measured,
    representative,
)

STYLES = {  # method: color, marker
    "InteriorPoint": ("#1f5fa8", "o"),
    "InteriorPoint (xla)": ("#7fb0e0", "o"),
    "InteriorPoint (parallel)": ("#0b3c6f", "o"),
    "PiADMM": ("#8c8c8c", "X"),
    "PIQP": ("#b3541e", "s"),
    "OSQP": ("#d99a2b", "D"),
    "Clarabel": ("#7d3c98", "^"),
    "qpax": ("#2e8b57", "v"),
    "jaxopt BoxOSQP": ("#c2477f", "P"),
    "MPAX raPDHG": ("#4d4d4d", "*"),
}
PANELS = 4  # at most, of batch sizes
FLOOR = 1e-10  # errors below are drawn here: the reference is hardly better


def plot(path: Path) -> Path:
    """Draws the figure of a results file.

    Args:
        path: The JSON file.

    Returns:
        Path of the PNG beside it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imports in a second, which only the end should pay
    from matplotlib.figure import Figure

    environments, points = load_points(path)
    points = measured(points)
    first = min(point["N"] for point in points)
    by_batch = {key[0]: group for key, group in grouped(points, "batch").items()}
    batches = sorted(batch for batch, group in by_batch.items() if any(point["N"] == first for point in group))
    shown = batches[-PANELS:]
    figure = Figure(figsize=(3.6 * (len(shown) + 1), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown) + 1, squeeze=False)[0]
    for axis, batch in zip(axes, shown, strict=False):
        _accuracy_panel(axis, [point for point in by_batch[batch] if point["N"] == first])
        axis.set_title(f"N = {first}, batch {batch}", fontsize=10)
    limits = [axis.get_ylim() for axis in axes[:-1]]
    for axis in axes[:-1]:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[0].set_ylabel("time per problem [s]")
    _horizon_panel(axes[-1], points)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    figure.suptitle("; ".join(sorted({_machine(environment) for environment in environments.values()})), fontsize=10)
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=140)
    return out


def _machine(environment: dict[str, Any]) -> str:
    on_cpu = environment["backend"] == "cpu"
    return environment["cpu"] if on_cpu else f"{environment['device']}; compiled packages: {environment['cpu']}"


def _style(axis: Any) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _fastest_cores(points: list[Point]) -> list[Point]:
    """A method's points without those of the same tolerance on a number of cores that is slower."""
    best: dict[str, Point] = {}
    for point in points:
        name = point["setting"].rsplit(", ", 1)[0] if "cores" in point else point["setting"]
        if name not in best or point["seconds_per_problem"] < best[name]["seconds_per_problem"]:
            best[name] = point
    return list(best.values())


def _accuracy_panel(axis: Any, points: list[Point]) -> None:
    """Time per problem over the error of the inputs: a line for each method through its settings worth choosing."""
    _style(axis)
    for (method,), group in grouped(points, "method").items():
        color, marker = STYLES.get(method, ("black", "."))
        group = sorted(_fastest_cores(group), key=lambda point: -point["accuracy"]["input_error_median"])
        places = [(max(p["accuracy"]["input_error_median"], FLOOR), p["seconds_per_problem"]) for p in group]
        axis.plot(*zip(*places, strict=True), marker, color=color, markersize=6, label=method)
        front = [(x, y) for x, y in places if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in places)]
        axis.plot(*zip(*front, strict=True), color=color, linewidth=1.2)
    axis.axvline(ACCURATE, color="black", linewidth=0.6, linestyle=":")
    axis.set_xlim(left=FLOOR / 2, right=2.0)
    axis.invert_xaxis()
    axis.set_xlabel("median input error (better →)")


def _horizon_panel(axis: Any, points: list[Point]) -> None:
    """Time per problem over N at the batch size with most horizons: each method at its representative setting."""
    _style(axis)
    horizons = {key[0]: {point["N"] for point in group} for key, group in grouped(points, "batch").items()}
    batch = max(horizons, key=lambda batch: (len(horizons[batch]), batch))
    for (method,), group in grouped([p for p in points if p["batch"] == batch], "method").items():
        color, marker = STYLES.get(method, ("black", "."))
        best = [representative(cell) for _, cell in sorted(grouped(group, "N").items())]
        x, y = [point["N"] for point in best], [point["seconds_per_problem"] for point in best]
        axis.plot(x, y, color=color, linewidth=1.2)
        for point in best:
            face = color if accurate(point) else "white"
            axis.plot(point["N"], point["seconds_per_problem"], marker, color=color, markerfacecolor=face, markersize=6)
    ticks = sorted(horizons[batch])
    axis.set_xticks(ticks, [str(N) for N in ticks])
    axis.minorticks_off()
    axis.set_xlabel("N")
    axis.set_ylabel("time per problem [s]")
    axis.set_title(f"batch {batch} (hollow: not accurate)", fontsize=10)
