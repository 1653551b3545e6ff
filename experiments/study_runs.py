"""What a study keeps of a run besides its curve: policies along the way, and what the gate says about them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.judge import judge
from experiments.presets import TrainConfig
from learning import gate, record
from learning.gate_report import JSON_FILE
from learning.policy import Policy, save_policy
from learning.progress import format_count

POLICIES, CROSSING = "policies", "crossing.json"
Passes = Callable[[Path], bool]


def keep_policy(run_dir: Path) -> Callable[[Policy, int], Mapping[str, float] | None]:
    """A callback for the training that files every policy under the number of its samples."""

    def keep(policy: Policy, env_steps: int) -> None:
        (run_dir / POLICIES).mkdir(exist_ok=True)
        save_policy(policy, run_dir / POLICIES / f"{env_steps:012d}.npz")

    return keep


def check_same(config: TrainConfig, run_dir: Path) -> None:
    """A run is continued, or taken as done, only with the settings that it began with.

    Raises:
        ValueError: it has others; the message names the first.
    """
    stored = json.loads((run_dir / record.CONFIG).read_text())
    changed = record.differences(stored, record.plain(dataclasses.asdict(config)))
    if changed:
        name, (before, after) = next(iter(changed.items()))
        raise ValueError(
            f"'{run_dir}' was trained with {name} = {before}, not {after}: choose another directory with --runs, or "
            "remove it."
        )


def judge_run(run_dir: Path, episodes: int) -> None:
    """Runs the gate on the last policy, and looks for the first that passes; does nothing that is done already.

    What gates of another size have found is found anew.

    Args:
        run_dir: of a finished training.
        episodes: of every gate.
    """
    path = run_dir / CROSSING
    if path.exists():
        # An old one does not say by which gates it was found: by those of the size of the one beside it.
        size = _read(path).get("episodes", _read(run_dir / JSON_FILE).get("episodes"))
        if size != episodes:
            path.unlink()  # now, lest an interruption leave it beside a newer gate
    last = _passes(run_dir, run_dir, episodes)
    if not path.exists():
        found = crossing(run_dir, last, lambda kept: _passes(kept, kept.with_suffix(""), episodes))
        record.write_json(path, {**found, "episodes": episodes})


def _passes(path: Path, out: Path, episodes: int) -> bool:
    """Whether a policy passes, by the gate of that size in `out`, run if there is none.

    A gate of fewer episodes than it needs is judged by its other bars.
    """
    earlier = _read(out / JSON_FILE).get("episodes")
    if earlier != episodes:
        name = path.name if path == out else f"{path.parents[1].name} after {format_count(int(path.stem))} samples"
        if earlier is not None:
            print(f"{name}: judged in {earlier} episodes before, and in {episodes} now")
        out.mkdir(exist_ok=True)
        judge(path, out, episodes, title=f"Gate of {name}")
    found: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in _read(out / JSON_FILE).items()
    }
    verdicts = gate.judge(found, found["push_survival"], gate.Bars(**found["bars"]))
    return all(verdict.passed for verdict in verdicts if verdict.name != "episodes")


def _read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing if it is not there."""
    return json.loads(path.read_text()) if path.exists() else {}


def crossing(run_dir: Path, last: bool, passes: Passes) -> dict[str, Any]:
    """The first kept policy that passes, by bisection: from it on all are taken to pass.

    Args:
        run_dir: of a finished training.
        last: whether its last policy passes.
        passes: whether an earlier one does.

    Returns:
        `env_steps` and `minutes` of wall-clock time, compilation included; both None if the last one fails.
    """
    kept = sorted((run_dir / POLICIES).glob("*.npz"))
    low, high = 0, len(kept)  # the first that passes is in kept[low:high], or none is
    if not kept or not last:
        return {"env_steps": None, "minutes": None}
    high -= 1
    while low < high:
        middle = (low + high) // 2
        if passes(kept[middle]):
            high = middle
        else:
            low = middle + 1
    steps = int(kept[low].stem)
    rows = [row for row in record.read_metrics(run_dir) if row["env_steps"] >= steps]
    return {"env_steps": steps, "minutes": rows[0]["minutes"] if rows else None}
