"""How good returned inputs are, measured alike for every method, in float64 and from the problem alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

import pimpc
from experiments.solver_problems import ProblemSet, select
from pimpc.problem import cost, roll_out
from pimpc.residuals import Multipliers, zero_multipliers


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a method returned for some of the distinct problems, in the problems' own units."""

    instances: np.ndarray  # which problems of the set
    u: Float[np.ndarray, "answers N nu"]
    solved: Bool[np.ndarray, " answers"]  # by the method's own account
    rows: Float[np.ndarray, "answers N m"] | None = None  # multipliers of G u ≤ h; None if there are none to have
    inputs: Float[np.ndarray, "answers N nu"] | None = None  # of the input bounds, positive at the upper one
    repeat_deviation: float = 0.0  # largest difference between answers to the same problem in one batch, relative


def measure(problems: ProblemSet, answer: Answer) -> dict[str, float | int | None]:
    """Accuracy over the problems that were answered; an answer that is not finite counts as infinitely wrong.

    Args:
        problems: The problems and their optima.
        answer: What a method returned.

    Returns:
        kkt: Larger one of the residuals of `pimpc.kkt_residuals`; None without multipliers.
        primal: The primal residual alone.
        input_error: Largest |u − u_opt| relative to the largest |u_opt|.
        cost_excess: Cost of the rolled-out inputs over the optimum, relative; negative if constraints are violated.
        violation: Largest violation of a row of G or an input bound, in its own unit (newtons, newton-metres).
        solved_share: Share that the method says it solved.
        within_1e-3: Share whose `input_error` is at most 1e-3.

        The first four as `_median` and `_worst`.
    """
    chosen = select(problems.problem, answer.instances)
    optimum, best = problems.u_opt[answer.instances], problems.cost_opt[answer.instances]
    size = np.abs(optimum).max(axis=(1, 2))
    error = _finite(np.abs(answer.u - optimum).max(axis=(1, 2)) / size)
    primal, dual, total = _residuals(problems, answer)
    quality = {"primal": primal, "input_error": error, "cost_excess": _finite((total - best) / np.abs(best))}
    result: dict[str, float | int | None] = {"kkt_median": None, "kkt_worst": None}
    if dual is not None:
        quality["kkt"] = np.maximum(primal, dual)
    for name, values in quality.items():
        result |= {f"{name}_median": float(np.median(values)), f"{name}_worst": float(np.max(values))}
    result["violation_worst"] = float(np.max(_violations(chosen, answer.u))) + 0.0  # no −0
    result["solved_share"] = float(np.mean(answer.solved))
    result["within_1e-3"] = float(np.mean(error <= 1e-3))
    result["repeat_deviation"] = answer.repeat_deviation
    result["instances"] = len(answer.instances)
    return result


def _finite(values: np.ndarray) -> np.ndarray:
    """Values with infinity for NaN."""
    return np.where(np.isnan(values), np.inf, values)


def _residuals(problems: ProblemSet, answer: Answer) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Primal residuals, dual residuals if there are multipliers, and costs."""
    some = len(answer.instances)
    padding = np.resize(np.arange(some), problems.count)  # one shape for all answers, which is compiled once
    with jax.enable_x64(True):
        batch = jax.tree.map(jnp.asarray, select(problems.problem, answer.instances[padding]))
        force = jax.vmap(zero_multipliers)(batch)
        if answer.rows is not None:
            # Rounding may leave a multiplier of an inequality slightly negative, which would count as infinitely wrong.
            rows = np.maximum(answer.rows, 0)[padding]
            force = dataclasses.replace(force, rows=jnp.asarray(rows, jnp.float64))
        if answer.inputs is not None:
            force = dataclasses.replace(force, inputs=jnp.asarray(answer.inputs[padding], jnp.float64))
        judged = _judge(batch, jnp.asarray(answer.u[padding], jnp.float64), force)
        primal, dual, total = (_finite(np.asarray(v)[:some]) for v in judged)
    return primal, None if answer.rows is None else dual, total


@jax.jit
@jax.vmap
def _judge(problem: pimpc.LTVProblem, u: jax.Array, force: Multipliers) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The residuals and the cost of the rolled-out inputs of one problem."""
    x = roll_out(problem, u)
    residuals = pimpc.kkt_residuals(problem, x, u, force)
    return residuals.primal, residuals.dual, cost(problem, x, u)


def _violations(problem: pimpc.LTVProblem, u: np.ndarray) -> np.ndarray:
    """The largest violation of each problem in the units of its rows."""
    worst = np.zeros(len(u))
    if problem.G is not None and problem.h is not None:
        worst = np.maximum(worst, (np.einsum("bkij,bkj->bki", problem.G, u) - problem.h).max(axis=(1, 2)))
    if problem.u_min is not None:
        worst = np.maximum(worst, (problem.u_min - u).max(axis=(1, 2)))
    if problem.u_max is not None:
        worst = np.maximum(worst, (u - problem.u_max).max(axis=(1, 2)))
    return _finite(worst)
