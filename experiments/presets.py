"""Configurations of a training run: one for a GPU, one that a laptop finishes in ten minutes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from envs.config import VelocityConfig
from envs.guidance import GuidanceConfig
from learning.config import PPOConfig, RunConfig

Preset = Literal["auto", "cpu", "gpu"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. The preset decides what all other flags default to."""

    preset: Preset = "auto"
    """cpu: a demonstration of about ten minutes on two cores; gpu: a walking policy; auto: by device."""
    env: VelocityConfig = dataclasses.field(default_factory=VelocityConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    name: str = "g1"
    """Of the run; its directory adds the time."""
    runs: Path = Path("runs")
    """Where run directories are made."""
    resume: Path | None = None
    """A run directory to continue, exactly where its newest checkpoint left off."""
    video_seconds: float = 10.0
    """Length of the film at the end; 0 for none."""


def preset(name: str) -> TrainConfig:
    """The defaults of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    if name == "auto":
        name = "cpu" if jax.default_backend() == "cpu" else "gpu"
    if name == "gpu":
        return TrainConfig(preset="gpu", run=RunConfig(total_env_steps=150_000_000))
    if name == "cpu":
        return TrainConfig(
            preset="cpu",
            env=VelocityConfig(guidance=GuidanceConfig(every=5)),
            ppo=PPOConfig(num_envs=128, policy_hidden=(256, 128, 64), value_hidden=(256, 128, 64)),
            run=RunConfig(total_env_steps=2_000_000, max_minutes=7.0),
        )
    raise ValueError(f"There is no preset {name!r}; there are auto, cpu and gpu.")
