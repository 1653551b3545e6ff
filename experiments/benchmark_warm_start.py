"""What a warm start saves at control rate: robots that walk, solved from nothing and from the last answer.

    uv run experiments/benchmark_warm_start.py

A batch of centroidal robots walks under random commands, is pushed and changes its commands (experiments/
simulated_walk.py). Every so often the problems of that moment are solved from a cold start and from the shifted answer
of 20 ms before, several times, on the clock; the shift is part of the time.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pimpc
from experiments import simulated_walk as sim
from experiments.solver_records import environment


@dataclasses.dataclass(frozen=True)
class WarmStartConfig:
    """What to measure."""

    batch: int = 0
    """Robots; 0 for 64 on a CPU, 4096 on a GPU."""
    tolerances: tuple[float, ...] = (1e-3, 1e-5)
    """Of the solver."""
    moments: int = 8
    """At which the clock runs, 0.16 s apart."""
    repeats: int = 10
    """Timed solves of each kind at each moment."""
    out: Path | None = None
    """A JSON file for the figures."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, and prints a line for each tolerance."""
    import tyro

    config = tyro.cli(WarmStartConfig, args=arguments, prog="benchmark_warm_start.py")
    batch = config.batch or (64 if jax.default_backend() == "cpu" else 4096)
    rows = [measure(batch, tolerance, config.moments, config.repeats) for tolerance in config.tolerances]
    for row in rows:
        cold, warm = row["cold"], row["warm"]
        print(
            f"{batch} robots, tolerance {row['tolerance']:.0e}: cold {1e3 * cold['seconds']:.2f} ms "
            f"({cold['iterations']:.2f} iterations), warm {1e3 * warm['seconds']:.2f} ms ({warm['iterations']:.2f}); "
            f"solved {cold['solved']:.1%} and {warm['solved']:.1%}; costs within {row['cost_difference']:.0e}"
        )
    if config.out:
        config.out.write_text(
            json.dumps({"environment": environment("0: commands, pushes, phases"), "rows": rows}, indent=1)
        )
    return 0


def measure(batch: int, tolerance: float, moments: int, repeats: int) -> dict[str, Any]:
    """Medians over all timed solves, means over all instances."""
    method, rng = pimpc.InteriorPoint(tolerance=tolerance), np.random.default_rng(0)
    walkers = jax.vmap(sim.start)(jnp.asarray(rng.random(batch), jnp.float32))
    cold = _compiled(lambda now, answer: pimpc.solve(now, method), walkers)
    warm = _compiled(lambda now, answer: pimpc.solve(now, method, pimpc.shift(answer, sim.SHIFT, now)), walkers)
    pose, move = jax.jit(jax.vmap(sim.problem)), jax.jit(jax.vmap(sim.advance))
    samples: dict[str, list[tuple[float, Any]]] = {"cold": [], "warm": []}
    for tick in range(8 * (moments + 1)):
        if tick % 40 == 0:
            command = jnp.asarray(rng.uniform([-0.5, -0.3, -0.7], [1.0, 0.3, 0.7], (batch, 3)), jnp.float32)
        now = pose(walkers, command)
        answer = warm(now, walkers.answer)
        if tick >= 8 and tick % 8 == 0:
            samples["cold"].append(_timed(partial(cold, now, walkers.answer), repeats))
            samples["warm"].append(_timed(partial(warm, now, walkers.answer), repeats))
        kicked = (tick % 20 == 10) * (rng.random((batch, 1)) < 0.5)
        push = jnp.asarray(kicked * rng.uniform(-12, 12, (batch, 3)) * [1, 1, 0.3], jnp.float32)  # N s
        walkers = move(walkers, command, push, answer)
    pairs = zip(samples["cold"], samples["warm"], strict=True)
    costs = [np.abs(np.asarray(other.cost / one.cost) - 1) for (_, one), (_, other) in pairs]
    return {
        "batch": batch,
        "tolerance": tolerance,
        **{kind: _summary(found) for kind, found in samples.items()},
        "cost_difference": float(np.max(costs)),
    }


def _compiled(solve: Callable[..., pimpc.Solution], walkers: sim.Walker) -> Callable[..., pimpc.Solution]:
    now = jax.eval_shape(jax.vmap(sim.problem), walkers, jax.ShapeDtypeStruct((*walkers.phase.shape, 3), jnp.float32))
    return jax.jit(jax.vmap(solve)).lower(now, walkers.answer).compile()


def _timed(solve: Callable[[], pimpc.Solution], repeats: int) -> tuple[float, pimpc.Solution]:
    """Median seconds on the wall clock, after one solve that is not timed."""
    answer, seconds = jax.block_until_ready(solve()), []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(solve())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), answer


def _summary(found: list[tuple[float, pimpc.Solution]]) -> dict[str, float]:
    status = np.concatenate([np.asarray(answer.status) for _, answer in found])
    return {
        "seconds": statistics.median(seconds for seconds, _ in found),
        "iterations": float(np.mean([np.mean(np.asarray(answer.iterations, float)) for _, answer in found])),
        "solved": float(np.mean(status == pimpc.Status.SOLVED)),
    }


if __name__ == "__main__":
    sys.exit(main())
