"""ADMM on the condensed problem: the dynamics hold exactly in every iterate.

The states are eliminated (`pimpc.condense`), which leaves min ½uᵀHu + gᵀu over lower ≤ C u ≤ upper, where C stacks the
cone rows, the input bounds and the state bounds. Over-relaxed ADMM (Boyd et al. 2011, section 3.4.3; OSQP, Stellato et
al. 2020, algorithm 1) on u and z = C u with a penalty ρ_i for each row iterates

    u ← (H + Cᵀ ρ C)⁻¹ (Cᵀ ρ (z − y) − g),   w ← α C u + (1 − α) z,   z ← clip(w + y, lower, upper),   y ← y + w − z.

Three things differ from the textbook and make float32 enough:

1. The iterations come in rounds. Each round recomputes the gradient at its first iterate by a roll-out and a costate
   recursion and iterates on the correction, so that rounding in H and in its inverse slows a round down a little
   instead of limiting the answer.
2. Each round sets the penalties anew, high on the rows that push at its first iterate and low on the others, relative
   to the stiffness of the inputs that the row acts on. With the active rows right, a round is close to a Newton step.
3. Inputs with equal bounds (a swing foot) are constants, not variables.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc.condense import condensed_hessian
from pimpc.constraints import Rows, bounds, flatten, magnitudes, make_rows, unflatten, values
from pimpc.method import Method, Outcome
from pimpc.problem import LTVProblem, roll_out
from pimpc.residuals import (
    Multipliers,
    complementarity_gap,
    cost_scale,
    fixed_inputs,
    input_gradient,
    newton_decrement,
    primal_residual,
    zero_multipliers,
)
from pimpc.sweep import inverse, stage_blocks

_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Inputs and multipliers to start from, in the problem's own units: they may be shifted along the horizon."""

    u: Float[Array, "*batch N nu"]
    multipliers: Multipliers


class _Condensed(NamedTuple):
    """What stays the same over the rounds."""

    hessian: Float[Array, "n n"]  # on the free inputs; the identity on the fixed ones
    rows: Rows
    # C_i W C_iᵀ, where W is the inverse of the Hessian's stage blocks; 0 if no free input moves the row.
    compliance: Float[Array, " M"]
    stiffness: Float[Array, " M"]  # its inverse; 0 for rows that cannot bind
    free: Bool[Array, " n"]


class _Iterate(NamedTuple):
    """The state between rounds."""

    u: Float[Array, "N nu"]
    x: Float[Array, "T nx"]  # roll-out of u
    gradient: Float[Array, "N nu"]  # of the cost at u
    dual: Float[Array, " M"]  # multipliers of the rows
    split: Float[Array, " M"]  # z, the copy of C u that satisfies the bounds
    pushes: Bool[Array, " M"]  # rows with a multiplier at the start of the last round
    trust: Float[Array, " M"]  # how far each row's penalty may leave the middle; shrinks when `pushes` changes
    round: Array
    stop: Array
    infeasible: Array


