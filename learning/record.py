"""The run directory: config, versions, metrics as JSON lines and TensorBoard events, and the learning curve."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

EVENTS: Any = event_pb2  # their classes are made at import, where type checkers cannot see them
SUMMARIES: Any = summary_pb2
CONFIG = "config.json"
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"
CURVE = "learning_curve.png"
PACKAGES = ("jax", "jaxlib", "mujoco", "mujoco-mjx", "warp-lang", "brax", "flax", "optax", "orbax-checkpoint", "numpy")


def new_run_directory(name: str, root: str | os.PathLike[str] = "runs") -> Path:
    """Makes `root/name_YYYY-MM-DD_HH-MM-SS`, numbered if that exists."""
    stem = f"{name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    for i in range(1, 1000):
        path = Path(root) / (stem if i == 1 else f"{stem}_{i}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"There are a thousand runs named '{stem}' in '{root}'.")


def _git_commit() -> str | None:
    """The commit of the code, with `+changes` where files differ from it; None outside its repository."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie in somebody else's repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, Any]:
    """What a result depends on beside its config: packages, Python, devices and the code's commit."""
    devices = jax.local_devices()
    return {
        **{package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": devices[0].device_kind,
        "device_count": len(devices),
        "git_commit": _git_commit(),
    }


def plain(value: Any) -> Any:
    """The value as it would come back from JSON: tuples as lists, and text for what JSON does not know."""
    return json.loads(json.dumps(value, default=str))


def differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The entries in which two nested mappings differ, by dotted name."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted(before.keys() | after.keys()):
            found |= differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return {} if before == after else {prefix: (before, after)}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes readable JSON, whole or not at all."""
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(beside, path)


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a run's metrics, oldest first; a row that a crash cut short is left out."""
    path = Path(run_dir) / METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def training_facts(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run's directory says about its training; None for what it does not.

    Returns:
        `gpu`: kind of the device, None also for a CPU; `train_seconds`: wall-clock time up to the last row of metrics,
        compilation and earlier parts of a resumed run included; `train_versions`: the contents of `versions.json`.
    """
    path = Path(run_dir) / VERSIONS
    stored = json.loads(path.read_text()) if path.is_file() else None
    device = (stored or {}).get("device")
    minutes = [row["minutes"] for row in read_metrics(run_dir) if row.get("minutes") is not None]
    return {
        "gpu": None if device is None or device.lower() == "cpu" else device,
        "train_seconds": 60.0 * minutes[-1] if minutes else None,
        "train_versions": stored,
    }


class MetricsLog:
    """Appends rows of metrics to `metrics.jsonl` and to TensorBoard events.

    A metric without a value yet (NaN) is `null` in the file and absent from TensorBoard.
    """

    def __init__(self, run_dir: Path, resumed_at: int | None = None) -> None:
        """Opens the log; on resuming, drops the rows after the checkpoint, which are about to be made again.

        Args:
            run_dir: The run's directory.
            resumed_at: Environment steps of the checkpoint, or None for a fresh run.
        """
        path = run_dir / METRICS
        if resumed_at is not None:
            kept = [row for row in read_metrics(run_dir) if row["env_steps"] <= resumed_at]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(temporary, path)
        self._file = path.open("a")
        # Not tensorboardX's SummaryWriter, whose thread dies of a full disk and then blocks the training.
        self._events = EventsWriter(str(run_dir / "events"))
        if resumed_at is not None:  # tells TensorBoard to drop what follows
            start = EVENTS.SessionLog(status=EVENTS.SessionLog.START)
            self._events.write_event(EVENTS.Event(step=resumed_at + 1, wall_time=time.time(), session_log=start))

    def add(self, env_steps: int, row: Mapping[str, float]) -> None:
        """Appends one row at a number of environment steps."""
        values = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps({"env_steps": env_steps, **values}) + "\n")
        self._file.flush()
        scalars = [SUMMARIES.Summary.Value(tag=k, simple_value=v) for k, v in values.items() if v is not None]
        event = EVENTS.Event(step=env_steps, wall_time=time.time(), summary=SUMMARIES.Summary(value=scalars))
        self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        """Closes both files; a disk that is full by then has been reported by `add`."""
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):
                file.close()


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [math.nan if row.get(name) is None else row[name] for row in rows]


def plot_learning_curve(run_dir: str | os.PathLike[str], title: str | None = None) -> Path:
    """Draws episode return and length against environment steps and wall-clock time.

    Args:
        run_dir: The run's directory, with metrics.
        title: Above the figure; the directory's name by default.

    Returns:
        Path of the PNG, in the run directory.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imports in a second, which only a run should pay
    from matplotlib.figure import Figure

    run_dir = Path(run_dir)
    rows = [row for row in read_metrics(run_dir) if "minutes" in row]
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    abscissas = (
        ("environment steps [million]", [steps / 1e6 for steps in _column(rows, "env_steps")]),
        ("wall-clock time, compilation included [min]", _column(rows, "minutes")),
    )
    ordinates = (
        ("episode return", "train/episode_return", "#1f5fa8"),
        ("episode length [steps]", "train/episode_length", "#b3541e"),
    )
    for i, (y_label, name, color) in enumerate(ordinates):
        for j, (x_label, x) in enumerate(abscissas):
            axis = axes[i, j]
            axis.plot(x, _column(rows, name), color=color, linewidth=1.6)
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xlim(left=0.0)
            if i == 1:
                axis.set_xlabel(x_label)
            if j == 0:
                axis.set_ylabel(y_label)
    figure.suptitle(title or run_dir.name)
    path = run_dir / CURVE
    figure.savefig(path, dpi=140)
    return path
