"""A proximal primal-dual interior point method, by Riccati recursions or with the states eliminated.

With the constraints as rows lower ≤ C (x, u) ≤ upper, slacks s and forces z for each finite bound, Mehrotra's
predictor-corrector method (Nocedal and Wright, Numerical Optimization, 2006, section 16.6) solves in each iteration

    Hessian + Cᵀ D C,   D = z / (s + δ z),

twice with one factorization, so that the dynamics hold exactly in every iterate: by recursions, whose work grows
linearly with the horizon (`pimpc.riccati`), or for short ones with the states eliminated (`pimpc.condensing`). Two
things make it converge in about eight iterations, in float32 and without tuning:

1. δ is the proximal term of the method of multipliers (Rockafellar 1976; in interior point methods Friedlander and
   Orban 2012): the forces of an iteration may deviate from the last ones at the price δ/2 ‖Δz‖². It keeps D below
   1/δ, a fixed multiple of the natural stiffness of the row, which bounds the condition number, admits bounds without
   an interior (equal ones, a friction of zero), and does not move the solution.
2. The natural stiffness 1/(C_i W C_iᵀ), W the inverse of the Hessian's diagonal (over one stage), says how hard a row
   must push to move what it acts on. Measured by it, rows in newtons, newton-metres and metres are alike, and one
   number, the barrier's first μ, gives every slack and force a start that is centred and of the right size.

Inputs with equal bounds (a swing foot) are constants, not variables.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pimpc import cuda_kernels
from pimpc.centring import centre, energy, mismatch
from pimpc.choice import Kernels, choose
from pimpc.constraints import flatten, magnitudes, unflatten, values
from pimpc.infeasibility import certifies, contradicts
from pimpc.method import Method, Outcome
from pimpc.newton import Newton, Slope
from pimpc.problem import LTVProblem, cost_slope
from pimpc.residuals import (
    Multipliers,
    complementarity_gap,
    cost_scale,
    primal_residual,
    zero_multipliers,
)
from pimpc.roll_out import roll_out
from pimpc.rows import Rows, measure, pull

_PROXIMAL = {"float32": 3e4, "float64": 1e7}  # more costs digits: from 1e8 on, differences of optima show it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Inputs and multipliers to start from, in the problem's own units: they may be shifted along the horizon."""

    u: Float[Array, "*batch N nu"]
    multipliers: Multipliers


class _Sides(NamedTuple):
    """One number for each bound: slacks s, forces z, or steps of them."""

    below: Float[Array, " M"]
    above: Float[Array, " M"]


class _Iterate(NamedTuple):
    """The state between iterations."""

    x: Float[Array, "T nx"]  # roll-out of u
    u: Float[Array, "N nu"]
    slack: _Sides
    force: _Sides
    equality: Float[Array, " M"]  # forces of the rows with equal bounds
    size: Float[Array, " nu"]  # of the inputs at the start
    unbalanced: Float[Array, ""]  # what the gradient of the Lagrangian may still cost
    iteration: Array
    stop: Array
    infeasible: Array


