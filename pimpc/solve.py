"""The one entry point: solve a problem with a method, and judge the answer independently of the method."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from pimpc.constraints import flatten
from pimpc.derivatives import Optimum, attach
from pimpc.interior_point import InteriorPoint
from pimpc.method import Method, Outcome
from pimpc.problem import LTVProblem, cost, mask_horizon, weigh_every_input
from pimpc.residuals import Residuals, kkt_residuals
from pimpc.roll_out import roll_out
from pimpc.solution import Solution, Status
from pimpc.validation import check_structure, finite


def solve(problem: LTVProblem, method: Method | None = None, warm_start: PyTree | None = None) -> Solution:
    """Solves one problem. Use `jax.vmap` for a batch: no instance depends on its neighbours.

    Args:
        problem: The problem; its arrays share one floating-point type, in which it is solved.
        method: The method and its settings; `InteriorPoint()` if none is given.
        warm_start: `Solution.warm_start` of an earlier solve by the same kind of method of a problem of the same shape.
            One that is not finite is ignored.

    Returns:
        The plan, and per instance whether it is right. The states are the exact roll-out of the inputs, and the
        residuals and the status are those of the returned states and inputs.

    Raises:
        ValueError: If a field has a wrong shape or is missing (see `pimpc.validate` for errors in the values), or the
            warm start is not one for such a problem.
        TypeError: If a field has a wrong type.
    """
    problem = jax.tree.map(jnp.asarray, problem)
    check_structure(problem)
    problem = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), problem)  # no weak types: they would compile anew
    method = InteriorPoint() if method is None else method
    if warm_start is not None:
        _check_warm_start(problem, method, warm_start)
    return _solve(problem, method, warm_start)


def _check_warm_start(problem: LTVProblem, method: Method, warm_start: PyTree) -> None:
    def form(tree: PyTree) -> tuple:
        return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]

    if form(warm_start) != form(jax.eval_shape(method.cold_start, problem)):
        raise ValueError(
            f"warm_start is not one of {type(method).__name__} for a problem of this shape; pass `Solution.warm_start` "
            "of an earlier solve of such a problem by this method."
        )


@functools.partial(jax.jit, static_argnames="method")
def _solve(problem: LTVProblem, method: Method, warm_start: PyTree | None) -> Solution:
    given = mask_horizon(problem)
    problem = weigh_every_input(given)
    # Neither the method nor the judgement of its answer is differentiated.
    data, warm_start = jax.lax.stop_gradient((problem, warm_start))
    sound = finite(data)
    cold = method.cold_start(data)
    start = None if warm_start is None else _where(_all_finite(warm_start), warm_start, cold)
    outcome = method.run(data, start, sound)
    u = jnp.where(sound & jnp.all(jnp.isfinite(outcome.u)), outcome.u, jnp.nan)
    kernels = method.kernels if isinstance(method, InteriorPoint) else "auto"
    x = roll_out(data, u, kernels)
    residuals = kkt_residuals(data, x, u, outcome.multipliers, kernels)
    status = _status(sound, residuals, outcome, method.tolerance)
    keep = (status <= Status.MAX_ITERATIONS) & _all_finite(outcome.state)
    plan = Optimum(x, u, cost(jax.lax.stop_gradient(given), x, u))
    plan, _ = attach(problem, plan, flatten(data, outcome.multipliers), status <= Status.SOLVED_INACCURATE)
    return Solution(
        x=plan.x,
        u=plan.u,
        status=status,
        iterations=outcome.iterations,
        primal_residual=residuals.primal,
        dual_residual=residuals.dual,
        cost=plan.cost,
        warm_start=_where(keep, outcome.state, cold),
    )


def _where(condition: Bool[Array, ""], then: PyTree, otherwise: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _status(sound: Bool[Array, ""], residuals: Residuals, outcome: Outcome, tolerance: float) -> Array:
    """Judges the returned plan: residuals decide, the method is believed only when it proves infeasibility."""
    worst = jnp.maximum(residuals.primal, residuals.dual)
    code = jnp.where(worst <= 10 * tolerance, Status.SOLVED_INACCURATE, Status.MAX_ITERATIONS)
    code = jnp.where(worst <= tolerance, Status.SOLVED, code)
    code = jnp.where(outcome.infeasible, Status.INFEASIBLE, code)
    code = jnp.where(jnp.isfinite(worst), code, Status.NONFINITE)
    return jnp.where(sound, code, Status.NONFINITE_INPUT).astype(jnp.int32)
