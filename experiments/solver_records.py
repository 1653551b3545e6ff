"""Results of the solver benchmark on disk, and as a table: points that later runs replace one by one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "piqp", "osqp", "clarabel", "qpax", "jaxopt", "mpax")
KEY = ("method", "setting", "N", "batch")
ACCURATE = 1e-3  # median input error below which a setting counts as accurate in tables and figures,
NEVER_WORSE = 1e-2  # if its largest one is below this
Point = dict[str, Any]


def environment(seeds: str = "none: no problem is drawn at random, and mpax uses its own fixed seed") -> dict[str, Any]:
    """The machine and the versions of everything that takes part, and what was drawn at random."""
    import jax

    cores = len(os.sched_getaffinity(0))
    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": f"{jax.device_count()} × {device.device_kind}" if device.platform != "cpu" else "the CPU",
        "cpu": f"{_cpu_model()}, {cores} cores",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "seeds": seeds,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def load_points(path: Path) -> tuple[dict[str, dict[str, Any]], list[Point]]:
    """The environments by name, and the points of a results file.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        content = json.loads(path.read_text())
        return dict(content["environments"]), list(content["points"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' holds no results of this benchmark; move it away.") from error


class Records:
    """The points of one file, written after every change so that an interruption loses nothing."""

    def __init__(self, path: Path, here: dict[str, Any]) -> None:
        """Takes up what the file holds.

        Args:
            path: The JSON file; it need not exist.
            here: The environment of the points to come.

        Raises:
            ValueError: The file holds something else.
        """
        self._path = path
        self._id = hashlib.sha1(json.dumps(here, sort_keys=True).encode()).hexdigest()[:8]
        environments, self.points = load_points(path) if path.is_file() else ({}, [])
        self._environments = {**environments, self._id: here}

    def put(self, point: Point) -> None:
        """Adds a point, in place of the one of the same method, setting, N and batch, and writes the file."""
        key = tuple(point[name] for name in KEY)
        kept = [other for other in self.points if tuple(other[name] for name in KEY) != key]
        self.points = [*kept, {**point, "environment": self._id}]
        used = {p["environment"] for p in self.points}
        environments = {name: value for name, value in self._environments.items() if name in used}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".json.tmp")
        draft.write_text(json.dumps({"environments": environments, "points": self.points}, indent=1) + "\n")
        draft.replace(self._path)


def measured(points: Iterable[Point]) -> list[Point]:
    """The points that hold a time; the others say why there is none."""
    return [point for point in points if "skipped" not in point]


def accurate(point: Point) -> bool:
    """Whether a point's inputs are right to three digits at the median, and never far off."""
    accuracy = point["accuracy"]
    return accuracy["input_error_median"] <= ACCURATE and accuracy["input_error_worst"] <= NEVER_WORSE


def representative(points: Iterable[Point]) -> Point:
    """The setting to show for a method: the fastest accurate one, or else the most accurate."""
    points = list(points)
    good = [point for point in points if accurate(point)]
    if good:
        return min(good, key=lambda point: point["seconds_per_problem"])
    return min(points, key=lambda point: point["accuracy"]["input_error_median"])


def grouped(points: Iterable[Point], *names: str) -> dict[tuple[Any, ...], list[Point]]:
    """Points by some of their entries, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point[name] for name in names), []).append(point)
    return groups


def table(points: Iterable[Point]) -> str:
    """A markdown table of each method's representative setting, the fastest first."""
    head = "| N | batch | method | setting | per problem | input error: median, worst | KKT: worst | solved |"
    lines = [head, "|--:|--:|---|---|--:|---|---|--:|"]
    for (N, batch), cell in sorted(grouped(measured(points), "N", "batch").items()):
        best = [representative(group) for group in grouped(cell, "method").values()]
        for point in sorted(best, key=lambda point: (not accurate(point), point["seconds_per_problem"])):
            a = point["accuracy"]
            error = f"{_number(a['input_error_median'])}, {_number(a['input_error_worst'])}"
            fewer = "" if point["measured"] == batch else f" ({point['measured']} measured)"
            columns = (
                *(N, f"{batch}{fewer}", point["method"], point["setting"], time_of(point["seconds_per_problem"])),
                *(error, _number(a["kkt_worst"]), f"{100 * a['solved_share']:.0f} %"),
            )
            lines.append("| " + " | ".join(str(column) for column in columns) + " |")
    return "\n".join(lines)


def time_of(seconds: float) -> str:
    """A time with three digits and its unit."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0e}" if math.isfinite(value) else "∞"