@dataclasses.dataclass(frozen=True)
class CondensedADMM(Method):
    """Over-relaxed ADMM on the condensed problem; the default method of `pimpc.solve`.

    Memory and the factorization grow as (N nu)² and (N nu)³: meant for horizons up to about 50 stages.
    The Hessian must be positive definite on the free inputs; R > 0 or S > 0 is enough.
    """

    max_iterations: int = 100  # iterations at most, rounded up to whole rounds
    round_iterations: int = 10  # iterations between two updates of the penalties
    tolerance: float = 1e-5  # relative residual at which an instance counts as solved and stops
    early_stop: bool = True  # False: always run max_iterations, without a data-dependent loop
    relaxation: float = 1.6  # α, in (0, 2)
    penalty: float = 2.0  # penalty of the rows in the first round, relative to the stiffness of what they act on
    contrast: float = 100.0  # then the factor on the penalty of the rows that push, and the divisor of the others
    caution: float = 0.8  # power that contracts the contrast of a row whenever it starts or stops pushing

    def cold_start(self, problem: LTVProblem) -> WarmStart:
        """Zero inputs (or the nearest within the bounds) and zero multipliers."""
        return WarmStart(jnp.zeros_like(problem.u_ref), zero_multipliers(problem))

    def run(self, problem: LTVProblem, state: WarmStart, runnable: Bool[Array, ""]) -> Outcome:
        """Iterates on one problem without a `horizon` until it is solved or the limit is reached."""
        data = _condense(problem)
        u = jnp.clip(state.u, problem.u_min, problem.u_max)
        x = roll_out(problem, u)
        dual = jnp.where(data.stiffness > 0, flatten(problem, state.multipliers), 0)
        lower, upper = bounds(problem)
        split = jnp.clip(values(problem, x, u), lower, upper)
        empty = _contradicts(problem, data, x, u, self.tolerance)
        gradient = input_gradient(problem, x, u)
        pushes = dual != 0
        trust = jnp.ones_like(dual)
        start = _Iterate(u, x, gradient, dual, split, pushes, trust, jnp.zeros((), jnp.int32), ~runnable | empty, empty)
        rounds = -(-self.max_iterations // self.round_iterations)
        if self.early_stop:
            end = jax.lax.while_loop(
                lambda s: ~s.stop & (s.round < rounds), lambda s: _round(self, problem, data, s), start
            )
        else:
            end = jax.lax.fori_loop(0, rounds, lambda _, s: _round(self, problem, data, s), start)
        u, multipliers = end.u, unflatten(problem, end.dual)
        return Outcome(u, multipliers, end.round * self.round_iterations, end.infeasible, WarmStart(u, multipliers))


def _condense(problem: LTVProblem) -> _Condensed:
    """Forms the Hessian and the rows on the free inputs, and the natural penalty of each row."""
    N, nu = problem.u_ref.shape
    free = ~fixed_inputs(problem)
    hessian = condensed_hessian(problem) * (free[:, :, None, None] & free)
    k = jnp.arange(N)
    hessian = hessian.at[k, :, k, :].add(jax.vmap(jnp.diag)((~free).astype(hessian.dtype)))
    rows = make_rows(problem, free)
    lower_factor = jnp.linalg.cholesky(hessian[k, :, k, :])
    solve = jax.vmap(lambda L, C: jax.lax.linalg.triangular_solve(L, C, left_side=True, lower=True))
    stage = jnp.sum(solve(lower_factor, rows.stage.transpose(0, 2, 1)) ** 2, axis=1)
    state = jnp.sum(solve(lower_factor, rows.state.transpose(1, 2, 0)) ** 2, axis=(0, 1))
    compliance = jnp.concatenate([stage.ravel(), state])
    lower, upper = bounds(problem)
    can_bind = (compliance > 0) & ((lower > -jnp.inf) | (upper < jnp.inf))
    stiffness = jnp.where(can_bind, 1 / jnp.where(can_bind, compliance, 1), 0)
    return _Condensed(hessian.reshape(N * nu, N * nu), rows, compliance, stiffness, free.ravel())


def _contradicts(problem: LTVProblem, data: _Condensed, x: Array, u: Array, tolerance: float) -> Bool[Array, ""]:
    """Whether bounds exclude each other, or what no free input moves."""
    lower, upper = bounds(problem)
    at, reach = values(problem, x, u), magnitudes(problem, x, u)
    short, over = (jnp.where(jnp.isfinite(b), jnp.abs(b), 0) for b in (lower, upper))
    outside = jnp.maximum(lower - at - tolerance * (reach + short), at - upper - tolerance * (reach + over)) > 0
    return jnp.any((lower > upper) | (outside & (data.compliance <= 0)))


def _penalties(method: CondensedADMM, problem: LTVProblem, data: _Condensed, state: _Iterate) -> tuple[Array, ...]:
    """The penalty ρ of each row, from the rows that push at the start of the round."""
    lower, upper = bounds(problem)
    pushes = (state.dual != 0) | (lower == upper)
    known = jnp.any(state.dual != 0) | (state.round > 0)
    flipped = (pushes != state.pushes) & (state.round > 1)
    trust = state.trust * jnp.where(flipped, method.caution, 1)
    polarity = jnp.where(known, jnp.where(pushes, trust, -trust), 0)
    return data.stiffness * method.penalty * jnp.asarray(method.contrast, trust.dtype) ** polarity, pushes, trust


def _round(method: CondensedADMM, problem: LTVProblem, data: _Condensed, state: _Iterate) -> _Iterate:
    """Runs one round of iterations on the correction of the inputs, scaled to unit penalties and a unit diagonal."""
    N, nu = problem.u_ref.shape
    penalty, pushes, trust = _penalties(method, problem, data, state)
    root = jnp.sqrt(penalty)
    normal = data.hessian + data.rows.scaled(root).gram()
    unit = jax.lax.rsqrt(jnp.diagonal(normal))
    solve = inverse(normal * unit[:, None] * unit, stage_blocks(N, nu))
    rows = data.rows.scaled(root, unit.reshape(N, nu))
    at = values(problem, state.x, state.u)
    lower, upper = bounds(problem)
    lower = jnp.where(penalty > 0, root * (lower - at), -jnp.inf)
    upper = jnp.where(penalty > 0, root * (upper - at), jnp.inf)
    linear = jnp.where(data.free, state.gradient.ravel(), 0) * unit

    def iterate(_: Array | int, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        z, y = carry[1:]
        v = jnp.matmul(solve, rows.pull(z - y) - linear, precision=_HIGHEST)
        w = method.relaxation * rows.apply(v) + (1 - method.relaxation) * z
        z = jnp.clip(w + y, lower, upper)
        return v, z, y + w - z

    start = jnp.zeros_like(linear), root * (state.split - at), state.dual / jnp.where(penalty > 0, root, 1)
    v, z, y = jax.lax.fori_loop(0, method.round_iterations, iterate, start)
    u = jnp.clip(state.u + (v * unit).reshape(N, nu), problem.u_min, problem.u_max)
    x = roll_out(problem, u)
    after = state._replace(
        u=u,
        x=x,
        gradient=input_gradient(problem, x, u),
        dual=y * root,
        split=at + z / jnp.where(penalty > 0, root, 1),
        pushes=pushes,
        trust=trust,
        round=state.round + 1,
    )
    if not method.early_stop:
        return after
    return _judge(method, problem, data, state, after)


def _judge(method: CondensedADMM, problem: LTVProblem, data: _Condensed, before: _Iterate, after: _Iterate) -> _Iterate:
    """Decides after a round whether the instance is done."""
    slope = jnp.where(data.free, after.gradient.ravel() + data.rows.pull(after.dual), 0).reshape(after.u.shape)
    gap = complementarity_gap(problem, after.x, after.u, unflatten(problem, after.dual))
    gap += newton_decrement(problem, slope)
    primal = primal_residual(problem, after.x, after.u)
    worst = jnp.maximum(gap / cost_scale(problem, after.x, after.u), primal)
    infeasible = _certifies(problem, data, after, after.dual - before.dual) & (primal > method.tolerance)
    return after._replace(stop=(worst <= method.tolerance) | infeasible | ~jnp.isfinite(worst), infeasible=infeasible)


def _certifies(problem: LTVProblem, data: _Condensed, state: _Iterate, step: Float[Array, " M"]) -> Bool[Array, ""]:
    """Whether a step of the multipliers proves that no inputs of comparable size are feasible (Farkas' lemma).

    Every feasible correction δ of the inputs has stepᵀ C δ ≤ support(step); if the support is negative and Cᵀ step
    vanishes, there is none. With Cᵀ step merely small, there is none within the radius tested here.
    """
    N, nu = state.u.shape
    lower, upper = bounds(problem)
    at = values(problem, state.x, state.u)
    ahead = jnp.where(step > 0, upper - at, at - lower)
    # What points at an infinite bound proves nothing, but the rest of the step may still prove something.
    live = (step != 0) & (data.stiffness > 0) & jnp.isfinite(ahead)
    step, ahead = jnp.where(live, step, 0), jnp.where(live, ahead, 0)
    support = jnp.sum(jnp.abs(step) * ahead)
    size = jnp.sum(jnp.abs(step) * jnp.maximum(jnp.abs(at), jnp.abs(ahead)))
    natural = jnp.abs(state.gradient) / jnp.diagonal(data.hessian).reshape(N, nu)
    radius = 1e3 * jnp.max(jnp.maximum(jnp.abs(state.u), natural), axis=0)
    reach = jnp.sum(jnp.abs(data.rows.pull(step)).reshape(N, nu) * radius)
    return (support < 0) & (-support > reach) & (-support > 1e-3 * size)
