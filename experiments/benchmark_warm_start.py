"""What a warm start saves at control rate: robots that walk, solved from nothing and from the last answer.

    uv run experiments/benchmark_warm_start.py

A batch of centroidal robots walks under random commands, is pushed and changes its commands (experiments/
simulated_walk.py). Every so often the problems of that moment are solved from a cold start and from the shifted answer
of 20 ms before, several times, on the clock, each waited for and then without waiting; the shift is part of the time.
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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pimpc
from experiments import simulated_walk as sim
from experiments.solver_jax import in_a_row
from experiments.solver_records import environment


@dataclasses.dataclass(frozen=True)
class WarmStartConfig:
    """What to measure."""

    batch: int = 0
    """Robots; 0 for 64 on a CPU, 4096 on a GPU."""
    horizons: tuple[int, ...] = (10,)
    """Numbers of stages."""
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
    here, rows = environment("0: commands, pushes, phases"), []
    for horizon in config.horizons:
        for tolerance in config.tolerances:
            rows.append(row := measure(batch, horizon, tolerance, config.moments, config.repeats))
            print(_line(row), flush=True)
            if config.out:
                config.out.write_text(json.dumps({"environment": here, "rows": rows}, indent=1) + "\n")
    return 0


def _line(row: dict[str, Any]) -> str:
    kinds = (
        f"{kind} {1e3 * row[kind]['seconds']:.2f} ms, {1e3 * row[kind]['seconds_in_a_row']:.2f} without waiting, "
        f"{row[kind]['iterations']:.2f} iterations, {row[kind]['solved']:.1%} solved"
        for kind in ("cold", "warm")
    )
    return (
        f"{row['batch']} robots × {row['N']} stages, tolerance {row['tolerance']:.0e}: {'; '.join(kinds)}; "
        f"costs within {row['cost_difference']:.0e}"
    )


def measure(batch: int, horizon: int, tolerance: float, moments: int, repeats: int) -> dict[str, Any]:
    """Medians over all timed solves, means over all instances."""
    method, rng = pimpc.InteriorPoint(tolerance=tolerance), np.random.default_rng(0)
    mpc = dataclasses.replace(sim.CONFIG, horizon=horizon)
    start, problem, advance = (jax.vmap(partial(f, config=mpc)) for f in (sim.start, sim.problem, sim.advance))
    walkers = start(jnp.asarray(rng.random(batch), jnp.float32))
    pose, move = jax.jit(problem), jax.jit(advance)
    posed = jax.eval_shape(pose, walkers, jax.ShapeDtypeStruct((batch, 3), jnp.float32))

    def compiled(solve: Callable[..., pimpc.Solution]) -> Callable[..., pimpc.Solution]:
        return jax.jit(jax.vmap(solve)).lower(posed, walkers.answer).compile()

    cold = compiled(lambda now, answer: pimpc.solve(now, method))
    warm = compiled(lambda now, answer: pimpc.solve(now, method, pimpc.shift(answer, sim.SHIFT, now)))
    samples: dict[str, list[_Sample]] = {"cold": [], "warm": []}
    for tick in range(8 * (moments + 1)):
        if tick % 40 == 0:
            command = sim.random_commands(rng, batch)
        now = pose(walkers, command)
        answer = warm(now, walkers.answer)
        if tick >= 8 and tick % 8 == 0:
            samples["cold"].append(_timed(partial(cold, now, walkers.answer), repeats))
            samples["warm"].append(_timed(partial(warm, now, walkers.answer), repeats))
        kicked = (tick % 20 == 10) * (rng.random((batch, 1)) < 0.5)
        push = jnp.asarray(kicked * rng.uniform(-12, 12, (batch, 3)) * [1, 1, 0.3], jnp.float32)  # N s
        walkers = move(walkers, command, push, answer)
    pairs = zip(samples["cold"], samples["warm"], strict=True)
    costs = [np.abs(np.asarray(other.answer.cost / one.answer.cost) - 1) for one, other in pairs]
    return {
        "batch": batch,
        "N": horizon,
        "tolerance": tolerance,
        **{kind: _summary(found) for kind, found in samples.items()},
        "cost_difference": float(np.max(costs)),
    }


class _Sample(NamedTuple):
    """Solves of the same problems, on the clock."""

    seconds: float  # median, each waited for
    seconds_in_a_row: float
    answer: pimpc.Solution


def _timed(solve: Callable[[], pimpc.Solution], repeats: int) -> _Sample:
    answer, seconds = jax.block_until_ready(solve()), []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(solve())
        seconds.append(time.perf_counter() - start)
    return _Sample(statistics.median(seconds), in_a_row(solve, repeats), jax.device_get(answer))


def _summary(found: list[_Sample]) -> dict[str, float]:
    status = np.concatenate([sample.answer.status for sample in found])
    return {
        "seconds": statistics.median(sample.seconds for sample in found),
        "seconds_in_a_row": statistics.median(sample.seconds_in_a_row for sample in found),
        "iterations": float(np.mean([np.mean(sample.answer.iterations) for sample in found])),
        "solved": float(np.mean(status == pimpc.Status.SOLVED)),
    }


if __name__ == "__main__":
    sys.exit(main())