@dataclasses.dataclass(frozen=True)
class InteriorPoint(Method):
    """Proximal interior point; the default method of `pimpc.solve`.

    The Hessian must be positive definite on the free inputs; R > 0 or S > 0 is enough, and so is neither (see
    `problem.weigh_every_input`).
    """

    max_iterations: int = 30  # Newton steps at most, two right-hand sides each
    tolerance: float = 1e-5  # relative residual at which an instance counts as solved and stops
    early_stop: bool = True  # False: always run max_iterations, without a data-dependent loop
    proximal: float | None = None  # 1/δ: largest stiffness of a row, relative to its natural one; None: by the type
    start: float = 0.3  # the first μ, relative to the energy of the unconstrained motion, or to a warm start's distance
    boundary: float = 0.99  # share of the way to the nearest bound that a step may go
    # cuda: kernels for NVIDIA GPUs; xla: recursions; condensed: without the states; parallel: in O(log N) steps; auto:
    # on such a GPU its kernels, on a CPU without the states if `Structure.most_free` is declared and stages are few
    kernels: Kernels = "auto"

    def cold_start(self, problem: LTVProblem) -> WarmStart:
        """Zero inputs (or the nearest within the bounds) and zero multipliers."""
        return WarmStart(jnp.zeros_like(problem.u_ref), zero_multipliers(problem))

    def run(self, problem: LTVProblem, state: WarmStart | None, runnable: Bool[Array, ""]) -> Outcome:
        """Iterates on one problem without a `horizon` until it is solved or the limit is reached."""
        # Where states have bounds on both sides that coincide, these are equations, which the kernels do not know.
        both = problem.x_min is not None and problem.x_max is not None
        fits = self.early_stop and not both and cuda_kernels.fits(problem)
        ways = (lambda: _by_kernel(self, problem, state, runnable)), (lambda: _by_xla(self, problem, state, runnable))
        return choose(self.kernels, fits, *ways)


def _by_xla(method: InteriorPoint, problem: LTVProblem, state: WarmStart | None, runnable: Bool[Array, ""]) -> Outcome:
    """By any device."""
    rows, newton = measure(problem), Newton(problem, method.kernels)
    end = _start(method, problem, rows, newton, state, runnable)

    def turn(state: _Iterate) -> _Iterate:
        return _iterate(method, problem, rows, newton, state)

    if method.early_stop:
        end = jax.lax.while_loop(lambda s: ~s.stop & (s.iteration < method.max_iterations), turn, end)
    else:
        end = jax.lax.fori_loop(0, method.max_iterations, lambda _, s: turn(s), end)
    u = jnp.clip(end.u, problem.u_min, problem.u_max)
    multipliers = unflatten(problem, _total(end.force, end.equality))
    return Outcome(u, multipliers, end.iteration, end.infeasible, WarmStart(u, multipliers))


def _by_kernel(
    method: InteriorPoint, problem: LTVProblem, state: WarmStart | None, runnable: Bool[Array, ""]
) -> Outcome:
    """By kernels for GPUs, which look for a proof of infeasibility only if they come to no other end."""
    near = None
    if state is not None:
        near = state.u, (state.multipliers.rows, state.multipliers.inputs, state.multipliers.states)
    confined = problem.x_min is not None or problem.x_max is not None
    give = unflatten(problem, measure(problem).compliance).states if confined else None
    settings = cuda_kernels.Settings(
        max_iterations=method.max_iterations,
        tolerance=method.tolerance,
        boundary=method.boundary,
        start=method.start,
        proximal=_stiffest(method, problem.u_ref.dtype.name),
    )
    found = cuda_kernels.solve(problem, give, near, runnable, settings)
    warm = WarmStart(found.u, Multipliers(*found.forces))
    return Outcome(found.u, warm.multipliers, found.iterations, found.empty, warm)


