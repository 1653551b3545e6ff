"""Checks of a problem: its structure, known when a program is traced, and its values, known when it runs."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from pimpc.problem import LTVProblem


def check_structure(problem: LTVProblem) -> None:
    """Placeholder."""


def finite(problem: LTVProblem) -> Bool[Array, ""]:
    """Whether all numbers that must be finite are, and no bound is NaN or excludes every number."""
    data = problem.A, problem.B, problem.e, problem.x0, problem.u_prev, problem.x_ref, problem.u_ref
    checks = [jnp.all(jnp.isfinite(value)) for value in (*data, problem.Q, problem.R, problem.S)]
    if problem.G is not None:
        checks.append(jnp.all(jnp.isfinite(problem.G)))
    for upper in (problem.h, problem.u_max, problem.x_max):
        if upper is not None:
            checks.append(jnp.all(upper > -jnp.inf))
    for lower in (problem.u_min, problem.x_min):
        if lower is not None:
            checks.append(jnp.all(lower < jnp.inf))
    return jnp.all(jnp.stack(checks))
