"""A policy before the quality gate, with the facts of its training beside the verdict."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from envs import velocity
from envs.config import VelocityConfig
from learning import gate, gate_report, record
from learning.policy import Policy, load_policy
from learning.progress import Progress
from learning.run import POLICY
from learning.serialize import from_json


def load(path: Path) -> tuple[Policy, VelocityConfig]:
    """A policy, and the task that it was trained on, on whatever physics this machine has.

    Args:
        path: run directory or policy file.

    Raises:
        ValueError: the file does not say which task that was.
    """
    policy = load_policy(path)
    if "env" not in policy.metadata:
        raise ValueError(f"'{path}' does not say which task it was trained on, so it cannot be played.")
    config = from_json(VelocityConfig, json.dumps(policy.metadata["env"]))
    return policy, dataclasses.replace(config, backend="auto")


def judge(
    path: Path, out: Path, episodes: int = 256, seed: int = 0, title: str = "Gate", stem: str = gate_report.STEM
) -> gate.GateResult:
    """Runs the gate, and writes `gate.json` and `gate.png` in place of those that are there.

    Args:
        path: run directory or policy file.
        out: directory for the figures.
        episodes: without kicks, and again for each strength of kicks.
        seed: of headings, noise and kicks.
        title: of the progress line.
        stem: of the files' names; see `gate_report.stem_for`.
    """
    policy, config = load(path)
    started = time.monotonic()
    env = velocity.make(dataclasses.replace(config, backend="jax"))
    settings, bars = gate.GateConfig(episodes=episodes, seed=seed), gate.Bars()
    result = gate.run_gate(env, policy, settings, bars, Progress(interval=10.0), title)
    facts = {
        "robot": env.robot.robot.name,
        **_training_facts(path),
        "versions": record.versions(),
        "gate_seconds": time.monotonic() - started,
    }
    gate_report.write(result, gate_report.to_record(result, settings, bars, facts), out, stem)
    return result


def _training_facts(path: Path) -> dict[str, Any]:
    """What is known of a policy's training: by its metrics, or, where they did not come along, by an earlier gate."""
    run_dir = path if path.is_dir() else path.parent
    facts = {"policy": path.name, **record.training_facts(run_dir)}
    earlier = run_dir / gate_report.JSON_FILE
    if facts["train_seconds"] is None and path in (run_dir, run_dir / POLICY) and earlier.is_file():
        known = json.loads(earlier.read_text())
        if known.get("train_seconds") is not None:
            facts |= {name: known[name] for name in ("policy", "train_seconds")}
    return facts
