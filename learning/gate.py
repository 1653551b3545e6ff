"""The quality gate: what a policy must do in C MuJoCo before it is worth a robot.

256 episodes of 20 s, each from rest under one constant command of a fixed grid over the trained range, half of them
with the sensor noise of the training and half without; then, for each of several strengths, 256 episodes of 10 s, each
with one kick of the base in a random horizontal direction at a random time, hence at a random phase of the gait. Kicks
come at the same times from the same sides at every strength. Robots are nominal, the floor is flat, and commands do
not change within an episode.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Bool, Float

from envs.commands import CommandConfig
from envs.velocity import VelocityEnv
from learning import metrics
from learning.closed_loop import ClosedLoop, Episodes, Signals
from learning.policy import Policy
from learning.progress import Progress, format_duration


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """The episodes of the gate."""

    episodes: int = 256  # without kicks, and again for each strength of kicks
    seconds: float = 20.0  # s, of an episode without kicks
    settle: float = 2.0  # s from the start of an episode in which errors do not count
    push_strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # m/s, added to the base's velocity at once
    push_seconds: float = 10.0  # s, of an episode with a kick
    push_time: tuple[float, float] = (3.0, 5.0)  # s, when the kick comes
    seed: int = 0  # of headings, noise and kicks

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise ValueError(f"episodes = {self.episodes}: the gate takes at least one with noise and one without.")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: must be at least 0.")


@dataclasses.dataclass(frozen=True)
class Bars:
    """What passes."""

    episodes: int = 256  # at least
    falls: int = 0  # at most, without kicks
    velocity_error: float = 0.1  # m/s, at most; see `learning.metrics.tracking`
    yaw_rate_error: float = 0.15  # rad/s, at most
    push_strength: float = 0.5  # m/s, of the kicks that must be survived
    push_survival: float = 0.95  # share of episodes, at least


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One bar: what was measured against it."""

    name: str
    value: float
    relation: str  # "≤" or "≥"
    bar: float

    @property
    def passed(self) -> bool:
        """Whether it holds; a figure that could not be measured (NaN) does not pass."""
        return self.value <= self.bar if self.relation == "≤" else self.value >= self.bar


