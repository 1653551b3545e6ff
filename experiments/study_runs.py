"""What a study keeps of a run besides its curve: policies along the way, and what the gate says about them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.judge import judge
from experiments.presets import TrainConfig
from learning import record
from learning.gate_report import JSON_FILE
from learning.policy import Policy, save_policy

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
    """Runs the gate on the last policy, and looks for the first that passes; does nothing that is done already."""
    if not (run_dir / JSON_FILE).exists():
        judge(run_dir, run_dir, episodes)
    if not (run_dir / CROSSING).exists():
        record.write_json(run_dir / CROSSING, crossing(run_dir, lambda path: _passes(path, episodes)))


def _passes(path: Path, episodes: int) -> bool:
    """Whether a policy passes; a gate of fewer episodes than it needs is judged by its other bars."""
    out = path.with_suffix("")
    out.mkdir(exist_ok=True)
    return all(v.passed for v in judge(path, out, episodes).verdicts if v.name != "episodes")


def crossing(run_dir: Path, passes: Passes) -> dict[str, Any]:
    """The first kept policy that passes, by bisection: from it on all are taken to pass.

    Returns:
        `env_steps` and `minutes` of wall-clock time, compilation included; both None if the last one fails.
    """
    kept = sorted((run_dir / POLICIES).glob("*.npz"))
    low, high = 0, len(kept)  # the first that passes is in kept[low:high], or none is
    if not kept or not passes(kept[-1]):
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
