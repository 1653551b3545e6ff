"""What a run hands back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from learning.policy import Policy


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    Attributes:
        policy: The trained policy.
        run_dir: Where everything lies.
        iterations: Done in all, resumed ones included.
        env_steps: Taken in all, resumed ones included.
        stopped_by: "steps", "minutes" or "signal".
        compile_seconds: Tracing, compilation and the first reset.
        train_seconds: Iterations of this process; neither compilation nor checkpoints.
        env_steps_per_second: Of these iterations, the steady state.
        metrics: The last row.
        failure_rates: Share of this process's steps in which each of the environment's `failure_metrics` was set.
    """

    policy: Policy
    run_dir: Path
    iterations: int
    env_steps: int
    stopped_by: str
    compile_seconds: float
    train_seconds: float
    env_steps_per_second: float
    metrics: dict[str, float]
    failure_rates: dict[str, float]