def _start(
    method: InteriorPoint,
    problem: LTVProblem,
    rows: Rows,
    newton: Newton,
    state: WarmStart | None,
    runnable: Bool[Array, ""],
) -> _Iterate:
    """The unconstrained optimum, or a warm start that is near enough, with centred slacks and forces."""
    u = jnp.clip(jnp.zeros_like(problem.u_ref), problem.u_min, problem.u_max)
    x = roll_out(problem, u, method.kernels)
    slopes, near, known = [cost_slope(problem, x, u)], (x, u), jnp.zeros_like(rows.lower)
    if state is not None:
        u_near = jnp.clip(state.u, problem.u_min, problem.u_max)
        near = roll_out(problem, u_near, method.kernels), u_near
        known = jnp.where(rows.below | rows.above | rows.equal, flatten(problem, state.multipliers), 0)
        slopes.append(_slope(problem, *near, known))
    steps = newton.unconstrained(slopes)
    x, u = x.at[1:].add(steps[0].dx), u + steps[0].du
    dual, unbalanced = jnp.zeros_like(rows.lower), jnp.zeros((), u.dtype)
    error = energy(problem, rows, x, u)
    if state is not None:
        excess = steps[1].saved
        distance = excess + mismatch(problem, rows, *near, known)
        # To move it to the optimum must take less than to move everything; false for NaN.
        warm = jnp.any(known != 0) & (distance <= energy(problem, rows, *near))
        x, u = (jnp.where(warm, known_one, own) for known_one, own in zip(near, (x, u), strict=True))
        dual = jnp.where(warm, known, dual)
        unbalanced, error = jnp.where(warm, excess, unbalanced), jnp.where(warm, distance, error)
    size = jnp.max(jnp.abs(u), axis=0)

    at = values(problem, x, u)
    # A barrier below what the tolerance asks for would only cost digits.
    error = jnp.maximum(method.start * error, 0.3 * method.tolerance * cost_scale(problem, x, u))
    mu = error / rows.count + jnp.finfo(u.dtype).tiny
    below = centre(rows.below, at - rows.lower, -dual, mu, rows.compliance)
    above = centre(rows.above, rows.upper - at, dual, mu, rows.compliance)
    slack, force = (_Sides(*pair) for pair in zip(below, above, strict=True))
    equality = jnp.where(rows.equal, dual, 0)
    # Centring changes the forces; what that may cost is estimated row by row, so that no start counts as solved.
    lifted = jnp.sum(rows.compliance * (_total(force, equality) - dual) ** 2)
    unbalanced = (jnp.sqrt(unbalanced) + jnp.sqrt(lifted)) ** 2
    empty = contradicts(problem, rows, at, magnitudes(problem, x, u), method.tolerance)
    zero = jnp.zeros((), jnp.int32)
    return _Iterate(x, u, slack, force, equality, size, unbalanced, zero, ~runnable | empty, empty)


def _total(force: _Sides, equality: Array) -> Float[Array, " M"]:
    """Multipliers of the rows, positive at the upper bound."""
    return force.above - force.below + equality


def _slope(problem: LTVProblem, x: Array, u: Array, push: Float[Array, " M"]) -> Slope:
    """The derivatives of the cost plus Cᵀ push."""
    return jax.tree.map(jnp.add, cost_slope(problem, x, u), pull(problem, push))


