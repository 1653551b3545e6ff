"""Configurations of a training run: one for a GPU, one that a laptop finishes in ten minutes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import jax

from envs.commands import CommandConfig
from envs.config import NO_PUSHES, NO_RANDOMIZATION, VelocityConfig
from envs.guidance import GuidanceConfig
from learning.config import PPOConfig, RunConfig
from rewards import GuidanceWeights, RegularizationWeights, Tables

# The published table drives a robot that already moves. Widths here are chosen so that a robot which stands, with the
# jitter of exploration, is on the slope of each kernel: with the published ones it earns four fifths of the velocity
# reward and nothing of the angular one, whatever it does. Stepping in time is worth more and jerky actions cost less.
WALKING = Tables(
    mpc=GuidanceWeights(com_scale=10.0, lin_vel_scale=8.0, ang_vel_scale=0.7),
    regularization=RegularizationWeights(action_rate=-0.1, gait=2.0, foot_swing=2.0),
)
# A robot that walks already is to go as fast as it is told.
TRACKING = dataclasses.replace(
    WALKING, regularization=dataclasses.replace(WALKING.regularization, mean_lin_vel=3.0, mean_ang_vel=3.0)
)

Preset = Literal["auto", "cpu", "gpu"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. Preset and variant decide what all other flags default to."""

    preset: Preset = "auto"
    """cpu: a demonstration of about ten minutes on two cores; gpu: a walking policy; auto: by device."""
    env: VelocityConfig = dataclasses.field(default_factory=VelocityConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    variant: str = "mpc"
    """What the run is a comparison with: base (base-RL), reference, …; experiments/variants.py lists them."""
    name: str = ""
    """Of the run, by default that of the robot; its directory adds the time."""
    runs: Path = Path("runs")
    """Where run directories are made."""
    resume: Path | None = None
    """A run directory to continue, exactly where its newest checkpoint left off."""
    video_seconds: float = 8.0
    """Length of the film at the end; 0 for none."""

    def __post_init__(self) -> None:
        if not 0 <= self.video_seconds < math.inf:
            raise ValueError(f"video_seconds = {self.video_seconds:g}: the length of a film, or 0 for none.")


def preset(name: str) -> TrainConfig:
    """The defaults of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    if name == "auto":
        name = "cpu" if jax.default_backend() == "cpu" else "gpu"
    guided = VelocityConfig(rewards=WALKING, guidance=GuidanceConfig(every=10))
    ppo = PPOConfig(init_std=0.4, entropy_cost=0.003, target_kl=0.02, value_learning_rate=1e-3)
    if name == "gpu":
        env = dataclasses.replace(
            guided,
            solver_iterations=10,  # they converge; what 6 would save, and cost: results/g1_walk/README.md
            command=CommandConfig(overshoot=0.2),
            rewards=TRACKING,
        )
        large = dataclasses.replace(ppo, num_envs=8192, unroll_length=16, value_clip=None, mirror=True)
        run = RunConfig(total_env_steps=110_000_000, checkpoint_minutes=1.0)  # it takes five or six in all
        return TrainConfig(preset="gpu", env=env, ppo=large, run=run)
    if name == "cpu":
        # Few robots, all alike and left alone: a laptop shows in minutes that learning has begun.
        calm = dataclasses.replace(guided, randomization=NO_RANDOMIZATION, push=NO_PUSHES)
        hidden = (256, 128, 64)
        small = dataclasses.replace(
            ppo,
            num_envs=64,
            init_std=0.2,
            discount=0.97,
            gae_lambda=0.9,
            value_clip=None,
            mirror=True,
            policy_hidden=hidden,
            value_hidden=hidden,
        )
        return TrainConfig(preset="cpu", env=calm, ppo=small, run=RunConfig(total_env_steps=1_000_000, max_minutes=7.5))
    raise ValueError(f"There is no preset {name!r}; there are auto, cpu and gpu.")
