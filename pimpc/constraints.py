"""The inequality constraints as rows lower ≤ C u ≤ upper on all inputs.

Rows come in one flat order: for each stage the rows of G, then one for each bounded input; after all stages, if states
are bounded, one for each state of x_1 … x_N. Rows of a stage touch that stage's inputs only and are kept as blocks;
rows of states touch all inputs before them and are kept dense.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.problem import LTVProblem, bounds_inputs
from pimpc.residuals import Multipliers

_HIGHEST = jax.lax.Precision.HIGHEST


class Rows(NamedTuple):
    """The matrix C, M rows on n = N nu inputs."""

    stage: Float[Array, "N mc nu"]
    state: Float[Array, "Mx N nu"]

    def scaled(self, row: Float[Array, " M"], column: Float[Array, "N nu"] | None = None) -> "Rows":
        """Multiplies rows, and columns if given, by factors."""
        stage, state = self._split(row)
        column = jnp.ones(self.state.shape[1:], row.dtype) if column is None else column
        return Rows(self.stage * stage[:, :, None] * column[:, None], self.state * state[:, None, None] * column)

    def apply(self, u: Float[Array, " n"]) -> Float[Array, " M"]:
        """C u."""
        N, _, nu = self.stage.shape
        v = u.reshape(N, nu)
        stage = jnp.einsum("kij,kj->ki", self.stage, v, precision=_HIGHEST)
        return jnp.concatenate([stage.ravel(), jnp.einsum("mkj,kj->m", self.state, v, precision=_HIGHEST)])

    def pull(self, force: Float[Array, " M"]) -> Float[Array, " n"]:
        """Cᵀ force."""
        stage, state = self._split(force)
        pulled = jnp.einsum("kij,ki->kj", self.stage, stage, precision=_HIGHEST)
        return (pulled + jnp.einsum("mkj,m->kj", self.state, state, precision=_HIGHEST)).ravel()

    def gram(self) -> Float[Array, "n n"]:
        """Cᵀ C."""
        N, _, nu = self.stage.shape
        gram = jnp.einsum("mkj,mli->kjli", self.state, self.state, precision=_HIGHEST)
        k = jnp.arange(N)
        gram = gram.at[k, :, k, :].add(jnp.einsum("kij,kil->kjl", self.stage, self.stage, precision=_HIGHEST))
        return gram.reshape(N * nu, N * nu)

    def _split(self, flat: Float[Array, " M"]) -> tuple[Float[Array, "N mc"], Float[Array, " Mx"]]:
        N, mc, _ = self.stage.shape
        return flat[: N * mc].reshape(N, mc), flat[N * mc :]


def make_rows(problem: LTVProblem, free: Bool[Array, "N nu"]) -> Rows:
    """Builds C for one problem; the columns of inputs that are not free are zero."""
    N, nx, nu = problem.B.shape
    stage = [] if problem.G is None else [problem.G]
    if bounds_inputs(problem):
        stage.append(jnp.broadcast_to(jnp.eye(nu, dtype=problem.B.dtype), (N, nu, nu)))
    none = jnp.zeros((N, 0, nu), problem.B.dtype)
    state = jnp.zeros((0, N, nu), problem.B.dtype)
    if problem.x_min is not None or problem.x_max is not None:
        state = _input_to_state(problem).reshape(N * nx, N, nu)
    return Rows(jnp.concatenate([none, *stage], axis=1) * free[:, None], state * free)


def _input_to_state(problem: LTVProblem) -> Float[Array, "N nx N nu"]:
    """The derivative of x_{k+1} with respect to u_j, zero for j > k."""
    N, nx, nu = problem.B.shape

    def step(row: Array, stage: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        A, B, here = stage
        row = jnp.einsum("ij,jkl->ikl", A, row, precision=_HIGHEST)
        row = jnp.where(here[None, :, None], B[:, None, :], row)
        return row, row

    start = jnp.zeros((nx, N, nu), problem.A.dtype)
    _, rows = jax.lax.scan(step, start, (problem.A, problem.B, jnp.eye(N, dtype=bool)))
    return rows


def _concatenate(problem: LTVProblem, rows: Array | None, inputs: Array | None, states: Array | None) -> Array:
    """Puts per-row values of the three kinds into the flat order; None where the problem has no such rows."""
    N = problem.e.shape[0]
    stage = [part for part in (rows, inputs) if part is not None]
    stage = jnp.concatenate([jnp.zeros((N, 0), problem.e.dtype), *stage], axis=1)
    return stage.ravel() if states is None else jnp.concatenate([stage.ravel(), states.ravel()])


def bounds(problem: LTVProblem) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """The lower and upper bounds of all rows, infinite where there is none."""

    def side(name: str, other: str, missing: float) -> Array | None:
        value, twin = getattr(problem, name), getattr(problem, other)
        return value if value is not None or twin is None else jnp.full_like(twin, missing)

    below = None if problem.h is None else jnp.full_like(problem.h, -jnp.inf)
    inputs = (
        (side("u_min", "u_max", -jnp.inf), side("u_max", "u_min", jnp.inf)) if bounds_inputs(problem) else (None,) * 2
    )
    lower = below, inputs[0], side("x_min", "x_max", -jnp.inf)
    upper = problem.h, inputs[1], side("x_max", "x_min", jnp.inf)
    return _concatenate(problem, *lower), _concatenate(problem, *upper)


def values(problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"]) -> Float[Array, " M"]:
    """What the rows bound: G_k u_k, the inputs and the states, from the plan itself rather than from C."""
    rows = None if problem.G is None else jnp.einsum("kij,kj->ki", problem.G, u, precision=_HIGHEST)
    inputs = u if bounds_inputs(problem) else None
    states = None if problem.x_min is None and problem.x_max is None else x[1:]
    return _concatenate(problem, rows, inputs, states)


def magnitudes(problem: LTVProblem, x: Float[Array, "T nx"], u: Float[Array, "N nu"]) -> Float[Array, " M"]:
    """The size of what `values` adds up, against which a difference may be judged."""
    size = problem if problem.G is None else dataclasses.replace(problem, G=jnp.abs(problem.G))
    return values(size, jnp.abs(x), jnp.abs(u))


def flatten(problem: LTVProblem, multipliers: Multipliers) -> Float[Array, " M"]:
    """Multipliers in the flat order of the rows."""
    return _concatenate(problem, multipliers.rows, multipliers.inputs, multipliers.states)


def unflatten(problem: LTVProblem, dual: Float[Array, " M"]) -> Multipliers:
    """The inverse of `flatten`."""
    N, nx, nu = problem.B.shape
    m = 0 if problem.h is None else problem.h.shape[1]
    has_inputs = bounds_inputs(problem)
    mc = m + nu * has_inputs
    stage = dual[: N * mc].reshape(N, mc)
    has_states = problem.x_min is not None or problem.x_max is not None
    return Multipliers(
        None if problem.h is None else stage[:, :m],
        stage[:, m:] if has_inputs else None,
        dual[N * mc :].reshape(N, nx) if has_states else None,
    )