def _iterate(method: InteriorPoint, problem: LTVProblem, rows: Rows, newton: Newton, state: _Iterate) -> _Iterate:
    """One predictor-corrector step."""
    slack, force, has = state.slack, state.force, _Sides(rows.below, rows.above)
    delta = _delta(method, rows)
    at = values(problem, state.x, state.u)
    # How far s is from the distance to its bound.
    off = _Sides(
        jnp.where(rows.below, rows.lower - at + slack.below, 0), jnp.where(rows.above, at - rows.upper + slack.above, 0)
    )
    soft = jax.tree.map(lambda s, z: s + delta * z, slack, force)
    rigid = jnp.where(rows.equal, 1 / jnp.where(rows.equal, delta, 1), 0)
    minimize = newton.factorize(force.below / soft.below + force.above / soft.above + rigid)

    def solve(complement: _Sides) -> tuple[Array, _Sides, _Sides, Array]:
        """The step with s dz + z ds = −complement and ds = −off − C (dx, du) + δ dz, dz eliminated."""
        push = jax.tree.map(lambda z, c, r, d: z + (z * r - c) / d, force, complement, off, soft)
        miss = jnp.where(rows.equal, at - rows.upper, 0) * rigid
        l_x, l_u = _slope(problem, state.x, state.u, _total(push, state.equality + miss))
        dx, du, _ = minimize(l_x, l_u)
        moved = values(problem, jnp.concatenate([jnp.zeros_like(dx[:1]), dx]), du)
        toward = _Sides(-moved, moved)
        dz = jax.tree.map(lambda z, c, r, m, d: (z * (r + m) - c) / d, force, complement, off, toward, soft)
        ds = jax.tree.map(lambda h, r, m, f: jnp.where(h, delta * f - r - m, 0), has, off, toward, dz)
        return du, ds, dz, miss + rigid * jnp.where(rows.equal, moved, 0)

    product = jax.tree.map(jnp.multiply, slack, force)
    mu = _sum(product) / rows.count
    _, ds, dz, _ = solve(product)
    reach = jnp.minimum(1.0, _longest((slack, force), (ds, dz)))
    ahead = _sum(jax.tree.map(lambda s, z, a, b: (s + reach * a) * (z + reach * b), slack, force, ds, dz)) / rows.count
    centre = mu * (ahead / jnp.where(mu > 0, mu, 1)) ** 3
    du, ds, dz, dy = solve(jax.tree.map(lambda h, p, a, b: jnp.where(h, p + a * b - centre, 0), has, product, ds, dz))
    step = jnp.minimum(1.0, method.boundary * _longest((slack, force), (ds, dz)))

    def move(value: Array, change: Array) -> Array:
        return value + step * change

    u = move(state.u, du)
    after = _Iterate(
        x=roll_out(problem, u, method.kernels),
        u=u,
        slack=jax.tree.map(move, slack, ds),
        force=jax.tree.map(move, force, dz),
        equality=move(state.equality, dy),
        size=state.size,
        unbalanced=(1 - step) ** 2 * state.unbalanced,
        iteration=state.iteration + 1,
        stop=state.stop,
        infeasible=state.infeasible,
    )
    # A step that rounding has spoilt is not taken: the iterate before it may be all that float32 can give.
    broken = ~jnp.all(jnp.isfinite(u)) | ~jnp.all(jnp.isfinite(after.x))
    after = jax.tree.map(lambda old, new: jnp.where(broken, old, new), state, after)
    if not method.early_stop:
        return after
    change = _total(after.force, after.equality) - _total(state.force, state.equality)
    infeasible = certifies(problem, rows, after.x, u, change, state.size) & ~_solved(method, problem, after)
    return after._replace(stop=_solved(method, problem, after) | infeasible | broken, infeasible=infeasible)


def _delta(method: InteriorPoint, rows: Rows) -> Float[Array, " M"]:
    """The proximal term's δ; a sharper type affords a smaller one."""
    return rows.compliance / _stiffest(method, rows.compliance.dtype.name)


def _stiffest(method: InteriorPoint, kind: str) -> float:
    return _PROXIMAL[kind] if method.proximal is None else method.proximal


def _sum(sides: _Sides) -> Float[Array, ""]:
    return jnp.sum(sides.below) + jnp.sum(sides.above)


def _longest(values: tuple[_Sides, _Sides], steps: tuple[_Sides, _Sides]) -> Float[Array, ""]:
    """How many steps fit before the first value becomes zero."""
    longest = jnp.asarray(jnp.inf, values[0].below.dtype)
    for value, step in zip(jax.tree.leaves(values), jax.tree.leaves(steps), strict=True):
        fits = jnp.asarray(jnp.where(step < 0, -value / jnp.where(step < 0, step, 1), jnp.inf))
        longest = jnp.minimum(longest, jnp.min(fits, initial=jnp.inf))
    return longest


def _solved(method: InteriorPoint, problem: LTVProblem, state: _Iterate) -> Bool[Array, ""]:
    """Whether an iterate is good enough, by the measures of `pimpc.residuals`."""
    multipliers = unflatten(problem, _total(state.force, state.equality))
    gap = complementarity_gap(problem, state.x, state.u, multipliers) + state.unbalanced
    worst = jnp.maximum(gap / cost_scale(problem, state.x, state.u), primal_residual(problem, state.x, state.u))
    return worst <= 0.5 * method.tolerance  # the answer is clipped to the input bounds, which may cost the rest