@dataclasses.dataclass(frozen=True)
class GateResult:
    """What the gate measured.

    Attributes:
        command: of each episode without kicks, (B, 3).
        fell: which of these ended in a fall, (B,).
        per_episode: metrics of these episodes by name, (B,) each; see `learning.metrics`.
        summary: means over all episodes, over those with noise and over those without.
        survival: share of episodes without a fall, by strength of the kick [m/s].
        verdicts: the bars.
    """

    command: Float[np.ndarray, "B 3"]
    fell: Bool[np.ndarray, " B"]
    per_episode: dict[str, Float[np.ndarray, " B"]]
    summary: dict[str, dict[str, float]]
    survival: dict[float, float]
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every bar holds."""
        return all(verdict.passed for verdict in self.verdicts)


def command_grid(config: CommandConfig) -> Float[np.ndarray, "n 3"]:
    """Commands (v_x, v_y, ω_z) at both ends of their ranges, half-way to them, and zero; standing comes first."""
    axes = []
    for low, high in (config.v_x, config.v_y, config.w_z):
        levels = (low, low / 2, 0.0, high / 2, high) if low <= 0.0 <= high else np.linspace(low, high, 5)
        axes.append(np.unique(levels))
    grid = np.array(list(itertools.product(*axes)))
    return grid[np.argsort(np.any(grid != 0.0, axis=1), kind="stable")]


def plain_episodes(grid: Float[np.ndarray, "n 3"], config: GateConfig, dt: float) -> Episodes:
    """Goes through the grid, first with noise and then without, as often as episodes are left.

    Too few for the whole grid are spread over it: after standing, commands come in a random order that is always the
    same. The others keep the order of the grid, for an episode's heading and noise depend on its place.
    """
    half = (config.episodes + 1) // 2
    if config.episodes < 2 * len(grid):
        grid = grid[[0, *1 + np.random.default_rng(0).permutation(len(grid) - 1)]]
    index = np.concatenate([np.arange(half), np.arange(config.episodes - half)]) % len(grid)
    noisy = np.arange(config.episodes) < half
    return Episodes(grid[index], noisy, round(config.seconds / dt), config.seed)


def pushed_episodes(grid: Float[np.ndarray, "n 3"], config: GateConfig, dt: float, strength: float) -> Episodes:
    """The same commands with one kick each; only its strength [m/s] differs from call to call."""
    rng = np.random.default_rng(config.seed)
    angle = rng.uniform(0.0, 2.0 * np.pi, config.episodes)
    when = rng.uniform(*config.push_time, config.episodes)
    return dataclasses.replace(
        plain_episodes(grid, config, dt),
        steps=round(config.push_seconds / dt),
        seed=config.seed + 1,
        kick=strength * np.stack([np.cos(angle), np.sin(angle)], axis=1),
        kick_step=np.round(when / dt).astype(int),
    )


def run_gate(
    env: VelocityEnv, policy: Policy, config: GateConfig, bars: Bars, progress: Progress, title: str = "Gate"
) -> GateResult:
    """Runs all episodes.

    Args:
        env: the task that the policy was trained on; its command ranges, noise and fall criterion apply.
        policy: the policy.
        config: the episodes.
        bars: what passes.
        progress: is told how far it is.
        title: of what it is told.

    Raises:
        ValueError: the policy is not for this robot, or an episode is too short to measure.
    """
    loop, grid, dt = ClosedLoop(env, policy), command_grid(env.config.command), env.dt
    plain = plain_episodes(grid, config, dt)
    strengths = sorted({*config.push_strengths, bars.push_strength})
    pushed = [pushed_episodes(grid, config, dt, strength) for strength in strengths]
    report = _reporter(progress, title, plain.steps + sum(episodes.steps for episodes in pushed))
    signals = loop.run(plain, partial(report, 0))
    figures = measure(signals, plain.command, config, dt, env.gait.period)
    survival, earlier = {}, plain.steps
    for strength, episodes in zip(strengths, pushed, strict=True):
        survival[strength] = float(np.mean(loop.run(episodes, partial(report, earlier)).alive[-1]))
        earlier += episodes.steps
    fell = ~signals.alive[-1]
    weight = env.robot.mass * float(np.linalg.norm(env.robot.mj_model.opt.gravity))
    groups = {"all": np.ones_like(plain.noisy), "with_noise": plain.noisy, "without_noise": ~plain.noisy}
    summary = {name: summarize(fell, figures, weight, mask) for name, mask in groups.items()}
    verdicts = judge(summary["all"], survival[bars.push_strength], bars)
    return GateResult(plain.command, fell, figures, summary, survival, verdicts)


def measure(
    signals: Signals, command: Float[np.ndarray, "B 3"], config: GateConfig, dt: float, gait_period: float
) -> dict[str, Float[np.ndarray, " B"]]:
    """All metrics of each episode."""
    settle, cycle = round(config.settle / dt), round(gait_period / dt)
    return {
        **metrics.tracking(signals, command, settle, cycle),
        **metrics.effort(signals, dt),
        **metrics.transport(signals, command, settle, cycle, dt),
    }


def summarize(
    fell: Bool[np.ndarray, " B"], figures: dict[str, np.ndarray], weight: float, mask: Bool[np.ndarray, " B"]
) -> dict[str, float]:
    """Falls, the cost of transport of all these episodes together, and the mean of every other metric."""
    totals = {"energy", "distance", "v_x", "v_y", "yaw_rate"}
    chosen = {name: values[mask] for name, values in figures.items()}
    means = {name: _mean(values) for name, values in chosen.items() if name not in totals}
    cost = metrics.cost_of_transport(float(chosen["energy"].sum()), weight, float(chosen["distance"].sum()))
    return {"episodes": int(mask.sum()), "falls": int(fell[mask].sum()), **means, "cost_of_transport": cost}


def _mean(values: Float[np.ndarray, " B"]) -> float:
    """Of the episodes in which there was something to measure."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def judge(summary: dict[str, float], push_survival: float, bars: Bars) -> tuple[Verdict, ...]:
    """Every bar, in the order in which they are printed; fewer episodes than asked for are a look, not a pass."""
    return (
        Verdict("episodes", summary["episodes"], "≥", bars.episodes),
        Verdict("falls", summary["falls"], "≤", bars.falls),
        Verdict("velocity_error", summary["velocity_error"], "≤", bars.velocity_error),
        Verdict("yaw_rate_error", summary["yaw_rate_error"], "≤", bars.yaw_rate_error),
        Verdict("push_survival", push_survival, "≥", bars.push_survival),
    )


def _reporter(progress: Progress, title: str, total: int) -> Callable[[int, int], None]:
    """A function of the steps of earlier runs and of the present one, which shows the share of all and an ETA.

    The first step, which waits for the compilation, tells nothing about the others.
    """
    started = 0.0

    def report(earlier: int, now: int) -> None:
        nonlocal started
        done = earlier + now
        if done == 1:
            started = time.monotonic()
            return
        left = (time.monotonic() - started) * (total - done) / (done - 1)
        progress.update(f"{title}: {done / total:.0%} of the steps | ETA {format_duration(left)}", force=done == total)

    return report
