"""What the paper compares, as changes of one training configuration (arXiv 2606.05687, section V).

A variant differs from the preset in what its name says and in nothing else: regularization, gait, networks, PPO and
randomization are shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from experiments.presets import TrainConfig
from rewards import BASE_RL, NO_GUIDANCE, guidance_terms

Variant = Callable[[TrainConfig], TrainConfig]


def guidance(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Other settings of the MPC's place in the environment."""
    env = dataclasses.replace(config.env, guidance=dataclasses.replace(config.env.guidance, **changes))
    return dataclasses.replace(config, env=env)


def centroidal(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Other settings of the MPC's problem."""
    return guidance(config, centroidal=dataclasses.replace(config.env.guidance.centroidal, **changes))


def base(config: TrainConfig) -> TrainConfig:
    """Base-RL: the published tracking terms instead of the MPC's, the same regularization, no MPC at all."""
    rewards = dataclasses.replace(config.env.rewards, base=BASE_RL, mpc=NO_GUIDANCE)
    off = dataclasses.replace(config.env.guidance, enabled=False)
    return dataclasses.replace(config, env=dataclasses.replace(config.env, rewards=rewards, guidance=off))


def without(config: TrainConfig, term: str) -> TrainConfig:
    """One guidance term less."""
    mpc = dataclasses.replace(config.env.rewards.mpc, **{term: 0.0})
    rewards = dataclasses.replace(config.env.rewards, mpc=mpc)
    return dataclasses.replace(config, env=dataclasses.replace(config.env, rewards=rewards))


def released_solver(config: TrainConfig) -> TrainConfig:
    """After the paper's release: boxes (its ankle bound mended) for cones, 200 iterations of ADMM, converged or not."""
    return guidance(centroidal(config, boxes=True), admm_iterations=200)


def control_rate(config: TrainConfig, hertz: float) -> TrainConfig:
    """A solve every so often; the nearest whole number of control steps."""
    return guidance(config, every=max(1, round(1.0 / (hertz * config.env.dt))))


def variants(config: TrainConfig) -> Mapping[str, Variant]:
    """All variants by name; the terms that can be left out are those of the configuration."""
    named: dict[str, Variant] = {
        "mpc": lambda c: c,
        "base": base,
        "reference": partial(guidance, optimize=False),
        "next_step": partial(guidance, weights="next_step"),
        "uniform": partial(guidance, weights="uniform"),
        "look_ahead": partial(guidance, schedule="look_ahead"),
        "released_solver": released_solver,
        "blind": partial(guidance, sees_randomization=False),
    }
    named |= {f"horizon_{n}": partial(centroidal, horizon=n) for n in (5, 20, 50)}
    named |= {f"rate_{hertz}": partial(control_rate, hertz=hertz) for hertz in (10, 25, 50)}
    named |= {f"without_{term}": partial(without, term=term) for term in guidance_terms(config.env.rewards)}
    return named


def apply(config: TrainConfig, name: str) -> TrainConfig:
    """The configuration as one variant.

    Raises:
        ValueError: there is no such variant.
    """
    known = variants(config)
    if name not in known:
        raise ValueError(f"There is no variant {name!r}; there are {', '.join(known)}.")
    return dataclasses.replace(known[name](config), variant=name)
